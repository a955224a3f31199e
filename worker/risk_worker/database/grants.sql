-- What the role of a connection may do.

-- name: role
-- (role, database, may it make temporary tables, is it the owner of history or a member of that).
SELECT current_user::text, current_database()::text,
       has_database_privilege(current_database(), 'TEMPORARY'),
       coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('risk_state_history')), false);

-- name: lacking
-- Of (table, privilege, column or NULL: of the whole table) those that the role has not.
SELECT name, privilege, field
FROM unnest(%(tables)s::text[], %(privileges)s::text[], %(columns)s::text[]) WITH ORDINALITY
    AS wanted (name, privilege, field, place)
WHERE to_regclass(name) IS NOT NULL AND NOT CASE
    WHEN field IS NULL THEN has_table_privilege(to_regclass(name), privilege)
    ELSE has_column_privilege(to_regclass(name), field, privilege)
END
ORDER BY place;
