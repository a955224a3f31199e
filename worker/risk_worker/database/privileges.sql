-- Whether a role may do what a worker does.

-- name: look
-- Of each table: its name, whether it is there, what this role lacks, and whether it may write into it at all.
SELECT needed.name,
       to_regclass(needed.name) IS NOT NULL,
       ARRAY(
           SELECT privilege FROM unnest(needed.privileges) AS privilege
           WHERE NOT has_table_privilege(to_regclass(needed.name), privilege)
       ),
       coalesce(has_table_privilege(to_regclass(needed.name), 'INSERT, UPDATE'), false)
FROM (VALUES
    ('risk_state', ARRAY['SELECT', 'INSERT', 'UPDATE']),
    ('risk_state_history', ARRAY['SELECT', 'INSERT']),
    ('risk_dead_letter', ARRAY['SELECT', 'INSERT']),
    ('risk_deployment', ARRAY['SELECT', 'UPDATE']),
    ('risk_seal_mark', ARRAY['SELECT', 'UPDATE']),
    ('risk_seal', ARRAY['SELECT', 'INSERT']),
    ('risk_seal_run', ARRAY['SELECT', 'INSERT']),
    ('risk_epoch_total', ARRAY['SELECT', 'INSERT', 'UPDATE'])
) AS needed (name, privileges);

-- name: role
-- (its name, the database, whether it may make temporary tables, the schema of the tables; NULL: it may use none).
SELECT current_user::text, current_database()::text,
       has_database_privilege(current_database(), 'TEMPORARY'),
       current_schema()::text;
