-- Until when a round may be checked: what its members prepared is undone then, even where the one that asked is gone.
ALTER TABLE hotreload_rounds ADD COLUMN ends_at timestamptz NOT NULL DEFAULT clock_timestamp();
