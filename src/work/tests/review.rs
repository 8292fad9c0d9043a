//! A person's verdict: how it is asked for, given, and kept to the commit that was shown.

use super::*;
use crate::model::ids::MessageKey;
use crate::store::requests::{Request, RequestKind, RequestState};
use crate::store::{gate_runs, outbox, requests};

/// An item that waits for a person, who was asked.
async fn held(bench: &Bench) -> ItemId {
    let id = bench.file(|new| new.qa = Some(QaMode::Human));
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    gate_ran(bench, id, "c0ffee11", true);
    bench.report_done(id);
    bench.settle().await;
    id
}

fn gate_ran(bench: &Bench, id: ItemId, commit: &'static str, passed: bool) {
    let run = gate_runs::GateRunRow {
        item: Some(id),
        project: "demo".into(),
        place: gate_runs::Place::Worktree,
        commit: Some(commit.to_owned()),
        gate: "make test".to_owned(),
        exit: Some(i32::from(!passed)),
        passed,
        timed_out: false,
        output: "expected 4, got 5".to_owned(),
        duration: std::time::Duration::ZERO,
        at: from_millis(0),
    };
    bench.write(move |tx| Ok(gate_runs::insert(tx, &run)?)).unwrap();
}

impl Bench {
    fn requests(&self) -> Vec<Request> {
        self.read(|conn| {
            let count: i64 =
                conn.query_row("SELECT count(*) FROM requests", [], |row| row.get(0))?;
            let ids = 1..=count;
            let found = ids.map(|id| requests::find(conn, crate::model::ids::RequestId(id)));
            Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        })
    }

    fn states(&self) -> Vec<RequestState> {
        self.requests().iter().map(|request| request.state).collect()
    }

    fn decide(&self, request: &Request, verdict: Verdict) -> Result<Item, WorkError> {
        let request = request.clone();
        self.write(move |tx| decide(tx, &request, &verdict, &person()))
    }
}

#[tokio::test]
async fn the_room_is_asked_once_with_what_changed_and_what_the_gates_said() {
    let bench = Bench::new();
    let id = held(&bench).await;
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "review_hold");
    insta::assert_snapshot!(bench.heard()[1..].join("\n"), @r#"
text: **#1 Add a calculator** waits for your verdict on `c0ffee11`.

2 files, +12 −3, 2 commits
- `src/add.rs` +12 −3
- `logo.png` (binary)

Gates passed: `make test`.

`diff 1` shows it.

**👍 merges it, 👎 turns it down.** Or reply to this message, or say `approve 1` or `reject 1 why`.
"#);
    assert_eq!(bench.states(), [RequestState::Open]);
    let pinged: String = bench.read(|conn| {
        let sql =
            "SELECT outgoing ->> '$.content.mentions[0]' FROM outbox ORDER BY id DESC LIMIT 1";
        Ok(conn.query_row(sql, [], |row| row.get(0))?)
    });
    assert_eq!(pinged, "@you:hs", "who filed it");
}

#[tokio::test]
async fn whoever_decides_in_whatever_way_the_question_is_closed_with_its_outcome() {
    let ways: [(&str, Act); 5] = [
        ("approved", |tx, id| {
            apply(tx, id, &StageEvent::Approved, &person(), "approved by @you:hs").map(drop)
        }),
        ("rejected", |tx, id| {
            let event = StageEvent::Rejected { reason: "the total is wrong".to_owned() };
            apply(tx, id, &event, &person(), "rejected by @you:hs").map(drop)
        }),
        ("moved", |tx, id| {
            let event = StageEvent::Moved { to: crate::model::stage::MoveTo::Coding };
            apply(tx, id, &event, &person(), "moved by @you:hs").map(drop)
        }),
        ("stopped", |tx, id| stop(tx, id, &person()).map(drop)),
        ("deleted", |tx, id| delete(tx, id, &person())),
    ];
    let mut outcomes = String::new();
    for (name, way) in ways {
        let bench = Bench::new();
        let id = held(&bench).await;
        bench.write(move |tx| way(tx, id)).unwrap();
        let [state] = bench.states()[..] else { panic!("{:?}", bench.states()) };
        let shown = bench.heard().pop().unwrap();
        let outcome = shown.lines().last().unwrap();
        outcomes.push_str(&format!("{name}: {} / {outcome}\n", state.as_str()));
        assert!(shown.contains("src/add.rs"), "what was asked stays to be read: {shown}");
    }
    insta::assert_snapshot!(outcomes, @r#"
approved: answered / ✅ **Approved** by @you:hs; it is in the merge queue.
rejected: answered / ❌ **Rejected** by @you:hs: the total is wrong
moved: withdrawn / **Closed**: it is in coding now (moved by @you:hs).
stopped: withdrawn / **Closed**: it is in blocked now (stopped by @you:hs).
deleted: withdrawn / **Closed**: deleted by @you:hs.
"#);
}

#[tokio::test]
async fn a_verdict_counts_for_the_commit_that_was_shown_and_once() {
    let bench = Bench::new();
    let id = held(&bench).await;
    // The branch moves while the person looks.
    bench.world.tips.lock().unwrap().insert(id, "beef2222".to_owned());
    bench.service.review(id, &CancellationToken::new()).await;
    gate_ran(&bench, id, "beef2222", false);
    bench.settle().await;
    let requests = bench.requests();
    assert_eq!(bench.states(), [RequestState::Withdrawn, RequestState::Open]);
    let late = bench.decide(&requests[0], Verdict::Approve).unwrap_err();
    insta::assert_snapshot!(late, @"that question about item 1 (`c0ffee11`) is closed: there is a newer commit, `beef2222`. `status 1` shows where it stands");
    assert_eq!(bench.item(id).stage.commit(), Some("beef2222"));
    let heard = bench.heard();
    let outcome = heard.iter().find(|text| text.contains("I ask anew")).expect("it is shown");
    assert!(outcome.contains("`c0ffee11`") && outcome.contains("`beef2222`"), "{outcome}");
    bench.decide(&requests[1], Verdict::Approve).unwrap();
    assert!(matches!(bench.item(id).stage, Stage::Merge { commit, .. } if commit == "beef2222"));
    let again = bench.decide(&bench.requests()[1], Verdict::Reject("no".to_owned())).unwrap_err();
    insta::assert_snapshot!(again, @"that question about item 1 (`beef2222`) is closed: @you:hs approved it. `status 1` shows where it stands");
}

#[tokio::test]
async fn a_gate_that_fails_on_a_newer_commit_stands_in_the_new_question() {
    let bench = Bench::new();
    let id = held(&bench).await;
    gate_ran(&bench, id, "beef2222", false);
    bench.world.tips.lock().unwrap().insert(id, "beef2222".to_owned());
    bench.service.review(id, &CancellationToken::new()).await;
    let asked = bench.heard().pop().unwrap();
    assert!(asked.contains("The gate `make test` failed with exit 1"), "{asked}");
    assert!(asked.contains("expected 4, got 5"), "{asked}");
}

#[tokio::test]
async fn a_commit_given_by_its_beginning_must_be_the_one_that_waits() {
    let bench = Bench::new();
    let id = held(&bench).await;
    bench.read(|conn| check_commit(conn, id, "c0ffee"));
    let refused = bench.store.read_blocking(|conn| check_commit(conn, id, "beef")).unwrap_err();
    insta::assert_snapshot!(refused, @"what waits for your verdict on item 1 is `c0ffee11`, not `beef`: `diff 1` shows it");
}

#[tokio::test]
async fn people_are_reminded_after_a_while_and_then_once_a_day_also_after_a_restart() {
    const HOUR_MS: i64 = 3_600_000;
    let mut bench = Bench::new();
    held(&bench).await;
    let mut reminders = Vec::new();
    for hour in 1..=54 {
        bench.wait_ms(HOUR_MS);
        // Nothing but the rows is remembered: a new service finds the same.
        bench.service = WorkService::new(
            bench.store.clone(),
            Arc::new(toml::from_str(CONFIG).unwrap()),
            bench.world.clone(),
        );
        let before = bench.heard().len();
        bench.pass().await;
        bench.pass().await;
        reminders.extend((before..bench.heard().len()).map(|_| hour));
    }
    assert_eq!(reminders, [4, 28, 52]);
    insta::assert_snapshot!(bench.heard().pop().unwrap(), @"text: ⏰ **#1 Add a calculator** has waited for your verdict on `c0ffee11` for 2 days. 👍 or 👎 this message, reply to it, or say `approve 1` or `reject 1 why`; `diff 1` shows it.");
}

#[tokio::test]
async fn an_answer_to_the_reminder_counts_and_nobody_is_reminded_of_what_is_decided() {
    let mut bench = Bench::new();
    let id = held(&bench).await;
    bench.wait_ms(4 * 3_600_000);
    bench.pass().await;
    let found = bench
        .write(|tx| {
            let row: i64 = tx.query_row("SELECT max(id) FROM outbox", [], |row| row.get(0))?;
            let key = MessageKey::from("$reminder");
            outbox::mark_sent(tx, crate::model::ids::OutboxId(row), Some(&key))?;
            Ok(requests::find_by_message(tx, &key)?)
        })
        .unwrap();
    let request = found.expect("the reminder asks the same");
    assert_eq!((request.asked.kind, request.asked.item), (RequestKind::Approve, Some(id)));
    bench.decide(&request, Verdict::Reject("no".to_owned())).unwrap();
    bench.settle().await;
    let heard = bench.heard().len();
    bench.wait_ms(90 * 3_600_000);
    bench.pass().await;
    assert_eq!(bench.heard().len(), heard);
}

#[tokio::test]
async fn no_reminder_where_none_is_wanted() {
    let mut bench = Bench::with("[chat]\nreview_reminder_s = 0\n");
    held(&bench).await;
    let heard = bench.heard().len();
    bench.wait_ms(900 * 3_600_000);
    bench.pass().await;
    assert_eq!(bench.heard().len(), heard);
}

#[tokio::test]
async fn an_item_put_into_review_by_hand_is_asked_about_as_well() {
    let bench = Bench::new();
    let id = held(&bench).await;
    bench.decide(&bench.requests()[0], Verdict::Approve).unwrap();
    bench
        .write(move |tx| {
            let event = StageEvent::Moved { to: crate::model::stage::MoveTo::ReviewHold };
            apply(tx, id, &event, &person(), "moved by @you:hs")
        })
        .unwrap();
    bench.settle().await;
    assert_eq!(bench.states(), [RequestState::Answered, RequestState::Open]);
}

#[tokio::test]
async fn a_verdict_for_which_nobody_can_be_asked_is_noted() {
    let bench = Bench::new();
    bench.write(|tx| Ok(tx.execute("DELETE FROM rooms", [])?)).unwrap();
    let id = bench.file(|new| new.qa = Some(QaMode::Human));
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "review_hold");
    let noted = bench.decided(id, What::PutOff);
    assert_eq!(noted.len(), 1, "once, however often it is looked at");
    assert!(noted[0].why.contains("invite the bot to a room"), "{}", noted[0].why);
}
