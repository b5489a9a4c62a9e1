-- The statements of the engine on PostgreSQL, each under its name; the shapes of rows are those of every engine.
-- A list is bound as an array, rows of bindings as one array for each column. Every write of a claim names its fencing
-- token in its own WHERE: no other node can come between a look and a write. Such a job is looked up by its id: a plan
-- by the index of running jobs, of which `state = 'running'` would allow, reads what ran since the last vacuum.

-- name: reserve
SELECT nextval('hotreload_job_ids') FROM generate_series(1, %s)

-- name: insert
INSERT INTO hotreload_jobs
    (id, queue, state, priority, run_at_ms, max_attempts, version, enqueued_at_ms, dedupe_key, payload)
SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::bigint[], %s::text[], %s::text[]) AS new
ON CONFLICT (queue, dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('ready', 'scheduled', 'running') DO NOTHING
RETURNING id

-- name: insert_keyless
INSERT INTO hotreload_jobs
    (id, queue, state, priority, run_at_ms, max_attempts, version, enqueued_at_ms, dedupe_key, payload)
SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::bigint[], %s::text[], %s::text[]) AS new

-- name: done_since
SELECT dedupe_key FROM hotreload_jobs
WHERE queue = %s AND state = 'done' AND ended_at_ms >= %s AND dedupe_key = ANY(%s)

-- name: active_of
SELECT dedupe_key, id, state FROM hotreload_jobs
WHERE queue = %s AND state IN ('ready', 'scheduled', 'running') AND dedupe_key = ANY(%s)

-- name: done_of
SELECT DISTINCT ON (dedupe_key) dedupe_key, id, state FROM hotreload_jobs
WHERE queue = %s AND state = 'done' AND dedupe_key = ANY(%s) ORDER BY dedupe_key, id DESC

-- name: promote
UPDATE hotreload_jobs SET state = 'ready' WHERE id IN (
    SELECT id FROM hotreload_jobs WHERE queue = %s AND state = 'scheduled' AND run_at_ms <= %s
    ORDER BY run_at_ms LIMIT %s FOR UPDATE SKIP LOCKED)

-- name: suspects
SELECT id, queue, state = 'running', stalled_crashes FROM hotreload_jobs
WHERE suspect AND state IN ('ready', 'running') ORDER BY priority, run_at_ms, id

-- name: take
WITH picked AS MATERIALIZED (
    SELECT id, priority, run_at_ms, octet_length(payload) + coalesce(octet_length(cursor), 0) AS size
    FROM hotreload_jobs WHERE {which} AND state = 'ready' ORDER BY priority, run_at_ms, id LIMIT %s
    FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT id, size, sum(size) OVER (ORDER BY priority, run_at_ms, id) AS total FROM picked
)
UPDATE hotreload_jobs SET state = 'running', lease_seq = lease_seq + 1, node = %s
FROM counted WHERE hotreload_jobs.id = counted.id AND (total <= %s OR total = size)
RETURNING hotreload_jobs.id, queue, payload, cursor, lease_seq, attempts, max_attempts, interruptions, crashes,
    dedupe_key, priority, version, enqueued_at_ms, run_at_ms, stalled_crashes, alone_crashes, suspect, steps, size

-- name: steps
SELECT job, name, result FROM hotreload_steps WHERE job = ANY(%s)

-- name: unclaim
UPDATE hotreload_jobs AS job SET state = 'ready' FROM unnest(%s::bigint[], %s::bigint[]) AS new (id, token)
WHERE job.id = new.id AND lease_seq = token AND state LIKE 'running' RETURNING job.id, token

-- name: checkpoint
UPDATE hotreload_jobs AS job SET cursor = new.cursor, steps = job.steps + new.steps,
    stalled_crashes = CASE WHEN job.cursor IS NOT DISTINCT FROM new.cursor AND new.steps = 0 THEN stalled_crashes
        ELSE 0 END,
    alone_crashes = CASE WHEN job.cursor IS NOT DISTINCT FROM new.cursor AND new.steps = 0 THEN alone_crashes
        ELSE 0 END
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[]) AS new (id, token, cursor, steps)
WHERE job.id = new.id AND lease_seq = token AND state LIKE 'running' RETURNING job.id, token

-- name: keep_steps
INSERT INTO hotreload_steps SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS new
ON CONFLICT (job, name) DO UPDATE SET result = excluded.result

-- name: move
UPDATE hotreload_jobs AS job SET lease_seq = lease_seq + new.fence, state = new.state, attempts = new.attempts,
    interruptions = new.interruptions, crashes = new.crashes, stalled_crashes = new.stalled_crashes,
    alone_crashes = new.alone_crashes, suspect = new.suspect, run_at_ms = new.run_at_ms,
    ended_at_ms = new.ended_at_ms, reason = new.reason, traceback = new.traceback, result = new.result
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[],
        %s::bigint[], %s::bigint[], %s::boolean[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[])
    AS new (id, token, fence, state, attempts, interruptions, crashes, stalled_crashes, alone_crashes, suspect,
        run_at_ms, ended_at_ms, reason, traceback, result)
WHERE job.id = new.id AND lease_seq = token AND job.state LIKE 'running' RETURNING job.id, token

-- name: requeue
UPDATE hotreload_jobs SET state = 'ready', lease_seq = lease_seq + 1, interruptions = interruptions + 1
WHERE state = 'running' AND queue = ANY(%s) AND node = %s RETURNING id, queue, cursor IS NOT NULL OR steps > 0

-- name: states
SELECT id, state FROM hotreload_jobs WHERE id = ANY(%s)

-- name: dead_of
SELECT id, queue, dedupe_key FROM hotreload_jobs AS job WHERE state = 'dead' AND id = ANY(%s) AND NOT EXISTS (
    SELECT 1 FROM hotreload_jobs AS other WHERE other.queue = job.queue AND other.dedupe_key = job.dedupe_key
        AND other.dedupe_key IS NOT NULL AND other.state IN ('ready', 'scheduled', 'running'))
ORDER BY id FOR UPDATE

-- name: retry
UPDATE hotreload_jobs SET state = 'ready', attempts = 0, stalled_crashes = 0, alone_crashes = 0, run_at_ms = %s,
    ended_at_ms = NULL WHERE id = ANY(%s)

-- name: not_running
SELECT id, queue, state, suspect FROM hotreload_jobs WHERE id = ANY(%s) AND state <> 'running' ORDER BY id FOR UPDATE

-- name: unfinished
SELECT id, queue, state, suspect FROM hotreload_jobs
WHERE id = ANY(%s) AND state IN ('ready', 'scheduled', 'running') ORDER BY id FOR UPDATE

-- name: cancel
UPDATE hotreload_jobs SET state = 'cancelled', lease_seq = lease_seq + 1, suspect = false, ended_at_ms = %s
WHERE id = ANY(%s)

-- name: remove
DELETE FROM hotreload_jobs WHERE id = ANY(%s)

-- name: pause
INSERT INTO hotreload_queues (name, paused) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused

-- name: ended
SELECT id FROM hotreload_jobs WHERE queue = %s AND state IN ('done', 'cancelled') AND ended_at_ms <= %s
ORDER BY ended_at_ms LIMIT %s FOR UPDATE SKIP LOCKED

-- In the order of names, so that two nodes never wait for each other.
-- name: count
INSERT INTO hotreload_queues AS now (name, ready, scheduled, running, done, dead, suspects)
SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS new (name) ORDER BY name
ON CONFLICT (name) DO UPDATE SET ready = now.ready + excluded.ready, scheduled = now.scheduled + excluded.scheduled,
    running = now.running + excluded.running, done = now.done + excluded.done, dead = now.dead + excluded.dead,
    suspects = now.suspects + excluded.suspects
RETURNING name, ready, scheduled, running, done, dead, suspects, paused,
    (SELECT min(run_at_ms) FROM hotreload_jobs WHERE queue = name AND state = 'scheduled')

-- name: standings
SELECT name, ready, scheduled, running, done, dead, suspects, paused,
    (SELECT min(run_at_ms) FROM hotreload_jobs WHERE queue = name AND state = 'scheduled')
FROM hotreload_queues

-- name: put_document
INSERT INTO hotreload_documents (seq, kind, id, at_ms, body)
VALUES (nextval('hotreload_document_seqs'), %s, %s, %s, %s)
ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, body = excluded.body

-- name: prune_documents
DELETE FROM hotreload_documents WHERE (kind, seq) IN (
    SELECT kind, seq FROM hotreload_documents WHERE kind = %s ORDER BY seq DESC OFFSET %s)

-- name: remove_documents
DELETE FROM hotreload_documents WHERE kind = %s

-- name: documents
SELECT kind, id, at_ms, body FROM hotreload_documents WHERE kind = %s ORDER BY seq DESC LIMIT %s

-- name: document_known
SELECT 1 FROM hotreload_documents WHERE id = %s LIMIT 1

-- name: left_running
SELECT id, queue, '', CASE WHEN cursor IS NOT NULL OR steps > 0 THEN 'null' END, lease_seq, attempts, max_attempts,
    interruptions, crashes, dedupe_key, priority, version, enqueued_at_ms, run_at_ms, stalled_crashes, alone_crashes,
    suspect
FROM hotreload_jobs WHERE state = 'running' AND node = %s ORDER BY id FOR UPDATE

-- name: finished_since
SELECT id FROM hotreload_jobs WHERE state = 'done' AND ended_at_ms >= %s AND node = %s ORDER BY id

-- name: page
SELECT id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes, suspect,
    version, enqueued_at_ms, ended_at_ms, dedupe_key, reason
FROM hotreload_jobs {where} ORDER BY id DESC LIMIT %s

-- name: job
SELECT id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes, suspect,
    version, enqueued_at_ms, ended_at_ms, dedupe_key, reason, payload, cursor, result, traceback
FROM hotreload_jobs WHERE id = %s

-- name: history
SELECT at_ms, event, reason FROM hotreload_history WHERE job = %s ORDER BY number

-- name: held_of
SELECT DISTINCT ON (dedupe_key) dedupe_key, id, state FROM hotreload_jobs
WHERE queue = %s AND (state = 'dead' OR state = 'done' AND ended_at_ms >= %s) AND dedupe_key = ANY(%s)
ORDER BY dedupe_key, id DESC

-- name: states_in
SELECT state, count(*) FROM hotreload_jobs JOIN unnest(%s::bigint[], %s::bigint[]) AS part (low, high)
ON id BETWEEN low AND high GROUP BY state

-- name: dead_in
SELECT coalesce(dedupe_key, id::text), coalesce(reason, '')
FROM hotreload_jobs JOIN unnest(%s::bigint[], %s::bigint[]) AS part (low, high) ON id BETWEEN low AND high
WHERE state = 'dead' LIMIT %s

-- name: queues_of
SELECT queue, count(*) FROM hotreload_jobs WHERE id = ANY(%s) GROUP BY queue
