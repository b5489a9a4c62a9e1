-- Results of steps are rows of their own, a job may be cancelled, and a dead job frees its key.

ALTER TABLE hotreload_jobs RENAME TO hotreload_jobs_before;

DROP INDEX hotreload_jobs_ready;
DROP INDEX hotreload_jobs_scheduled;
DROP INDEX hotreload_jobs_running;
DROP INDEX hotreload_jobs_dead;
DROP INDEX hotreload_jobs_done;
DROP INDEX hotreload_jobs_suspect;
DROP INDEX hotreload_jobs_key;
DROP INDEX hotreload_jobs_key_done;

CREATE TABLE hotreload_jobs (
    id              INTEGER PRIMARY KEY,
    queue           TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('ready', 'scheduled', 'running', 'done', 'dead', 'cancelled')),
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
    steps           INTEGER NOT NULL DEFAULT 0,  -- how often a step was kept; 0: no row in hotreload_steps
    dedupe_key      TEXT,
    cursor          TEXT,
    result          TEXT,
    reason          TEXT,
    traceback       TEXT,
    payload         TEXT    NOT NULL
) STRICT;

CREATE TABLE hotreload_steps (
    job    INTEGER NOT NULL,
    name   TEXT    NOT NULL,
    result TEXT    NOT NULL,
    PRIMARY KEY (job, name)
) STRICT, WITHOUT ROWID;

INSERT INTO hotreload_jobs
SELECT id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes,
    stalled_crashes, alone_crashes, suspect, version, enqueued_at_ms, ended_at_ms, 0,
    dedupe_key, cursor, result, reason, traceback, payload
FROM hotreload_jobs_before;

DROP TABLE hotreload_jobs_before;

CREATE INDEX hotreload_jobs_ready ON hotreload_jobs (queue, priority, run_at_ms) WHERE state = 'ready';
CREATE INDEX hotreload_jobs_scheduled ON hotreload_jobs (queue, run_at_ms) WHERE state = 'scheduled';
CREATE INDEX hotreload_jobs_running ON hotreload_jobs (queue) WHERE state = 'running';
CREATE INDEX hotreload_jobs_dead ON hotreload_jobs (queue) WHERE state = 'dead';
CREATE INDEX hotreload_jobs_ended ON hotreload_jobs (queue, ended_at_ms) WHERE state IN ('done', 'cancelled');
CREATE INDEX hotreload_jobs_suspect ON hotreload_jobs (queue) WHERE suspect = 1;
CREATE UNIQUE INDEX hotreload_jobs_key ON hotreload_jobs (queue, dedupe_key)
    WHERE dedupe_key IS NOT NULL AND state IN ('ready', 'scheduled', 'running');
CREATE INDEX hotreload_jobs_key_ended ON hotreload_jobs (queue, dedupe_key, ended_at_ms)
    WHERE dedupe_key IS NOT NULL AND state IN ('done', 'dead', 'cancelled');

CREATE TRIGGER hotreload_steps_done AFTER UPDATE OF state ON hotreload_jobs
WHEN new.steps > 0 AND new.state IN ('done', 'cancelled')
BEGIN
    DELETE FROM hotreload_steps WHERE job = new.id;
    UPDATE hotreload_jobs SET steps = 0 WHERE id = new.id;
END;

CREATE TRIGGER hotreload_steps_removed AFTER DELETE ON hotreload_jobs WHEN old.steps > 0
BEGIN
    DELETE FROM hotreload_steps WHERE job = old.id;
END;
