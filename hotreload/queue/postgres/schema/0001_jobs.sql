-- A node is a name that one process owns at a time; each of its transactions counts up `written` under that owner, and
-- `seen_at` says when it was there last, on the database's clock. Of a node that was taken over the owner is ''.
CREATE TABLE hotreload_nodes (
    name    text        PRIMARY KEY,
    owner   text        NOT NULL,
    written bigint      NOT NULL DEFAULT 0,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE SEQUENCE hotreload_job_ids;

-- A page keeps room for the next version of its rows: a job is written three times in its life.
CREATE TABLE hotreload_jobs (
    id              bigint  PRIMARY KEY,
    queue           text    NOT NULL,
    state           text    NOT NULL CHECK (state IN ('ready', 'scheduled', 'running', 'done', 'dead', 'cancelled')),
    priority        bigint  NOT NULL,
    run_at_ms       bigint  NOT NULL,
    lease_seq       bigint  NOT NULL DEFAULT 0,
    node            text,
    attempts        bigint  NOT NULL DEFAULT 0,
    max_attempts    bigint  NOT NULL,
    interruptions   bigint  NOT NULL DEFAULT 0,
    crashes         bigint  NOT NULL DEFAULT 0,
    stalled_crashes bigint  NOT NULL DEFAULT 0,
    alone_crashes   bigint  NOT NULL DEFAULT 0,
    suspect         boolean NOT NULL DEFAULT false,
    version         bigint  NOT NULL,
    enqueued_at_ms  bigint  NOT NULL,
    ended_at_ms     bigint,
    steps           bigint  NOT NULL DEFAULT 0,
    history         bigint  NOT NULL DEFAULT 0,
    dedupe_key      text,
    cursor          text,
    result          text,
    reason          text,
    traceback       text,
    payload         text    NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX hotreload_jobs_ready ON hotreload_jobs (queue, priority, run_at_ms, id) WHERE state = 'ready';
CREATE INDEX hotreload_jobs_scheduled ON hotreload_jobs (queue, run_at_ms) WHERE state = 'scheduled';
CREATE INDEX hotreload_jobs_running ON hotreload_jobs (node, queue) WHERE state = 'running';
CREATE INDEX hotreload_jobs_dead ON hotreload_jobs (id) WHERE state = 'dead';
CREATE INDEX hotreload_jobs_ended ON hotreload_jobs (queue, ended_at_ms) WHERE state IN ('done', 'cancelled');
CREATE INDEX hotreload_jobs_suspect ON hotreload_jobs (queue) WHERE suspect;
CREATE UNIQUE INDEX hotreload_jobs_key ON hotreload_jobs (queue, dedupe_key)
    WHERE dedupe_key IS NOT NULL AND state IN ('ready', 'scheduled', 'running');
CREATE INDEX hotreload_jobs_key_ended ON hotreload_jobs (queue, dedupe_key, ended_at_ms)
    WHERE dedupe_key IS NOT NULL AND state IN ('done', 'dead', 'cancelled');

CREATE TABLE hotreload_steps (
    job    bigint NOT NULL REFERENCES hotreload_jobs ON DELETE CASCADE,
    name   text   NOT NULL,
    result text   NOT NULL,
    PRIMARY KEY (job, name)
);

CREATE TABLE hotreload_history (
    job    bigint NOT NULL REFERENCES hotreload_jobs ON DELETE CASCADE,
    number bigint NOT NULL,
    at_ms  bigint NOT NULL,
    event  text   NOT NULL,
    reason text,
    PRIMARY KEY (job, number)
);

-- Results of steps go with the end of their job.
CREATE FUNCTION hotreload_end_steps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hotreload_steps WHERE job = new.id;
    new.steps := 0;
    RETURN new;
END $$;

CREATE TRIGGER hotreload_steps_done BEFORE UPDATE OF state ON hotreload_jobs FOR EACH ROW
WHEN (new.steps > 0 AND new.state IN ('done', 'cancelled')) EXECUTE FUNCTION hotreload_end_steps();

-- What befell a job: its failures, crashes, death, retry by hand and cancellation, the last twenty of each job.
CREATE FUNCTION hotreload_keep_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.history := old.history + 1;
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
    RETURN new;
END $$;

CREATE TRIGGER hotreload_history_kept BEFORE UPDATE OF state ON hotreload_jobs FOR EACH ROW
WHEN (
    new.state IN ('dead', 'cancelled') OR old.state = 'dead'
    OR new.state <> 'done' AND (new.attempts > old.attempts OR new.crashes > old.crashes)
) EXECUTE FUNCTION hotreload_keep_history();

-- Few rows that every commit writes: they stay on their page, and are vacuumed often.
CREATE TABLE hotreload_queues (
    name      text    PRIMARY KEY,
    ready     bigint  NOT NULL DEFAULT 0,
    scheduled bigint  NOT NULL DEFAULT 0,
    running   bigint  NOT NULL DEFAULT 0,
    done      bigint  NOT NULL DEFAULT 0,
    dead      bigint  NOT NULL DEFAULT 0,
    suspects  bigint  NOT NULL DEFAULT 0,
    paused    boolean NOT NULL DEFAULT false
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE SEQUENCE hotreload_document_seqs;

CREATE TABLE hotreload_documents (
    kind  text   NOT NULL,
    id    text   NOT NULL,
    seq   bigint NOT NULL,
    at_ms bigint NOT NULL,
    body  text   NOT NULL,
    PRIMARY KEY (kind, id)
);

CREATE INDEX hotreload_documents_newest ON hotreload_documents (kind, seq);
