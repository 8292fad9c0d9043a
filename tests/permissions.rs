//! What an agent may not do unasked is asked in the room, and so is what it wants to know.

use std::time::Duration;

use serde_json::json;

use crate::support::event::{Event, Message};
use crate::support::model_server::Reply;
use crate::support::person::Person;
use crate::support::scene::{Scene, is_agent, is_coordinator, report, shell};
use crate::support::synapse::Synapse;
use crate::support::until;

/// Processes start, an agent's turns, gates twice, a merge.
const WORK: Duration = Duration::from_secs(120);

/// Not everyday: it writes into a file by a redirection.
const WRITE: &str = "echo made > greeting.txt";
const COMMIT: &str = "git add -A && git commit -qm Work";

impl Scene {
    /// Waits until Musher says `part`, in a message or in an edit of one.
    async fn hear_within(&self, part: &'static str) -> Event {
        let bot = self.musher.id.clone();
        let says = move |event: &Event| event.sender == bot && event.body().contains(part);
        self.ann.wait_within(WORK, part, says).await
    }

    async fn react(&self, to: &Event, key: &str) {
        self.ann.react(&self.room, &to.id, key).await;
    }

    async fn reply(&self, to: &Event, words: &str) {
        self.ann.say(&self.room, Message::text(words).reply_to(&to.id)).await;
    }

    async fn start_work(&self) {
        self.ask("!story Greet").await;
        self.say("!start 1").await;
    }

    /// The results of the tools in the newest request of an agent.
    fn results(&self) -> Vec<String> {
        let last = self.model.requests().into_iter().rfind(is_agent).unwrap();
        last.tool_results().into_iter().map(|(_, text)| text).collect()
    }
}

/// Waits until the agent's turn is over and it waits for a person.
async fn until_waiting(scene: &Scene) {
    until("the turn is over", || scene.musher.log().contains("state=\"waiting\"").then_some(()))
        .await;
}

#[tokio::test]
async fn a_built_in_agent_asks_and_the_answer_counts_after_a_kill_and_from_nobody_else() {
    let mut scene = Scene::with(|musher| {
        musher.agent(json!({"name": "coder-1", "role": "coder", "runtime": "api"}));
    })
    .await;
    scene.model.on(|request| {
        is_agent(request).then(|| match request.answers_since_person() {
            0 => shell(request, WRITE),
            1 => shell(request, COMMIT),
            2 => report(request, "It is written."),
            _ => Reply::text("Done."),
        })
    });
    let eve = Person::new(Synapse::shared().await, "eve").await;
    scene.ann.invite(&scene.room, &eve.id).await;
    eve.accept_invite(&scene.room).await;
    let office = scene.musher.room_with(&scene.ann).await;
    scene.start_work().await;
    let question = scene.hear_within("asks for permission").await;
    for part in ["coder-1", "#1 Greet", WRITE, "✅", "allow 1", "deny 1 why"] {
        assert!(question.body().contains(part), "no {part:?} in {}", question.body());
    }
    assert_eq!(question.mentions(), [scene.ann.id.as_str()], "who filed it is pinged");

    eve.react(&scene.room, &question.id, "✅").await;
    eve.say(&scene.room, Message::text("allow").reply_to(&question.id)).await;
    eve.say(&scene.room, Message::text("!allow 1")).await;
    scene.ann.say(&office, "!allow 1").await;
    let here = scene.ann.wait_for_text(&office, &scene.musher.id, "request 1").await;
    assert!(here.body().contains("no request 1 in this room"), "{}", here.body());
    scene.say("!agents").await;
    scene.hear("permission for").await;

    scene.musher.kill_9().await;
    scene.react(&question, "✅").await;
    scene.musher.start();
    scene.hear_within("is merged as").await;
    let shown = scene.ann.latest_text(&question.id).await;
    assert!(shown.contains("Allowed once") && shown.contains(&scene.ann.id), "{shown}");
    scene.assert_landed_once(1, "Greet", "greeting.txt").await;
    let asked = scene.said().await;
    let asked = asked.iter().filter(|event| event.body().contains("asks for permission"));
    assert_eq!(asked.filter(|event| event.edit_of().is_none()).count(), 1, "it is asked once");
}

#[tokio::test]
async fn claude_code_is_denied_allowed_for_the_session_and_answered() {
    let scene = Scene::with(|musher| {
        musher.agent(json!({
            "name": "coder-1", "role": "coder", "runtime": "claude-code",
            "model": "claude-sonnet-4-5", "env": ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"],
        }));
    })
    .await;
    let colours = json!({"questions": [{
        "question": "Which colour?", "header": "Colour", "multiSelect": false,
        "options": [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}],
    }]});
    scene.model.on(move |request| {
        is_agent(request).then(|| match request.answers_since_person() {
            0 => shell(request, "echo wrong > wrong.txt"),
            1 | 2 => shell(request, "cp check.sh greeting.txt"),
            3 => Reply::call("AskUserQuestion", colours.clone()),
            4 => shell(request, COMMIT),
            5 => report(request, "It is written."),
            _ => Reply::text("Done."),
        })
    });
    scene.start_work().await;
    let first = scene.hear_within("wrong.txt").await;
    scene.reply(&first, "deny take another name").await;
    scene.hear_within("Denied").await;
    let second = scene.hear_within("cp check.sh").await;
    assert!(second.body().contains("🔁"), "{}", second.body());
    scene.react(&second, "🔁").await;
    let third = scene.hear_within("Which colour?").await;
    assert!(third.body().contains("Blue"), "{}", third.body());
    let results = scene.results();
    assert!(results[0].contains("take another name"), "{results:?}");
    assert_eq!(results.len(), 3, "the second copy was not asked for: {results:?}");
    scene.react(&third, "2\u{fe0f}\u{20e3}").await;
    scene.hear_within("is merged as").await;
    assert!(scene.results().iter().any(|result| result.contains("Blue")), "{:?}", scene.results());
    scene.assert_landed_once(1, "Greet", "greeting.txt").await;
    assert!(scene.repository.show("main", "wrong.txt").is_none(), "it was denied");
    assert!(scene.model.own_requests().iter().all(|request| !is_coordinator(request)));
}

#[tokio::test]
async fn claude_code_ends_its_turn_without_an_answer_and_goes_on_with_a_late_one() {
    let scene = Scene::with(|musher| {
        musher.set("/chat/permission_timeout_s", json!(2)).agent(json!({
            "name": "coder-1", "role": "coder", "runtime": "claude-code",
            "model": "claude-sonnet-4-5", "env": ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"],
        }));
    })
    .await;
    scene.model.on(|request| {
        is_agent(request).then(|| match request.tool_results().len() {
            // The second time because it was told that it may now.
            0 | 1 => shell(request, WRITE),
            2 => shell(request, &format!("{COMMIT} && echo \"key: $ANTHROPIC_API_KEY\"")),
            3 => report(request, "It is written."),
            _ => Reply::text("Done."),
        })
    });
    scene.start_work().await;
    let question = scene.hear_within("asks for permission").await;
    scene.hear_within("An answer still counts").await;
    until_waiting(&scene).await;
    scene.reply(&question, "allow").await;
    scene.hear_within("is merged as").await;
    scene.assert_landed_once(1, "Greet", "greeting.txt").await;
    let told = scene.model.requests().into_iter().rfind(is_agent).unwrap();
    assert!(told.mentions("allows what you asked for"), "{}", told.summary());
    // The key that the provider gets is not the one that the agent has.
    let results = scene.results();
    assert!(results.iter().any(|result| result.contains("key: musher-")), "{results:?}");
    assert!(!results.iter().any(|result| result.contains("test-key")), "{results:?}");
    assert!(scene.model.claude_requests().iter().all(|request| request.api_key() == "test-key"));
    let cost = scene.musher.call(&["cost", "--json"]).await;
    assert!(cost.succeeded().json().to_string().contains("coder-1"), "what it used is counted");
}
