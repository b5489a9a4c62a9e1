"""The persistent queue: what a job is and what a verdict does to it (pure), the contract, and an engine on SQLite.

job, contract         what a job is, what a verdict makes of it; what every engine promises
quarantine, notify    when a suspect may run; who is told that a claim may find something
sqlite/               the engine on one SQLite file
"""
