-- What moves items: projections for bounded passes, changes of fields, pauses, worktrees that are to go.

-- Projections that are written with the stage, so that a pass reads what is due and not the board:
-- who holds the item; the role that it waits for an agent of; who coded on it last, and gets it
-- back; when its stage last changed; whether something happened that may let it start by itself.
ALTER TABLE items ADD COLUMN claim TEXT;
ALTER TABLE items ADD COLUMN wants TEXT;
ALTER TABLE items ADD COLUMN coder TEXT;
ALTER TABLE items ADD COLUMN moved_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE items ADD COLUMN due INTEGER NOT NULL DEFAULT 0;
UPDATE items SET
    claim = json_extract(stage, '$.claim'),
    wants = CASE WHEN json_extract(stage, '$.claim') IS NOT NULL THEN NULL
                 WHEN stage_name = 'coding' THEN 'coder'
                 WHEN stage_name = 'qa' THEN 'qa'
                 WHEN stage_name = 'merge_failure'
                      AND json_extract(stage, '$.kind.kind') = 'conflict' THEN 'mergemaster'
                 WHEN stage_name = 'merge_failure_final'
                      AND json_extract(stage, '$.started') = 1 THEN 'mergemaster' END,
    coder = (SELECT agent FROM agent_sessions
             WHERE item = items.id AND role = 'coder' ORDER BY id DESC LIMIT 1),
    moved_at = coalesce((SELECT max(at) FROM transitions WHERE item = items.id), updated_at),
    due = (stage_name = 'backlog');
CREATE INDEX items_claimed ON items (claim) WHERE claim IS NOT NULL;
-- Covers what the assigner reads: it never touches the rows of items that go on waiting.
CREATE INDEX items_waiting ON items (wants, priority DESC, id, project, agent, coder, moved_at)
    WHERE wants IS NOT NULL;
CREATE INDEX items_due ON items (due) WHERE due = 1;
CREATE INDEX items_standing ON items (stage_name, moved_at);
CREATE INDEX items_column ON items (col, priority DESC, id);

-- Who decided, JSON of model::item::Origin; NULL: Musher itself.
ALTER TABLE decisions ADD COLUMN origin TEXT;
CREATE INDEX decisions_lately ON decisions (what, at);
CREATE INDEX decisions_of_kind ON decisions (item, what, id);

-- Changes of an item's fields; those of its stage stand in transitions.
CREATE TABLE item_changes (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    item   INTEGER NOT NULL,
    field  TEXT NOT NULL,
    before TEXT,
    after  TEXT,
    origin TEXT NOT NULL,
    at     INTEGER NOT NULL
) STRICT;
CREATE INDEX item_changes_item ON item_changes (item, seq);

-- What must not be used until a condition clears: 'runtime:KIND[:COMMAND]', 'project:NAME',
-- 'machine'. on_trial: lifted to see whether it works again; it holds nothing back then.
CREATE TABLE pauses (
    scope    TEXT PRIMARY KEY,
    reason   TEXT NOT NULL,
    on_trial INTEGER NOT NULL DEFAULT 0,
    looks    INTEGER NOT NULL DEFAULT 0,
    since    INTEGER NOT NULL,
    look_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Worktrees of items that have ended: written when one ends, gone when its worktree is.
CREATE TABLE tidying (
    item       INTEGER PRIMARY KEY,
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    room       TEXT,
    tries      INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    error      TEXT
) STRICT;
-- What ended before this list was kept, and whose worktree was not seen to go: the old keeper noted
-- one that it could not remove and never came back to it.
INSERT INTO tidying (item, project, name, room)
SELECT id, project, name, room FROM items
WHERE stage_name IN ('done', 'archived', 'abandoned', 'superseded')
  AND EXISTS (SELECT 1 FROM agent_sessions WHERE item = items.id)
  AND NOT EXISTS (SELECT 1 FROM decisions
                  WHERE item = items.id AND what = 'worktree_removed' AND why = 'it has ended');
INSERT OR IGNORE INTO tidying (item, project, name, room)
SELECT item, json_extract(inputs, '$.item.project'), json_extract(inputs, '$.item.name'),
       json_extract(inputs, '$.item.room')
FROM decisions AS deleted
WHERE what = 'deleted' AND json_extract(inputs, '$.item.project') IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM decisions
                  WHERE item = deleted.item AND what = 'worktree_removed' AND why = 'it has ended');
