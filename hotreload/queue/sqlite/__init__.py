"""The engine on SQLite: one file, one owning process, one writer thread.

store        what callers use: every verb of `Queue`, and what people and the host need beside it
writer       the thread that does every write, many callers to a transaction; upkeep while none waits
statements   the SQL of each verb · ledger: depths · documents: reports and marks · schema: the tables
reads        pages, look-ups and copies, beside the writer
connection   how the file is opened and what its errors mean · files: the lock, and whether the files are still ours
recovery     what the end of the last owner left behind
"""

from hotreload.queue.sqlite.store import SqliteQueue

__all__ = ["SqliteQueue"]
