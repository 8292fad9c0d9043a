//! The brakes: too many starts, too many deaths; and processes that outlive their session.

use super::*;

fn paused(event: &Event) -> bool {
    matches!(event, Event::Paused { .. })
}

fn goes_on(event: &Event) -> bool {
    matches!(event, Event::GoesOn { .. })
}

/// Moves the clock on and lifts pauses that are due on trial, as the work service does.
async fn later(world: &World, seconds: i64) {
    world.clock.set(world.clock.now() + TimeDelta::seconds(seconds));
    world
        .write(|tx| {
            for pause in pauses::due(tx, tx.now())? {
                pauses::try_again(tx, &pause.scope)?;
            }
            Ok(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn more_starts_in_a_minute_than_allowed_pause_all_agents_and_that_is_said_once() {
    let world = World::configured(json!({}), json!({"limits": {"max_starts_per_minute": 2}}));
    for _ in 0..2 {
        world.plays(vec![Do::Report, done()]);
    }
    let mut sessions = vec![];
    for item in 1..=3 {
        sessions.push(world.session_of("coder-1", item).await);
    }
    world.run();
    world.until_true("a pause", async |world| world.count(paused).await == 1).await;
    assert_eq!(world.turns_of(sessions[2]).await.len(), 0);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.turns_of(sessions[2]).await.len(), 0, "the pause holds until it is tried");
    world.plays(vec![Do::Report, done()]);
    later(&world, 31).await;
    world.until(sessions[2], SessionState::Completed, 1).await;
    assert_eq!((world.count(paused).await, world.count(goes_on).await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn many_deaths_in_a_moment_pause_all_agents_and_that_is_said_once() {
    let more = json!({"watchdog": {"storm_deaths": 3, "max_recoveries": 0}});
    let world = World::configured(json!({}), more);
    for _ in 0..3 {
        world.plays(vec![failed(Failure::Crash)]);
    }
    let mut sessions = vec![];
    for item in 1..=4 {
        sessions.push(world.session_of("coder-1", item).await);
    }
    world.run();
    world.until_true("a pause", async |world| world.count(paused).await == 1).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.turns_of(sessions[3]).await.len(), 0, "the next would die, too");
    let reason = world.write(|tx| pauses::find(tx, &Scope::Pool)).await.unwrap().reason;
    assert!(reason.contains("3 turns of agents died within 30 seconds"), "{reason}");
    // It is tried again by itself: the first that works ends it.
    world.plays(vec![Do::Report, done()]);
    later(&world, 31).await;
    world.until(sessions[3], SessionState::Completed, 1).await;
    assert_eq!((world.count(paused).await, world.count(goes_on).await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn deaths_that_lie_apart_are_no_storm() {
    let more = json!({"watchdog": {"storm_deaths": 2, "max_recoveries": 0}});
    let world = World::configured(json!({}), more);
    for item in 1..=3 {
        world.plays(vec![failed(Failure::Crash)]);
        let session = world.session_of("coder-1", item).await;
        if item == 1 {
            world.run();
        }
        world.until(session, SessionState::Zombie, 1).await;
        world.clock.set(world.clock.now() + TimeDelta::seconds(31));
    }
    assert_eq!(world.count(paused).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_outlives_its_session_is_shown_once_and_not_killed() {
    let world = World::new();
    let session = world.session().await;
    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .env(super::process::MARKER, "test-survivor-1")
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    world
        .write(move |tx| {
            sessions::record_process(tx, session, pid, 1, "test-survivor-1")?;
            sessions::move_state(tx, session, SessionState::Zombie)?;
            Ok(())
        })
        .await;
    world.run();
    world.until_true("a word about it", async |world| world.watched().await.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let said = world.watched().await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(&format!("pid {pid}")), "{said:?}");
    assert!(child.try_wait().unwrap().is_none(), "a person decides");
    child.kill().unwrap();
    child.wait().unwrap();
    world
        .until_true("the row's end", async |world| {
            world.write(|tx| sessions::live_processes(tx)).await.is_empty()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_recorded_as_running_and_does_not_run_is_settled() {
    let world = World::new();
    let session = world.session().await;
    world
        .write(move |tx| {
            sessions::begin_turn(tx, session)?;
            sessions::move_state(tx, session, SessionState::InTurn)?;
            Ok(())
        })
        .await;
    world.plays(vec![Do::Report, done()]);
    world.run();
    world.until(session, SessionState::Completed, 2).await;
    let first = world.turns_of(session).await[0].result.clone().unwrap();
    assert_eq!(first.end, TurnEnd::CutOff);
}
