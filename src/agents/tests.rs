//! The service with a scripted runtime, under paused time.
#![allow(clippy::wildcard_enum_match_arm)] // a test picks the one event that it is about

use super::process::{ExitReport, Ladder};
use super::runtime::{
    Answer, Caps, Delivery, InterruptOutcome, RequestId, SendError, SpawnError, SpawnSpec, Stale,
    TurnOutcome, UserMessage,
};
use super::*;
use crate::clock::Clock;
use crate::llm::tools::{ToolCaller, ToolOutcome, ToolSpec};
use crate::model::agent::{Failure, Role, SessionState, TurnEnd, Waiting, WaitingFor};
use crate::model::event::Event;
use crate::model::llm::Usage;
use crate::store::agents::{AgentSession, NewReport, NewSession, Turn};
use crate::store::pauses::{self, Scope};
use crate::store::{log, meta};
use async_trait::async_trait;
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

mod budgets;
mod limits;
mod permissions;
mod pokes;
mod silence;
mod storms;

/// When the tests begin, unless they say otherwise.
const NOON: &str = "2026-11-21T12:00:00Z";

fn merged(mut into: Value, more: Value) -> Value {
    into.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    into
}

/// What the scripted runtime does in a turn, step by step.
#[derive(Clone)]
enum Do {
    Say(RuntimeEvent),
    Report,
    Wait(Waiting),
    /// Says nothing more.
    Hang,
    /// Goes on when so many answers were given, over all.
    Answered(usize),
    /// Says nothing for so many seconds.
    Rest(u64),
}

/// What the runtime was answered.
type Answers = Arc<watch::Sender<Vec<(String, Answer)>>>;

struct FakeRuntime {
    store: Store,
    turns: Arc<Mutex<VecDeque<Vec<Do>>>>,
    heard: Arc<Mutex<Vec<String>>>,
    resumed: Arc<Mutex<Vec<Option<String>>>>,
    answers: Answers,
}

struct FakeSession {
    answers: Answers,
    spec: SpawnSpec,
    store: Store,
    turns: Arc<Mutex<VecDeque<Vec<Do>>>>,
    heard: Arc<Mutex<Vec<String>>>,
    events: mpsc::Sender<RuntimeEvent>,
    stopped: Mutex<bool>,
    /// It hangs and takes in nothing more.
    deaf: Arc<Mutex<bool>>,
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Acp
    }

    fn caps(&self) -> Caps {
        Caps { steer: true, approve: true, resume: true, cost: true }
    }

    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError> {
        hold(&self.resumed).push(spec.resume.clone());
        Ok(Arc::new(FakeSession {
            answers: Arc::clone(&self.answers),
            spec,
            store: self.store.clone(),
            turns: Arc::clone(&self.turns),
            heard: Arc::clone(&self.heard),
            events,
            stopped: Mutex::new(false),
            deaf: Arc::default(),
        }))
    }
}

#[async_trait]
impl Session for FakeSession {
    async fn send(&self, message: UserMessage, how: Delivery) -> Result<(), SendError> {
        hold(&self.heard).push(message.text.clone());
        if *hold(&self.deaf) {
            return Ok(());
        }
        let _ = self.events.send(RuntimeEvent::Consumed(message.id)).await;
        if how == Delivery::Steer {
            return Ok(());
        }
        let steps = hold(&self.turns).pop_front().unwrap_or_else(|| vec![Do::Hang]);
        let (events, store, tools) =
            (self.events.clone(), self.store.clone(), Arc::clone(&self.spec.tools));
        let answers = Arc::clone(&self.answers);
        let deaf = Arc::clone(&self.deaf);
        tokio::spawn(async move {
            let ready = RuntimeEvent::Ready {
                native_id: "native-1".to_owned(),
                model: "m".to_owned(),
                bad_tools: vec![],
            };
            let _ = events.send(ready).await;
            for step in steps {
                match step {
                    Do::Say(event) => {
                        let _ = events.send(event).await;
                    }
                    Do::Report => report_by(&store, &tools.agent, tools.item).await,
                    Do::Wait(waiting) => {
                        let session = tools.session;
                        store
                            .write(move |tx| sessions::announce_wait(tx, session, &waiting))
                            .await
                            .unwrap();
                    }
                    Do::Hang => *hold(&deaf) = true,
                    Do::Rest(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                    Do::Answered(count) => {
                        let mut answers = answers.subscribe();
                        answers.wait_for(|given| given.len() >= count).await.unwrap();
                    }
                }
            }
        });
        Ok(())
    }

    async fn withdraw(&self, _id: Uuid) -> Result<bool, SendError> {
        Ok(false)
    }

    async fn interrupt(&self, _deadline: Duration) -> InterruptOutcome {
        InterruptOutcome::Clean
    }

    async fn answer(&self, request: &RequestId, answer: Answer) -> Result<(), Stale> {
        self.answers.send_modify(|given| given.push((request.0.clone(), answer)));
        Ok(())
    }

    async fn stop(&self, _ladder: Ladder) -> ExitReport {
        *hold(&self.stopped) = true;
        ExitReport::default()
    }
}

async fn report(store: &Store, item: ItemId) {
    report_by(store, &"coder-1".into(), item).await;
}

async fn report_by(store: &Store, agent: &AgentName, item: ItemId) {
    let agent = agent.clone();
    store
        .write(move |tx| {
            sessions::record_report(
                tx,
                &NewReport {
                    agent,
                    item,
                    session: None,
                    kind: MailType::WorkerDone,
                    summary: "done".to_owned(),
                    payload: None,
                },
            )
        })
        .await
        .unwrap();
}

struct NoTools;

#[async_trait]
impl ToolHost for NoTools {
    fn specs(&self, _caller: &ToolCaller) -> Vec<ToolSpec> {
        vec![]
    }

    async fn call(&self, _: &ToolCaller, _: &str, _: &str, _: Value) -> ToolOutcome {
        ToolOutcome::ok("")
    }
}

struct Here(std::path::PathBuf);

#[async_trait]
impl Places for Here {
    async fn place(&self, _item: ItemId, _cancel: &CancellationToken) -> anyhow::Result<Place> {
        Ok(Place { project: "demo".into(), dir: self.0.clone() })
    }
}

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    clock: Clock,
    agents: Agents,
    turns: Arc<Mutex<VecDeque<Vec<Do>>>>,
    heard: Arc<Mutex<Vec<String>>>,
    resumed: Arc<Mutex<Vec<Option<String>>>>,
    answers: Answers,
    cancel: CancellationToken,
}

impl World {
    fn with(agent: Value) -> Self {
        Self::configured(agent, json!({}))
    }

    /// Two agents, the first with these settings, and more of the configuration.
    fn configured(agent: Value, more: Value) -> Self {
        let first = json!({"name": "coder-1", "role": "coder", "runtime": "acp"});
        let second = json!({"name": "coder-2", "role": "coder", "runtime": "acp"});
        let config =
            json!({"llm": {"provider": "replay"}, "agents": [merged(first, agent), second]});
        let config: Config = serde_json::from_value(merged(config, more)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(NOON.parse().unwrap());
        let store = Store::open(dir.path(), clock.clone()).unwrap();
        let (turns, heard, resumed) = (Arc::default(), Arc::default(), Arc::default());
        let answers: Answers = Arc::new(watch::Sender::new(vec![]));
        let runtime = FakeRuntime {
            store: store.clone(),
            turns: Arc::clone(&turns),
            heard: Arc::clone(&heard),
            resumed: Arc::clone(&resumed),
            answers: Arc::clone(&answers),
        };
        let places = Arc::new(Here(dir.path().to_owned()));
        let agents =
            Agents::with_runtimes(store.clone(), Arc::new(config), places, vec![Arc::new(runtime)]);
        agents.set_tools(Arc::new(NoTools));
        let cancel = CancellationToken::new();
        Self { _dir: dir, store, clock, agents, turns, heard, resumed, answers, cancel }
    }

    fn new() -> Self {
        Self::with(json!({}))
    }

    fn plays(&self, steps: Vec<Do>) {
        hold(&self.turns).push_back(steps);
    }

    fn run(&self) {
        let (agents, cancel) = (self.agents.clone(), self.cancel.clone());
        tokio::spawn(async move { agents.run(cancel).await });
    }

    async fn session(&self) -> AgentSessionId {
        self.session_of("coder-1", 1).await
    }

    async fn session_of(&self, agent: &'static str, item: i64) -> AgentSessionId {
        self.write(move |tx| {
            let new = NewSession {
                agent: agent.into(),
                role: Role::Coder,
                runtime: RuntimeKind::Acp,
                item: ItemId(item),
                prompt: "do it".to_owned(),
                resume_native: None,
            };
            Ok(sessions::create_session(tx, &new).unwrap())
        })
        .await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> T {
        self.store.write(work).await.unwrap()
    }

    async fn tell(&self, agent: &str, text: &'static str) -> Result<ItemId, TellError> {
        let agent = AgentName::from(agent);
        self.store.write(move |tx| tell(tx, &agent, "@ann:hs", text)).await
    }

    async fn find(&self, session: AgentSessionId) -> AgentSession {
        self.write(move |tx| Ok(sessions::find_session(tx, session)?.unwrap())).await
    }

    async fn turns_of(&self, session: AgentSessionId) -> Vec<Turn> {
        self.write(move |tx| sessions::turns_of_session(tx, session)).await
    }

    /// Waits until the session stands in `state` with `turns` settled turns.
    async fn until(&self, session: AgentSessionId, state: SessionState, turns: usize) {
        for _ in 0..700 {
            let found = self.find(session).await;
            let settled =
                self.turns_of(session).await.iter().filter(|t| t.result.is_some()).count();
            if found.state == state && settled == turns {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("{:#?}\n{:#?}", self.find(session).await, self.turns_of(session).await);
    }

    async fn events(&self) -> Vec<Event> {
        let rows = self.write(|tx| log::events_after(tx, 0, 100)).await;
        rows.into_iter().map(|row| row.event).collect()
    }

    /// What the watchdog said.
    async fn watched(&self) -> Vec<String> {
        let said = self.events().await.into_iter().filter_map(|event| match event {
            Event::Watched { what, .. } => Some(what),
            _other => None,
        });
        said.collect()
    }

    async fn count(&self, is: fn(&Event) -> bool) -> usize {
        self.events().await.iter().filter(|event| is(event)).count()
    }

    /// Waits until `is` holds.
    async fn until_true(&self, what: &str, mut is: impl AsyncFnMut(&Self) -> bool) {
        for _ in 0..700 {
            if is(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("in vain for {what}: {:#?}", self.events().await);
    }

    async fn deaths(&self) -> Vec<String> {
        let events = self.events().await;
        let reasons = events.into_iter().filter_map(|event| match event {
            Event::WorkerDied { reason, .. } => Some(reason),
            _other => None,
        });
        reasons.collect()
    }
}

fn done() -> Do {
    Do::Say(RuntimeEvent::TurnEnd(TurnOutcome::Done))
}

fn failed(failure: Failure) -> Do {
    let message = "it failed".to_owned();
    Do::Say(RuntimeEvent::TurnEnd(TurnOutcome::Failed { failure, message }))
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_prompt_is_run_and_its_report_completes_it() {
    let world = World::new();
    let usage = Usage { input: 10, cached: 0, output: 5 };
    world.plays(vec![
        Do::Say(RuntimeEvent::Text("working".to_owned())),
        Do::Say(RuntimeEvent::Used { usage, microusd: 70, model: "m".to_owned() }),
        Do::Report,
        done(),
    ]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Completed, 1).await;
    let result = world.turns_of(session).await[0].result.clone().unwrap();
    assert_eq!((result.end, result.cost_microusd), (TurnEnd::Clean, 70));
    assert!(result.report.is_some());
    assert_eq!(world.find(session).await.native_id.as_deref(), Some("native-1"));
    let events = world.events().await;
    assert!(matches!(events[..], [Event::TurnFinished { .. }]), "{events:?}");
    let spent =
        world.write(|tx| crate::store::costs::of_name_on_item(tx, "coder-1", ItemId(1))).await;
    assert_eq!((spent.tokens(), spent.microusd), (15, 70));
    let leases: i64 = world
        .write(|tx| Ok(tx.query_row("SELECT count(*) FROM agent_leases", [], |row| row.get(0))?))
        .await;
    assert_eq!(leases, 0);
    assert!(hold(&world.agents.inner.live).is_empty(), "its runtime is down");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_forgets_to_report_is_asked_once_and_then_counts_as_dead_once() {
    let world = World::new();
    world.plays(vec![done()]);
    world.plays(vec![done()]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Completed, 2).await;
    let turns = world.turns_of(session).await;
    assert!(turns[1].prompt.contains("without a report"), "{}", turns[1].prompt);
    assert!(turns[1].result.as_ref().unwrap().contract_violation);
    assert_eq!(world.deaths().await.len(), 1);
    assert_eq!(*hold(&world.resumed), [None], "the second turn used the same runtime");
}

#[tokio::test(start_paused = true)]
async fn a_report_from_before_the_turn_does_not_count() {
    let world = World::new();
    report(&world.store, ItemId(1)).await;
    world.plays(vec![done()]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::InTurn, 1).await;
    assert_eq!(world.turns_of(session).await[0].result.as_ref().unwrap().report, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_turn_is_ended_and_the_session_given_up() {
    let world = World::with(json!({"stall_timeout_s": 60}));
    world.plays(vec![Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Zombie, 1).await;
    assert_eq!(world.turns_of(session).await[0].result.as_ref().unwrap().end, TurnEnd::Stalled);
    assert_eq!(world.deaths().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_session_is_left_alone_until_mail_wakes_it() {
    let world = World::new();
    let waiting = Waiting { what: WaitingFor::Reply, until: None, detail: "mail".to_owned() };
    world.plays(vec![Do::Wait(waiting), done()]);
    world.plays(vec![Do::Report, done()]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Waiting, 1).await;
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert_eq!(world.find(session).await.state, SessionState::Waiting);
    assert_eq!(
        world.tell("coder-1", "use /tmp @home").await.unwrap(),
        world.find(session).await.item
    );
    world.until(session, SessionState::Completed, 2).await;
    assert!(hold(&world.heard)[1].contains("use /tmp @home"));
    let unread = world.write(|tx| mail::has_waiting(tx, "coder-1", i64::MAX)).await;
    assert!(!unread, "the mail was acknowledged");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_to_a_running_turn_steers_it() {
    let world = World::new();
    world.plays(vec![Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::InTurn, 0).await;
    world.tell("coder-1", "stop that").await.unwrap();
    for _ in 0..100 {
        if hold(&world.heard).len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(hold(&world.heard)[1].contains("stop that"));
    assert!(matches!(world.tell("coder-9", "x").await, Err(TellError::NoWork(_))));
    assert!(matches!(world.tell("coder-1", " ").await, Err(TellError::Empty)));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_the_session_until_it_is_over() {
    let world = World::new();
    let until = world.clock.now() + TimeDelta::hours(2);
    world.plays(vec![Do::Say(RuntimeEvent::TurnEnd(TurnOutcome::RateLimited(Some(until))))]);
    world.plays(vec![Do::Report, done()]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Waiting, 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.turns_of(session).await.len(), 1);
    world.clock.set(until + TimeDelta::seconds(1));
    world.until(session, SessionState::Completed, 2).await;
    let limited = world.events().await;
    let limited = limited.iter().filter(|event| matches!(event, Event::RateLimited { .. }));
    assert_eq!(limited.count(), 1);
    assert_eq!(hold(&world.resumed)[1].as_deref(), Some("native-1"));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_not_logged_in_is_paused_and_said_once() {
    let world = World::new();
    world.plays(vec![failed(Failure::Auth)]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Zombie, 1).await;
    let again = world.session().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.turns_of(again).await.len(), 0, "nothing starts any more");
    let events = world.events().await;
    let paused = events.iter().filter(|event| matches!(event, Event::Paused { .. }));
    assert_eq!(paused.count(), 1);
    assert_eq!(world.deaths().await.len(), 0);
    let scope = Scope::Runtime(RuntimeKind::Acp, None);
    let paused = world.write(move |tx| pauses::find(tx, &scope)).await;
    assert_eq!(paused.unwrap().reason, "it failed");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_item_has_no_agent_and_nobody_is_told_that_it_died() {
    let world = World::new();
    world.plays(vec![Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::InTurn, 0).await;
    let report = world.agents.stop_item(ItemId(1), "stopped by @ann:hs").await.unwrap();
    assert!(report.was_running && report.survivors.is_empty());
    assert_eq!(world.find(session).await.state, SessionState::Completed);
    let result = world.turns_of(session).await[0].result.clone().unwrap();
    assert_eq!(result.end, TurnEnd::Stopped { why: "stopped by @ann:hs".to_owned() });
    assert_eq!(world.deaths().await.len(), 0);
    let nothing = world.agents.stop_item(ItemId(1), "again").await.unwrap();
    assert_eq!(nothing, StopReport::default());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_the_session_go_on_after_the_next_start() {
    let world = World::new();
    world.plays(vec![Do::Hang]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::InTurn, 0).await;
    world.cancel.cancel();
    world.until(session, SessionState::BetweenTurns, 1).await;
    let found = world.find(session).await;
    let prompt = found.pending_prompt.unwrap();
    assert!(prompt.contains("the server shut down") && prompt.ends_with("do it"), "{prompt}");
    assert_eq!(found.recoveries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_turn_cut_off_by_a_crash_goes_on_once_and_is_given_up_without_progress() {
    let world = World::new();
    let session = world.session().await;
    let cut_off = |state| {
        move |tx: &Tx<'_>| {
            let turn = sessions::begin_turn(tx, session)?.unwrap();
            sessions::move_state(tx, session, state)?;
            sessions::append_turn_event(tx, turn, session, "text", "I begin")
        }
    };
    world.write(cut_off(SessionState::InTurn)).await;
    world.agents.reconcile().await.unwrap();
    let found = world.find(session).await;
    assert_eq!((found.state, found.recoveries), (SessionState::BetweenTurns, 1));
    assert!(found.pending_prompt.unwrap().starts_with("You were cut off"));
    world.agents.reconcile().await.unwrap();
    assert_eq!(world.find(session).await.recoveries, 1, "repeating it changes nothing");
    world.write(cut_off(SessionState::InTurn)).await;
    world.agents.reconcile().await.unwrap();
    assert_eq!(world.find(session).await.state, SessionState::Zombie);
    world.agents.reconcile().await.unwrap();
    assert_eq!(world.deaths().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_no_model_saw_is_said_again_as_it_was() {
    let world = World::new();
    let session = world.session().await;
    world.write(move |tx| sessions::begin_turn(tx, session)).await.unwrap();
    world.agents.reconcile().await.unwrap();
    let found = world.find(session).await;
    assert_eq!(found.pending_prompt.as_deref(), Some("do it"));
    world.plays(vec![Do::Report, done()]);
    world.run();
    world.until(session, SessionState::Completed, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_report_made_before_the_crash_completes_the_session() {
    let world = World::new();
    let session = world.session().await;
    world.write(move |tx| sessions::begin_turn(tx, session)).await.unwrap();
    report(&world.store, ItemId(1)).await;
    world.agents.reconcile().await.unwrap();
    assert_eq!(world.find(session).await.state, SessionState::Completed);
    assert_eq!(world.deaths().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn limits_end_a_session_and_say_which() {
    let world = World::with(json!({"max_turns": 1, "max_tokens": 100}));
    let usage = Usage { input: 99, cached: 0, output: 5 };
    world.plays(vec![Do::Say(RuntimeEvent::Used { usage, microusd: 0, model: "m".to_owned() })]);
    let session = world.session().await;
    world.run();
    world.until(session, SessionState::Zombie, 1).await;
    assert!(world.deaths().await[0].contains("100 tokens"));
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_while_everything_is_stopped() {
    let world = World::new();
    world.write(|tx| meta::set(tx, meta::STOPPED_ALL, "@ann:hs")).await;
    let session = world.session().await;
    world.run();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.turns_of(session).await.len(), 0);
    world.plays(vec![Do::Report, done()]);
    world.write(|tx| meta::remove(tx, meta::STOPPED_ALL)).await;
    world.until(session, SessionState::Completed, 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_brake_holds_a_storm_of_starts() {
    let world = World::new();
    for _ in 0..40 {
        world.plays(vec![failed(Failure::Provider)]);
    }
    let session = world.session().await;
    world.run();
    // The clock of the database stands still, so that each pause is over at once.
    for _ in 0..60 {
        let now = world.clock.now();
        world.clock.set(now + TimeDelta::hours(1));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let turns = world.turns_of(session).await.len();
    assert!(turns <= 10, "{turns} turns in half a minute");
}
