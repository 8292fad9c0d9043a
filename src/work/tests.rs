//! The loops, step by step, over a real store and a fake outside.

mod assigning;
mod epics;
mod flow;
mod functions;
mod interleaving;
mod lead;
mod mergemaster;
mod outside;
mod preconditions;
mod records;
mod review;
mod stopped;
mod tidying;
mod whole;
mod why;

use super::service::Outside;
use super::world::{Checked, DiffSummary, FailedGate, GateOutcome, Leftovers, Trouble, World};
use super::*;
use crate::clock::{Clock, from_millis};
use crate::config::Config;
use crate::model::agent::{SessionState, TurnEnd, TurnResult, Waiting, WaitingFor};
use crate::model::event::Event;
use crate::model::llm::Usage;
use crate::model::mail::MailType;
use crate::model::stage::MergeFailureKind;
use crate::project::git::FileChange;
use crate::store::agents::{AgentSession, NewReport};
use crate::store::pauses::Scope;
use crate::store::{Store, log};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// Something that a person does with an item.
type Act = fn(&Tx<'_>, ItemId) -> Result<(), WorkError>;

/// When every test begins.
const BEGIN_MS: i64 = 1_780_000_000_000;

/// The outside, as the test says it is.
#[derive(Default)]
struct Fake {
    checked: Mutex<HashMap<ItemId, Checked>>,
    gates: Mutex<HashMap<ItemId, GateOutcome>>,
    /// Why an item's work cannot be looked at.
    trouble: Mutex<HashMap<ItemId, Trouble>>,
    removed: Mutex<Vec<ItemId>>,
    /// Why no worktree can be removed.
    stuck: Mutex<Option<String>>,
    /// What is kept of the worktrees that are removed.
    kept: Mutex<Kept>,
    /// Why what was paused is still so.
    still: Mutex<Option<String>>,
    /// The head of an item's branch, where it is not the commit that was checked.
    tips: Mutex<HashMap<ItemId, String>>,
}

#[async_trait]
impl World for Fake {
    async fn check(&self, item: &Item) -> Result<Checked, Trouble> {
        let known = self.checked.lock().unwrap().get(&item.id).cloned();
        known.ok_or_else(|| Trouble { words: "git does not answer".to_owned(), pauses: None })
    }

    async fn run_gates(
        &self,
        item: &Item,
        _commit: &str,
        _cancel: &CancellationToken,
    ) -> Result<GateOutcome, Trouble> {
        if let Some(trouble) = self.trouble.lock().unwrap().get(&item.id) {
            return Err(trouble.clone());
        }
        Ok(self.gates.lock().unwrap().get(&item.id).cloned().unwrap_or_default())
    }

    async fn tip(&self, item: &Item) -> anyhow::Result<Option<String>> {
        Ok(self.tips.lock().unwrap().get(&item.id).cloned())
    }

    async fn diff_summary(&self, _item: &Item, _commit: &str) -> anyhow::Result<DiffSummary> {
        let file = |path: &str, lines: Option<(u64, u64)>| FileChange {
            path: path.to_owned(),
            added: lines.map(|(added, _)| added),
            removed: lines.map(|(_, removed)| removed),
        };
        let files = vec![file("logo.png", None), file("src/add.rs", Some((12, 3)))];
        Ok(DiffSummary { files, commits: 2 })
    }

    async fn stop_agents(&self, _item: ItemId, _why: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn remove_worktree(&self, _project: &ProjectName, item: ItemId) -> anyhow::Result<Kept> {
        if let Some(why) = self.stuck.lock().unwrap().clone() {
            anyhow::bail!(why);
        }
        self.removed.lock().unwrap().push(item);
        Ok(self.kept.lock().unwrap().clone())
    }

    async fn still(&self, _scope: &Scope) -> Option<String> {
        self.still.lock().unwrap().clone()
    }
}

/// A store with a project, agents, and the service over it.
struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    clock: Clock,
    now_ms: i64,
    world: Arc<Fake>,
    service: WorkService,
}

const CONFIG: &str = r#"
[llm]
provider = "replay"
[[agents]]
name = "coder-1"
role = "coder"
runtime = "replay"
[[agents]]
name = "coder-2"
role = "coder"
runtime = "replay"
[[agents]]
name = "qa-1"
role = "qa"
runtime = "replay"
"#;

impl Bench {
    fn new() -> Self {
        Self::with("")
    }

    /// A bench whose configuration has `more` after the agents.
    fn with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(from_millis(BEGIN_MS));
        let store = Store::open(dir.path(), clock.clone()).unwrap();
        on_a_thread(|| {
            store.write_blocking(|tx| {
                tx.execute(
                    "INSERT INTO projects (name, path, base, settings, source, created_at)
                     VALUES ('demo', '/demo', 'main', ?1, 'config', 0)",
                    [r#"{"name": "demo", "path": "/demo", "gates": ["make test"]}"#],
                )?;
                tx.execute("INSERT INTO rooms (room, project) VALUES ('!demo', 'demo')", [])?;
                Ok::<(), StoreError>(())
            })
        })
        .unwrap();
        let config: Config = toml::from_str(&format!("{CONFIG}{more}")).unwrap();
        let world = Arc::new(Fake::default());
        let service = WorkService::new(store.clone(), Arc::new(config), world.clone());
        Self { _dir: dir, store, clock, now_ms: BEGIN_MS, world, service }
    }

    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, WorkError> {
        on_a_thread(|| self.store.write_blocking(work))
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, WorkError>) -> T {
        self.store.read_blocking(work).unwrap()
    }

    fn wait_ms(&mut self, span_ms: i64) {
        self.now_ms += span_ms;
        self.clock.set(from_millis(self.now_ms));
    }

    /// Files a story, with `change` made to it.
    fn file(&self, change: impl FnOnce(&mut NewItem)) -> ItemId {
        let mut new = story("Add a calculator");
        change(&mut new);
        self.write(|tx| create(tx, new)).unwrap().id
    }

    fn start(&self, id: ItemId) {
        self.write(move |tx| start(tx, id, None, &person())).unwrap();
    }

    async fn pass(&self) -> Outside {
        self.service.pass().await.unwrap()
    }

    /// Passes and looks until nothing is due any more.
    async fn settle(&self) {
        for _ in 0..20 {
            let outside = self.pass().await;
            let mut tidied = false;
            while keeper::step(&self.store, self.world.as_ref()).await.unwrap() {
                tidied = true;
            }
            let asked = outside.holds.iter().all(|hold| hold.asked);
            if outside.due.is_empty() && !outside.more && !tidied && asked {
                return;
            }
            for due in outside.due {
                self.service.check(due, &CancellationToken::new()).await;
            }
            for hold in outside.holds {
                self.service.review(hold.item, &CancellationToken::new()).await;
            }
        }
        panic!("the items do not come to rest");
    }

    fn item(&self, id: ItemId) -> Item {
        self.read(|conn| find(conn, id))
    }

    fn live(&self, id: ItemId) -> Option<AgentSession> {
        self.read(|conn| Ok(sessions::live_session_of(conn, id)?))
    }

    /// What the item's agent was told last.
    fn prompt(&self, id: ItemId) -> String {
        self.live(id).unwrap().pending_prompt.unwrap()
    }

    /// Ends the turn of the item's agent as the runner would: with a report and in `end`.
    fn end_turn(&self, id: ItemId, report: Option<MailType>, end: TurnEnd) {
        let session = self.live(id).unwrap();
        self.write(move |tx| end_turn(tx, &session, report, end)).unwrap();
    }

    /// The agent ends its turn and waits for a person.
    fn waits_for_a_person(&self, id: ItemId) {
        let session = self.live(id).unwrap();
        self.write(move |tx| {
            let turn = sessions::begin_turn(tx, session.id)?.expect("a prompt waits");
            let result = turn_result(TurnEnd::Clean, None, SessionState::Waiting);
            sessions::finish_turn(tx, turn, &result)?;
            let detail = "which colour?".to_owned();
            let waiting = Waiting { what: WaitingFor::Person, until: None, detail };
            sessions::move_to_waiting(tx, session.id, &waiting)?;
            Ok(())
        })
        .unwrap();
    }

    /// Ends the item's session as a stop does, once its processes are gone.
    fn is_ended_by_a_stop(&self, id: ItemId) {
        let session = self.live(id).unwrap().id;
        self.write(move |tx| {
            sessions::move_state(tx, session, SessionState::Zombie)?;
            sessions::close_zombie(tx, session)?;
            Ok(sessions::clear_prompt(tx, session)?)
        })
        .unwrap();
    }

    /// The agent reports that it is done.
    fn report_done(&self, id: ItemId) {
        self.end_turn(id, Some(MailType::WorkerDone), TurnEnd::Clean);
    }

    fn worktree(&self, id: ItemId, commit: Option<&str>, dirty: &[&str]) {
        let checked = Checked {
            commit: commit.map(str::to_owned),
            dirty: dirty.iter().map(|path| (*path).to_owned()).collect(),
            elsewhere: None,
            fingerprint: format!("{dirty:?}"),
        };
        self.world.checked.lock().unwrap().insert(id, checked);
    }

    fn gates_fail(&self, id: ItemId, exit: i32) {
        let failed = FailedGate {
            gate: "make test".to_owned(),
            words: format!("the gate `make test` failed with exit {exit}"),
            tail: "expected 4, got 5".to_owned(),
        };
        let outcome = GateOutcome { failed: Some(failed), left: junk() };
        self.world.gates.lock().unwrap().insert(id, outcome);
    }

    /// The item's work cannot be looked at, or, with `None`, can again.
    fn troubled(&self, id: ItemId, trouble: Option<Trouble>) {
        let mut troubles = self.world.trouble.lock().unwrap();
        match trouble {
            Some(trouble) => troubles.insert(id, trouble),
            None => troubles.remove(&id),
        };
    }

    /// The item's agent uses a tool, in the turn that comes next.
    fn uses_tool(&self, id: ItemId, line: &'static str) {
        let session = self.live(id).unwrap().id;
        self.write(move |tx| {
            let turn = crate::model::ids::TurnId(0);
            Ok(sessions::append_turn_event(tx, turn, session, "tool", line)?)
        })
        .unwrap();
    }

    /// The item's decisions of one kind, newest first.
    fn decided(&self, id: ItemId, what: What) -> Vec<decisions::Decision> {
        let mut all = self.read(|conn| Ok(decisions::of_item(conn, id, 1000)?));
        all.retain(|decision| decision.what == what);
        all
    }

    /// Looks at the pauses that are due.
    async fn look_at_pauses(&self) {
        let pauses = self.pass().await.pauses;
        self.service.look_at_pauses(pauses).await;
    }

    /// The merge queue's answer, as it writes it.
    fn merge_answers(&self, event: Event) {
        self.write(move |tx| {
            if let Event::Merged { item, .. } | Event::MergeFailed { item, .. } = &event {
                tx.execute("DELETE FROM merge_queue WHERE item = ?1", [item])?;
            }
            Ok(log::append_event(tx, &event)?)
        })
        .unwrap();
    }

    fn merge_fails(&self, id: ItemId, kind: MergeFailureKind) {
        let output = "expected 4, got 5".to_owned();
        self.merge_answers(Event::MergeFailed { item: id, kind, output });
    }

    fn queued(&self, id: ItemId) -> bool {
        self.read(|conn| queue::is_queued(conn, id))
    }

    /// What the room heard, in order: `(is it a notice, text)`.
    fn heard(&self) -> Vec<String> {
        self.read(|conn| {
            let mut statement = conn.prepare("SELECT outgoing FROM outbox ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            let mut heard = Vec::new();
            for row in rows {
                let outgoing: serde_json::Value = serde_json::from_str(&row?).unwrap();
                let content = &outgoing["content"];
                heard.push(format!(
                    "{}: {}",
                    content["weight"].as_str().unwrap(),
                    content["markdown"].as_str().unwrap()
                ));
            }
            Ok(heard)
        })
    }
}

/// What the gates leave behind.
fn junk() -> Leftovers {
    Leftovers { paths: vec!["junk.tmp".to_owned()], fingerprint: "junk".to_owned() }
}

/// Runs what blocks on a thread of its own, because the tests that call it run in a runtime.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn end_turn(
    tx: &Tx<'_>,
    session: &AgentSession,
    report: Option<MailType>,
    end: TurnEnd,
) -> Result<(), WorkError> {
    let (id, agent) = (session.id, session.agent.clone());
    let turn = sessions::begin_turn(tx, id)?.expect("a prompt waits");
    let report = match report {
        Some(kind) => Some(sessions::record_report(
            tx,
            &NewReport {
                agent,
                item: session.item,
                session: Some(id),
                kind,
                summary: "looked at it".to_owned(),
                payload: (kind == MailType::QaFailed)
                    .then(|| serde_json::json!({"findings": ["2 + 2 gives 5"]})),
            },
        )?),
        None => None,
    };
    let after = match (&end, report) {
        (TurnEnd::Clean, _) => SessionState::Completed,
        _ => SessionState::Zombie,
    };
    sessions::set_native_id(tx, id, "native-1")?;
    let result = turn_result(end, report, after);
    sessions::finish_turn(tx, turn, &result)?;
    sessions::move_state(tx, id, after)?;
    Ok(())
}

fn turn_result(end: TurnEnd, report: Option<i64>, after: SessionState) -> TurnResult {
    TurnResult {
        end,
        exit_code: Some(0),
        native_id: Some("native-1".to_owned()),
        resume_mismatch: false,
        report,
        duration_ms: 1,
        state_before: SessionState::Booting,
        state_after: after,
        contract_violation: false,
        last_text: String::new(),
        stderr_tail: String::new(),
        warnings: vec![],
        usage: Usage::default(),
        cost_microusd: 0,
    }
}

fn person() -> Origin {
    Origin::new(OriginKind::User, "@you:hs", from_millis(BEGIN_MS)).unwrap()
}

fn story(name: &str) -> NewItem {
    NewItem {
        project: "demo".into(),
        kind: Kind::Story,
        name: name.to_owned(),
        body: "It must add.".to_owned(),
        depends_on: vec![],
        epic: None,
        parent: None,
        agent: None,
        qa: None,
        origin: person(),
        room: None,
    }
}
