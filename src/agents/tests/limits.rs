//! Rate limits: soft ones change nothing, hard ones hold until their time, by themselves.

use super::*;
use crate::store::timers::{self as rows, TimerKind};

fn limited(until: Option<chrono::DateTime<chrono::Utc>>) -> Vec<Do> {
    vec![Do::Say(RuntimeEvent::TurnEnd(TurnOutcome::RateLimited(until)))]
}

fn is_limited(event: &Event) -> bool {
    matches!(event, Event::RateLimited { .. })
}

#[tokio::test(start_paused = true)]
async fn a_soft_warning_changes_nothing() {
    let world = World::new();
    let soft = RuntimeEvent::RateLimit { blocked: false, until: None };
    world.plays(vec![Do::Say(soft), Do::Report, done()]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Completed, 1).await;
    assert_eq!(world.count(is_limited).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hard_limit_sets_a_timer_that_lets_the_session_go_on_also_after_a_restart() {
    let world = World::new();
    let until = world.clock.now() + TimeDelta::hours(2);
    world.plays(limited(Some(until)));
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Waiting, 1).await;
    let timers = world.write(|tx| rows::list_waiting(tx)).await;
    assert_eq!(timers.len(), 1);
    assert_eq!((timers[0].set.kind, timers[0].set.item), (TimerKind::Resume, Some(ItemId(1))));
    assert_eq!(timers[0].set.due_at, until);
    // The server ends and comes back: the session waits, and the timer does (`timers` fires it).
    world.cancel.cancel();
    world.agents.reconcile().await.unwrap();
    let found = world.find(session).await;
    assert_eq!(found.state, SessionState::Waiting);
    assert!(found.pending_prompt.is_some());
    assert_eq!((found.recoveries, found.contract_asked), (0, false), "nothing is counted");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_comes_again_is_told_once_and_asked_about_more_and_more_rarely() {
    let world = World::new();
    for _ in 0..3 {
        world.plays(limited(None));
    }
    world.plays(vec![Do::Report, done()]);
    let session = world.session().await;
    world.run();
    let mut waits = vec![];
    for turns in 1..=3 {
        world.until(session, SessionState::Waiting, turns).await;
        let until = world.find(session).await.waiting.unwrap().until.unwrap();
        waits.push((until - world.clock.now()).num_seconds());
        world.clock.set(until + TimeDelta::seconds(1));
    }
    world.until(session, SessionState::Completed, 4).await;
    assert_eq!(waits, [60, 60, 120]);
    assert_eq!(world.count(is_limited).await, 1);
    let timers = world.write(|tx| rows::list_waiting(tx)).await;
    assert!(timers.is_empty(), "no timer is left behind: {timers:?}");
}

#[tokio::test(start_paused = true)]
async fn who_runs_on_the_same_model_does_not_run_into_the_same_limit() {
    let world = World::new();
    let until = world.clock.now() + TimeDelta::hours(2);
    world.plays(limited(Some(until)));
    let first = world.session().await;
    world.run();
    world.until(first, SessionState::Waiting, 1).await;
    let second = world.session_of("coder-2", 2).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.turns_of(second).await.len(), 0);
    assert_eq!(world.count(is_limited).await, 1);
    for _ in 0..2 {
        world.plays(vec![Do::Report, done()]);
    }
    world.clock.set(until + TimeDelta::seconds(1));
    world.until(first, SessionState::Completed, 2).await;
    world.until(second, SessionState::Completed, 1).await;
}
