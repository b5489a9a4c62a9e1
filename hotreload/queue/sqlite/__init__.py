"""The engine on SQLite: one file, one owning process, one writer thread.

engine       the parts of an open store, and how it is opened
writer       the thread that does every write, many callers to a transaction; upkeep while none waits
statements   how the statements of `statements.sql` are run · schema: the tables
connection   how the file is opened, what its errors mean, the reading beside the writer
files        the lock, and whether the files are still ours
"""

from hotreload.queue.sqlite.engine import SqliteQueue

__all__ = ["SqliteQueue"]
