-- While a function of a user runs in the writer's transaction `hotreload.function` is on, and the tables of the store
-- refuse every statement that would change them. The trigger is put on each table after the last step.
CREATE FUNCTION hotreload_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'HR001', MESSAGE = tg_op || ' ' || tg_table_name;
END $$;
