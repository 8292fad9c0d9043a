-- What the whole pipeline needs. One section a part of it.

-- ---- The merge queue ---------------------------------------------------------------------------

-- alone: the remote refused a push that carried several items; this one is tried by itself.
ALTER TABLE merge_queue ADD COLUMN alone INTEGER NOT NULL DEFAULT 0;
CREATE INDEX merge_queue_project ON merge_queue (project);

-- A project's queue as a whole. pid, started: the process that merges (NULL: nobody), a lease that
-- a dead owner loses. pause: why the queue stands still, JSON of store::merge_state::Pause.
CREATE TABLE merge_state (
    id           INTEGER PRIMARY KEY,
    project      TEXT NOT NULL UNIQUE,
    pid          INTEGER,
    started      INTEGER,
    taken_at     INTEGER,
    pause        TEXT,
    paused_until INTEGER NOT NULL DEFAULT 0,
    age_level    INTEGER NOT NULL DEFAULT 0,  -- of the alarm about the oldest item that waits
    polled_at    INTEGER NOT NULL DEFAULT 0   -- when open pull requests were last looked at
) STRICT;

-- What a trial merge in memory said of an item's commit against a base tip.
CREATE TABLE merge_predictions (
    item      INTEGER PRIMARY KEY,
    project   TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    base      TEXT NOT NULL,
    outcome   TEXT NOT NULL,               -- JSON of store::merge_predictions::Outcome
    at        INTEGER NOT NULL
) STRICT;
CREATE INDEX merge_predictions_project ON merge_predictions (project);

-- Pull requests that were opened and are not merged yet. seen: the tip of the remote base up to
-- which its commits were searched for the work.
CREATE TABLE merge_pulls (
    item      INTEGER PRIMARY KEY,
    project   TEXT NOT NULL,
    branch    TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    url       TEXT NOT NULL,
    seen      TEXT NOT NULL,
    opened_at INTEGER NOT NULL
) STRICT;

-- What landed: the commit on the item's branch, and the commit on the base that holds it.
CREATE TABLE merge_landed (
    item      INTEGER PRIMARY KEY,
    project   TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    landed    TEXT NOT NULL,
    at        INTEGER NOT NULL
) STRICT;

-- ---- What people see and say -------------------------------------------------------------------

-- Reminders of a request: when the newest was posted, and by which message. A reaction or reply to
-- it is an answer as well.
ALTER TABLE requests ADD COLUMN reminded_at INTEGER;
ALTER TABLE requests ADD COLUMN reminder INTEGER;
CREATE INDEX requests_of_item ON requests (item) WHERE state = 'open' AND item IS NOT NULL;
CREATE INDEX requests_outbox ON requests (outbox) WHERE outbox IS NOT NULL;
CREATE INDEX requests_reminder ON requests (reminder) WHERE reminder IS NOT NULL;

-- The board: the top of a column and its sums without reading the rows below.
CREATE INDEX items_top ON items (project, col, priority DESC, id);
CREATE INDEX items_done ON items (project, updated_at) WHERE col = 'done';
CREATE INDEX items_cost ON items (project, col, cost_microusd) WHERE cost_microusd > 0;
CREATE INDEX items_epic ON items (epic) WHERE epic IS NOT NULL;

-- ---- Leads ------------------------------------------------------------------------------------

-- Child items: the item whose lead handed it out. When that one is deleted, they stand alone.
ALTER TABLE items ADD COLUMN parent INTEGER REFERENCES items (id) ON DELETE SET NULL;
CREATE INDEX items_parent ON items (parent) WHERE parent IS NOT NULL;
