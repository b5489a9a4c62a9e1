-- Each value of the sequence stands for as many ids: a node takes some at once and needs no trip for each enqueue.
ALTER SEQUENCE hotreload_job_ids INCREMENT BY 100;

-- Running jobs by a number that grows: entries of many jobs with one node and one queue took each claim long to place.
DROP INDEX hotreload_jobs_running;
CREATE INDEX hotreload_jobs_running ON hotreload_jobs (id) WHERE state = 'running';

-- Where any trigger stands before an update, the server locks every row in a write of its own, whatever its WHEN says.
DROP TRIGGER hotreload_steps_done ON hotreload_jobs;
DROP TRIGGER hotreload_history_kept ON hotreload_jobs;

CREATE OR REPLACE FUNCTION hotreload_end_steps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hotreload_steps WHERE job = new.id;
    UPDATE hotreload_jobs SET steps = 0 WHERE id = new.id;
    RETURN NULL;
END $$;

CREATE TRIGGER hotreload_steps_done AFTER UPDATE OF state ON hotreload_jobs FOR EACH ROW
WHEN (new.steps > 0 AND new.state IN ('done', 'cancelled')) EXECUTE FUNCTION hotreload_end_steps();

CREATE OR REPLACE FUNCTION hotreload_keep_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE hotreload_jobs SET history = history + 1 WHERE id = new.id RETURNING history INTO new.history;
    INSERT INTO hotreload_history VALUES (
        new.id,
        new.history,
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
        CASE
            WHEN new.state IN ('dead', 'cancelled') THEN new.state
            WHEN old.state = 'dead' THEN 'retried'
            WHEN new.crashes > old.crashes THEN 'crashed'
            ELSE 'failed'
        END,
        CASE WHEN new.reason IS DISTINCT FROM old.reason OR new.attempts > old.attempts THEN new.reason END
    );
    DELETE FROM hotreload_history WHERE job = new.id AND number <= new.history - 20;
    RETURN NULL;
END $$;

CREATE TRIGGER hotreload_history_kept AFTER UPDATE OF state ON hotreload_jobs FOR EACH ROW
WHEN (
    new.state IN ('dead', 'cancelled') OR old.state = 'dead'
    OR new.state <> 'done' AND (new.attempts > old.attempts OR new.crashes > old.crashes)
) EXECUTE FUNCTION hotreload_keep_history();
