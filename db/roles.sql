-- The roles of riskstream in Postgres, and that one of them owns the tables. What each may do: grants.sql, which comes next.
-- `riskstream grants` prints both, `riskstream grants --apply` runs them; they may be run again. This one is run before the
-- first migration, by a role that may create roles and give away the tables. It works in the schema that is the first of
-- the search path.

DO $$
DECLARE
    home constant name := current_schema();
    each record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('riskstream grants', 0));

    -- No program can log in as the owner: it has no password, and no connection is left for it. LOGIN it needs all the same, or
    -- TimescaleDB runs no policy of its tables. The others are groups, to be granted to what programs log in as.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'risk_owner') THEN
        CREATE ROLE risk_owner LOGIN PASSWORD NULL CONNECTION LIMIT 0;
    END IF;
    FOR each IN
        SELECT role FROM unnest(ARRAY['risk_writer', 'risk_operator', 'risk_reader', 'risk_trader']) AS role
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
    LOOP
        EXECUTE format('CREATE ROLE %I NOLOGIN', each.role);
    END LOOP;
    -- Who operates may do what a worker and a reader may.
    IF NOT pg_has_role('risk_operator', 'risk_writer', 'MEMBER')
        OR NOT pg_has_role('risk_operator', 'risk_reader', 'MEMBER')
    THEN
        GRANT risk_writer, risk_reader TO risk_operator;
    END IF;

    -- Of the database and the schema, where the role that runs this may grant it.
    IF pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') THEN
        EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO risk_owner', current_database());
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO risk_writer', current_database());
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO risk_reader, risk_trader', current_database());
    END IF;
    IF pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = home), 'USAGE') THEN
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', home);
        EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO risk_owner', home);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO risk_writer, risk_reader, risk_trader', home);
    END IF;

    -- What another role made. A hypertable takes its chunks along, a continuous aggregate what it is made of.
    FOR each IN
        SELECT format('TABLE %s', pg_class.oid::regclass) AS object FROM pg_class
        WHERE relnamespace = home::regnamespace AND relkind IN ('r', 'v') AND pg_get_userbyid(relowner) <> 'risk_owner'
            AND (relname LIKE 'risk\_%' OR relname = 'schema_migrations')
        UNION ALL
        SELECT format('FUNCTION %s', pg_proc.oid::regprocedure) FROM pg_proc
        WHERE pronamespace = home::regnamespace AND proname LIKE 'risk\_%' AND pg_get_userbyid(proowner) <> 'risk_owner'
    LOOP
        IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
            IF EXISTS (
                SELECT FROM timescaledb_information.continuous_aggregates
                WHERE each.object = format('TABLE %s', format('%I.%I', view_schema, view_name)::regclass)
            ) THEN
                each.object := replace(each.object, 'TABLE ', 'MATERIALIZED VIEW ');
            END IF;
        END IF;
        EXECUTE format('ALTER %s OWNER TO risk_owner', each.object);
    END LOOP;
END
$$;
