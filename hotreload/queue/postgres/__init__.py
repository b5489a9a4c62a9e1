"""The engine on PostgreSQL (13 or newer): a database of its own server, one owner per node name, one writer thread.

engine       the parts of an open store, and how it is opened
writer       the thread that does every write, many callers to a transaction; reconnects, resolves a lost COMMIT
statements   how the statements of `statements.sql` are run · schema: the tables
reads        the reading on a connection beside the writer's
wakeup       NOTIFY and LISTEN between the processes on one database
pipeline     a connection whose statements go to the server together
connection   how the database is reached and owned, and what its errors mean
recovery     what the end of a node's last owner left behind

The tables are in the first schema of the connection's `search_path`. The role needs USAGE and CREATE there for the
first start and after an upgrade, then SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on the sequences.
"""

from hotreload.queue.postgres.engine import PostgresQueue

__all__ = ["PostgresQueue"]
