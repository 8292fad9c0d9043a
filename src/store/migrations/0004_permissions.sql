-- Permissions and questions of agents: which turn waits for the answer, when it stopped waiting (the
-- answer still counts), and when the agent was given the answer (it counts once).
ALTER TABLE requests ADD COLUMN turn INTEGER;
ALTER TABLE requests ADD COLUMN lapsed_at INTEGER;
ALTER TABLE requests ADD COLUMN used_at INTEGER;
CREATE INDEX requests_unused ON requests (agent_session, kind)
    WHERE agent_session IS NOT NULL AND used_at IS NULL;

-- What a person allowed "for this session". rule: JSON of agents::permission::SessionRule.
CREATE TABLE session_rules (
    agent_session INTEGER NOT NULL,
    rule          TEXT NOT NULL,
    request       INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    UNIQUE (agent_session, rule)
) STRICT;
