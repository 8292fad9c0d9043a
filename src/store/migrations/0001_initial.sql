-- All state of the program that must not be lost. Times are integers: milliseconds since the
-- Unix epoch, UTC. Structured payloads are JSON text. One writer (see store/mod.rs).

-- Facts about this installation: owner of the data lock, the last binary version, switches such
-- as the emergency stop ("stopped_all"), the chat transport's committed sync token.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Every event from a chat, before anything acts on it. key is the transport's event id, so that a
-- redelivery inserts nothing. state: new -> batched (in a session's window or queue) -> done;
-- dropped: edited away, redacted, cancelled by stop.
CREATE TABLE inbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    key        TEXT NOT NULL UNIQUE,
    session    TEXT NOT NULL,
    sender     TEXT NOT NULL,
    sent_at    INTEGER NOT NULL,
    addressed  INTEGER NOT NULL,
    incoming   TEXT NOT NULL,             -- JSON of model::chat::Incoming
    state      TEXT NOT NULL DEFAULT 'new',
    turn       INTEGER,                   -- the chat turn that took it
    arrived_at INTEGER NOT NULL
) STRICT;
CREATE INDEX inbox_open ON inbox (state, session, id) WHERE state IN ('new', 'batched');
CREATE INDEX inbox_session ON inbox (session, id);

-- Everything to be posted, in order per room. The transaction id is derived from id, so that a
-- retry after a lost answer cannot post twice. state: pending -> sent | failed.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    room       TEXT NOT NULL,
    thread     TEXT,                      -- root of the thread it goes to; NULL: main timeline
    outgoing   TEXT NOT NULL,             -- JSON of model::chat::Outgoing
    dedup      TEXT UNIQUE,               -- a key that makes enqueueing it again a no-op
    state      TEXT NOT NULL DEFAULT 'pending',
    attempts   INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    sent_key   TEXT,                      -- the transport's id of what was posted
    error      TEXT,
    created_at INTEGER NOT NULL,
    sent_at    INTEGER
) STRICT;
CREATE INDEX outbox_pending ON outbox (room, id) WHERE state = 'pending';
CREATE INDEX outbox_sent_key ON outbox (sent_key) WHERE sent_key IS NOT NULL;
CREATE INDEX outbox_thread ON outbox (room, thread) WHERE thread IS NOT NULL;
CREATE INDEX outbox_failed ON outbox (id) WHERE state = 'failed';

-- What was posted of a row, piece by piece: a long text is several messages, and an edit that
-- makes it longer adds some. Pieces that stand here are not posted again.
CREATE TABLE outbox_parts (
    outbox   INTEGER NOT NULL,
    part     INTEGER NOT NULL,
    sent_key TEXT NOT NULL,
    PRIMARY KEY (outbox, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_parts_key ON outbox_parts (sent_key);

-- What is remembered of a room.
CREATE TABLE rooms (
    room       TEXT PRIMARY KEY,
    project    TEXT,
    ambient    INTEGER NOT NULL DEFAULT 0,
    queue_mode TEXT,
    joined_at  INTEGER,                   -- nothing sent before this is a request
    last_event TEXT,                      -- the last journaled event, for paging back
    encrypted  INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The chat sessions that have spoken with the coordinator. epoch is raised by `reset`: only rows
-- of the present epoch are the conversation.
CREATE TABLE chat_sessions (
    session       TEXT PRIMARY KEY,
    epoch         INTEGER NOT NULL DEFAULT 0,
    notes_seen    INTEGER NOT NULL DEFAULT 0,  -- transitions up to here were told to the model
    events_seen   INTEGER NOT NULL DEFAULT 0,  -- events likewise
    model         TEXT
) STRICT, WITHOUT ROWID;

-- One run of the coordinator over a batch of messages. state: running -> done | cancelled | failed.
CREATE TABLE chat_turns (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    session    TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    state      TEXT NOT NULL DEFAULT 'running',
    error      TEXT,
    input      INTEGER NOT NULL DEFAULT 0,
    cached     INTEGER NOT NULL DEFAULT 0,
    output     INTEGER NOT NULL DEFAULT 0,
    cost_microusd INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;
CREATE INDEX chat_turns_running ON chat_turns (session) WHERE state = 'running';

-- The coordinator's conversation, message by message, in order.
CREATE TABLE chat_messages (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    session TEXT NOT NULL,
    epoch   INTEGER NOT NULL,
    turn    INTEGER NOT NULL,
    message TEXT NOT NULL,                -- JSON of model::llm::LlmMessage
    at      INTEGER NOT NULL
) STRICT;
CREATE INDEX chat_messages_session ON chat_messages (session, epoch, id);

-- A tool call of a running turn, written before it is carried out, so that after a crash a call
-- that may have had an effect is not repeated blindly.
CREATE TABLE tool_calls (
    turn       INTEGER NOT NULL,
    call_id    TEXT NOT NULL,
    name       TEXT NOT NULL,
    arguments  TEXT NOT NULL,
    result     TEXT,                      -- NULL: begun, outcome unknown
    is_error   INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    PRIMARY KEY (turn, call_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE projects (
    name       TEXT PRIMARY KEY,
    path       TEXT NOT NULL,
    base       TEXT NOT NULL,
    settings   TEXT NOT NULL,             -- JSON of config::ProjectConfig
    source     TEXT NOT NULL,             -- 'config' | 'chat'
    paused     INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: an id is never reused, also after a delete. column and badge are projections of
-- stage, written with it and only by work.
CREATE TABLE items (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    project    TEXT NOT NULL,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL CHECK (trim(name) <> ''),
    body       TEXT NOT NULL DEFAULT '',
    epic       INTEGER,
    agent      TEXT,
    qa         TEXT NOT NULL,
    origin     TEXT NOT NULL,             -- JSON of model::item::Origin
    room       TEXT,
    stage      TEXT NOT NULL,             -- JSON of model::stage::Stage
    stage_name TEXT NOT NULL,
    col        TEXT NOT NULL,
    badge      TEXT NOT NULL,
    priority   INTEGER NOT NULL DEFAULT 0,
    retries    INTEGER NOT NULL DEFAULT 0,
    cost_microusd INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version    INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX items_board ON items (project, col, id);

CREATE TABLE item_dependencies (
    item       INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    depends_on INTEGER NOT NULL,
    PRIMARY KEY (item, depends_on)
) STRICT, WITHOUT ROWID;
CREATE INDEX item_dependents ON item_dependencies (depends_on);

-- The transition log: one row per change of a stage, in the transaction of the change.
CREATE TABLE transitions (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    item       INTEGER NOT NULL,
    from_stage TEXT,
    to_stage   TEXT NOT NULL,
    cause      TEXT NOT NULL,
    origin     TEXT NOT NULL,
    at         INTEGER NOT NULL
) STRICT;
CREATE INDEX transitions_item ON transitions (item, seq);

-- Everything else that happened.
CREATE TABLE events (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    kind  TEXT NOT NULL,
    item  INTEGER,
    event TEXT NOT NULL,                  -- JSON of model::event::Event
    at    INTEGER NOT NULL
) STRICT;
CREATE INDEX events_item ON events (item, seq) WHERE item IS NOT NULL;

-- How far each subscriber has read a log ('transitions' or 'events').
CREATE TABLE cursors (
    subscriber TEXT NOT NULL,
    log        TEXT NOT NULL,
    position   INTEGER NOT NULL,
    PRIMARY KEY (subscriber, log)
) STRICT, WITHOUT ROWID;

-- One agent's work on one item in one worktree.
CREATE TABLE agent_sessions (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    agent         TEXT NOT NULL,
    role          TEXT NOT NULL,
    runtime       TEXT NOT NULL,
    item          INTEGER NOT NULL,
    state         TEXT NOT NULL,
    native_id     TEXT,                   -- the runtime's own session id, to resume
    waiting       TEXT,                   -- JSON {for, until, detail}
    pending_prompt TEXT,                  -- what the next turn says; NULL: nothing to run
    contract_asked INTEGER NOT NULL DEFAULT 0, -- was asked to report or say what it waits for
    recoveries    INTEGER NOT NULL DEFAULT 0,
    last_activity INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX agent_sessions_item ON agent_sessions (item, id);
CREATE INDEX agent_sessions_open ON agent_sessions (state) WHERE state NOT IN ('completed', 'zombie');
-- At most one agent that runs a model works on an item at any time.
CREATE UNIQUE INDEX agent_sessions_one_live ON agent_sessions (item)
    WHERE state IN ('booting', 'in_turn', 'between_turns', 'waiting', 'stalled');

-- The lease on an agent: owner pid with its start time, so that a reused pid is not mistaken for
-- the owner.
CREATE TABLE agent_leases (
    agent       TEXT PRIMARY KEY,
    session     INTEGER NOT NULL,
    owner_pid   INTEGER NOT NULL,
    owner_start INTEGER NOT NULL,
    taken_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Processes of runtimes, recorded before anything is written to them. ended_at NULL: may be alive.
CREATE TABLE agent_processes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    session    INTEGER NOT NULL,
    pid        INTEGER NOT NULL,
    pid_start  INTEGER NOT NULL,
    marker     TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;
CREATE INDEX agent_processes_live ON agent_processes (session) WHERE ended_at IS NULL;

-- One prompt given to a runtime. result NULL: running, or cut off by a crash.
CREATE TABLE turns (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    session    INTEGER NOT NULL,
    prompt     TEXT NOT NULL,
    result     TEXT,                      -- JSON of agents::turn::TurnResult
    input      INTEGER NOT NULL DEFAULT 0,
    cached     INTEGER NOT NULL DEFAULT 0,
    output     INTEGER NOT NULL DEFAULT 0,
    cost_microusd INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;
CREATE INDEX turns_session ON turns (session, id);

-- What an agent did, event by event, redacted and cut; shown by `logs` and `status N`.
CREATE TABLE turn_events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    turn    INTEGER NOT NULL,
    session INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    text    TEXT NOT NULL,
    at      INTEGER NOT NULL
) STRICT;
CREATE INDEX turn_events_session ON turn_events (session, id);

-- An agent's own conversation, for the built-in runtime only (the others keep theirs).
CREATE TABLE agent_messages (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    message TEXT NOT NULL,                -- JSON of model::llm::LlmMessage
    at      INTEGER NOT NULL
) STRICT;
CREATE INDEX agent_messages_session ON agent_messages (session, id);

-- Typed reports by which an agent finishes, bound to agent, item and session.
CREATE TABLE reports (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    agent   TEXT NOT NULL,
    item    INTEGER NOT NULL,
    session INTEGER,
    kind    TEXT NOT NULL,                -- worker_done, result, merged, merge_failed, ...
    summary TEXT NOT NULL,
    payload TEXT,
    at      INTEGER NOT NULL
) STRICT;
CREATE INDEX reports_agent ON reports (agent, item, id);

-- Output of gates, kept per item.
CREATE TABLE gate_runs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    item       INTEGER,
    project    TEXT NOT NULL,
    place      TEXT NOT NULL,             -- 'worktree' | 'merge'
    commit_id  TEXT,
    gate       TEXT NOT NULL,
    exit       INTEGER,
    passed     INTEGER NOT NULL,
    timed_out  INTEGER NOT NULL DEFAULT 0,
    output     TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    at         INTEGER NOT NULL
) STRICT;
CREATE INDEX gate_runs_item ON gate_runs (item, id);

-- Mail. claimed_by/claimed_at: given to a turn, not yet acknowledged.
CREATE TABLE mail (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    thread_id    INTEGER NOT NULL,
    sender       TEXT NOT NULL,
    recipient    TEXT NOT NULL,
    subject      TEXT NOT NULL,
    body         TEXT NOT NULL,
    type         TEXT NOT NULL,
    priority     INTEGER NOT NULL,        -- 0 low .. 3 urgent
    payload      TEXT,
    item         INTEGER,
    claimed_by   INTEGER,                 -- turn
    attempts     INTEGER NOT NULL DEFAULT 0,
    not_before   INTEGER NOT NULL DEFAULT 0,
    dead         INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    delivered_at INTEGER,
    read_at      INTEGER
) STRICT;
CREATE INDEX mail_unread ON mail (recipient, priority DESC, id) WHERE read_at IS NULL AND dead = 0;
CREATE INDEX mail_recipient ON mail (recipient, id);
CREATE INDEX mail_sender ON mail (sender, id);
CREATE INDEX mail_thread ON mail (thread_id, id);
CREATE INDEX mail_item ON mail (item, id) WHERE item IS NOT NULL;
CREATE INDEX mail_claimed ON mail (recipient, claimed_by)
    WHERE claimed_by IS NOT NULL AND read_at IS NULL;

-- Things to do at a time. kind: reminder, prompt, start, resume. state: waiting -> fired |
-- cancelled.
CREATE TABLE timers (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL,
    session    TEXT,
    person     TEXT,                      -- who is mentioned
    created_by TEXT NOT NULL,
    item       INTEGER,
    text       TEXT NOT NULL DEFAULT '',
    due_at     INTEGER NOT NULL,
    cron       TEXT,                      -- recurring: the pattern, in zone
    zone       TEXT NOT NULL,
    state      TEXT NOT NULL DEFAULT 'waiting',
    created_at INTEGER NOT NULL,
    fired_at   INTEGER
) STRICT;
CREATE INDEX timers_due ON timers (due_at) WHERE state = 'waiting';

-- Automatic decisions with the inputs that they were made from, and questions put to people.
CREATE TABLE decisions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    item     INTEGER,
    what     TEXT NOT NULL,               -- started, not_started, promoted, stopped, blocked, merged, ...
    why      TEXT NOT NULL,               -- in words
    inputs   TEXT NOT NULL,               -- JSON
    at       INTEGER NOT NULL
) STRICT;
CREATE INDEX decisions_item ON decisions (item, id);

-- Requests that bind to a person, room and exact question: permissions, approvals, confirmations.
CREATE TABLE requests (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL,             -- permission, confirm, approve, question
    session    TEXT NOT NULL,             -- where it was asked
    outbox     INTEGER,                   -- the message that asks
    item       INTEGER,
    agent_session INTEGER,
    what       TEXT NOT NULL,             -- JSON of the exact request
    state      TEXT NOT NULL DEFAULT 'open',
    answer     TEXT,
    answered_by TEXT,
    deadline   INTEGER,
    created_at INTEGER NOT NULL,
    answered_at INTEGER
) STRICT;
CREATE INDEX requests_open ON requests (state) WHERE state = 'open';

-- The merge queue: one row per queued item. state: queued -> merging -> (removed).
CREATE TABLE merge_queue (
    item      INTEGER PRIMARY KEY,
    project   TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    priority  INTEGER NOT NULL DEFAULT 0,
    queued_at INTEGER NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    error     TEXT,                       -- why it was put off, in words
    landing   TEXT                        -- JSON of store::merge_queue::Landing: written before the ref is moved
) STRICT;

-- Money and tokens, one row per model call or turn.
CREATE TABLE costs (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    source   TEXT NOT NULL,               -- 'coordinator' | 'agent'
    name     TEXT NOT NULL,               -- session or agent
    model    TEXT NOT NULL,
    item     INTEGER,
    project  TEXT,
    input    INTEGER NOT NULL,
    cached   INTEGER NOT NULL,
    output   INTEGER NOT NULL,
    microusd INTEGER NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE INDEX costs_at ON costs (at);
CREATE INDEX costs_item ON costs (item) WHERE item IS NOT NULL;

-- People's own settings.
CREATE TABLE people (
    person TEXT PRIMARY KEY,
    zone   TEXT
) STRICT, WITHOUT ROWID;

-- Answers to calls of the command line that changed something, by the caller's own key: a caller
-- who lost the connection asks again with the same key and nothing happens twice.
CREATE TABLE cli_calls (
    key    TEXT PRIMARY KEY,
    answer TEXT NOT NULL,                 -- JSON
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
