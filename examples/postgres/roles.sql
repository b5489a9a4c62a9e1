-- Two roles for the store: hotreload_owner owns its tables and migrates them; hotreload_run runs services on them, and
-- can neither create, alter nor truncate anything. Run once in the store's database, as a role that may create roles:
--     psql -d jobs -f roles.sql
-- then give each a password: \password hotreload_owner, \password hotreload_run
CREATE ROLE hotreload_owner LOGIN;
CREATE ROLE hotreload_run LOGIN;

CREATE SCHEMA hotreload AUTHORIZATION hotreload_owner;
ALTER ROLE hotreload_owner SET search_path = hotreload;
ALTER ROLE hotreload_run SET search_path = hotreload;

-- What the owner creates from now on, tables of later releases included.
GRANT USAGE ON SCHEMA hotreload TO hotreload_run;
ALTER DEFAULT PRIVILEGES FOR ROLE hotreload_owner IN SCHEMA hotreload
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO hotreload_run;
ALTER DEFAULT PRIVILEGES FOR ROLE hotreload_owner IN SCHEMA hotreload
    GRANT USAGE ON SEQUENCES TO hotreload_run;
