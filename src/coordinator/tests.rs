use super::*;
use crate::clock::Clock;
use crate::llm::tools::{ToolCaller, ToolOutcome, ToolSpec};
use crate::llm::{Delta, Model, Reply, Request, Stop};
use crate::model::chat::{IncomingBody, Outgoing, OutgoingContent};
use crate::model::event::Event;
use crate::model::llm::Usage;
use crate::store::conversation::CallOwner;
use crate::store::types::Json;
use crate::store::{costs, log, meta};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Instant;

/// What the model does when it is asked.
#[derive(Clone)]
enum Play {
    Say(&'static str),
    Call(&'static str, Value),
    Fail(LlmError),
    /// Streams a little and then never ends.
    Hang(&'static str),
    /// Streams slowly.
    Slow(&'static str, Duration),
}

/// A model that plays its part and remembers what it was asked.
#[derive(Default)]
struct Script {
    plays: Mutex<Vec<Play>>,
    asked: Mutex<Vec<Vec<LlmMessage>>>,
}

#[async_trait]
impl Model for Script {
    async fn attempt(
        &self,
        request: &Request<'_>,
        on: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<Reply, LlmError> {
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(request.messages.to_vec());
            asked.len()
        };
        let play = {
            let mut plays = self.plays.lock().unwrap();
            if plays.len() > 1 { plays.remove(0) } else { plays[0].clone() }
        };
        let (part, stop) = match play {
            Play::Say(text) => {
                on(Delta::Text(text.to_owned()));
                (Part::Text { text: text.to_owned() }, Stop::End)
            }
            Play::Call(name, arguments) => {
                on(Delta::ToolCall { name: name.to_owned() });
                let id = format!("c{number}");
                (Part::ToolCall { id, name: name.to_owned(), arguments }, Stop::ToolCalls)
            }
            Play::Fail(error) => return Err(error),
            Play::Hang(text) => {
                on(Delta::Text(text.to_owned()));
                std::future::pending::<()>().await;
                unreachable!()
            }
            Play::Slow(text, pace) => {
                for word in text.split_inclusive(' ') {
                    on(Delta::Text(word.to_owned()));
                    tokio::time::sleep(pace).await;
                }
                (Part::Text { text: text.to_owned() }, Stop::End)
            }
        };
        Ok(Reply {
            message: LlmMessage { speaker: Speaker::Assistant, parts: vec![part] },
            stop,
            usage: Usage { input: 100, cached: 0, output: 10 },
            cost_microusd: 1000,
        })
    }
}

/// Tools: `add` counts a row in the store, `look` reads, `hang` never ends.
struct Tools {
    store: Store,
    hung: Arc<tokio::sync::Notify>,
}

#[async_trait]
impl ToolHost for Tools {
    fn specs(&self, _: &ToolCaller) -> Vec<ToolSpec> {
        vec![]
    }

    fn is_repeatable(&self, name: &str) -> bool {
        name == "look"
    }

    async fn call(&self, caller: &ToolCaller, id: &str, name: &str, _: Value) -> ToolOutcome {
        let ToolCaller::Coordinator { chat_turn, .. } = caller else { panic!("a coordinator") };
        let (turn, id) = (*chat_turn, id.to_owned());
        match name {
            "add" => {
                let write = self.store.write(move |tx| {
                    let count: i64 =
                        meta::find(tx, "added")?.map_or(0, |text| text.parse().unwrap());
                    meta::set(tx, "added", &(count + 1).to_string())?;
                    let text = format!("added: {}", count + 1);
                    conversation::finish_call(tx, CallOwner::Chat(turn), &id, &text, false)?;
                    Ok::<_, StoreError>(text)
                });
                ToolOutcome::ok(write.await.unwrap())
            }
            "look" => ToolOutcome::ok("nothing new"),
            "hang" => {
                self.hung.notify_one();
                std::future::pending().await
            }
            other => ToolOutcome::error(format!("there is no tool {other}")),
        }
    }
}

struct OneProject;

impl Projects for OneProject {
    fn current(&self, _: &Connection, _: &RoomKey) -> Result<Option<ProjectName>, StoreError> {
        Ok(Some("demo".into()))
    }

    fn names(&self) -> Vec<ProjectName> {
        vec!["demo".into()]
    }
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
    script: Arc<Script>,
    coordinator: Coordinator,
    hung: Arc<tokio::sync::Notify>,
    steer: Mutex<Option<mpsc::Sender<Incoming>>>,
}

fn room() -> SessionKey {
    SessionKey::main("!a:hs".into())
}

fn now() -> DateTime<Utc> {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

impl World {
    fn new(plays: Vec<Play>) -> Self {
        Self::with(plays, |_| {})
    }

    fn with(plays: Vec<Play>, adapt: impl FnOnce(&mut Config)) -> Self {
        Self::open(tempfile::tempdir().unwrap(), plays, adapt)
    }

    fn open(dir: tempfile::TempDir, plays: Vec<Play>, adapt: impl FnOnce(&mut Config)) -> Self {
        let store = Store::open(dir.path(), Clock::fixed(now())).unwrap();
        let mut config: Config =
            toml::from_str("[llm]\nprovider = \"anthropic\"\nmodel = \"m\"").unwrap();
        adapt(&mut config);
        let script = Arc::new(Script { plays: Mutex::new(plays), ..Script::default() });
        let hung = Arc::new(tokio::sync::Notify::new());
        let tools = Tools { store: store.clone(), hung: Arc::clone(&hung) };
        let coordinator = Coordinator::new(
            store.clone(),
            Arc::new(config),
            Llm::from_model(Arc::clone(&script) as Arc<dyn Model>, "m"),
            Arc::new(tools),
            Prompts::default(),
            Arc::new(OneProject),
        );
        Self { dir, store, script, coordinator, hung, steer: Mutex::default() }
    }

    /// The process dies and starts again, with other plays.
    fn crash(self, plays: Vec<Play>) -> Self {
        self.store.close();
        Self::open(self.dir, plays, |_| {})
    }

    fn journal(&self, number: i64, text: &str) -> Incoming {
        let incoming = Incoming {
            key: format!("${number}").into(),
            session: room(),
            sender: "@ada:hs".into(),
            sender_name: "Ada".into(),
            sent_at: now(),
            addressed: true,
            body: IncomingBody::Text { text: text.into(), reply_to: None },
        };
        let row = incoming.clone();
        let insert = move || self.store.write_blocking(move |tx| inbox::insert(tx, &row));
        std::thread::scope(|scope| scope.spawn(insert).join().unwrap()).unwrap();
        incoming
    }

    async fn run(&self, batch: Vec<Incoming>, cancel: &CancellationToken) -> TurnEnd {
        let (steering, steer) = mpsc::channel(8);
        *self.steer.lock().unwrap() = Some(steering);
        let input = TurnInput { session: room(), batch, steer };
        self.coordinator.run_turn(input, cancel.clone()).await.unwrap()
    }

    async fn ask(&self, number: i64, text: &str) -> TurnEnd {
        let incoming = self.journal(number, text);
        self.run(vec![incoming], &CancellationToken::new()).await
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> T {
        self.store.read_blocking(work).unwrap()
    }

    /// What was posted, edits marked.
    fn posted(&self) -> Vec<String> {
        self.read(|conn| {
            let mut statement = conn.prepare("SELECT outgoing FROM outbox ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, Json<Outgoing>>(0))?;
            rows.map(|row| {
                Ok(match row?.0.content {
                    OutgoingContent::Message { markdown, .. } => markdown,
                    OutgoingContent::Edit { markdown, .. } => format!("EDIT {markdown}"),
                    OutgoingContent::Reaction { key, .. } => key,
                })
            })
            .collect()
        })
    }

    fn inbox_states(&self) -> Vec<String> {
        self.read(|conn| {
            let mut statement = conn.prepare("SELECT state FROM inbox ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    fn added(&self) -> String {
        self.read(|conn| meta::find(conn, "added")).unwrap_or_default()
    }

    /// The messages of the model's call `number`, as text.
    fn asked(&self, number: usize) -> Vec<String> {
        let asked = self.script.asked.lock().unwrap();
        asked[number].iter().map(|message| serde_json::to_string(&message.parts).unwrap()).collect()
    }

    fn calls(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_batch_of_three_is_one_call_in_order_and_one_answer() {
    let world = World::new(vec![Play::Say("All three noted.")]);
    let batch = ["one", "two", "three"].iter().enumerate();
    let batch = batch.map(|(number, text)| world.journal(number as i64, text)).collect();
    assert_eq!(world.run(batch, &CancellationToken::new()).await, TurnEnd::Answered);
    assert_eq!(world.calls(), 1);
    let told = world.asked(0).join("\n");
    let at = |text: &str| told.find(text).unwrap();
    assert!(at("one") < at("two") && at("two") < at("three"));
    assert!(told.contains("Ada (@ada:hs)"), "{told}");
    assert_eq!(world.posted(), ["All three noted."]);
    assert_eq!(world.inbox_states(), ["done", "done", "done"]);
    let spent = world.read(|conn| costs::since(conn, DateTime::UNIX_EPOCH));
    assert_eq!((spent.tokens(), spent.microusd), (110, 1000));
}

#[tokio::test]
async fn a_batch_that_was_answered_before_a_crash_is_not_answered_again() {
    let world = World::new(vec![Play::Say("Hello.")]);
    assert_eq!(world.ask(1, "hi").await, TurnEnd::Answered);
    let again = world.journal(1, "hi");
    assert_eq!(world.run(vec![again], &CancellationToken::new()).await, TurnEnd::Nothing);
    assert_eq!((world.posted().len(), world.calls()), (1, 1));
}

#[tokio::test]
async fn a_turn_cut_off_between_steps_goes_on_and_repeats_no_effect() {
    let world = World::new(vec![Play::Call("add", json!({})), Play::Hang("thinking")]);
    let incoming = world.journal(1, "add one");
    {
        let cancel = CancellationToken::new();
        let turn = world.run(vec![incoming], &cancel);
        tokio::pin!(turn);
        while world.calls() < 2 {
            tokio::select! {
                _ = &mut turn => panic!("the turn ended"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        // Dropped here: the process dies.
    }
    let world = world.crash(vec![Play::Say("It is one.")]);
    assert_eq!(world.read(resume_turns), [room()]);
    assert_eq!(world.run(vec![], &CancellationToken::new()).await, TurnEnd::Answered);
    assert_eq!(world.added(), "1");
    assert!(world.asked(0).last().unwrap().contains("added: 1"));
    assert_eq!(world.posted(), ["It is one."]);
    assert_eq!(world.inbox_states(), ["done"]);
    assert!(world.read(resume_turns).is_empty());
}

#[tokio::test]
async fn a_call_whose_outcome_a_crash_hid_is_not_repeated_blindly() {
    let world = World::new(vec![Play::Call("hang", json!({}))]);
    let incoming = world.journal(1, "do it");
    {
        let cancel = CancellationToken::new();
        let turn = world.run(vec![incoming], &cancel);
        tokio::select! {
            _ = turn => panic!("the turn ended"),
            () = world.hung.notified() => {}
        }
    }
    let world = world.crash(vec![Play::Say("I looked.")]);
    assert_eq!(world.run(vec![], &CancellationToken::new()).await, TurnEnd::Answered);
    assert!(world.asked(0).last().unwrap().contains("Outcome unknown"));
}

#[tokio::test]
async fn an_effect_that_was_committed_before_a_crash_is_answered_from_the_store() {
    let world = World::new(vec![Play::Hang("")]);
    // The crash came between the tool's transaction and the results' message.
    world
        .store
        .write(|tx| {
            let session = conversation::ensure_session(tx, &room())?;
            let turn = conversation::open_turn(tx, &room(), session.epoch)?;
            conversation::append(tx, &room(), 0, turn, &LlmMessage::user("add"))?;
            let call = Part::ToolCall { id: "c".into(), name: "add".into(), arguments: json!({}) };
            let message = LlmMessage { speaker: Speaker::Assistant, parts: vec![call] };
            conversation::append(tx, &room(), 0, turn, &message)?;
            let owner = CallOwner::Chat(turn);
            conversation::begin_call(tx, owner, "c", "add", &json!({}))?;
            conversation::finish_call(tx, owner, "c", "added: 1", false)
        })
        .await
        .unwrap();
    let world = world.crash(vec![Play::Say("ok")]);
    assert_eq!(world.run(vec![], &CancellationToken::new()).await, TurnEnd::Answered);
    assert!(world.asked(0).last().unwrap().contains("added: 1"));
    assert_eq!(world.added(), "");
}

#[tokio::test]
async fn stop_ends_a_model_call_and_a_tool_within_two_seconds() {
    for play in [Play::Hang("half a"), Play::Call("hang", json!({}))] {
        let world = World::new(vec![play]);
        let incoming = world.journal(1, "go");
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stop.cancel();
        });
        let began = Instant::now();
        assert_eq!(world.run(vec![incoming], &cancel).await, TurnEnd::Cancelled);
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(world.posted().is_empty());
        assert_eq!(world.inbox_states(), ["done"]);
        // No call is left open: the next turn's conversation is whole.
        world.script.plays.lock().unwrap()[0] = Play::Say("hello again");
        assert_eq!(world.ask(2, "and now?").await, TurnEnd::Answered);
        let told = world.asked(world.calls() - 1).join("\n");
        assert_eq!(told.matches("tool_call").count(), told.matches("tool_result").count());
    }
}

#[tokio::test]
async fn each_limit_ends_a_turn_in_words_that_name_it() {
    let looking = || vec![Play::Call("add", json!({}))];
    for (adapt, expected) in [
        ((|config: &mut Config| config.llm.max_steps = 3) as fn(&mut Config), "3 steps"),
        (|config| config.llm.max_turn_tokens = 200, "200 tokens"),
        (|config| config.llm.max_turn_usd = 0.002, "0.00 USD ([llm]"),
        (|config| config.limits.usd_per_day = Some(0.003), "[limits] usd_per_day"),
        (|config| config.limits.tokens_per_day = Some(300), "[limits] tokens_per_day"),
    ] {
        let world = World::with(looking(), adapt);
        assert_eq!(world.ask(1, "go").await, TurnEnd::Failed);
        let posted = world.posted();
        assert!(posted.last().unwrap().contains(expected), "{posted:?}");
        assert!(world.calls() <= 3, "{expected}: {}", world.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_takes_too_long_ends_in_words() {
    let world = World::with(vec![Play::Hang("")], |config| config.llm.max_turn_seconds = 60);
    assert_eq!(world.ask(1, "go").await, TurnEnd::Failed);
    assert!(world.posted()[0].contains("60 s"), "{:?}", world.posted());
}

#[tokio::test]
async fn a_warning_comes_once_when_little_of_the_day_is_left() {
    let adapt = |config: &mut Config| config.limits.tokens_per_day = Some(250);
    let world = World::with(vec![Play::Say("yes")], adapt);
    for number in 1..=2 {
        assert_eq!(world.ask(number, "go").await, TurnEnd::Answered);
    }
    assert_eq!(world.posted(), ["yes", "yes"]);
    let world = World::with(
        vec![Play::Call("look", json!({})), Play::Call("add", json!({})), Play::Say("yes")],
        |config| config.limits.tokens_per_day = Some(270),
    );
    world.ask(1, "go").await;
    let warnings =
        world.posted().iter().filter(|text| text.contains("220 tokens of today")).count();
    assert_eq!(warnings, 1, "{:?}", world.posted());
}

#[tokio::test]
async fn the_same_call_with_the_same_result_three_times_ends_the_turn() {
    let world = World::new(vec![Play::Call("look", json!({}))]);
    assert_eq!(world.ask(1, "look").await, TurnEnd::Failed);
    assert_eq!(world.calls(), 3);
    assert!(world.posted()[0].contains("look was called 3 times"), "{:?}", world.posted());
}

#[tokio::test]
async fn what_happened_is_told_once() {
    let world = World::new(vec![Play::Say("ok")]);
    world.ask(1, "first").await;
    let event = Event::Paused {
        what: "Agents that run on claude-code".into(),
        reason: "not logged in".into(),
        project: None,
    };
    world.store.write(move |tx| log::append_event(tx, &event)).await.unwrap();
    world.ask(2, "second").await;
    world.ask(3, "third").await;
    let notes = |number: usize| world.asked(number).join("").matches("not logged in").count();
    assert_eq!((notes(0), notes(1), notes(2)), (0, 1, 1));
    assert!(!world.asked(2).last().unwrap().contains("not logged in"));
}

#[tokio::test]
async fn an_error_is_said_in_words_and_the_question_can_be_asked_again() {
    let refused = LlmError::Unauthorised { detail: "bad key".into() };
    let world = World::new(vec![Play::Fail(refused), Play::Say("Here you are.")]);
    assert_eq!(world.ask(1, "question?").await, TurnEnd::Failed);
    assert!(world.posted()[0].contains("bad key"), "{:?}", world.posted());
    assert_eq!(world.inbox_states(), ["done"]);
    let batch = world.store.write(|tx| inbox::reopen_last_turn(tx, &room())).await.unwrap();
    assert_eq!(world.run(batch, &CancellationToken::new()).await, TurnEnd::Answered);
    assert_eq!(world.asked(1).join("").matches("question?").count(), 1);
    assert_eq!(world.posted()[1], "Here you are.");
}

#[tokio::test]
async fn a_message_during_the_turn_is_given_to_its_next_step() {
    let world =
        World::new(vec![Play::Slow("wait a bit", Duration::from_millis(50)), Play::Say("Blue.")]);
    let (first, second) = (world.journal(1, "paint it"), world.journal(2, "in blue"));
    let cancel = CancellationToken::new();
    let turn = world.run(vec![first], &cancel);
    tokio::pin!(turn);
    while world.calls() < 1 {
        tokio::select! {
            _ = &mut turn => panic!("the turn ended"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    let steer = world.steer.lock().unwrap().clone().unwrap();
    steer.send(second).await.unwrap();
    assert_eq!(turn.await, TurnEnd::Answered);
    assert!(world.asked(1).last().unwrap().contains("in blue"));
    assert_eq!(world.posted(), ["wait a bit\n\nBlue."]);
    assert_eq!(world.inbox_states(), ["done", "done"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_grows_by_edits_of_one_message_and_the_last_state_is_whole() {
    let text = "one two three four five six seven eight nine ten";
    let world = World::new(vec![Play::Slow(text, Duration::from_secs(2))]);
    assert_eq!(world.ask(1, "count").await, TurnEnd::Answered);
    let posted = world.posted();
    assert_eq!(posted[0], "one two");
    assert!(posted.len() >= 4 && posted.len() <= 8, "{posted:?}");
    assert!(posted[1..].iter().all(|text| text.starts_with("EDIT ")), "{posted:?}");
    assert_eq!(posted.last().unwrap(), &format!("EDIT {text}"));
}

#[tokio::test]
async fn reset_begins_a_new_conversation() {
    let world = World::new(vec![Play::Say("ok")]);
    world.ask(1, "old topic").await;
    world.store.write(|tx| reset(tx, &room())).await.unwrap();
    world.ask(2, "new topic").await;
    assert!(!world.asked(1).join("").contains("old topic"));
}

#[tokio::test]
async fn a_conversation_that_outgrew_the_model_is_shortened_and_asked_again() {
    let full = LlmError::ContextFull { detail: "too long".into() };
    let world = World::new(vec![Play::Say("noted"), Play::Fail(full), Play::Say("ok")]);
    world.ask(1, "remember #7").await;
    assert_eq!(world.ask(2, "and now").await, TurnEnd::Answered);
    let told = world.asked(2);
    assert!(told[0].contains("<summary") && told[0].contains("#7"), "{told:?}");
    assert!(told.last().unwrap().contains("and now"));
    assert_eq!(world.posted(), ["noted", "ok"]);
}

#[tokio::test]
async fn a_turn_that_broke_is_ended_in_the_store_and_can_be_asked_again() {
    let world = World::new(vec![Play::Hang("")]);
    let incoming = world.journal(1, "go");
    {
        let cancel = CancellationToken::new();
        let turn = world.run(vec![incoming], &cancel);
        tokio::pin!(turn);
        while world.calls() < 1 {
            tokio::select! {
                _ = &mut turn => panic!("the turn ended"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }
    world.store.write(|tx| abandon(tx, &room(), false)).await.unwrap();
    assert!(world.read(resume_turns).is_empty());
    assert_eq!(world.inbox_states(), ["done"]);
    let batch = world.store.write(|tx| inbox::reopen_last_turn(tx, &room())).await.unwrap();
    assert_eq!(batch.len(), 1);
}
