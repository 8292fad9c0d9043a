//! Filing, starting, stopping, changing, deleting: what is refused, and in which words.

use super::*;

fn refusal<T: std::fmt::Debug>(outcome: Result<T, WorkError>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn an_item_is_filed_into_the_backlog_with_the_defaults_of_its_project() {
    let bench = Bench::new();
    let id = bench.file(|new| new.name = "  Add\n a   calculator ".to_owned());
    let item = bench.item(id);
    assert_eq!(item.name, "Add a calculator");
    assert_eq!((item.stage, item.qa), (Stage::Backlog, QaMode::Gates));
}

#[test]
fn what_does_not_fit_is_refused_in_words_and_writes_nothing() {
    let bench = Bench::new();
    let known = bench.file(|_| {});
    let try_with = |change: &dyn Fn(&mut NewItem)| {
        let mut new = story("x");
        change(&mut new);
        refusal(bench.write(|tx| create(tx, new)))
    };
    insta::assert_snapshot!(
        [
            try_with(&|new| new.name = " \n".to_owned()),
            try_with(&|new| new.name = "x".repeat(301)),
            try_with(&|new| new.body = "x".repeat(300_000)),
            try_with(&|new| new.project = "nope".into()),
            try_with(&|new| new.depends_on = vec![ItemId(77)]),
            try_with(&|new| new.epic = Some(ItemId(77))),
            try_with(&|new| new.epic = Some(known)),
            try_with(&|new| new.origin.id = " ".to_owned()),
        ]
        .join("\n"),
        @r###"
an item needs a name: `story: Add a calculator`
the name has 301 characters and at most 300 are allowed: put the details into the description
the description has 300000 bytes and at most 262144 are allowed: put long material into a file of the repository
there is no project "nope": `projects` lists them, `new project NAME` makes one
there is no item 77 to depend on: `status all` lists them
there is no item 77: `status` lists the board, `status all` every project's
item 1 is a story, not an epic that could hold this one
an origin needs the id of who caused it
"###
    );
    assert_eq!(bench.read(|conn| board(conn, None)).len(), 1);
}

#[test]
fn an_impossible_start_says_what_stands_there_and_what_to_do() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    let epic = bench.file(|new| new.kind = Kind::Epic);
    let later = bench.file(|new| new.depends_on = vec![id]);
    let start_of = |id| refusal(bench.write(move |tx| start(tx, id, None, &person())));
    let stop_of = |id| refusal(bench.write(move |tx| stop(tx, id, &person())));
    let mut said = vec![stop_of(id), start_of(later), start_of(epic), start_of(ItemId(99))];
    bench.start(id);
    said.push(start_of(id));
    bench.write(move |tx| apply(tx, id, &StageEvent::Frozen, &person(), "ice")).unwrap();
    said.push(start_of(id));
    said.push(stop_of(id));
    bench
        .write(move |tx| {
            let given_up = StageEvent::Abandoned { reason: "no".to_owned() };
            apply(tx, id, &given_up, &person(), "no")
        })
        .unwrap();
    said.push(start_of(id));
    said.push(start_of(later));
    insta::assert_snapshot!(said.join("\n"), @r###"
item 1 is not started, so there is nothing to stop: `start 1` starts it
item 3 waits for 1 (backlog) and starts by itself when that is done
item 2 is an epic and no agent works on an epic itself: start its items instead
there is no item 99: `status` lists the board, `status all` every project's
item 1 cannot be started: it waits for a free coder. `why 1` says what it waits for.
item 1 cannot be started: it is frozen. `unfreeze 1` takes it off the ice.
item 1 cannot be blocked: it is frozen. `unfreeze 1` takes it off the ice.
item 1 cannot be started: it was abandoned. `move 1 backlog` takes it up again.
item 3 depends on 1 (abandoned), which ended without being merged: take that dependency away, then start 3
"###);
}

#[test]
fn a_change_of_an_older_version_loses_and_is_told_what_stands_there() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    let version = bench.item(id).version;
    let rename = |name: &str| ItemChange { name: Some(name.to_owned()), ..Default::default() };
    let (first, second) = (rename("one"), rename("two"));
    bench.write(move |tx| update(tx, id, Some(version), first, &person())).unwrap();
    let lost = refusal(bench.write(move |tx| update(tx, id, Some(version), second, &person())));
    insta::assert_snapshot!(lost, @r###"item 1 was changed meanwhile (it is at version 2 now, not 1, and stands in backlog): look at it again with `show 1`, then repeat"###);
    assert_eq!(bench.item(id).name, "one");
}

#[test]
fn an_epic_or_an_item_that_waits_is_not_moved_to_where_work_begins() {
    let bench = Bench::new();
    let first = bench.file(|_| {});
    let epic = bench.file(|new| new.kind = Kind::Epic);
    let waits = bench.file(|new| new.depends_on = vec![first]);
    let move_of = |id, to| {
        let event = StageEvent::Moved { to };
        bench.write(move |tx| apply(tx, id, &event, &person(), "moved"))
    };
    insta::assert_snapshot!(
        [
            refusal(move_of(epic, MoveTo::Coding)),
            refusal(move_of(waits, MoveTo::Coding)),
        ]
        .join("\n"),
        @"
    item 2 is an epic and no agent works on an epic itself: start its items instead
    item 3 waits for 1 (backlog) and starts by itself when that is done
    "
    );
    move_of(epic, MoveTo::Upcoming).unwrap();
    move_of(waits, MoveTo::Upcoming).unwrap();
}

#[tokio::test]
async fn a_deleted_item_leaves_no_content_and_no_epic_behind() {
    let bench = Bench::new();
    let epic = bench.file(|new| new.kind = Kind::Epic);
    let id = bench.file(|new| {
        new.epic = Some(epic);
        new.body = "the secret plan".to_owned();
    });
    bench.start(id);
    bench.settle().await;
    bench.uses_tool(id, "Read: the secret plan");
    bench.end_turn(id, None, TurnEnd::Stopped { why: "the secret plan".to_owned() });
    bench.write(move |tx| delete(tx, id, &person())).unwrap();
    let left = bench.read(|conn| {
        let mut left = Vec::new();
        for (table, where_) in [
            ("decisions", "what <> 'deleted'"),
            ("turn_events", "true"),
            ("agent_messages", "true"),
            ("reports", "true"),
            ("gate_runs", "true"),
            ("turns", "prompt <> ''"),
        ] {
            let sql = format!("SELECT count(*) FROM {table} WHERE {where_}");
            let rows: i64 = conn.query_row(&sql, [], |row| row.get(0))?;
            left.extend((rows > 0).then_some((table, rows)));
        }
        Ok(left)
    });
    assert_eq!(left, [], "only that it was deleted is kept");
    let child = bench.file(|new| new.epic = Some(epic));
    bench.write(move |tx| delete(tx, epic, &person())).unwrap();
    assert_eq!(bench.item(child).epic, None);
}

#[tokio::test]
async fn an_item_is_deleted_only_when_nobody_works_on_it_and_nobody_waits_for_it() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    let later = bench.file(|new| new.depends_on = vec![id]);
    let delete_it = |id| bench.write(move |tx| delete(tx, id, &person()));
    let waited_for = refusal(delete_it(id));
    delete_it(later).unwrap();
    bench.start(id);
    bench.settle().await;
    let worked_on = refusal(delete_it(id));
    insta::assert_snapshot!(format!("{waited_for}\n{worked_on}"), @r###"
item 1 cannot be deleted because 2 depends on it: change that first
coder-1 works on item 1: `stop 1` first, then delete it
"###);
    bench.end_turn(id, None, TurnEnd::Stopped { why: "a person".to_owned() });
    delete_it(id).unwrap();
    assert!(matches!(bench.store.read_blocking(|c| find(c, id)), Err(WorkError::NotFound(_))));
    while keeper::step(&bench.store, bench.world.as_ref()).await.unwrap() {}
    assert_eq!(*bench.world.removed.lock().unwrap(), [later, id]);
    assert!(bench.file(|_| {}) > later, "a number is used once");
}

#[test]
fn the_board_as_json_has_the_shape_that_scripts_rely_on() {
    let bench = Bench::new();
    bench.file(|new| new.agent = Some("coder-2".into()));
    let json = bench.read(board_json);
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap(), @r###"
{
  "projects": [
    {
      "name": "demo",
      "paused": false,
      "items": [
        {
          "id": 1,
          "kind": "story",
          "name": "Add a calculator",
          "stage": "backlog",
          "column": "backlog",
          "badge": "active",
          "agent": "coder-2",
          "depends_on": [],
          "cost": 0.0,
          "origin": {
            "kind": "user",
            "id": "@you:hs",
            "at": "2026-05-28T20:26:40Z"
          },
          "updated_at": "2026-05-28T20:26:40Z"
        }
      ]
    }
  ]
}
"###);
}
