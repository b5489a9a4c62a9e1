-- How many permits of a limit over all nodes each process holds, what it wants and what it takes for the limit. A rate's
-- are kept until its window has passed (`until`) after the process that held them has ended.
CREATE TABLE hotreload_permits (
    name    text             NOT NULL,
    owner   text             NOT NULL,
    node    text             NOT NULL,
    permits bigint           NOT NULL,
    wants   bigint           NOT NULL,
    value   bigint           NOT NULL,
    keep_s  double precision NOT NULL,
    until   timestamptz,
    PRIMARY KEY (name, owner)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
