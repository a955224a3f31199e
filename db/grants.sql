-- What each role of riskstream may do in Postgres; docs/operate/postgres-roles.md has it as a table. roles.sql comes first.
-- The owner of the tables may run it, and has to after each migration. It takes away what a group has beyond this; a
-- program that is in the middle of something does not notice.

-- In a new session, before anything else: with TimescaleDB in it, a GRANT of columns fails once history has a
-- columnstore, as it would go on to tables without those columns. No role needs a privilege on a chunk.
SET timescaledb.disable_load = on;

DO $$
DECLARE
    home constant name := current_schema();
    each record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('riskstream grants', 0));
    FOR each IN
        SELECT objid::regclass AS object, rolname AS role
        FROM pg_shdepend JOIN pg_class ON pg_class.oid = objid JOIN pg_roles ON pg_roles.oid = refobjid
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND classid = 'pg_class'::regclass
            AND rolname IN ('risk_writer', 'risk_operator', 'risk_reader', 'risk_trader') AND deptype = 'a'
            AND pg_has_role(relowner, 'USAGE')
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I', each.object, each.role);
    END LOOP;

    -- The times that the database's clock gives (stored_at, failed_at, sealed_at) are in no list, so none can set them.
    FOR each IN
        SELECT * FROM (VALUES
            -- A worker: it stores, agrees with Redis on the partitions, and seals.
            ('risk_writer', 'schema_migrations', 'SELECT'),
            ('risk_writer', 'risk_deployment', 'SELECT, UPDATE (partitioning_version, partitions, other_partitions)'),
            ('risk_writer', 'risk_state', 'SELECT, INSERT, UPDATE'),
            ('risk_writer', 'risk_state_history', 'SELECT, INSERT (trader_id, epoch, seq, recorded_at, daily_pnl, '
                'drawdown_pct, current_equity, peak_equity, trading_paused, paused_until, last_reset_time, trace_id, '
                'reason, merged)'),
            ('risk_writer', 'risk_dead_letter', 'INSERT (stream, entry_id, reason, sqlstate, trader_id, epoch, seq, '
                'payload)'),
            ('risk_writer', 'risk_seal_mark', 'SELECT, UPDATE'),
            ('risk_writer', 'risk_seal_run', 'SELECT, INSERT (number, version, kind, from_at, until_at, expired_until, '
                'leaves, rows, digest, previous, head)'),
            ('risk_writer', 'risk_seal', 'SELECT, INSERT'),
            ('risk_writer', 'risk_epoch_total', 'SELECT, INSERT, UPDATE'),
            -- By hand, besides what writer and reader may: dead retry, dead drop, rebind --new-identity, verify accept.
            ('risk_operator', 'risk_dead_letter', 'DELETE, UPDATE (reason, sqlstate, trader_id, epoch, seq)'),
            ('risk_operator', 'risk_seal_drop', 'INSERT (run, stream, entry_id, trader_id, epoch, first_seq, last_seq, '
                'reason, dropped_by, digest)'),
            ('risk_operator', 'risk_deployment', 'UPDATE (id, created_at)'),
            -- UPDATE is what the lock of the table needs; its trigger refuses to change a row.
            ('risk_operator', 'risk_known_loss', 'INSERT (trader_id, epoch, first_seq, last_seq, undoes, reason, '
                'recorded_by), UPDATE'),
            -- Questions, verify, seal verify, repair, timescale status, and programs of others.
            ('risk_reader', 'schema_migrations', 'SELECT'),
            ('risk_reader', 'risk_deployment', 'SELECT'),
            ('risk_reader', 'risk_state', 'SELECT'),
            ('risk_reader', 'risk_state_history', 'SELECT'),
            ('risk_reader', 'risk_dead_letter', 'SELECT'),
            ('risk_reader', 'risk_seal_mark', 'SELECT'),
            ('risk_reader', 'risk_seal_run', 'SELECT'),
            ('risk_reader', 'risk_seal', 'SELECT'),
            ('risk_reader', 'risk_seal_drop', 'SELECT'),
            ('risk_reader', 'risk_epoch_total', 'SELECT'),
            ('risk_reader', 'risk_known_loss', 'SELECT'),
            ('risk_reader', 'risk_pauses', 'SELECT'),
            ('risk_reader', 'risk_silence', 'SELECT'),
            ('risk_reader', 'risk_hourly', 'SELECT'),
            ('risk_reader', 'risk_daily', 'SELECT'),
            -- load() of a producer, where Redis does not answer.
            ('risk_trader', 'risk_deployment', 'SELECT'),
            ('risk_trader', 'risk_state', 'SELECT')
        ) AS wanted (role, object, privileges)
        WHERE to_regclass(format('%I.%I', home, object)) IS NOT NULL -- no later migration has made it
    LOOP
        EXECUTE format('GRANT %s ON TABLE %I.%I TO %I', each.privileges, home, each.object, each.role);
    END LOOP;
END
$$;
