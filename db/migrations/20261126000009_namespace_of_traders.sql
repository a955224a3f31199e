-- migrate:up

-- The row of a trader is locked by each transaction that stores something of it, so the database itself decides to which
-- namespace a trader belongs. What is stored for another one would have to make it '', which the constraint refuses.
ALTER TABLE risk_state
    ADD COLUMN namespace text COLLATE "C",
    ADD CONSTRAINT risk_state_namespace_check CHECK (namespace <> '');

COMMENT ON COLUMN risk_state.namespace IS
    'The only namespace that may report this trader: of its first snapshot; NULL: RISK_NAMESPACES was not in use then';

-- migrate:down

ALTER TABLE risk_state DROP COLUMN namespace;
