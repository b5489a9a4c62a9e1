-- What befell a job: its failures, crashes, death, retry by hand and cancellation, the last twenty of each job.

ALTER TABLE hotreload_jobs ADD COLUMN history INTEGER NOT NULL DEFAULT 0;  -- how many events there were

CREATE TABLE hotreload_history (
    job    INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at_ms  INTEGER NOT NULL,
    event  TEXT    NOT NULL,
    reason TEXT,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER hotreload_history_kept AFTER UPDATE OF state ON hotreload_jobs
WHEN new.state IN ('dead', 'cancelled') OR old.state = 'dead'
    OR new.state <> 'done' AND (new.attempts > old.attempts OR new.crashes > old.crashes)
BEGIN
    INSERT INTO hotreload_history VALUES (
        new.id,
        new.history + 1,
        CAST(unixepoch('subsec') * 1000 AS INTEGER),
        CASE
            WHEN new.state IN ('dead', 'cancelled') THEN new.state
            WHEN old.state = 'dead' THEN 'retried'
            WHEN new.crashes > old.crashes THEN 'crashed'
            ELSE 'failed'
        END,
        iif(new.reason IS old.reason AND new.attempts <= old.attempts, NULL, new.reason)
    );
    DELETE FROM hotreload_history WHERE job = new.id AND number <= new.history - 19;
    UPDATE hotreload_jobs SET history = history + 1 WHERE id = new.id;
END;

CREATE TRIGGER hotreload_history_removed AFTER DELETE ON hotreload_jobs WHEN old.history > 0
BEGIN
    DELETE FROM hotreload_history WHERE job = old.id;
END;
