-- Each value of the sequence stands for as many ids: a node takes some at once and needs no trip for each enqueue.
ALTER SEQUENCE hotreload_job_ids INCREMENT BY 100;
