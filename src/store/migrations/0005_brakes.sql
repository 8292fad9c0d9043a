-- What holds agents back and what is said about it.

-- What was said and is not to be said again.
CREATE TABLE told (
    key TEXT PRIMARY KEY,
    at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX told_at ON told (at);

-- Sums over a project's day.
CREATE INDEX costs_project ON costs (project, at) WHERE project IS NOT NULL;

-- Pokes: not mail, dropped when they expire. given: the turn that took it.
CREATE TABLE nudges (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient  TEXT NOT NULL,
    sender     TEXT NOT NULL,
    text       TEXT NOT NULL,
    urgent     INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    given      INTEGER
) STRICT;
CREATE INDEX nudges_waiting ON nudges (recipient, urgent DESC, id) WHERE given IS NULL;
CREATE INDEX nudges_expiry ON nudges (expires_at);

-- Where what a session did was put away, compressed; NULL: it stands in turn_events.
ALTER TABLE agent_sessions ADD COLUMN transcript TEXT;
CREATE INDEX agent_sessions_ended ON agent_sessions (updated_at)
    WHERE state IN ('completed', 'zombie') AND transcript IS NULL;

-- When turns ended, for the brake that counts deaths.
CREATE INDEX turns_ended ON turns (ended_at) WHERE ended_at IS NOT NULL;
