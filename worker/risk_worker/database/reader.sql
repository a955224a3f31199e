-- name: as_of_one_moment
-- All of it: a policy that would hide rows is an error.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL row_security = off;
