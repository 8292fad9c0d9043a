//! Each limit is tripped: warned about once, told once, nothing beyond it, and going on by itself
//! where it ends by itself.

use super::*;
use crate::store::costs::{self, Cost, Source};

/// A cost of a turn.
fn used(tokens: u64, microusd: i64) -> Do {
    let usage = Usage { input: tokens, cached: 0, output: 0 };
    Do::Say(RuntimeEvent::Used { usage, microusd, model: "m".to_owned() })
}

/// Somebody else's cost.
async fn spend(world: &World, name: &'static str, item: Option<i64>, tokens: u64, microusd: i64) {
    world
        .write(move |tx| {
            let cost = Cost {
                source: Source::Agent,
                name: name.to_owned(),
                model: "m".to_owned(),
                item: item.map(ItemId),
                project: Some("demo".into()),
                usage: Usage { input: tokens, cached: 0, output: 0 },
                microusd,
            };
            costs::record(tx, &cost)
        })
        .await;
}

/// What was said about limits.
async fn said(world: &World) -> Vec<String> {
    let told = world.events().await.into_iter().filter_map(|event| match event {
        Event::BudgetReached { what, .. } => Some(what),
        _other => None,
    });
    told.collect()
}

async fn end_of_first_turn(world: &World, session: AgentSessionId) -> TurnEnd {
    world.turns_of(session).await[0].result.clone().unwrap().end
}

#[tokio::test(start_paused = true)]
async fn each_limit_on_an_item_ends_the_turn_that_reaches_it_and_the_session() {
    let cheap = json!({});
    for (agent, more, cost, words) in [
        (
            json!({"max_tokens": 100}),
            cheap.clone(),
            used(100, 0),
            "100 tokens on one item (max_tokens)",
        ),
        (json!({"max_usd": 1.0}), cheap.clone(), used(0, 1_000_000), "$1.00 on one item (max_usd)"),
        (
            cheap.clone(),
            json!({"limits": {"usd_per_item": 2.0}}),
            used(1, 2_000_000),
            "item 1 reached its limit of $2.00 ([limits] usd_per_item)",
        ),
        (
            cheap,
            json!({"limits": {"tokens_per_item": 50}}),
            used(50, 0),
            "item 1 reached its limit of 50 tokens",
        ),
    ] {
        let world = World::configured(agent, more);
        world.plays(vec![cost]);
        let session = world.session().await;
        world.run();
        world.until(session, SessionState::Zombie, 1).await;
        let TurnEnd::Limit { what, resumes: false } = end_of_first_turn(&world, session).await
        else {
            panic!("{words}");
        };
        assert!(what.contains(words), "{what}");
        assert_eq!(world.deaths().await, [what]);
        assert!(said(&world).await.is_empty(), "the item's block says it");
        // And the next one does not even begin.
        let again = world.session().await;
        world.until(again, SessionState::Zombie, 1).await;
        assert_eq!(hold(&world.resumed).len(), 1, "no runtime was started for it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_spent_on_an_item_counts_for_the_item_and_not_for_the_agent() {
    let limits = json!({"limits": {"usd_per_item": 1.0}});
    let world = World::configured(json!({"max_usd": 0.5}), limits);
    spend(&world, "coder-9", Some(1), 1, 700_000).await;
    world.plays(vec![used(1, 200_000), used(1, 100_000)]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Zombie, 1).await;
    let result = world.turns_of(session).await[0].result.clone().unwrap();
    assert_eq!(result.cost_microusd, 300_000, "the second cost reached the limit of the item");
    assert_eq!(world.deaths().await.len(), 1);
    let warnings = said(&world).await;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("Item 1 has used 90%"), "{warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn turns_and_minutes_on_an_item_are_limited_too() {
    let world = World::with(json!({"max_turns": 1}));
    world.plays(vec![done()]);
    let session = world.session().await;
    world.run();
    // The turn that would ask it to report is one too many.
    world.until(session, SessionState::Zombie, 2).await;
    assert!(world.deaths().await[0].contains("1 turns on one item (max_turns)"));
    let world = World::with(json!({"max_minutes": 5, "stall_timeout_s": 3000}));
    world.plays(vec![Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Zombie, 1).await;
    assert!(world.deaths().await[0].contains("5 minutes on one item (max_minutes)"));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_day_stops_all_and_the_next_day_goes_on_by_itself() {
    for (limits, cost) in [
        (json!({"usd_per_day": 1.0}), used(1, 1_000_000)),
        (json!({"tokens_per_day": 100}), used(100, 0)),
    ] {
        let more = json!({"limits": limits, "time_zone": "Europe/Berlin"});
        let world = World::configured(json!({}), more);
        // The first spends all; the second runs at the time and has cost nothing.
        world.plays(vec![cost]);
        world.plays(vec![Do::Hang]);
        world.plays(vec![Do::Report, done()]);
        world.plays(vec![Do::Report, done()]);
        let first = world.session().await;
        world.run();
        world.until(first, SessionState::BetweenTurns, 1).await;
        let second = world.session_of("coder-2", 2).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        let TurnEnd::Limit { what, resumes: true } = end_of_first_turn(&world, first).await else {
            panic!();
        };
        assert!(what.contains("until Sun 22 Nov, 00:00 (Europe/Berlin)"), "{what}");
        assert_eq!(world.turns_of(second).await.len(), 0, "nothing starts any more");
        assert_eq!(world.deaths().await.len(), 0);
        let told = said(&world).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("Then it goes on by itself"), "{told:?}");
        // Midnight in Berlin; in UTC it is the old day still.
        world.clock.set("2026-11-21T23:00:01Z".parse().unwrap());
        hold(&world.turns).pop_front();
        world.until(first, SessionState::Completed, 2).await;
        world.until(second, SessionState::Completed, 1).await;
        let found = world.find(first).await;
        assert_eq!(found.recoveries, 0, "it is not the agent's fault");
        let heard = hold(&world.heard).clone();
        assert!(heard.iter().any(|text| text.contains("You were cut off (today's")), "{heard:?}");
        assert_eq!(said(&world).await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_spends_nothing_is_ended_too_when_others_have_spent_the_day() {
    let world = World::configured(json!({}), json!({"limits": {"usd_per_day": 1.0}}));
    world.plays(vec![Do::Say(RuntimeEvent::Running), Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::InTurn, 0).await;
    spend(&world, "coder-2", Some(2), 1, 1_000_000).await;
    world.until(session, SessionState::BetweenTurns, 1).await;
    let end = end_of_first_turn(&world, session).await;
    assert!(matches!(end, TurnEnd::Limit { resumes: true, .. }), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_projects_day_stops_that_project_alone() {
    let settings = |name: &str| json!({"name": name, "path": "/nowhere", "usd_per_day": 1.0});
    let more = json!({"projects": [settings("demo"), settings("other")]});
    let world = World::configured(json!({}), more);
    for (item, project) in [(1, "demo"), (2, "other")] {
        world
            .write(move |tx| {
                tx.execute(
                    "INSERT INTO items (id, project, kind, name, qa, origin, stage, stage_name, col,
                                        badge, created_at, updated_at)
                     VALUES (?1, ?2, 'story', 'x', 'gates',
                             '{\"kind\":\"user\",\"id\":\"@a:b\",\"at\":\"2026-01-01T00:00:00Z\"}',
                             '{\"stage\":\"coding\",\"retries\":0}', 'coding', 'coding', 'active', 0, 0)",
                    rusqlite::params![item, project],
                )?;
                Ok(())
            })
            .await;
    }
    spend(&world, "coder-9", None, 1, 1_000_000).await;
    world.plays(vec![Do::Report, done()]);
    let held = world.session_of("coder-1", 1).await;
    let free = world.session_of("coder-2", 2).await;
    world.run();
    world.until(free, SessionState::Completed, 1).await;
    assert_eq!(world.turns_of(held).await.len(), 0);
    let told = said(&world).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("for project demo are spent"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_warned_about_once_and_again_only_when_it_was_raised() {
    let day = |usd: f64| json!({"limits": {"usd_per_day": usd}});
    let world = World::configured(json!({}), day(1.0));
    spend(&world, "coder-9", None, 1, 800_000).await;
    let check = |config: Config| move |tx: &Tx<'_>| budget::check_day(tx, &config);
    let config = (*world.agents.inner.config).clone();
    for _ in 0..3 {
        assert_eq!(world.write(check(config.clone())).await, None);
    }
    assert_eq!(said(&world).await.len(), 1);
    let mut raised = config.clone();
    raised.limits.usd_per_day = Some(0.9);
    world.write(check(raised)).await;
    let told = said(&world).await;
    assert_eq!(told.len(), 2);
    assert!(told[0].contains("$0.80 of today's $1.00 are spent (80%)"), "{told:?}");
    spend(&world, "coder-9", None, 1, 200_000).await;
    for _ in 0..2 {
        assert!(world.write(check(config.clone())).await.is_some());
    }
    assert_eq!(said(&world).await.len(), 3);
}
