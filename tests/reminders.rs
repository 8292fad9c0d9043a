//! Reminders: confirmed with the time, kept over a restart, and they call the person.

use std::time::{Duration, SystemTime};

use crate::support::event::Event;
use crate::support::scene::Scene;

/// The time of day in this many seconds, as the confirmation must name it (UTC).
fn clock_in(wait: Duration) -> String {
    let then = chrono::DateTime::<chrono::Utc>::from(SystemTime::now() + wait);
    then.format("%H:%M").to_string()
}

#[tokio::test]
async fn a_reminder_outlives_a_restart_and_mentions_the_person() {
    let mut scene = Scene::new().await;
    let wait = Duration::from_secs(6);
    let (early, confirmed) =
        (clock_in(wait), scene.ask("!remind me in 6 seconds to stretch").await);
    let late = clock_in(wait);
    let text = confirmed.body();
    assert!(text.contains(&early) || text.contains(&late), "{early} or {late} in {text}");
    assert!(text.contains("UTC"), "in which zone: {text}");
    assert!(confirmed.mentions().is_empty(), "a confirmation calls nobody");
    let timers = scene.ask("!timers").await;
    assert!(timers.body().contains("stretch"), "{}", timers.body());

    scene.musher.restart().await;
    let reminder = scene.hear("stretch").await;
    assert_eq!(reminder.mentions(), [scene.ann.id.as_str()], "{}", reminder.raw);
    let timers = scene.ask("!timers").await;
    assert!(!timers.body().contains("stretch"), "it is over: {}", timers.body());
}

#[tokio::test]
async fn a_reminder_that_was_due_while_down_fires_once_and_late() {
    let mut scene = Scene::new().await;
    scene.ask("!remind me in 1 second to breathe").await;
    scene.musher.kill_9().await;
    let due = SystemTime::now() + Duration::from_millis(1200);
    crate::support::until("it is due", || (SystemTime::now() > due).then_some(())).await;
    scene.musher.start();
    scene.hear_all(&["late"]).await;
    let said = scene.said_until_now().await;
    let fired = |event: &&Event| event.body().contains("breathe") && !event.mentions().is_empty();
    let reminders: Vec<&Event> = said.iter().filter(fired).collect();
    assert_eq!(reminders.len(), 1, "{}", scene.ann.print().await);
    assert!(scene.model.requests().is_empty());
}

#[tokio::test]
async fn a_timer_can_be_cancelled_and_nonsense_is_refused() {
    let scene = Scene::new().await;
    for nonsense in ["!remind me when pigs fly to look up", "!remind me in 2h", "!remind"] {
        let answer = scene.ask(nonsense).await;
        assert!(answer.body().contains("remind"), "the usage: {}", answer.body());
    }
    let answer = scene.ask("!remind me in 1 second ago to travel").await;
    assert!(answer.body().contains("remind"), "the usage: {}", answer.body());
    let timers = scene.ask("!timers").await;
    assert!(timers.body().contains("Nothing is set"), "{}", timers.body());
    let answer = scene.ask("!remind me in 2 hours to leave").await;
    assert!(answer.body().contains("leave") || answer.body().contains(':'), "{}", answer.body());
    let timers = scene.ask("!timers").await;
    let number: String = timers
        .body()
        .lines()
        .find(|line| line.contains("leave"))
        .unwrap_or_else(|| panic!("{}", timers.body()))
        .chars()
        .skip_while(|letter| !letter.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    scene.ask(&format!("!timer cancel {number}")).await;
    let timers = scene.ask("!timers").await;
    assert!(!timers.body().contains("leave"), "{}", timers.body());
    let again = scene.ask(&format!("!timer cancel {number}")).await;
    assert!(again.body().contains(&number), "{}", again.body());
}
