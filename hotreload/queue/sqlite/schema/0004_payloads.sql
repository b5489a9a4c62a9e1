-- A large payload is a row of its own: a job that moves writes its whole row again.

CREATE TABLE hotreload_payloads (
    job     INTEGER PRIMARY KEY,
    payload TEXT    NOT NULL
) STRICT;

INSERT INTO hotreload_payloads SELECT id, payload FROM hotreload_jobs WHERE octet_length(payload) > 65536;
UPDATE hotreload_jobs SET payload = '' WHERE octet_length(payload) > 65536;

CREATE TRIGGER hotreload_payloads_removed AFTER DELETE ON hotreload_jobs WHEN old.payload = ''
BEGIN
    DELETE FROM hotreload_payloads WHERE job = old.id;
END;
