-- What each node says of itself, once a second. A table of its own: a node's row is written by each of its commits.
CREATE TABLE hotreload_node_status (
    node  text PRIMARY KEY REFERENCES hotreload_nodes ON DELETE CASCADE,
    about text NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What all nodes are asked to do together, one phase after the other, and what each answered.
CREATE TABLE hotreload_rounds (
    id       text        PRIMARY KEY,
    kind     text        NOT NULL,
    phase    text        NOT NULL,
    asked_by text        NOT NULL,
    members  text[]      NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE hotreload_answers (
    round text NOT NULL REFERENCES hotreload_rounds ON DELETE CASCADE,
    node  text NOT NULL,
    phase text NOT NULL,
    body  text NOT NULL,
    PRIMARY KEY (round, node, phase)
);
