//! A silent turn: told once, nudged once, perhaps looked at by a model, ended; and heard again.

use super::watchdog::triage::{Advice, Triage, Triaged};
use super::*;
use crate::store::agents::TurnEvent;
use crate::store::costs::{self, Spent};

/// Answers as it is told; an empty list fails.
struct Advisor(Mutex<VecDeque<Option<Advice>>>);

#[async_trait]
impl Triage for Advisor {
    async fn ask(&self, _silent: Duration, events: &[TurnEvent]) -> anyhow::Result<Triaged> {
        assert!(!events.is_empty(), "it is shown what the agent did");
        let advice = hold(&self.0).pop_front().flatten();
        let advice = advice.ok_or_else(|| anyhow::anyhow!("the model is down"))?;
        let spent = Spent { microusd: 7, ..Spent::default() };
        Ok(Triaged { advice, spent, model: "cheap".to_owned() })
    }
}

fn advised(answers: &[Option<Advice>]) -> World {
    let world = World::with(json!({"stall_timeout_s": 60}));
    let advisor = Advisor(Mutex::new(answers.iter().copied().collect()));
    assert!(world.agents.inner.triage.set(Arc::new(advisor)).is_ok());
    world
}

fn said(text: &str) -> Do {
    Do::Say(RuntimeEvent::Text(text.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_once_then_asked_about_once_then_ended_by_the_watchdog() {
    let world = World::new();
    world.plays(vec![said("I begin"), Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Stalled, 0).await;
    world.until(session, SessionState::Zombie, 1).await;
    let watched = world.watched().await;
    assert_eq!(watched.len(), 1, "{watched:?}");
    assert!(watched[0].contains("not been heard for 4 minutes"), "{watched:?}");
    let nudges =
        hold(&world.heard).iter().filter(|text| text.contains("Nothing has been heard")).count();
    assert_eq!(nudges, 1);
    let seen_by: Vec<String> = world
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::WorkerDied { seen_by, .. } => Some(seen_by),
            _other => None,
        })
        .collect();
    assert_eq!(seen_by, ["watchdog"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_heard_again_works_on_and_a_new_silence_is_told_anew() {
    let world = World::with(json!({"stall_timeout_s": 60}));
    world.plays(vec![
        said("one"),
        Do::Rest(50),
        said("two"),
        Do::Rest(10),
        said("three"),
        Do::Rest(50),
        Do::Report,
        done(),
    ]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Completed, 1).await;
    assert_eq!(world.watched().await.len(), 2);
    assert_eq!(world.deaths().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_while_a_tool_runs_is_borne_three_times_as_long() {
    let world = World::with(json!({"stall_timeout_s": 60}));
    let tool = RuntimeEvent::ToolStart {
        id: "t".to_owned(),
        name: "Bash".to_owned(),
        summary: "cargo test".to_owned(),
    };
    world.plays(vec![Do::Say(tool), Do::Rest(70), Do::Report, done()]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Completed, 1).await;
    assert_eq!(world.watched().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_model_may_have_it_wait_but_not_for_ever_and_its_failure_means_to_wait() {
    // One answer, then the model is down.
    let world = advised(&[Some(Advice::Extend)]);
    world.plays(vec![said("I begin"), Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Zombie, 1).await;
    let result = world.turns_of(session).await[0].result.clone().unwrap();
    assert_eq!(result.end, TurnEnd::Stalled);
    assert!(result.duration_ms >= 4 * 60_000, "{}", result.duration_ms);
    assert_eq!(world.watched().await.len(), 1, "one line, however long it was borne");
    let spent = world.write(|tx| costs::of_name_on_item(tx, "watchdog", ItemId(1))).await;
    assert_eq!(spent.microusd, 7, "what was asked is counted");
}

#[tokio::test(start_paused = true)]
async fn a_model_may_have_it_ended_at_once_or_started_again_from_where_it_stood() {
    let world = advised(&[Some(Advice::Terminate)]);
    world.plays(vec![said("I begin"), Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Zombie, 1).await;
    let result = world.turns_of(session).await[0].result.clone().unwrap();
    assert!(result.end == TurnEnd::Stalled && result.duration_ms < 120_000);

    let world = advised(&[Some(Advice::Retry), Some(Advice::Retry)]);
    world.plays(vec![said("I begin with the parser"), Do::Hang]);
    world.plays(vec![said("on it again"), Do::Hang]);
    let session = world.session().await;
    world.run();
    // The second time is one too many.
    world.until(session, SessionState::Zombie, 2).await;
    assert_eq!(world.deaths().await.len(), 1);
    assert_eq!(hold(&world.resumed)[1].as_deref(), Some("native-1"), "warm");
    let heard = hold(&world.heard).clone();
    let again = heard.iter().find(|text| text.contains("You were cut off")).unwrap();
    for part in
        ["Where your work on item 1 stood", "you said last: I begin with the parser", "do it"]
    {
        assert!(again.contains(part), "{part} in {again}");
    }
}
