-- migrate:up

CREATE FUNCTION risk_history_to_hypertable() RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    extension_schema text;
BEGIN
    -- Where the library is not preloaded, CREATE EXTENSION is FATAL and ends the session: look first.
    -- The IFs are nested or return early because plpgsql looks up a statement's names when it comes to it.
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        RETURN 'plain table: this server does not have TimescaleDB';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers') THEN
        RETURN 'plain table: TimescaleDB is not in shared_preload_libraries';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        BEGIN
            CREATE EXTENSION timescaledb;
        EXCEPTION WHEN insufficient_privilege THEN
            RETURN 'plain table: this role may not CREATE EXTENSION timescaledb; let one do so that may, '
                'then SELECT risk_history_to_hypertable()';
        END;
    END IF;
    IF EXISTS (
        SELECT FROM timescaledb_information.hypertables
        WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'risk_state_history'::regclass
    ) THEN
        RETURN 'hypertable';
    END IF;

    -- Moving rows that are there already ends in a TRUNCATE of the plain table, which this trigger refuses.
    DROP TRIGGER risk_state_history_append_only_statement ON risk_state_history;
    SELECT nspname INTO STRICT extension_schema
        FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'timescaledb';
    EXECUTE format(
        $sql$
            SELECT %1$I.create_hypertable(
                'risk_state_history',
                %1$I.by_range('recorded_at', INTERVAL '7 days'),
                create_default_indexes => false, -- the primary key does; another costs 10-15 %% of ingest
                if_not_exists => true,
                migrate_data => true)
        $sql$,
        extension_schema
    );
    CREATE TRIGGER risk_state_history_append_only_statement
        BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_state_history
        FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();
    RETURN 'hypertable';
END
$$;
COMMENT ON FUNCTION risk_history_to_hypertable() IS
    'Makes risk_state_history a hypertable where TimescaleDB is loaded, and says what it is now; may be called again, '
    'as when TimescaleDB came later';

SELECT risk_history_to_hypertable();

-- migrate:down

DO $$
DECLARE
    privilege record;
    owner name;
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        IF NOT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers') THEN
            RAISE EXCEPTION 'TimescaleDB is not in shared_preload_libraries, so rows in chunks may be out of sight'
                USING HINT = 'Preload it, restart the server, then try again.';
        END IF;
        IF EXISTS (
            SELECT FROM timescaledb_information.hypertables
            WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'risk_state_history'::regclass
        ) THEN
            LOCK TABLE risk_state_history IN ACCESS EXCLUSIVE MODE;
            CREATE TABLE risk_state_history_plain (LIKE risk_state_history INCLUDING ALL);
            INSERT INTO risk_state_history_plain SELECT * FROM risk_state_history;
            SELECT pg_get_userbyid(relowner) INTO STRICT owner
                FROM pg_class WHERE oid = 'risk_state_history'::regclass;
            EXECUTE format('ALTER TABLE risk_state_history_plain OWNER TO %I', owner);
            FOR privilege IN
                SELECT acl.privilege_type, acl.is_grantable,
                    CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END AS grantee
                FROM pg_class, aclexplode(relacl) AS acl
                WHERE pg_class.oid = 'risk_state_history'::regclass AND acl.grantee <> relowner
            LOOP
                EXECUTE format(
                    'GRANT %s ON risk_state_history_plain TO %s %s',
                    privilege.privilege_type,
                    privilege.grantee,
                    CASE WHEN privilege.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END
                );
            END LOOP;
            DROP TABLE risk_state_history;
            ALTER TABLE risk_state_history_plain RENAME TO risk_state_history;
            ALTER INDEX risk_state_history_plain_pkey RENAME TO risk_state_history_pkey;
            COMMENT ON TABLE risk_state_history IS
                'Every accepted snapshot, exactly once; append-only; a hypertable where TimescaleDB is loaded';
            CREATE TRIGGER risk_state_history_append_only_row
                BEFORE UPDATE OR DELETE ON risk_state_history
                FOR EACH ROW EXECUTE FUNCTION risk_refuse_change();
            CREATE TRIGGER risk_state_history_append_only_statement
                BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_state_history
                FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();
        END IF;
    END IF;
END
$$;

DROP FUNCTION risk_history_to_hypertable();
