//! The board on a wide and a narrow screen, as plain text and as rich text.

use super::*;
use crate::chat::render;
use crate::clock::from_millis;
use crate::config::ProjectConfig;
use crate::model::item::{Item, Origin, OriginKind, QaMode};
use crate::store::items::Progress;
use crate::work::Shelf;

fn item(id: i64, name: &str, stage: Stage) -> Item {
    let at = from_millis(1_780_000_000_000);
    Item {
        id: ItemId(id),
        project: "shop".into(),
        kind: Kind::Story,
        name: name.to_owned(),
        body: String::new(),
        depends_on: vec![],
        epic: None,
        parent: None,
        agent: None,
        qa: QaMode::Gates,
        origin: Origin::new(OriginKind::User, "@ann:hs", at).unwrap(),
        room: None,
        stage,
        priority: 0,
        retries: 0,
        cost_microusd: 0,
        created_at: at,
        updated_at: at,
        version: 1,
    }
}

fn entry(item: Item) -> Entry {
    Entry {
        item,
        waits_for: vec![],
        place: None,
        progress: None,
        conflicts: None,
        agent_waits: None,
        part_of: None,
    }
}

fn coding(claim: Option<&str>) -> Stage {
    Stage::Coding { claim: claim.map(Into::into), plan: None, retries: 0, note: None }
}

fn merge() -> Stage {
    Stage::Merge { claim: None, commit: "c0ffee".to_owned() }
}

fn blocked() -> Stage {
    let reason = "the gate `cargo test --workspace --all-features` failed with exit 101, after 3 \
                  retries, and nobody knows why";
    Stage::Blocked { reason: reason.to_owned(), resume_to: Box::new(coding(None)) }
}

/// A board with everything on it.
fn full() -> (Vec<AgentConfig>, Project, Board, Dirty) {
    let agents = vec![
        toml::from_str(
            "name = \"coder-1\"\nrole = \"coder\"\nruntime = \"api\"\nmodel = \"sonnet\"",
        )
        .unwrap(),
    ];
    let shelf = |column, items, entries| Shelf { column, items, entries };
    let mut waits = entry(item(4, "The total is wrong", Stage::Backlog));
    waits.waits_for = vec![ItemId(2), ItemId(3)];
    let mut epic = entry(item(3, "Checkout in two steps", Stage::Backlog));
    epic.item.kind = Kind::Epic;
    epic.progress = Some(Progress { items: 5, done: 2, dropped: 0 });
    let mut busy = entry(item(2, "Add a calculator", coding(Some("coder-1"))));
    busy.item.cost_microusd = 420_000;
    busy.agent_waits = Some(WaitingFor::Person);
    busy.part_of = Some(ItemId(3));
    let frozen = Stage::Frozen { resume_to: Box::new(coding(None)) };
    let mut landing = entry(item(9, "Sort the orders", merge()));
    landing.place = Some(QueuePlace { ahead: 0, landing: true, waits: None, pull: None });
    let mut queued = entry(item(10, "Show the total", merge()));
    queued.place = Some(QueuePlace { ahead: 1, landing: false, waits: None, pull: None });
    queued.conflicts = Some(vec!["src/total.rs".to_owned()]);
    let kind = MergeFailureKind::Conflict {
        files: ["src/a.rs", "src/b.rs", "src/c.rs"].map(str::to_owned).to_vec(),
    };
    let failed = serde_json::json!({
        "stage": "merge_failure", "kind": kind, "output": "", "commit": "c0ffee", "in_a_row": 1,
    });
    let review =
        Stage::ReviewHold { reason: "the gates pass".to_owned(), commit: "c0ffee".to_owned() };
    let done = Stage::Done { merged_at: from_millis(0), commit: "f00d".to_owned() };
    let long = "A name that somebody wrote on a large screen without a thought for telephones";
    let board = Board {
        open: 31,
        cost_microusd: 420_000,
        queue_paused: Some("`cargo` is not installed".to_owned()),
        held: vec!["All agents stand still: the disk is full".to_owned()],
        shelves: vec![
            shelf(Column::Backlog, 24, vec![epic, waits]),
            shelf(
                Column::Coding,
                3,
                vec![busy, entry(item(5, long, blocked())), entry(item(6, "Later", frozen))],
            ),
            shelf(Column::Qa, 1, vec![entry(item(8, "Page 2 shows twice", review))]),
            shelf(
                Column::Merge,
                3,
                vec![
                    landing,
                    queued,
                    entry(item(11, "Split it", serde_json::from_value(failed).unwrap())),
                ],
            ),
            shelf(Column::Done, 1, vec![entry(item(1, "The first", done))]),
        ],
    };
    let project = Project::new(ProjectConfig::of_directory("/srv/shop".into()), true);
    (agents, project, board, Dirty::from([(ItemId(5), 2)]))
}

fn text() -> String {
    let (agents, project, board, dirty) = full();
    let mut config: Config =
        toml::from_str("[llm]\nprovider = \"ollama\"\nmodel = \"none\"").unwrap();
    config.agents = agents;
    section(&config, &project, &board, &dirty)
}

#[test]
fn as_plain_text_an_item_is_a_line_in_its_column() {
    insta::assert_snapshot!(text(), @r#"
**shop**: 31 open, $0.42, paused

⏸️ All agents stand still: the disk is full

⏸️ The merge queue stands still: `cargo` is not installed

**Backlog**
- 🗂️ #3 Checkout in two steps · 2 of 5 done
- ⚪ #4 The total is wrong · waits for #2, #3
- … and 22 more

**Coding**
- 💬 #2 Add a calculator · coder-1 (sonnet) · part of #3 · $0.42 · waits for you
- ⛔ #5 A name that somebody wrote on a large screen wit… · blocked: the gate `cargo test --workspace --all-features` failed with exit 101,… · 2 uncommitted
- ❄️ #6 Later · frozen in coding

**QA**
- ✋ #8 Page 2 shows twice · waits for your verdict: `approve 8`

**Merge**
- 🔀 #9 Sort the orders · being merged
- 🔀 #10 Show the total · merge queue, 1 before it · ⚡ conflicts with the base in `src/total.rs`
- ⚠️ #11 Split it · merge failed: conflict in `src/a.rs`, `src/b.rs`, and 1 more

**Done**
- ✅ #1 The first
"#);
}

#[test]
fn as_rich_text_it_is_headings_and_lists() {
    insta::assert_snapshot!(render::html(&text()).unwrap(), @r#"
<p><strong>shop</strong>: 31 open, $0.42, paused</p>
<p>⏸️ All agents stand still: the disk is full</p>
<p>⏸️ The merge queue stands still: <code>cargo</code> is not installed</p>
<p><strong>Backlog</strong></p>
<ul>
<li>🗂️ #3 Checkout in two steps · 2 of 5 done</li>
<li>⚪ #4 The total is wrong · waits for #2, #3</li>
<li>… and 22 more</li>
</ul>
<p><strong>Coding</strong></p>
<ul>
<li>💬 #2 Add a calculator · coder-1 (sonnet) · part of #3 · $0.42 · waits for you</li>
<li>⛔ #5 A name that somebody wrote on a large screen wit… · blocked: the gate <code>cargo test --workspace --all-features</code> failed with exit 101,… · 2 uncommitted</li>
<li>❄️ #6 Later · frozen in coding</li>
</ul>
<p><strong>QA</strong></p>
<ul>
<li>✋ #8 Page 2 shows twice · waits for your verdict: <code>approve 8</code></li>
</ul>
<p><strong>Merge</strong></p>
<ul>
<li>🔀 #9 Sort the orders · being merged</li>
<li>🔀 #10 Show the total · merge queue, 1 before it · ⚡ conflicts with the base in <code>src/total.rs</code></li>
<li>⚠️ #11 Split it · merge failed: conflict in <code>src/a.rs</code>, <code>src/b.rs</code>, and 1 more</li>
</ul>
<p><strong>Done</strong></p>
<ul>
<li>✅ #1 The first</li>
</ul>
"#);
}

/// As a telephone shows it: 40 letters a line, broken between words.
fn on_a_telephone(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut width = 0;
        for word in line.split(' ') {
            let letters = word.chars().count();
            if width > 0 && width + 1 + letters > 40 {
                out.push_str("\n  ");
                width = 2;
            } else if width > 0 {
                out.push(' ');
                width += 1;
            }
            out.push_str(word);
            width += letters;
        }
        out.push('\n');
    }
    out
}

#[test]
fn on_a_telephone_a_line_is_at_most_five_lines_and_nothing_needs_to_be_scrolled() {
    let text = text();
    insta::assert_snapshot!(on_a_telephone(&text), @r#"
**shop**: 31 open, $0.42, paused

⏸️ All agents stand still: the disk is
  full

⏸️ The merge queue stands still: `cargo`
  is not installed

**Backlog**
- 🗂️ #3 Checkout in two steps · 2 of 5
  done
- ⚪ #4 The total is wrong · waits for
  #2, #3
- … and 22 more

**Coding**
- 💬 #2 Add a calculator · coder-1
  (sonnet) · part of #3 · $0.42 · waits
  for you
- ⛔ #5 A name that somebody wrote on a
  large screen wit… · blocked: the gate
  `cargo test --workspace
  --all-features` failed with exit 101,…
  · 2 uncommitted
- ❄️ #6 Later · frozen in coding

**QA**
- ✋ #8 Page 2 shows twice · waits for
  your verdict: `approve 8`

**Merge**
- 🔀 #9 Sort the orders · being merged
- 🔀 #10 Show the total · merge queue, 1
  before it · ⚡ conflicts with the base
  in `src/total.rs`
- ⚠️ #11 Split it · merge failed:
  conflict in `src/a.rs`, `src/b.rs`,
  and 1 more

**Done**
- ✅ #1 The first
"#);
    assert!(!text.contains("```") && !text.lines().any(|line| line.starts_with('|')), "{text}");
    for line in text.lines() {
        let lines = on_a_telephone(line).lines().count();
        assert!(lines <= 5, "{lines} lines: {line}");
    }
    let longest = on_a_telephone(&text).lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(40), "a word that does not fit: {longest:?}");
}
