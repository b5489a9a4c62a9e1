-- A store as release 0.1 left it when it was killed: sqlite3's dump of one that its code wrote.
BEGIN TRANSACTION;
CREATE TABLE hotreload_documents (
    seq   INTEGER PRIMARY KEY,
    kind  TEXT    NOT NULL,
    id    TEXT    NOT NULL,
    at_ms INTEGER NOT NULL,
    body  TEXT    NOT NULL,
    UNIQUE (kind, id)
) STRICT;
INSERT INTO "hotreload_documents" VALUES(1,'reload','r1',1700000000000,'{"outcome":"applied"}');
CREATE TABLE hotreload_facts (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
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
INSERT INTO "hotreload_jobs" VALUES(1,'a','done',0,1700000000000,1,0,5,0,0,0,0,0,1,1700000000000,1700000000000,'k1','{"n":1}',NULL,'{"made":1}',NULL,NULL);
INSERT INTO "hotreload_jobs" VALUES(2,'a','dead',0,1700000000000,1,1,5,0,0,0,0,0,1,1700000000000,1700000000000,'k2','{"n":2}',NULL,NULL,'ValueError: no','Traceback ...');
INSERT INTO "hotreload_jobs" VALUES(3,'a','running',0,1700000000000,1,0,5,0,0,0,0,0,1,1700000000000,NULL,'k3','{"n":3}','{"version":1,"cursor":{"at":7},"positions":{"items":3},"steps":{"first":{"size":12},"second":null}}',NULL,NULL,NULL);
INSERT INTO "hotreload_jobs" VALUES(4,'a','ready',0,1700000000000,0,0,5,0,0,0,0,0,1,1700000000000,NULL,'k4','{"n":4}',NULL,NULL,NULL,NULL);
INSERT INTO "hotreload_jobs" VALUES(5,'a','ready',0,1700000000000,0,0,5,0,0,0,0,0,1,1700000000000,NULL,'k5','{"n":5}',NULL,NULL,NULL,NULL);
INSERT INTO "hotreload_jobs" VALUES(6,'a','scheduled',2,1700003600000,0,0,5,0,0,0,0,0,1,1700000000000,NULL,NULL,'{"n":6}',NULL,NULL,NULL,NULL);
INSERT INTO "hotreload_jobs" VALUES(7,'b','ready',0,1700000000000,0,0,5,0,0,0,0,0,1,1700000000000,NULL,NULL,'[1,"\u00fc"]',NULL,NULL,NULL,NULL);
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
INSERT INTO "hotreload_queues" VALUES('a',2,1,1,1,1,0,0);
INSERT INTO "hotreload_queues" VALUES('b',1,0,0,0,0,0,1);
CREATE TABLE hotreload_schema (
    version       INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT
;
INSERT INTO "hotreload_schema" VALUES(1,'jobs',1700000000000);
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
CREATE INDEX hotreload_documents_newest ON hotreload_documents (kind, seq);
COMMIT;
