//! What is written down of decisions and changes, for `why` and for whoever asks later.

use super::*;

#[tokio::test]
async fn a_change_of_a_field_leaves_who_changed_what_from_what_to_what() {
    let bench = Bench::new();
    let other = bench.file(|_| {});
    let id = bench.file(|_| {});
    let change = ItemChange {
        name: Some("Add a better calculator".to_owned()),
        priority: Some(5),
        agent: Some(Some("coder-2".into())),
        depends_on: Some(vec![other]),
        qa: Some(QaMode::Human),
        ..Default::default()
    };
    bench.write(move |tx| update(tx, id, None, change, &person())).unwrap();
    let same = ItemChange { priority: Some(5), ..Default::default() };
    bench.write(move |tx| update(tx, id, None, same, &person())).unwrap();
    let changes = bench.read(|conn| Ok(changes::of_item(conn, id, 10)?));
    let lines: Vec<String> = changes
        .iter()
        .rev()
        .map(|change| {
            let [before, after] = [&change.before, &change.after]
                .map(|side| side.as_deref().unwrap_or("-").to_owned());
            format!("{}: {before} -> {after} ({})", change.field, change.origin.id)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    name: Add a calculator -> Add a better calculator (@you:hs)
    depends_on: - -> 1 (@you:hs)
    agent: - -> coder-2 (@you:hs)
    qa: gates -> human (@you:hs)
    priority: 0 -> 5 (@you:hs)
    ");
}

#[tokio::test]
async fn a_wait_is_one_decision_however_often_and_with_whom_it_is_found() {
    let mut bench = Bench::new();
    let ids = [bench.file(|_| {}), bench.file(|_| {}), bench.file(|_| {})];
    for id in ids {
        bench.worktree(id, Some("c0ffee11"), &[]);
        bench.start(id);
    }
    for _ in 0..5 {
        bench.settle().await;
        bench.wait_ms(3_600_000);
    }
    let waits = bench.decided(ids[2], What::NotStarted);
    assert_eq!(waits.len(), 1);
    assert_eq!(waits[0].inputs["kind"], "nobody_free");
    let was = waits[0].why.clone();
    // Somebody else is busy now: the same row says so.
    bench.report_done(ids[0]);
    let next = bench.file(|new| new.agent = Some("coder-1".into()));
    bench
        .write(move |tx| {
            let change = ItemChange { priority: Some(9), ..Default::default() };
            update(tx, next, None, change, &person())
        })
        .unwrap();
    bench.start(next);
    bench.settle().await;
    assert!(bench.live(next).is_some());
    let waits = bench.decided(ids[2], What::NotStarted);
    assert_eq!(waits.len(), 1);
    assert_ne!(waits[0].why, was);
    // Another reason is another decision.
    bench
        .write(|tx| Ok(crate::store::meta::set(tx, crate::store::meta::STOPPED_ALL, "@you:hs")?))
        .unwrap();
    bench.settle().await;
    let waits = bench.decided(ids[2], What::NotStarted);
    assert_eq!(waits.len(), 2);
    assert_eq!(waits[0].inputs, serde_json::json!({"stopped_by": "@you:hs", "kind": "stopped"}));
}

#[tokio::test]
async fn an_agent_that_its_item_does_not_want_any_more_is_stopped_and_that_is_written_down() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    bench.write(move |tx| apply(tx, id, &StageEvent::Frozen, &person(), "ice")).unwrap();
    let strays = bench.pass().await.strays;
    assert_eq!(strays.len(), 1);
    for stray in strays {
        bench.service.stop(stray).await;
    }
    let withdrawn = bench.decided(id, What::Withdrawn);
    assert_eq!(withdrawn[0].why, "coder-1 was stopped: item 1 is in frozen now");
    assert_eq!(withdrawn[0].inputs, serde_json::json!({"agent": "coder-1", "stage": "frozen"}));
    assert_eq!(withdrawn[0].origin, None, "nobody but Musher itself decided it");
}

#[tokio::test]
async fn what_a_person_decided_is_told_from_what_was_decided_automatically() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    bench.write(move |tx| stop(tx, id, &person())).unwrap();
    for what in [What::Cleared, What::Stopped] {
        let origin = bench.decided(id, what).remove(0).origin.unwrap();
        assert_eq!(origin.id, "@you:hs", "{what:?}");
    }
    let started = bench.decided(id, What::Started).remove(0);
    assert_eq!(started.origin, None);
    insta::assert_snapshot!(started.inputs.to_string(), @r#"{"agent":"coder-1","role":"coder","pinned":null,"stage":"coding","starts":1}"#);
}

#[tokio::test]
async fn what_counts_against_an_item_is_not_lost_among_other_decisions() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.worktree(id, None, &["a.rs"]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    bench
        .write(move |tx| {
            for number in 0..1000 {
                let why = format!("reason {number}");
                decisions::record(tx, Some(id), What::NotStarted, &why, &json!({}))?;
            }
            Ok(())
        })
        .unwrap();
    let counters = bench.read(|conn| counters::Counters::of(conn, id));
    assert_eq!((counters.starts, counters.asks), (1, 1));
}
