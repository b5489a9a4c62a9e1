-- Every table and index is named hotreload_…: the rows of the jobs themselves may live in the same file.
-- Times are Unix milliseconds.

CREATE TABLE hotreload_jobs (
    id              INTEGER PRIMARY KEY,
    queue           TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('ready', 'scheduled', 'running', 'done', 'dead')),
    priority        INTEGER NOT NULL,
    run_at_ms       INTEGER NOT NULL,
    lease_seq       INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    max_attempts    INTEGER NOT NULL,
    interruptions   INTEGER NOT NULL DEFAULT 0,
    crashes         INTEGER NOT NULL DEFAULT 0,
    stalled_crashes INTEGER NOT NULL DEFAULT 0,
    alone_crashes   INTEGER NOT NULL DEFAULT 0,
    suspect         INTEGER NOT NULL DEFAULT 0,
    version         INTEGER NOT NULL,
    enqueued_at_ms  INTEGER NOT NULL,
    ended_at_ms     INTEGER,
    dedupe_key      TEXT,
    payload         TEXT    NOT NULL,
    cursor          TEXT,
    result          TEXT,
    reason          TEXT,
    traceback       TEXT
) STRICT;

CREATE INDEX hotreload_jobs_ready ON hotreload_jobs (queue, priority, run_at_ms) WHERE state = 'ready';
CREATE INDEX hotreload_jobs_scheduled ON hotreload_jobs (queue, run_at_ms) WHERE state = 'scheduled';
CREATE INDEX hotreload_jobs_running ON hotreload_jobs (queue) WHERE state = 'running';
CREATE INDEX hotreload_jobs_dead ON hotreload_jobs (queue) WHERE state = 'dead';
CREATE INDEX hotreload_jobs_done ON hotreload_jobs (ended_at_ms) WHERE state = 'done';
CREATE INDEX hotreload_jobs_suspect ON hotreload_jobs (queue) WHERE suspect = 1;
CREATE UNIQUE INDEX hotreload_jobs_key ON hotreload_jobs (queue, dedupe_key)
    WHERE dedupe_key IS NOT NULL AND state <> 'done';
CREATE INDEX hotreload_jobs_key_done ON hotreload_jobs (queue, dedupe_key, ended_at_ms)
    WHERE dedupe_key IS NOT NULL AND state = 'done';

-- Depths are kept by the transactions that move the jobs, never counted.
CREATE TABLE hotreload_queues (
    name      TEXT PRIMARY KEY,
    ready     INTEGER NOT NULL DEFAULT 0,
    scheduled INTEGER NOT NULL DEFAULT 0,
    running   INTEGER NOT NULL DEFAULT 0,
    done      INTEGER NOT NULL DEFAULT 0,
    dead      INTEGER NOT NULL DEFAULT 0,
    suspects  INTEGER NOT NULL DEFAULT 0,
    paused    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE hotreload_documents (
    seq   INTEGER PRIMARY KEY,
    kind  TEXT    NOT NULL,
    id    TEXT    NOT NULL,
    at_ms INTEGER NOT NULL,
    body  TEXT    NOT NULL,
    UNIQUE (kind, id)
) STRICT;

CREATE INDEX hotreload_documents_newest ON hotreload_documents (kind, seq);

CREATE TABLE hotreload_facts (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
