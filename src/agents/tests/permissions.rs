//! Turns that wait for people.

use super::super::asks::{self, AnswerError, Permit, Question};
use super::*;
use crate::model::chat::OutgoingContent;
use crate::model::ids::{PersonId, RequestId as Id};
use crate::model::item::{Kind, Origin, OriginKind, QaMode};
use crate::model::stage::Stage;
use crate::store::requests::{self, Request, RequestState};
use crate::store::{items, outbox};

fn ask(id: &str, tool: &str, input: Value) -> Do {
    let (request, tool) = (RequestId(id.to_owned()), tool.to_owned());
    Do::Say(RuntimeEvent::Ask { request, tool, input })
}

fn curl(id: &str, url: &str) -> Do {
    ask(id, "Bash", json!({"command": format!("curl {url}"), "description": id}))
}

fn over() -> Do {
    Do::Say(RuntimeEvent::TurnEnd(TurnOutcome::Interrupted))
}

fn ann() -> PersonId {
    "@ann:hs".into()
}

fn deny(why: &str) -> Permit {
    Permit::Deny { why: why.to_owned() }
}

impl World {
    /// A world whose item 1 has a room.
    async fn asking() -> Self {
        let world = World::new();
        world
            .write(|tx| {
                let origin = Origin::new(OriginKind::User, "@ann:hs", chrono::Utc::now()).unwrap();
                let new = items::NewRow {
                    project: &"demo".into(),
                    kind: Kind::Story,
                    name: "Shop",
                    body: "",
                    epic: None,
                    parent: None,
                    agent: None,
                    qa: QaMode::Gates,
                    origin: &origin,
                    room: Some(&"!r:hs".into()),
                    stage: &Stage::Backlog,
                };
                items::insert(tx, &new, "filed")
            })
            .await;
        world
    }

    async fn request(&self, id: i64) -> Option<Request> {
        self.write(move |tx| requests::find(tx, Id(id))).await
    }

    async fn asked(&self, id: i64) -> Request {
        for _ in 0..100 {
            if let Some(request) = self.request(id).await {
                return request;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("request {id} was not made: {:?}", self.events().await);
    }

    async fn decide(&self, id: i64, permit: Permit) -> Result<String, AnswerError> {
        let request = self.asked(id).await;
        self.store.write(move |tx| asks::decide(tx, &request, &permit, &ann())).await
    }

    async fn answer(&self, id: i64, said: &'static str) -> Result<String, AnswerError> {
        let request = self.asked(id).await;
        self.store.write(move |tx| asks::reply(tx, &request, said, &ann())).await
    }

    fn given(&self) -> Vec<(String, Answer)> {
        self.answers.borrow().clone()
    }

    /// What a message of the room shows now.
    async fn shown(&self, id: i64) -> String {
        let row = self.asked(id).await.asked.outbox.unwrap();
        let all = self.write(|tx| outbox::pending_of(tx, &"!r:hs".into(), 100)).await;
        let texts = all.into_iter().filter_map(|one| match one.outgoing.content {
            OutgoingContent::Message { markdown, .. } if one.id == row => Some(markdown),
            OutgoingContent::Edit { of, markdown, .. } if of == row => Some(markdown),
            _other => None,
        });
        texts.collect::<Vec<_>>().pop().unwrap()
    }

    async fn until_asked(&self, session: AgentSessionId, id: i64) {
        self.asked(id).await;
        for _ in 0..100 {
            if self.find(session).await.state == SessionState::Waiting {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.find(session).await);
    }
}

fn allowed() -> Answer {
    Answer::Allow { edited: None }
}

#[tokio::test(start_paused = true)]
async fn a_turn_waits_for_the_person_and_goes_on_with_the_answer() {
    let world = World::asking().await;
    world.plays(vec![curl("a", "https://x.y"), Do::Answered(1), Do::Report, done()]);
    let session = world.session().await;
    world.run();
    world.until_asked(session, 1).await;
    let waiting = world.find(session).await.waiting.unwrap();
    assert_eq!(waiting.what, WaitingFor::Person);
    assert!(waiting.detail.contains("curl https://x.y"), "{}", waiting.detail);
    let shown = world.shown(1).await;
    for part in
        ["**coder-1**", "#1 Shop", "```sh\ncurl https://x.y\n```", "✅", "🔁", "`deny 1 why`"]
    {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    // People are slower than the watchdog's patience with agents.
    tokio::time::sleep(Duration::from_secs(880)).await;
    world.decide(1, Permit::Once).await.unwrap();
    world.until(session, SessionState::Completed, 1).await;
    assert_eq!(world.given(), [("a".to_owned(), allowed())]);
    assert!(world.shown(1).await.ends_with("**Allowed once** by @ann:hs."));
    let again = world.decide(1, deny("")).await.unwrap_err().to_string();
    assert!(again.contains("@ann:hs has answered it"), "{again}");
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_turn_ends_and_a_later_answer_wakes_the_agent_and_counts_once() {
    let world = World::asking().await;
    world.plays(vec![curl("a", "https://x.y"), Do::Answered(1), over()]);
    world.plays(vec![curl("b", "https://x.y"), Do::Answered(2), curl("c", "https://x.y")]);
    let session = world.session().await;
    world.run();
    tokio::time::sleep(Duration::from_secs(890)).await;
    world.until(session, SessionState::Waiting, 1).await;
    assert!(
        matches!(&world.given()[..], [(id, Answer::Deny { stop: true, .. })] if id == "a"),
        "{:?}",
        world.given()
    );
    assert!(world.shown(1).await.contains("An answer still counts"));
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(world.turns_of(session).await.len(), 1, "it waits and costs nothing");

    world.decide(1, Permit::Once).await.unwrap();
    assert_eq!(world.asked(2).await.state, RequestState::Open, "the second time is asked anew");
    assert_eq!(world.given()[1], ("b".to_owned(), allowed()));
    let heard = hold(&world.heard).clone();
    assert!(heard[1].contains("@ann:hs allows what you asked for"), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_allowed_for_the_session_is_not_asked_again_and_runners_never_are() {
    let world = World::asking().await;
    let line = |id: &str, line: &str| ask(id, "Bash", json!({"command": line}));
    world.plays(vec![
        line("a", "cargo add serde"),
        Do::Answered(1),
        line("b", "cargo add tokio && ls"),
        Do::Answered(2),
        line("c", "sh -c 'cargo add x'"),
        Do::Answered(3),
        Do::Report,
        done(),
    ]);
    let session = world.session().await;
    world.run();
    world.decide(1, Permit::Session).await.unwrap();
    world.asked(2).await;
    assert_eq!(world.given(), [("a".to_owned(), allowed()), ("b".to_owned(), allowed())]);
    assert!(!world.shown(2).await.contains("🔁"), "{}", world.shown(2).await);
    let refused = world.decide(2, Permit::Session).await.unwrap_err().to_string();
    assert!(refused.contains("only once"), "{refused}");
    world.decide(2, deny("never")).await.unwrap();
    world.until(session, SessionState::Completed, 1).await;
    let denied = &world.given()[2].1;
    assert!(
        matches!(denied, Answer::Deny { message, stop: false } if message.contains("never")),
        "{denied:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_are_kept_apart_and_withdrawn_and_ended_ones_are_closed_in_the_room() {
    let world = World::asking().await;
    world.plays(vec![
        curl("a", "https://one"),
        curl("b", "https://two"),
        curl("c", "https://three"),
        Do::Say(RuntimeEvent::AskWithdrawn(RequestId("b".to_owned()))),
        Do::Hang,
    ]);
    let session = world.session().await;
    world.run();
    world.until_asked(session, 3).await;
    world.decide(3, Permit::Once).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.given(), [("c".to_owned(), allowed())]);
    assert!(world.shown(2).await.contains("Closed"), "{}", world.shown(2).await);
    assert!(world.decide(2, Permit::Once).await.is_err());
    assert_eq!(world.find(session).await.state, SessionState::Waiting, "one is open still");
    world.agents.stop_item(ItemId(1), "a test").await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.request(1).await.unwrap().state, RequestState::Withdrawn);
    assert!(world.shown(1).await.contains("has ended"), "{}", world.shown(1).await);
}

#[tokio::test(start_paused = true)]
async fn three_denials_in_a_row_stop_the_turn_and_ask_the_person() {
    let world = World::asking().await;
    let denied = |why: &str| {
        let (tool, why) = ("Bash".to_owned(), why.to_owned());
        Do::Say(RuntimeEvent::Denied { tool, why })
    };
    let worked = |ok: bool| {
        let (id, summary) = ("t".to_owned(), String::new());
        Do::Say(RuntimeEvent::ToolEnd { id, ok, summary })
    };
    world.plays(vec![
        denied("rule one"),
        denied("rule two"),
        worked(true),
        denied("rule three"),
        worked(false),
        curl("a", "https://x.y"),
        Do::Answered(1),
        denied("rule four"),
        Do::Hang,
    ]);
    world.plays(vec![Do::Report, done()]);
    let session = world.session().await;
    world.run();
    world.decide(1, deny("")).await.unwrap();
    world.until(session, SessionState::Waiting, 1).await;
    let shown = world.shown(2).await;
    assert!(shown.contains("3 things in a row") && shown.contains("rule four"), "{shown}");
    world.answer(2, "Use the mirror.").await.unwrap();
    world.until(session, SessionState::Completed, 2).await;
    let heard = hold(&world.heard).clone();
    assert!(heard[1].contains("Use the mirror."), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn questions_of_a_runtime_are_answered_by_number_or_words() {
    let world = World::asking().await;
    let question = |text: &str, several: bool| Question {
        text: text.to_owned(),
        options: vec!["Tabs".to_owned(), "Spaces".to_owned()],
        several,
    };
    let questions = vec![question("Tabs?", false), question("Both?", true)];
    let request = RequestId("q".to_owned());
    world.plays(vec![
        Do::Say(RuntimeEvent::Question { request, questions }),
        Do::Answered(1),
        Do::Report,
        done(),
    ]);
    let session = world.session().await;
    world.run();
    world.until_asked(session, 2).await;
    assert!(world.shown(1).await.contains("1. Tabs\n2. Spaces"), "{}", world.shown(1).await);
    world.answer(2, "1, 2").await.unwrap();
    assert_eq!(world.given(), [], "one of two");
    world.answer(1, "2\u{20e3}").await.unwrap();
    world.until(session, SessionState::Completed, 1).await;
    let answers = [("Tabs?", "Spaces"), ("Both?", "Tabs, Spaces")];
    let answers = answers.map(|(q, a)| (q.to_owned(), a.to_owned())).into();
    assert_eq!(world.given(), [("q".to_owned(), Answer::Choice(answers))]);
}

#[tokio::test(start_paused = true)]
async fn what_a_person_sees_cannot_be_faked_by_what_is_asked_for() {
    let world = World::asking().await;
    let command = "true\n```\n✅ **Allowed**\n```\u{202e}x\u{1b}[2K";
    world.plays(vec![ask("a", "Bash", json!({"command": command}))]);
    world.session().await;
    world.run();
    let shown = world.shown(1).await;
    assert!(shown.contains("````sh\ntrue\n```"), "{shown}");
    assert!(shown.contains("\\u{202e}x\\u{1b}[2K\n````"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn where_no_room_hears_it_is_denied_and_the_agent_goes_on() {
    let world = World::new();
    world.plays(vec![curl("a", "https://x.y"), Do::Answered(1), Do::Report, done()]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Completed, 1).await;
    assert!(matches!(&world.given()[0].1, Answer::Deny { stop: false, .. }));
}
