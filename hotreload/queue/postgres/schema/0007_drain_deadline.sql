-- The deadline of a drain that nodes are asked for; NULL for the configured one of each.
ALTER TABLE hotreload_rounds ADD COLUMN deadline_s double precision;
