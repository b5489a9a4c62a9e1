-- The statements of the engine on SQLite, each under its name; the shapes of rows are those of every engine.
-- Many rows come back as one JSON text, whatever their number: each row returned costs the interpreter's lock.
-- A list is bound as one JSON text; {values} stands for rows of bindings, filled up with rows of NULL.

-- name: insert
INSERT INTO hotreload_jobs
    (id, queue, state, priority, run_at_ms, max_attempts, version, enqueued_at_ms, dedupe_key, payload)
SELECT * FROM ({values}) WHERE column1 IS NOT NULL
ON CONFLICT (queue, dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('ready', 'scheduled', 'running') DO NOTHING

-- name: insert_payloads
INSERT INTO hotreload_payloads SELECT * FROM ({values}) WHERE column1 IS NOT NULL

-- name: inserted
SELECT json_group_array(id) FROM hotreload_jobs WHERE id BETWEEN ? AND ?

-- name: done_since
SELECT json_group_array(json_array(dedupe_key)) FROM hotreload_jobs
WHERE queue = ? AND state = 'done' AND ended_at_ms >= ? AND dedupe_key IN (SELECT value FROM json_each(?))

-- name: active_of
SELECT dedupe_key, id, state FROM hotreload_jobs
WHERE queue = ? AND state IN ('ready', 'scheduled', 'running') AND dedupe_key IN (SELECT value FROM json_each(?))

-- name: done_of
SELECT dedupe_key, max(id), state FROM hotreload_jobs
WHERE queue = ? AND state IN ('done', 'dead', 'cancelled') AND state = 'done'
    AND dedupe_key IN (SELECT value FROM json_each(?))
GROUP BY dedupe_key

-- name: promote
UPDATE hotreload_jobs SET state = 'ready' WHERE id IN (
    SELECT id FROM hotreload_jobs WHERE queue = ? AND state = 'scheduled' AND run_at_ms <= ? ORDER BY run_at_ms LIMIT ?)

-- name: suspects
SELECT id, queue, state = 'running', stalled_crashes FROM hotreload_jobs
WHERE suspect = 1 AND (state = 'ready' OR state = 'running') ORDER BY priority, run_at_ms, id

-- Texts of a job with over 65,536 bytes of them are NULL here and read one by one.
-- name: next
SELECT json_group_array(json_array(id, queue, payload, cursor, lease_seq, attempts, max_attempts, interruptions, crashes,
    dedupe_key, priority, version, enqueued_at_ms, run_at_ms, stalled_crashes, alone_crashes, suspect, steps, size))
FROM (
    SELECT id, queue, lease_seq + 1 AS lease_seq, attempts, max_attempts, interruptions, crashes, dedupe_key, priority,
        version, enqueued_at_ms, run_at_ms, stalled_crashes, alone_crashes, suspect, steps, size,
        CASE WHEN size > 65536 THEN NULL
            WHEN payload = '' THEN (SELECT payload FROM hotreload_payloads WHERE job = id) ELSE payload END AS payload,
        CASE WHEN size > 65536 THEN NULL
            WHEN cursor = '' THEN (SELECT cursor FROM hotreload_cursors WHERE job = id) ELSE cursor END AS cursor
    FROM (
        SELECT *,
            iif(payload = '', (SELECT octet_length(payload) FROM hotreload_payloads WHERE job = id),
                octet_length(payload))
            + iif(cursor = '', (SELECT octet_length(cursor) FROM hotreload_cursors WHERE job = id),
                coalesce(octet_length(cursor), 0)) AS size
        FROM hotreload_jobs)
    WHERE {which} AND state = 'ready' ORDER BY priority, run_at_ms, id LIMIT ?)

-- name: large
SELECT iif(payload = '', (SELECT payload FROM hotreload_payloads WHERE job = id), payload),
    iif(cursor = '', (SELECT cursor FROM hotreload_cursors WHERE job = id), cursor)
FROM hotreload_jobs WHERE id = ?

-- name: take
UPDATE hotreload_jobs SET state = 'running', lease_seq = lease_seq + 1 WHERE id IN (SELECT value FROM json_each(?))

-- name: steps
SELECT job, name, result FROM hotreload_steps WHERE job IN (SELECT value FROM json_each(?))

-- name: fenced
SELECT json_group_array(json_array(column1, column2)) FROM ({values}) AS new WHERE column1 IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM hotreload_jobs WHERE id = column1 AND lease_seq = column2 AND state = 'running')

-- name: unclaim
UPDATE hotreload_jobs AS job SET state = 'ready' FROM ({values}) AS new WHERE job.id = new.column1

-- name: checkpoint
UPDATE hotreload_jobs AS job SET cursor = new.column3, steps = steps + new.column4,
    stalled_crashes = iif(job.cursor IS new.column3 AND NOT new.column4, stalled_crashes, 0),
    alone_crashes = iif(job.cursor IS new.column3 AND NOT new.column4, alone_crashes, 0)
FROM ({values}) AS new WHERE job.id = new.column1

-- name: keep_cursor
INSERT INTO hotreload_cursors VALUES (?, ?)
ON CONFLICT (job) DO UPDATE SET cursor = excluded.cursor WHERE cursor <> excluded.cursor

-- name: progressed
UPDATE hotreload_jobs SET stalled_crashes = 0, alone_crashes = 0 WHERE id = ? AND stalled_crashes + alone_crashes > 0

-- name: keep_steps
INSERT OR REPLACE INTO hotreload_steps SELECT * FROM ({values}) WHERE column1 IS NOT NULL

-- name: move
UPDATE hotreload_jobs AS job SET lease_seq = lease_seq + new.column3, state = new.column4, attempts = new.column5,
    interruptions = new.column6, crashes = new.column7, stalled_crashes = new.column8, alone_crashes = new.column9,
    suspect = new.column10, run_at_ms = new.column11, ended_at_ms = new.column12, reason = new.column13,
    traceback = new.column14, result = new.column15
FROM ({values}) AS new WHERE job.id = new.column1

-- name: running_in
SELECT json_group_array(json_array(id, queue, cursor IS NOT NULL OR steps > 0)) FROM hotreload_jobs
WHERE state = 'running' AND queue IN (SELECT value FROM json_each(?))

-- name: requeue
UPDATE hotreload_jobs SET state = 'ready', lease_seq = lease_seq + 1, interruptions = interruptions + 1
WHERE state = 'running' AND queue IN (SELECT value FROM json_each(?))

-- name: states
SELECT json_group_array(json_array(id, state)) FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?))

-- name: dead_of
SELECT json_group_array(json_array(id, queue, dedupe_key)) FROM (
    SELECT id, queue, dedupe_key FROM hotreload_jobs AS job
    WHERE state = 'dead' AND id IN (SELECT value FROM json_each(?)) AND NOT EXISTS (
        SELECT 1 FROM hotreload_jobs AS other WHERE other.queue = job.queue AND other.dedupe_key = job.dedupe_key
            AND other.dedupe_key IS NOT NULL AND other.state IN ('ready', 'scheduled', 'running'))
    ORDER BY id)

-- name: retry
UPDATE hotreload_jobs SET state = 'ready', attempts = 0, stalled_crashes = 0, alone_crashes = 0, run_at_ms = ?,
    ended_at_ms = NULL WHERE id IN (SELECT value FROM json_each(?))

-- name: not_running
SELECT json_group_array(json_array(id, queue, state, suspect)) FROM hotreload_jobs
WHERE id IN (SELECT value FROM json_each(?)) AND state <> 'running'

-- name: unfinished
SELECT json_group_array(json_array(id, queue, state, suspect)) FROM hotreload_jobs
WHERE id IN (SELECT value FROM json_each(?)) AND state IN ('ready', 'scheduled', 'running')

-- name: cancel
UPDATE hotreload_jobs SET state = 'cancelled', lease_seq = lease_seq + 1, suspect = 0, ended_at_ms = ?
WHERE id IN (SELECT value FROM json_each(?))

-- name: remove
DELETE FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?))

-- name: pause
INSERT INTO hotreload_queues (name, paused) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused

-- name: ended
SELECT json_group_array(json_array(id)) FROM (
    SELECT id FROM hotreload_jobs INDEXED BY hotreload_jobs_ended
    WHERE queue = ? AND state IN ('done', 'cancelled') AND ended_at_ms <= ? ORDER BY ended_at_ms LIMIT ?)

-- name: count
INSERT INTO hotreload_queues (name, ready, scheduled, running, done, dead, suspects) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET ready = ready + excluded.ready, scheduled = scheduled + excluded.scheduled,
    running = running + excluded.running, done = done + excluded.done, dead = dead + excluded.dead,
    suspects = suspects + excluded.suspects
RETURNING name, ready, scheduled, running, done, dead, suspects, paused,
    (SELECT min(run_at_ms) FROM hotreload_jobs WHERE queue = name AND state = 'scheduled')

-- name: standings
SELECT name, ready, scheduled, running, done, dead, suspects, paused,
    (SELECT min(run_at_ms) FROM hotreload_jobs WHERE queue = name AND state = 'scheduled')
FROM hotreload_queues

-- name: counted
SELECT queue, iif(state = 'cancelled', 'done', state), count(*) FROM hotreload_jobs GROUP BY 1, 2

-- name: fact
SELECT value FROM hotreload_facts WHERE name = ?

-- name: put_fact
INSERT INTO hotreload_facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: put_document
INSERT INTO hotreload_documents (seq, kind, id, at_ms, body)
VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM hotreload_documents), ?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, body = excluded.body

-- name: prune_documents
DELETE FROM hotreload_documents WHERE seq IN (
    SELECT seq FROM hotreload_documents WHERE kind = ? ORDER BY seq DESC LIMIT -1 OFFSET ?)

-- name: remove_documents
DELETE FROM hotreload_documents WHERE kind = ?

-- name: documents
SELECT kind, id, at_ms, body FROM hotreload_documents WHERE kind = ? ORDER BY seq DESC LIMIT ?

-- name: document_known
SELECT 1 FROM hotreload_documents WHERE id = ? LIMIT 1

-- name: left_running
SELECT json_group_array(json_array(id, queue, '', progress, lease_seq, attempts, max_attempts, interruptions, crashes,
    dedupe_key, priority, version, enqueued_at_ms, run_at_ms, stalled_crashes, alone_crashes, suspect))
FROM (
    SELECT *, iif(cursor IS NOT NULL OR steps > 0, 'null', NULL) AS progress
    FROM hotreload_jobs INDEXED BY hotreload_jobs_running WHERE state = 'running' ORDER BY id)

-- name: finished_since
SELECT json_group_array(json_array(id)) FROM hotreload_jobs WHERE state = 'done' AND ended_at_ms >= ?

-- name: page
SELECT id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes, suspect,
    version, enqueued_at_ms, ended_at_ms, dedupe_key, reason
FROM hotreload_jobs {where} ORDER BY id DESC LIMIT ?

-- name: job
SELECT id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes, suspect,
    version, enqueued_at_ms, ended_at_ms, dedupe_key, reason,
    iif(payload = '', (SELECT payload FROM hotreload_payloads WHERE job = id), payload),
    iif(cursor = '', (SELECT cursor FROM hotreload_cursors WHERE job = id), cursor), result, traceback
FROM hotreload_jobs WHERE id = ?

-- name: history
SELECT at_ms, event, reason FROM hotreload_history WHERE job = ? ORDER BY number

-- name: held_of
SELECT dedupe_key, max(id), state FROM hotreload_jobs
WHERE queue = ? AND state IN ('done', 'dead', 'cancelled') AND (state = 'dead' OR state = 'done' AND ended_at_ms >= ?)
    AND dedupe_key IN (SELECT value FROM json_each(?))
GROUP BY dedupe_key

-- name: states_in
SELECT state, count(*) FROM json_each(?) AS range CROSS JOIN hotreload_jobs
WHERE hotreload_jobs.id BETWEEN range.value ->> 0 AND range.value ->> 1 GROUP BY state

-- name: dead_in
SELECT coalesce(dedupe_key, CAST(hotreload_jobs.id AS TEXT)), coalesce(reason, '')
FROM json_each(?) AS range CROSS JOIN hotreload_jobs
WHERE hotreload_jobs.id BETWEEN range.value ->> 0 AND range.value ->> 1 AND state = 'dead' LIMIT ?

-- name: queues_of
SELECT queue, count(*) FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?)) GROUP BY queue
