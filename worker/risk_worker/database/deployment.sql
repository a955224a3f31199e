-- What the database is: the one row of risk_deployment.

-- name: identity
SELECT id::text FROM risk_deployment;

-- name: renew
UPDATE risk_deployment SET id = gen_random_uuid(), created_at = now() WHERE id = %(before)s RETURNING id::text;
