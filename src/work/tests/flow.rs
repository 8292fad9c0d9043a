//! From start to done, and what happens on the way when things go wrong.

use super::*;
use crate::model::ids::SessionKey;
use crate::store::merge_queue::{self, Landing};
use crate::store::timers::{self, NewTimer, TimerKind};

fn conflict() -> MergeFailureKind {
    MergeFailureKind::Conflict { files: vec!["a.rs".to_owned()] }
}

fn red() -> MergeFailureKind {
    MergeFailureKind::GateFailed { gate: "make test".to_owned(), exit: Some(1) }
}

/// An item that stands in the merge queue.
async fn in_queue(bench: &Bench) -> ItemId {
    let id = bench.file(|_| {});
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    assert!(bench.queued(id));
    id
}

#[tokio::test]
async fn a_started_item_is_coded_checked_merged_and_archived() {
    let mut bench = Bench::new();
    let id = in_queue(&bench).await;
    assert_eq!(bench.item(id).stage.name(), "merge");
    bench.merge_answers(Event::Merged { item: id, commit: "f00df00d99".to_owned() });
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "done");
    bench.wait_ms(5 * 3_600_000);
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "archived");
    while keeper::step(&bench.store, bench.world.as_ref()).await.unwrap() {}
    assert!(bench.world.removed.lock().unwrap().contains(&id));
    insta::assert_snapshot!(bench.heard().join("\n"), @r###"
notice: **#1 Add a calculator**: work started by coder-1.
notice: **#1 Add a calculator**: the gates pass on `c0ffee11`; it is in the merge queue.
text: **#1 Add a calculator** is merged as `f00df00d`.
"###);
}

#[tokio::test]
async fn the_first_prompt_names_the_task_the_gates_and_how_to_report() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    insta::assert_snapshot!(bench.prompt(id), @r###"
Item 1 of project demo (story): Add a calculator

<item>
It must add.
</item>

You are in a git worktree of your own, on a branch made for this item from `main`. Work only inside it. When the work is finished, commit all of it on this branch with a clear message (nothing may be left uncommitted), then call `report_done` with a summary of one or two sentences.

These commands must succeed before the work is accepted:

    make test
"###);
}

#[tokio::test]
async fn failing_gates_go_back_to_the_same_agent_and_block_after_the_retries() {
    let bench = Bench::with("[limits]\nmax_retries = 2\n");
    let id = bench.file(|_| {});
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.gates_fail(id, 1);
    bench.start(id);
    bench.settle().await;
    let first = bench.live(id).unwrap();
    bench.report_done(id);
    bench.settle().await;
    let second = bench.live(id).unwrap();
    assert_eq!((second.agent, second.native_id), (first.agent, Some("native-1".to_owned())));
    assert!(bench.prompt(id).contains("expected 4, got 5"));
    assert_eq!(bench.item(id).retries, 1);
    // What the gates left behind is not taken for the agent's work.
    bench.worktree(id, Some("c0ffee22"), &["junk.tmp"]);
    bench.report_done(id);
    bench.settle().await;
    assert_eq!(bench.item(id).retries, 2);
    bench.report_done(id);
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "blocked");
    insta::assert_snapshot!(bench.heard().last().unwrap(), @r###"
text: **#1 Add a calculator** is blocked: the gate `make test` failed with exit 1, after 2 retries. `start 1` tries again.

```
expected 4, got 5
```
"###);
}

#[tokio::test]
async fn uncommitted_work_is_asked_for_until_three_asks_bring_no_progress() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    let mut asks = Vec::new();
    for dirty in [vec!["a.rs"], vec!["a.rs"], vec!["a.rs", "b.rs"], vec!["a.rs", "b.rs"]] {
        bench.worktree(id, None, &dirty);
        bench.report_done(id);
        bench.settle().await;
        asks.push(bench.prompt(id));
    }
    assert!(asks[3].starts_with("These changes are not committed: a.rs, b.rs."), "{}", asks[3]);
    bench.report_done(id);
    bench.settle().await;
    insta::assert_snapshot!(bench.heard().last().unwrap(), @r###"text: **#1 Add a calculator** is blocked: its worktree holds changes that are not committed: the agent ended 5 times without committing its work (3 of them in a row without any progress). `start 1` tries again."###);
}

#[tokio::test]
async fn reading_something_new_is_progress_and_reading_the_same_again_is_not() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.worktree(id, None, &["a.rs"]);
    bench.start(id);
    bench.settle().await;
    for line in ["Read: a.rs", "read_file: b.rs", "Read: c.rs", "Read: d.rs"] {
        bench.uses_tool(id, line);
        bench.report_done(id);
        bench.settle().await;
    }
    assert!(bench.live(id).is_some(), "each time it had read something new");
    for line in ["Read: a.rs", "Bash: make"] {
        bench.uses_tool(id, line);
        bench.report_done(id);
        bench.settle().await;
    }
    assert_eq!(bench.item(id).stage.name(), "blocked");
}

#[tokio::test]
async fn what_an_agent_leaves_that_exits_without_a_report_is_looked_at_too() {
    let bench = Bench::new();
    let (finished, unfinished) = (bench.file(|_| {}), bench.file(|_| {}));
    bench.worktree(finished, Some("c0ffee11"), &[]);
    bench.worktree(unfinished, None, &["a.rs"]);
    for id in [finished, unfinished] {
        bench.start(id);
    }
    bench.settle().await;
    for id in [finished, unfinished] {
        bench.end_turn(id, None, TurnEnd::Clean);
    }
    bench.settle().await;
    assert!(bench.queued(finished), "the commit is there and its gates pass");
    assert!(bench.prompt(unfinished).starts_with("These changes are not committed: a.rs"));
    for _ in 0..2 {
        bench.end_turn(unfinished, None, TurnEnd::Clean);
        bench.settle().await;
    }
    assert_eq!(bench.item(unfinished).stage.name(), "blocked");
}

#[tokio::test]
async fn ends_that_are_not_the_agents_doing_do_not_count_as_asks() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.worktree(id, None, &["a.rs"]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    for _ in 0..10 {
        bench.end_turn(id, None, TurnEnd::CutOff);
        bench.settle().await;
    }
    let counters = bench.read(|conn| counters::Counters::of(conn, id));
    assert_eq!((counters.asks, counters.starts), (1, 1));
    assert!(bench.live(id).is_some());
}

#[tokio::test]
async fn a_commit_on_another_branch_is_not_the_items_and_nothing_is_tested_there() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    let elsewhere = Checked {
        commit: Some("c0ffee11".to_owned()),
        elsewhere: Some("`mine`".to_owned()),
        ..Checked::default()
    };
    bench.world.checked.lock().unwrap().insert(id, elsewhere);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    assert!(!bench.queued(id));
    assert!(bench.prompt(id).starts_with("Your worktree stands on `mine`"), "{}", bench.prompt(id));
}

#[tokio::test]
async fn eight_asks_block_even_with_progress_and_a_commit_forgets_them() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    for number in 0..7 {
        bench.worktree(id, None, &[&format!("{number}.rs")]);
        bench.report_done(id);
        bench.settle().await;
    }
    assert!(bench.live(id).is_some());
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.gates_fail(id, 1);
    bench.report_done(id);
    bench.settle().await;
    let counters = bench.read(|conn| counters::Counters::of(conn, id));
    assert_eq!((counters.asks, counters.starts), (0, 0));
    for number in 0..8 {
        bench.worktree(id, Some("c0ffee11"), &[&format!("{number}.rs")]);
        bench.report_done(id);
        bench.settle().await;
    }
    assert_eq!(bench.item(id).stage.name(), "blocked");
}

#[tokio::test]
async fn an_agent_that_dies_is_started_once_more_and_then_the_item_is_blocked() {
    let mut bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    bench.end_turn(id, None, TurnEnd::Stalled);
    bench.settle().await;
    assert!(bench.live(id).is_none(), "whoever stopped it may still want to say so");
    bench.wait_ms(3_000);
    bench.settle().await;
    assert!(bench.prompt(id).contains("silent for too long"));
    bench.end_turn(id, None, TurnEnd::Stalled);
    bench.wait_ms(3_000);
    bench.settle().await;
    insta::assert_snapshot!(bench.heard().last().unwrap(), @r###"text: **#1 Add a calculator** is blocked: coder-1 was silent for too long and was ended, also after it was started again. `start 1` tries again."###);
}

#[tokio::test]
async fn a_stop_blocks_the_item_whichever_comes_first_the_kill_or_the_record() {
    for record_first in [true, false] {
        let mut bench = Bench::new();
        let id = bench.file(|_| {});
        bench.start(id);
        bench.settle().await;
        let record = |bench: &Bench| {
            bench.write(move |tx| stop(tx, id, &person())).unwrap();
        };
        let stopped = TurnEnd::Stopped { why: "asked to".to_owned() };
        if record_first {
            record(&bench);
            assert_eq!(bench.pass().await.strays.len(), 1, "its agent is to be stopped");
            bench.end_turn(id, None, stopped);
        } else {
            bench.end_turn(id, None, stopped);
            bench.settle().await;
            record(&bench);
        }
        bench.wait_ms(60_000);
        bench.settle().await;
        assert!(bench.live(id).is_none());
        assert_eq!(bench.item(id).stage.name(), "blocked");
        bench.start(id);
        bench.settle().await;
        assert!(bench.live(id).is_some());
    }
}

#[tokio::test]
async fn what_the_end_of_the_server_cut_off_goes_on_and_is_not_counted() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    for _ in 0..10 {
        bench.end_turn(id, None, TurnEnd::CutOff);
        bench.settle().await;
        assert!(bench.live(id).is_some());
    }
}

#[tokio::test]
async fn a_failed_merge_goes_back_to_a_coder_and_the_third_of_a_kind_is_final() {
    let bench = Bench::new();
    let id = in_queue(&bench).await;
    for _ in 0..2 {
        bench.merge_fails(id, red());
        bench.settle().await;
        assert!(bench.prompt(id).contains("git merge main"), "{}", bench.prompt(id));
        bench.report_done(id);
        bench.settle().await;
    }
    bench.merge_fails(id, red());
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "merge_failure_final");
    insta::assert_snapshot!(bench.heard().last().unwrap(), @r###"
text: **#1 Add a calculator** could not be merged, for the third time: `make test` failed on the merged tree with exit code 1. It is not tried again by itself; `start 1` gives it to a mergemaster (or a coder, where there is none), `move 1 coding` to a coder.

```
expected 4, got 5
```
"###);
    // A person's word starts the count anew.
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    bench.merge_fails(id, red());
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "coding");
}

#[tokio::test]
async fn merge_failures_of_different_kinds_do_not_add_up() {
    let bench = Bench::new();
    let id = in_queue(&bench).await;
    for (number, kind) in [red(), red(), conflict(), red(), red()].into_iter().enumerate() {
        bench.merge_fails(id, kind);
        bench.settle().await;
        assert_eq!(bench.item(id).stage.name(), "coding");
        bench.worktree(id, Some(&format!("c0ffee2{number}")), &[]);
        bench.report_done(id);
        bench.settle().await;
    }
}

#[tokio::test]
async fn the_machines_own_failure_is_tried_again_with_back_off_and_told_once() {
    let mut bench = Bench::new();
    let id = in_queue(&bench).await;
    let before = bench.heard().len();
    for wait_s in [15, 30, 60, 120] {
        bench.merge_fails(id, MergeFailureKind::Infrastructure { what: "no disk".to_owned() });
        bench.wait_ms(wait_s * 1000 - 1);
        bench.settle().await;
        assert!(!bench.queued(id));
        bench.wait_ms(1 + wait_s * 1000);
        bench.settle().await;
        assert!(bench.queued(id), "after {wait_s} s");
    }
    assert_eq!(bench.heard().len(), before + 1);
}

#[tokio::test]
async fn nothing_to_merge_blocks_the_item_in_words() {
    let bench = Bench::new();
    let id = in_queue(&bench).await;
    bench.merge_fails(id, MergeFailureKind::EmptyDiff);
    bench.settle().await;
    insta::assert_snapshot!(bench.heard().last().unwrap(), @r###"text: **#1 Add a calculator** is blocked: there is nothing to merge: its commits change nothing against the base branch. `start 1` tries again."###);
}

#[tokio::test]
async fn a_merge_that_landed_although_the_item_was_stopped_makes_it_done() {
    let bench = Bench::new();
    let id = in_queue(&bench).await;
    bench.write(move |tx| stop(tx, id, &person())).unwrap();
    assert!(!bench.queued(id));
    bench.merge_answers(Event::Merged { item: id, commit: "f00d".to_owned() });
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "done");
}

#[tokio::test]
async fn what_is_being_landed_cannot_be_called_back() {
    let bench = Bench::new();
    let id = in_queue(&bench).await;
    bench
        .write(move |tx| {
            let landing = Landing {
                base: "ba5e".to_owned(),
                commit: "f00d".to_owned(),
                tip: None,
                remote: None,
                clean: vec![],
                dirty: vec![],
            };
            Ok(merge_queue::set_landings(tx, &[(id, "c0ffee11".to_owned(), landing)])?)
        })
        .unwrap();
    let tries: [Act; 3] = [
        |tx, id| stop(tx, id, &person()).map(drop),
        |tx, id| apply(tx, id, &StageEvent::Frozen, &person(), "ice").map(drop),
        |tx, id| delete(tx, id, &person()),
    ];
    let refused: Vec<String> = tries
        .into_iter()
        .map(|attempt| bench.write(move |tx| attempt(tx, id)).unwrap_err().to_string())
        .collect();
    insta::assert_snapshot!(refused.join("\n"), @r#"
item 1 is being landed on the base branch at this moment and cannot be called back: wait until `status 1` shows it done
item 1 is being landed on the base branch at this moment and cannot be called back: wait until `status 1` shows it done
item 1 is being landed on the base branch at this moment: wait until it is done
"#);
    assert!(bench.queued(id), "it stays where it is");
    assert_eq!(bench.item(id).stage.name(), "merge");
}

#[tokio::test]
async fn dependents_start_by_themselves_when_all_is_done_and_stay_when_it_was_given_up() {
    let bench = Bench::new();
    let id = in_queue(&bench).await;
    let given_up = bench.file(|_| {});
    let waits = bench.file(|new| new.depends_on = vec![id]);
    let stays = bench.file(|new| new.depends_on = vec![id, given_up]);
    bench.merge_answers(Event::Merged { item: id, commit: "f00d".to_owned() });
    bench
        .write(move |tx| {
            let event = StageEvent::Abandoned { reason: "no".to_owned() };
            apply(tx, given_up, &event, &person(), "no")
        })
        .unwrap();
    bench.settle().await;
    assert!(bench.live(waits).is_some());
    assert_eq!(bench.item(stays).stage, Stage::Backlog);
    insta::assert_snapshot!(bench.heard()[3..].join("\n"), @r###"
text: **#1 Add a calculator** is merged as `f00d`.
notice: **#3 Add a calculator** starts by itself: all that it depends on is done: 1.
notice: **#3 Add a calculator**: work started by coder-1.
"###);
}

#[tokio::test]
async fn qa_by_an_agent_passes_on_or_sends_back_with_its_findings() {
    let bench = Bench::new();
    let id = bench.file(|new| new.qa = Some(QaMode::Agent));
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    assert_eq!(bench.live(id).unwrap().agent.as_str(), "qa-1");
    bench.end_turn(id, Some(MailType::QaFailed), TurnEnd::Clean);
    bench.settle().await;
    assert!(bench.prompt(id).contains("looked at it"));
    assert!(bench.prompt(id).contains("- 2 + 2 gives 5"), "{}", bench.prompt(id));
    bench.report_done(id);
    bench.settle().await;
    bench.end_turn(id, Some(MailType::QaPassed), TurnEnd::Clean);
    bench.settle().await;
    assert!(bench.queued(id));
}

#[tokio::test]
async fn the_pinned_agent_wins_and_whoever_waits_is_told_for_whom() {
    let bench = Bench::new();
    let first = bench.file(|new| new.agent = Some("coder-2".into()));
    let others = [bench.file(|_| {}), bench.file(|_| {})];
    for id in [first, others[0], others[1]] {
        bench.start(id);
    }
    bench.settle().await;
    assert_eq!(bench.live(first).unwrap().agent.as_str(), "coder-2");
    assert_eq!(bench.live(others[0]).unwrap().agent.as_str(), "coder-1");
    assert!(bench.live(others[1]).is_none());
    let why = bench.read(|conn| explain(conn, others[1]));
    insta::assert_snapshot!(why, @r###"
**#3 Add a calculator**: waits for a free coder: coder-1 is on 2 since 20:26; coder-2 is on 1 since 20:26.

How that came about:
- 28 May 20:26:40 not started: waits for a free coder: coder-1 is on 2 since 20:26; coder-2 is on 1 since 20:26
- 28 May 20:26:40 cleared: started by @you:hs
- 28 May 20:26:40 to coding: started by @you:hs (@you:hs)
- 28 May 20:26:40 to backlog: filed by @you:hs (@you:hs)
"###);
}

#[tokio::test]
async fn nothing_starts_beyond_the_limits_or_after_an_emergency_stop() {
    let bench = Bench::with("[limits]\nmax_agents = 1\n");
    let ids = [bench.file(|_| {}), bench.file(|_| {})];
    bench
        .write(|tx| Ok(crate::store::meta::set(tx, crate::store::meta::STOPPED_ALL, "@you:hs")?))
        .unwrap();
    for id in ids {
        bench.start(id);
    }
    bench.settle().await;
    assert!(ids.iter().all(|id| bench.live(*id).is_none()));
    let stopped = bench.read(|conn| explain(conn, ids[0]));
    assert!(stopped.contains("resume all"), "{stopped}");
    bench.write(|tx| Ok(crate::store::meta::remove(tx, crate::store::meta::STOPPED_ALL)?)).unwrap();
    bench.settle().await;
    assert!(bench.live(ids[0]).is_some() && bench.live(ids[1]).is_none());
    let full = bench.read(|conn| explain(conn, ids[1]));
    assert!(full.contains("limits.max_agents is 1"), "{full}");
}

#[tokio::test]
async fn agents_that_bring_no_new_commit_are_started_three_times_at_most() {
    let bench = Bench::new();
    let id = bench.file(|new| new.qa = Some(QaMode::Agent));
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    for _ in 0..2 {
        bench.report_done(id);
        bench.settle().await;
        bench.end_turn(id, Some(MailType::QaFailed), TurnEnd::Clean);
        bench.settle().await;
    }
    insta::assert_snapshot!(bench.heard().last().unwrap(), @r###"text: **#1 Add a calculator** is blocked: agents were started on it 3 times without a commit. `start 1` tries again."###);
}

#[tokio::test]
async fn a_room_hears_everything_once_also_when_the_reader_dies_before_it_notes_its_place() {
    let bench = Bench::new();
    let _id = in_queue(&bench).await;
    let heard = bench.heard();
    bench.write(|tx| Ok(tx.execute("DELETE FROM cursors", [])?)).unwrap();
    bench.settle().await;
    assert_eq!(bench.heard(), heard);
}

#[tokio::test]
async fn a_timer_starts_its_item_or_says_in_the_room_why_not() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    let fire = || {
        bench
            .write(move |tx| {
                let timer = NewTimer {
                    kind: TimerKind::Start,
                    session: Some(SessionKey::main(RoomKey::from("!demo"))),
                    person: None,
                    created_by: "@ann:hs".to_owned(),
                    item: Some(id),
                    text: String::new(),
                    due_at: from_millis(BEGIN_MS),
                    cron: None,
                    zone: "UTC".to_owned(),
                };
                let timer = timers::insert(tx, &timer)?;
                Ok(log::append_event(tx, &Event::TimerFired { timer })?)
            })
            .unwrap();
    };
    fire();
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "coding");
    fire();
    bench.settle().await;
    let heard = bench.heard();
    assert!(heard.last().unwrap().contains("Item 1 was to be started now, but:"), "{heard:?}");
}

#[tokio::test]
async fn what_an_agent_asks_is_posted_once() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench
        .write(move |tx| {
            let said = Event::AgentSaid {
                item: id,
                agent: "coder-1".into(),
                text: "Postgres or SQLite?".to_owned(),
                question: true,
            };
            Ok(log::append_event(tx, &said)?)
        })
        .unwrap();
    bench.settle().await;
    bench.settle().await;
    assert_eq!(bench.heard(), ["text: **#1 Add a calculator**: coder-1: Postgres or SQLite?"]);
}

#[tokio::test]
async fn work_that_lands_after_it_was_turned_down_is_told() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    // Its pull request is open: it stands in the queue, and is not being landed.
    let ugly = StageEvent::Rejected { reason: "ugly".to_owned() };
    bench.write(move |tx| apply(tx, id, &ugly, &person(), "no")).unwrap();
    for _ in 0..2 {
        bench.merge_answers(Event::Merged { item: id, commit: "f00dfeed".to_owned() });
        bench.settle().await;
    }
    assert_eq!(bench.item(id).stage.name(), "rejected");
    let heard = bench.heard();
    let late: Vec<&String> = heard.iter().filter(|text| text.contains("f00dfeed")).collect();
    assert_eq!(late.len(), 1, "{heard:#?}");
    assert!(late[0].contains("although it was rejected"), "{late:?}");
}
