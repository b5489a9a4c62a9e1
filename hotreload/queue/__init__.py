"""The persistent queue: what a job is and what a verdict does to it (pure), the contract, the engine on SQLite."""
