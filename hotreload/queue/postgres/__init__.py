"""The engine on PostgreSQL (13 or newer): a database of its own server, one owner per node name, one writer thread.

store        what callers use: every verb of `Queue`, and what people and the host need beside it
writer       the thread that does every write, many callers to a transaction; reconnects, resolves a lost COMMIT
statements   the SQL of each verb · ledger: depths · documents: reports and marks · schema: the tables
wakeup       NOTIFY and LISTEN between the processes on one database
reads        pages and look-ups, on a connection beside the writer's
connection   how the database is reached and owned, and what its errors mean
recovery     what the end of the node's last owner left behind

The tables are in the first schema of the connection's `search_path`. The role needs USAGE and CREATE there for the
first start and after an upgrade, then SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on the sequences.
"""

from hotreload.queue.postgres.store import PostgresQueue

__all__ = ["PostgresQueue"]
