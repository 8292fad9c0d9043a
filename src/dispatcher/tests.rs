//! The loop with a real store, virtual time, and fakes for turns, commands and transport.

use super::*;
use crate::chat::{Part, SendError};
use crate::clock::Clock;
use crate::commands::{Caller, Command, FollowUp, Names};
use crate::model::chat::{Incoming, IncomingBody, Outgoing};
use crate::model::ids::{MessageKey, RoomKey, SessionKey};
use crate::store::{StoreError, Tx, inbox, meta, outbox};
use async_trait::async_trait;
use chrono::Utc;
use rusqlite::Connection;
use std::sync::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Remembers what it was asked; a turn ends when it is told to, or cancelled.
#[derive(Default)]
struct FakeTurns {
    store: Mutex<Option<Store>>,
    batches: Mutex<Vec<Vec<String>>>,
    steered: Mutex<Vec<String>>,
    go: Notify,
    /// Whether turns end at once, without being told.
    quick: bool,
    /// Whether a running turn ignores its cancellation.
    deaf: bool,
    /// Whether turns fail.
    broken: bool,
    unfinished: Vec<SessionKey>,
    /// Turns that were ended without an answer.
    abandoned: Mutex<Vec<(SessionKey, Abandoned)>>,
}

fn texts(batch: &[Incoming]) -> Vec<String> {
    let text = |incoming: &Incoming| match &incoming.body {
        IncomingBody::Text { text, .. } => Some(text.clone()),
        IncomingBody::Edit { .. }
        | IncomingBody::Redaction { .. }
        | IncomingBody::Reaction { .. } => None,
    };
    batch.iter().filter_map(text).collect()
}

#[async_trait]
impl TurnRunner for FakeTurns {
    async fn run(&self, mut request: TurnRequest, cancel: CancellationToken) -> anyhow::Result<()> {
        self.batches.lock().unwrap().push(texts(&request.batch));
        let mut keys: Vec<MessageKey> =
            request.batch.iter().map(|incoming| incoming.key.clone()).collect();
        anyhow::ensure!(!self.broken, "broken");
        if !self.quick {
            tokio::select! {
                () = self.go.notified() => {}
                () = cancel.cancelled(), if !self.deaf => {}
            }
        }
        while let Ok(incoming) = request.steer.try_recv() {
            self.steered.lock().unwrap().push(incoming.key.0.clone());
            keys.push(incoming.key);
        }
        let store = self.store.lock().unwrap().clone().unwrap();
        store.write(move |tx| inbox::mark_done(tx, &keys)).await?;
        Ok(())
    }

    async fn unfinished(&self) -> anyhow::Result<Vec<SessionKey>> {
        Ok(self.unfinished.clone())
    }

    fn abandon(&self, _: &Tx<'_>, of: &SessionKey, how: Abandoned) -> Result<(), StoreError> {
        self.abandoned.lock().unwrap().push((of.clone(), how));
        Ok(())
    }

    fn reset(&self, _: &Tx<'_>, _: &SessionKey) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Answers every command with its name.
struct FakeCommands {
    store: Store,
}

#[async_trait]
impl CommandRunner for FakeCommands {
    async fn execute(&self, caller: Caller, command: Command) -> anyhow::Result<Option<FollowUp>> {
        let write = self.store.write(move |tx| {
            let text = format!("did {command:?}");
            let dedup = format!("answer:{}", caller.key);
            outbox::enqueue(tx, &Outgoing::text(caller.session, text), Some(&dedup))?;
            inbox::mark_done(tx, &[caller.key])
        });
        write.await?;
        Ok(None)
    }

    async fn react(&self, caller: Caller, _: MessageKey, _: String) -> anyhow::Result<()> {
        self.store.write(move |tx| inbox::mark_done(tx, &[caller.key])).await?;
        Ok(())
    }

    async fn answer_request(
        &self,
        caller: Caller,
        _: MessageKey,
        text: String,
    ) -> anyhow::Result<bool> {
        let is_verdict = text.starts_with("reject");
        if is_verdict {
            self.store.write(move |tx| inbox::mark_done(tx, &[caller.key])).await?;
        }
        Ok(is_verdict)
    }

    async fn answer_mail(&self, _: Caller, _: MessageKey, _: String) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn stop_runs(&self, _: &SessionKey) -> Vec<String> {
        vec![]
    }

    fn names(&self) -> Names {
        Names::default()
    }
}

#[derive(Default)]
struct FakeTransport {
    typing: Mutex<Vec<bool>>,
}

#[async_trait]
impl Transport for FakeTransport {
    fn serves(&self, _room: &RoomKey) -> bool {
        true
    }

    async fn send(&self, _: &str, _: &SessionKey, _: &Part) -> Result<MessageKey, SendError> {
        Ok("$sent".into())
    }

    async fn typing(&self, _: &RoomKey, typing: bool) {
        self.typing.lock().unwrap().push(typing);
    }

    async fn receipt(&self, _: &SessionKey, _: &MessageKey) {}
}

struct Scene {
    dir: tempfile::TempDir,
    store: Store,
    turns: Arc<FakeTurns>,
    transport: Arc<FakeTransport>,
    typing: Typing,
    cancel: CancellationToken,
    hurry: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    said: usize,
}

fn here() -> SessionKey {
    SessionKey::main("!here".into())
}

impl Scene {
    fn new(turns: FakeTurns) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Clock::system()).unwrap();
        Self::on(dir, store, turns)
    }

    fn on(dir: tempfile::TempDir, store: Store, turns: FakeTurns) -> Self {
        *turns.store.lock().unwrap() = Some(store.clone());
        let turns = Arc::new(turns);
        let transport = Arc::new(FakeTransport::default());
        let typing = Typing::new();
        let dispatcher = Dispatcher {
            store: store.clone(),
            settings: Settings {
                prefix: "!".to_owned(),
                limits: Limits {
                    coalesce: Duration::from_millis(1500),
                    coalesce_max: Duration::from_secs(8),
                    max_parallel: 4,
                },
                queue_mode: QueueMode::Collect,
                queue_cap: 50,
                admins: vec!["@ann:hs".into()],
            },
            registry: Arc::new(Registry::builtin()),
            turns: turns.clone(),
            commands: Arc::new(FakeCommands { store: store.clone() }),
            transport: transport.clone(),
            typing: typing.clone(),
        };
        let (cancel, hurry) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(dispatcher.run(Ends {
            cancel: cancel.clone(),
            hurry: hurry.clone(),
            ..Ends::default()
        }));
        Self { dir, store, turns, transport, typing, cancel, hurry, task, said: 0 }
    }

    async fn say(&mut self, text: &str) -> MessageKey {
        self.say_in(&here(), text).await
    }

    async fn say_in(&mut self, session: &SessionKey, text: &str) -> MessageKey {
        let body = IncomingBody::Text { text: text.to_owned(), reply_to: None };
        self.put(session, body).await
    }

    async fn put(&mut self, session: &SessionKey, body: IncomingBody) -> MessageKey {
        self.said += 1;
        let incoming = Incoming {
            key: MessageKey(format!("${}", self.said)),
            session: session.clone(),
            sender: "@ann:hs".into(),
            sender_name: "Ann".to_owned(),
            sent_at: Utc::now(),
            addressed: true,
            body,
        };
        let key = incoming.key.clone();
        self.store.write(move |tx| inbox::insert(tx, &incoming)).await.unwrap();
        key
    }

    fn batches(&self) -> Vec<Vec<String>> {
        self.turns.batches.lock().unwrap().clone()
    }

    /// Waits until `number` turns were started, and says how long that took.
    async fn turns(&self, number: usize) -> Duration {
        let began = Instant::now();
        while self.batches().len() < number {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", self.batches());
            sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    }

    async fn answers(&self) -> Vec<String> {
        self.read(|conn| {
            let mut statement = conn.prepare("SELECT outgoing FROM outbox ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    /// Waits for an answer that holds `part`, and says how long that took.
    async fn answer(&self, part: &str) -> Duration {
        let began = Instant::now();
        loop {
            let answers = self.answers().await;
            if answers.iter().any(|answer| answer.contains(part)) {
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{answers:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The states of all inbox rows, in order.
    async fn states(&self) -> Vec<String> {
        self.read(|conn| {
            let mut statement = conn.prepare("SELECT state FROM inbox ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        self.store.read(work).await.unwrap()
    }

    /// Ends the process as `kill -9` does, and starts it again.
    async fn crash(self, turns: FakeTurns) -> Self {
        self.task.abort();
        let _ = self.task.await;
        let mut next = Self::on(self.dir, self.store, turns);
        next.said = self.said;
        next
    }
}

#[tokio::test(start_paused = true)]
async fn three_messages_in_a_burst_are_one_turn_with_all_three_in_order() {
    let mut scene = Scene::new(FakeTurns { quick: true, ..FakeTurns::default() });
    for text in ["one", "two", "three"] {
        scene.say(text).await;
        sleep(Duration::from_millis(300)).await;
    }
    scene.turns(1).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.batches(), [["one", "two", "three"]]);
    assert_eq!(scene.states().await, ["done", "done", "done"]);
}

#[tokio::test(start_paused = true)]
async fn eight_messages_during_a_turn_are_exactly_one_more_turn() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("first").await;
    scene.turns(1).await;
    let eight: Vec<String> = (0..8).map(|index| format!("message {index}")).collect();
    for text in &eight {
        scene.say(text).await;
        sleep(Duration::from_secs(2)).await;
    }
    scene.turns.go.notify_one();
    scene.turns(2).await;
    scene.turns.go.notify_one();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.batches(), [vec!["first".to_owned()], eight]);
}

#[tokio::test(start_paused = true)]
async fn status_is_answered_during_a_turn() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("think").await;
    scene.turns(1).await;
    scene.say("!status").await;
    assert!(scene.answer("did Status").await < Duration::from_millis(100));
    assert_eq!(scene.batches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_ends_a_turn_that_listens_and_drops_the_queue() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("think").await;
    scene.turns(1).await;
    scene.say("and then this").await;
    scene.say("stop").await;
    let took = scene.answer("dropped the waiting message `and then this`").await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.batches(), [["think"]]);
    assert_eq!(scene.states().await, ["done", "dropped", "done"]);
}

#[tokio::test(start_paused = true)]
async fn stop_answers_within_two_seconds_even_when_the_turn_does_not_listen() {
    let mut scene = Scene::new(FakeTurns { deaf: true, ..FakeTurns::default() });
    scene.say("think").await;
    scene.turns(1).await;
    scene.say("stop").await;
    let took = scene.answer("Stopped the answer").await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(scene.states().await, ["dropped", "done"]);
    scene.say("next").await;
    scene.turns(2).await;
}

#[tokio::test(start_paused = true)]
async fn stop_with_nothing_to_stop_says_so() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("stop").await;
    scene.answer("Nothing runs here").await;
}

#[tokio::test(start_paused = true)]
async fn typing_extends_the_window_and_its_end_closes_it() {
    let mut scene = Scene::new(FakeTurns { quick: true, ..FakeTurns::default() });
    scene.say("wait for").await;
    scene.typing.set(&"!here".into(), ["@ann:hs".into()]);
    sleep(Duration::from_secs(4)).await;
    assert!(scene.batches().is_empty());
    scene.say("me").await;
    scene.typing.set(&"!here".into(), []);
    let took = scene.turns(1).await;
    assert!(took < Duration::from_millis(300), "{took:?}");
    assert_eq!(scene.batches(), [["wait for", "me"]]);
}

#[tokio::test(start_paused = true)]
async fn sessions_do_not_wait_for_each_other() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("slow").await;
    scene.turns(1).await;
    scene.say_in(&SessionKey::main("!there".into()), "other room").await;
    let thread = SessionKey { room: "!here".into(), thread: Some("$root".into()) };
    scene.say_in(&thread, "a thread").await;
    scene.turns(3).await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_replaces_and_a_redaction_removes_what_still_waits() {
    let mut scene = Scene::new(FakeTurns { quick: true, ..FakeTurns::default() });
    let first = scene.say("helo").await;
    let second = scene.say("oops").await;
    scene.put(&here(), IncomingBody::Edit { of: first, text: "hello".to_owned() }).await;
    scene.put(&here(), IncomingBody::Redaction { of: second }).await;
    scene.turns(1).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.batches(), [["hello"]]);
    assert_eq!(scene.states().await, ["done", "dropped", "done", "done"]);
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_an_answered_message_is_not_a_new_one() {
    let mut scene = Scene::new(FakeTurns { quick: true, ..FakeTurns::default() });
    let first = scene.say("helo").await;
    scene.turns(1).await;
    scene.put(&here(), IncomingBody::Edit { of: first, text: "hello".to_owned() }).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.batches(), [["helo"]]);
    assert_eq!(scene.states().await, ["done", "done"]);
}

#[tokio::test(start_paused = true)]
async fn what_waited_at_a_crash_is_taken_up_after_it_in_order() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("one").await;
    scene.say("two").await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.states().await, ["batched", "batched"]);
    let mut scene = scene.crash(FakeTurns { quick: true, ..FakeTurns::default() }).await;
    scene.say("three").await;
    scene.turns(1).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.batches(), [["one", "two", "three"]]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_was_cut_off_goes_on_before_anything_new() {
    let turns = FakeTurns { unfinished: vec![here()], ..FakeTurns::default() };
    let mut scene = Scene::new(turns);
    scene.turns(1).await;
    scene.say("new").await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.batches(), [Vec::<String>::new()]);
    scene.turns.go.notify_one();
    scene.turns(2).await;
    assert_eq!(scene.batches()[1], ["new"]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_the_emergency_stop_cut_off_does_not_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    store.write(|tx| meta::set(tx, meta::STOPPED_ALL, "@ann:hs")).await.unwrap();
    let turns = FakeTurns { unfinished: vec![here()], ..FakeTurns::default() };
    let mut scene = Scene::on(dir, store, turns);
    // Held, and answered when everything goes on.
    scene.say("new").await;
    scene.answer("Everything is stopped").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.batches(), Vec::<Vec<String>>::new(), "nothing starts");
    assert_eq!(*scene.turns.abandoned.lock().unwrap(), [(here(), Abandoned::Cancelled)]);
    scene.store.write(|tx| meta::remove(tx, meta::STOPPED_ALL).map(drop)).await.unwrap();
    scene.turns(1).await;
    assert_eq!(scene.batches(), [["new"]]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_breaks_is_told_and_leaves_nothing_open() {
    let mut scene = Scene::new(FakeTurns { broken: true, ..FakeTurns::default() });
    scene.say("hello").await;
    scene.answer("Please send it again").await;
    assert_eq!(scene.states().await, ["dropped"]);
}

#[tokio::test(start_paused = true)]
async fn the_typing_notice_is_repeated_during_a_turn_and_taken_back_after_it() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("think").await;
    scene.turns(1).await;
    sleep(Duration::from_secs(10)).await;
    scene.turns.go.notify_one();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*scene.transport.typing.lock().unwrap(), [true, true, true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn steering_gives_messages_to_the_running_turn() {
    let mut scene = Scene::new(FakeTurns::default());
    let room = here().room;
    let set = scene
        .store
        .write(move |tx| crate::store::rooms::set_queue_mode(tx, &room, Some(QueueMode::Steer)));
    set.await.unwrap();
    scene.say("think").await;
    scene.turns(1).await;
    scene.say("and mind this").await;
    sleep(Duration::from_secs(1)).await;
    scene.turns.go.notify_one();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(*scene.turns.steered.lock().unwrap(), ["$2"]);
    assert_eq!(scene.batches().len(), 1);
    assert_eq!(scene.states().await, ["done", "done"]);
}

#[tokio::test(start_paused = true)]
async fn too_long_a_queue_is_condensed_and_every_message_accounted_for() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("think").await;
    scene.turns(1).await;
    for index in 0..120 {
        scene.say(&format!("message {index}")).await;
    }
    scene.turns.go.notify_one();
    scene.turns(2).await;
    scene.turns.go.notify_one();
    sleep(Duration::from_secs(20)).await;
    let second = scene.batches().remove(1);
    assert_eq!(second.len(), 50);
    assert!(second[0].contains("message 0") && second[0].contains("message 70"), "{}", second[0]);
    assert_eq!(second[1], "message 71");
    let states = scene.states().await;
    assert_eq!(states.iter().filter(|state| *state == "done").count(), 51);
    assert_eq!(states.iter().filter(|state| *state == "dropped").count(), 70);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_program_waits_for_turns_until_it_is_in_a_hurry() {
    let mut scene = Scene::new(FakeTurns::default());
    scene.say("think").await;
    scene.turns(1).await;
    scene.cancel.cancel();
    sleep(Duration::from_secs(5)).await;
    assert!(!scene.task.is_finished());
    scene.hurry.cancel();
    scene.task.await.unwrap();
    let open = scene.store.read(inbox::open).await.unwrap();
    assert_eq!(open.len(), 1, "it is resumed after the next start");
}
