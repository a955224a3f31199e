-- Whether a role may do what a worker does; the privileges themselves are those of db/grants.sql.

-- name: look
-- Of each table: its name, whether it is there, and whether this role may write into it at all.
SELECT name, to_regclass(name) IS NOT NULL,
       coalesce(has_any_column_privilege(to_regclass(name), 'INSERT, UPDATE'), false)
FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS needed (name, place)
ORDER BY place;

-- name: schema
-- Of the tables; NULL: this role may use none.
SELECT current_schema()::text;
