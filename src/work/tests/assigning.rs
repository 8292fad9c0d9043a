//! Who gets what, within which limits, and that two assigners never do it twice.

use super::*;
use crate::model::agent::{Waiting, WaitingFor};
use std::collections::BTreeMap;

fn settings(bench: &Bench, settings: &'static str) {
    bench
        .write(move |tx| {
            Ok(tx.execute("UPDATE projects SET settings = ?1 WHERE name = 'demo'", [settings])?)
        })
        .unwrap();
}

#[tokio::test]
async fn an_item_far_behind_others_that_must_wait_gets_the_agent_that_they_cannot_have() {
    let bench = Bench::new();
    let busy = bench.file(|new| new.agent = Some("coder-1".into()));
    bench.start(busy);
    bench.settle().await;
    for _ in 0..120 {
        let id = bench.file(|new| new.agent = Some("coder-1".into()));
        bench.start(id);
    }
    let last = bench.file(|_| {});
    bench.start(last);
    bench.settle().await;
    assert_eq!(bench.live(last).unwrap().agent.as_str(), "coder-2");
}

#[tokio::test]
async fn the_most_urgent_item_goes_first() {
    let bench = Bench::with("[limits]\nmax_agents = 1\n");
    let (plain, urgent) = (bench.file(|_| {}), bench.file(|_| {}));
    let change = ItemChange { priority: Some(1), ..Default::default() };
    bench.write(move |tx| update(tx, urgent, None, change, &person())).unwrap();
    for id in [plain, urgent] {
        bench.start(id);
    }
    bench.settle().await;
    assert!(bench.live(urgent).is_some() && bench.live(plain).is_none());
}

#[tokio::test]
async fn no_more_agents_work_in_a_project_than_it_allows() {
    let bench = Bench::new();
    settings(&bench, r#"{"name": "demo", "path": "/demo", "max_agents": 1}"#);
    let ids = [bench.file(|_| {}), bench.file(|_| {})];
    for id in ids {
        bench.start(id);
    }
    bench.settle().await;
    assert!(bench.live(ids[0]).is_some() && bench.live(ids[1]).is_none());
    let held = bench.decided(ids[1], What::NotStarted).remove(0);
    insta::assert_snapshot!(format!("{}\n{}", held.why, held.inputs), @r#"
    waits, because 1 agents are busy in demo and its max_agents is 1
    {"busy_here":1,"max_agents":1,"kind":"project_full"}
    "#);
}

#[tokio::test]
async fn no_more_agents_are_started_in_a_minute_than_allowed() {
    let mut bench = Bench::with("[limits]\nmax_starts_per_minute = 1\n");
    let ids = [bench.file(|_| {}), bench.file(|_| {})];
    for id in ids {
        bench.start(id);
    }
    bench.settle().await;
    assert!(bench.live(ids[1]).is_none());
    let held = bench.decided(ids[1], What::NotStarted).remove(0);
    insta::assert_snapshot!(format!("{}\n{}", held.why, held.inputs), @r#"
    waits, because 1 agents were started in the last minute and limits.max_starts_per_minute is 1
    {"starts":1,"max_starts_per_minute":1,"kind":"start_rate"}
    "#);
    bench.wait_ms(60_000);
    bench.settle().await;
    assert!(bench.live(ids[1]).is_some());
}

#[tokio::test]
async fn nothing_starts_in_a_paused_project() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.write(|tx| Ok(tx.execute("UPDATE projects SET paused = 1", [])?)).unwrap();
    bench.start(id);
    bench.settle().await;
    assert!(bench.live(id).is_none());
    assert_eq!(bench.decided(id, What::NotStarted)[0].inputs["kind"], "project_paused");
}

#[tokio::test]
async fn who_waits_for_what_it_handed_out_leaves_room_for_it() {
    let lead = "[[agents]]\nname = \"lead-1\"\nrole = \"lead\"\nruntime = \"replay\"\n";
    let bench = Bench::with(&format!("{lead}[limits]\nmax_agents = 1\n"));
    let parent = bench.file(|new| new.agent = Some("lead-1".into()));
    let child = bench.file(|_| {});
    bench.start(parent);
    bench.settle().await;
    bench.start(child);
    bench.settle().await;
    assert!(bench.live(child).is_none());
    let session = bench.live(parent).unwrap();
    bench
        .write(move |tx| {
            sessions::begin_turn(tx, session.id)?;
            sessions::move_state(tx, session.id, SessionState::InTurn)?;
            let waiting =
                Waiting { what: WaitingFor::Children, until: None, detail: String::new() };
            Ok(sessions::move_to_waiting(tx, session.id, &waiting)?)
        })
        .unwrap();
    bench.settle().await;
    assert!(bench.live(child).is_some());
}

/// Two services over one store, each on a thread of its own, as fast as they can.
#[test]
fn two_assigners_at_once_start_no_two_agents_on_an_item_and_forget_none() {
    let agents: String = (3..13)
        .map(|n| {
            format!("[[agents]]\nname = \"coder-{n}\"\nrole = \"coder\"\nruntime = \"replay\"\n")
        })
        .collect();
    let limits = "[limits]\nmax_agents = 100\nmax_starts_per_minute = 1000\n";
    let bench = Bench::with(&format!("{agents}{limits}"));
    let ids: Vec<ItemId> = (0..30).map(|_| bench.file(|_| {})).collect();
    let passes = |service: WorkService| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..40 {
                service.pass().await.unwrap();
            }
        });
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| passes(bench.service.clone()));
        }
        // Meanwhile people start items and agents finish.
        for id in &ids {
            bench.worktree(*id, Some("c0ffee11"), &[]);
            bench.start(*id);
        }
    });
    passes(bench.service.clone());
    let live = bench.read(|conn| Ok(sessions::live_sessions(conn)?));
    let mut by_item: BTreeMap<ItemId, usize> = BTreeMap::new();
    let mut by_agent: BTreeMap<String, usize> = BTreeMap::new();
    for session in &live {
        *by_item.entry(session.item).or_default() += 1;
        *by_agent.entry(session.agent.to_string()).or_default() += 1;
    }
    assert!(by_item.values().all(|agents| *agents == 1), "{by_item:?}");
    assert!(by_agent.values().all(|items| *items == 1), "{by_agent:?}");
    assert_eq!(live.len(), 12, "every agent has an item: nobody and nothing is forgotten");
    let started: usize = ids.iter().map(|id| bench.decided(*id, What::Started).len()).sum();
    assert_eq!(started, 12, "each start is decided once");
    for id in &ids {
        let claimed = bench.item(*id).stage.claim().cloned();
        assert_eq!(claimed, bench.live(*id).map(|session| session.agent), "{id}");
    }
}
