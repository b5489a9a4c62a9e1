-- So is a large cursor: a stop moves every running job.

CREATE TABLE hotreload_cursors (
    job    INTEGER PRIMARY KEY,
    cursor TEXT    NOT NULL
) STRICT;

INSERT INTO hotreload_cursors SELECT id, cursor FROM hotreload_jobs WHERE octet_length(cursor) > 65536;
UPDATE hotreload_jobs SET cursor = '' WHERE octet_length(cursor) > 65536;

CREATE TRIGGER hotreload_cursors_small AFTER UPDATE OF cursor ON hotreload_jobs
WHEN old.cursor = '' AND new.cursor <> ''
BEGIN
    DELETE FROM hotreload_cursors WHERE job = new.id;
END;

CREATE TRIGGER hotreload_cursors_removed AFTER DELETE ON hotreload_jobs WHEN old.cursor = ''
BEGIN
    DELETE FROM hotreload_cursors WHERE job = old.id;
END;
