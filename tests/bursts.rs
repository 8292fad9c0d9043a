//! Many messages at once: nothing is lost, nothing is asked twice, and commands do not wait.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::model_server::{Reply, Request};
use crate::support::scene::{Scene, is_agent, is_coordinator};
use crate::support::until;

/// Fails unless `text` holds all of `parts`, each once, in this order.
fn assert_in_order(text: &str, parts: &[impl AsRef<str>]) {
    let mut from = 0;
    for part in parts {
        let part = part.as_ref();
        assert_eq!(text.matches(part).count(), 1, "{part:?} must stand once in {text:?}");
        let place = text[from..].find(part);
        from += place.unwrap_or_else(|| panic!("{part:?} is out of order in {text:?}"));
    }
}

#[tokio::test]
async fn three_messages_in_a_burst_are_one_question() {
    let scene = Scene::with(|musher| {
        // Long enough for three messages on a machine that does twenty things at once.
        musher.set("/chat/coalesce_ms", json!(1500));
    })
    .await;
    scene.model.always(Request::is_musher, Reply::text("I heard all of it."));
    let burst = ["the build is slow,", "mostly at night,", "do you know why?"];
    for part in burst {
        scene.say(part).await;
    }
    scene.hear("I heard all of it.").await;
    let said = scene.said_until_now().await;
    let answers = said.iter().filter(|event| event.body().contains("I heard")).count();
    assert_eq!(answers, 1, "one answer for all three");
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 1, "{}", scene.model.print());
    assert_in_order(&requests[0].last_user_text(), &burst);
}

#[tokio::test]
async fn whoever_is_typing_is_not_interrupted() {
    let scene = Scene::new().await;
    scene.model.always(Request::is_musher, Reply::text("I heard both halves."));
    scene.ann.set_typing(&scene.room, true).await;
    scene.say("what I wanted to say is").await;
    scene.ann.set_typing(&scene.room, true).await;
    // Commands are answered while the window is open: a marker that it did not close at once.
    for _ in 0..3 {
        scene.say("!version").await;
        scene.hear(env!("CARGO_PKG_VERSION")).await;
    }
    assert!(scene.model.requests().is_empty(), "{}", scene.model.print());
    scene.say("that it works").await;
    scene.ann.set_typing(&scene.room, false).await;
    scene.hear("I heard both halves.").await;
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 1, "{}", scene.model.print());
    assert_in_order(&requests[0].last_user_text(), &["what I wanted to say is", "that it works"]);
}

#[tokio::test]
async fn eight_messages_during_a_turn_are_one_more_question() {
    let scene = Scene::new().await;
    let (first, hold) = Reply::text("the first answer").held();
    scene.model.once(Request::is_musher, first);
    scene.model.always(Request::is_musher, Reply::text("the second answer"));
    scene.say("a long question").await;
    scene.model.wait_for_requests(1, Request::is_musher).await;

    let eight: Vec<String> = (1..=8).map(|number| format!("afterthought {number}.")).collect();
    for text in &eight {
        scene.say(text).await;
    }
    // Answered without the model while the turn runs; and whoever is answered now has read the
    // eight before it.
    let status = scene.ask("!status").await;
    assert!(status.body().contains("shop"), "{}", status.body());
    assert_eq!(scene.model.requests().len(), 1, "{}", scene.model.print());

    hold.release();
    scene.hear("the second answer").await;
    scene.said_until_now().await;
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 2, "{}", scene.model.print());
    assert_in_order(&requests[1].last_user_text(), &eight);
    assert!(requests[1].mentions("a long question"), "the conversation goes on");
}

/// How long two hundred messages may take to be sent: three seconds where nothing else runs, more
/// where other stories share the processors. What is meant is that they do not come one by one.
const BURST: Duration = Duration::from_secs(30);

#[tokio::test]
async fn of_two_hundred_messages_none_is_lost() {
    let scene = Scene::new().await;
    let began = Instant::now();
    let all = two_hundred(&scene).await;
    let took = began.elapsed();
    assert!(took < BURST, "200 messages took {took:?}: that is no burst");
    each_reaches_the_model_once(&scene, &all).await;
}

/// However slowly they are sent: it hears them all at once, more than the server puts into one
/// answer.
#[tokio::test]
async fn of_two_hundred_messages_that_come_while_it_is_held_up_none_is_lost() {
    let scene = Scene::with(|musher| {
        musher.set("/log/filter", json!("warn,musher=info,musher::chat::matrix::gather=debug"));
    })
    .await;
    // Whatever the server still answers on its own account is answered.
    scene.ask("!version").await;
    scene.musher.signal(Signal::SIGSTOP);
    let all = two_hundred(&scene).await;
    scene.musher.signal(Signal::SIGCONT);
    each_reaches_the_model_once(&scene, &all).await;
    let gap = scene.musher.wait_for_log("a gap was paged back").await;
    assert!(!gap.contains("events=0"), "{gap}");
}

/// Ann says two hundred things, as fast as she can.
async fn two_hundred(scene: &Scene) -> Vec<String> {
    scene.model.always(Request::is_musher, Reply::text("all right"));
    let all: Vec<String> = (0..200).map(|number| format!("<{number:03}>")).collect();
    let sends = all.iter().map(|text| scene.say(text));
    stream::iter(sends).buffer_unordered(32).collect::<Vec<_>>().await;
    all
}

async fn each_reaches_the_model_once(scene: &Scene, all: &[String]) {
    // A conversation holds all that was said; so does the last request, whatever the batches were.
    let told = |request: &Request| -> Vec<String> {
        let texts = request.user_texts().join("\n");
        all.iter().filter(|text| texts.contains(text.as_str())).cloned().collect()
    };
    scene
        .model
        .wait_for_requests_within(Duration::from_secs(90), 1, |request| {
            told(request).len() == all.len()
        })
        .await;
    scene.said_until_now().await;
    let requests = scene.model.requests();
    let texts = requests.last().unwrap().user_texts().join("\n");
    for text in all {
        assert_eq!(texts.matches(text.as_str()).count(), 1, "{text} must reach the model once");
    }
}

#[tokio::test]
async fn of_a_hundred_commands_each_is_answered_once() {
    let scene = Scene::new().await;
    let sends =
        (0..100).map(|number| scene.ann.say(&scene.room, format!("!story Wish {number:03}.")));
    stream::iter(sends).buffer_unordered(16).collect::<Vec<_>>().await;
    for number in 0..100 {
        scene.hear(&format!("Wish {number:03}.")).await;
    }
    let said = scene.said_until_now().await;
    assert_eq!(said.len(), 100, "one answer each");
    assert_eq!(scene.items().await.len(), 100);
    assert!(scene.model.requests().is_empty());
}

#[tokio::test]
async fn stop_ends_the_processes_of_a_tool_too() {
    const GATE: &str = "touch \"$(git rev-parse --git-common-dir)/gate-runs\"; \
                        setsid sleep 6171 & sleep 6172";
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1").set("/projects/0/gates", json!([GATE]));
    })
    .await;
    // The agent never ends its turn: there is a worktree, and nobody else runs the gates.
    scene.model.always(is_agent, Reply::hang());
    scene.model.on(|request| {
        let asked = is_coordinator(request) && request.answers_since_person() == 0;
        asked.then(|| Reply::call("gates_run", json!({"item": 1})))
    });
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    scene.model.wait_for_requests(1, is_agent).await;
    scene.say("run the gates, please").await;
    let ran = scene.repository.path.join(".git/gate-runs");
    until("the gate runs", || ran.exists().then_some(())).await;
    let gates = || -> Vec<_> {
        let all = scene.musher.processes().into_iter();
        all.filter(|process| process.command.contains("sleep 617")).collect()
    };
    until("its processes", || (gates().len() >= 2).then_some(())).await;

    let began = Instant::now();
    scene.say("!stop").await;
    scene.hear("topped the answer").await;
    until("they are ended", || gates().is_empty().then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
}

#[tokio::test]
async fn stop_ends_a_turn_and_empties_its_queue() {
    let scene = Scene::new().await;
    scene.model.once(Request::is_musher, Reply::hang());
    scene.model.always(Request::is_musher, Reply::text("a fresh answer"));
    scene.say("think hard").await;
    scene.model.wait_for_requests(1, Request::is_musher).await;
    scene.say("and about this").await;
    scene.say("and about that").await;
    scene.ask("!version").await;

    let began = Instant::now();
    let answer = scene.ask("!stop").await;
    let took = answer.seen.duration_since(began);
    assert!(took <= Duration::from_secs(2), "stop took {took:?}");
    assert!(answer.body().to_lowercase().contains("stopped"), "{}", answer.body());
    assert!(answer.body().contains('2'), "it says how many it dropped: {}", answer.body());
    scene.model.wait_for_abandoned(|request| request.mentions("think hard")).await;

    scene.say("start over").await;
    scene.hear("a fresh answer").await;
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 2, "{}", scene.model.print());
    assert!(requests[1].last_user_text().contains("start over"));
    assert!(!requests[1].mentions("and about"), "the queue was dropped");
}
