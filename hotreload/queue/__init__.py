"""The persistent queue: what a job is and what a verdict does to it (pure), one store, and the engines it stands on.

job, contract       what a job is, what a verdict makes of it, when a suspect may run; what the store answers
fleet               what processes that share a store say to each other
store               what callers use, and what each verb promises; what an engine gives
verbs               what each verb does to the rows, many calls at a time · ledger: depths, and who is told of them
recovery            documents, and what the last owner left behind
calls, engines      what waits for the writer's thread; which engine keeps a store
sqlite/, postgres/  the engines: connection, writer, and their SQL in `statements.sql`
"""
