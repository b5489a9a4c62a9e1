-- Each value of the sequence stands for as many ids: a node takes some at once and needs no trip for each enqueue.
ALTER SEQUENCE hotreload_job_ids INCREMENT BY 100;

-- Running jobs by a number that grows: entries of many jobs with one node and one queue took each claim long to place.
DROP INDEX hotreload_jobs_running;
CREATE INDEX hotreload_jobs_running ON hotreload_jobs (id) WHERE state = 'running';
