//! From start to done through the real pool, the real worktrees, the real gates and the real merge
//! queue; only the model is a script.

use super::*;
use crate::agents::process::{ExitReport, Ladder};
use crate::agents::runtime::{
    AgentTools, Answer, Caps, Delivery, InterruptOutcome, RequestId, Runtime, RuntimeEvent,
    SendError, Session, SpawnError, SpawnSpec, Stale, TurnOutcome, UserMessage,
};
use crate::agents::{Agents, ProjectPlaces};
use crate::config::RuntimeKind;
use crate::llm::tools::{ToolCaller, ToolHost, ToolOutcome, ToolSpec};
use crate::merge::MergeService;
use crate::project::git::{Git, Identity};
use crate::project::shell::{self, End, ShellCommand};
use crate::project::{Registry, worktree};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a whole run may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that runs the next of its commands in the worktree, each turn, and reports.
struct Script {
    turns: Arc<Mutex<Vec<&'static str>>>,
}

struct ScriptSession {
    turns: Arc<Mutex<Vec<&'static str>>>,
    tools: Arc<AgentTools>,
    cwd: PathBuf,
    events: mpsc::Sender<RuntimeEvent>,
}

#[async_trait]
impl Runtime for Script {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Replay
    }

    fn caps(&self) -> Caps {
        Caps { steer: false, approve: false, resume: true, cost: false }
    }

    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError> {
        let (turns, tools, cwd) = (Arc::clone(&self.turns), spec.tools, spec.cwd);
        let ready = RuntimeEvent::Ready {
            native_id: "script".to_owned(),
            model: "script".to_owned(),
            bad_tools: vec![],
        };
        events.send(ready).await.ok();
        Ok(Arc::new(ScriptSession { turns, tools, cwd, events }))
    }
}

#[async_trait]
impl Session for ScriptSession {
    async fn send(&self, message: UserMessage, _how: Delivery) -> Result<(), SendError> {
        let command = self.turns.lock().unwrap().remove(0);
        let (tools, events, cwd) = (Arc::clone(&self.tools), self.events.clone(), self.cwd.clone());
        tokio::spawn(async move {
            events.send(RuntimeEvent::Consumed(message.id)).await.ok();
            run_in(&cwd, command).await;
            tools.call("1", "report_done", serde_json::json!({})).await;
            events.send(RuntimeEvent::TurnEnd(TurnOutcome::Done)).await.ok();
        });
        Ok(())
    }

    async fn withdraw(&self, _id: uuid::Uuid) -> Result<bool, SendError> {
        Ok(false)
    }

    async fn interrupt(&self, _deadline: Duration) -> InterruptOutcome {
        InterruptOutcome::NothingRunning
    }

    async fn answer(&self, _request: &RequestId, _answer: Answer) -> Result<(), Stale> {
        Err(Stale)
    }

    async fn stop(&self, _ladder: Ladder) -> ExitReport {
        self.events.send(RuntimeEvent::Exited(ExitReport::default())).await.ok();
        ExitReport::default()
    }
}

/// Tools of which only `report_done` does something.
struct Reporting(Store);

#[async_trait]
impl ToolHost for Reporting {
    fn specs(&self, _caller: &ToolCaller) -> Vec<ToolSpec> {
        vec![]
    }

    async fn call(
        &self,
        caller: &ToolCaller,
        _call_id: &str,
        _name: &str,
        _arguments: serde_json::Value,
    ) -> ToolOutcome {
        let ToolCaller::Agent { agent, session, item, .. } = caller.clone() else {
            return ToolOutcome::error("for agents");
        };
        let report = NewReport {
            agent,
            item,
            session: Some(session),
            kind: MailType::WorkerDone,
            summary: "done".to_owned(),
            payload: None,
        };
        self.0.write(move |tx| sessions::record_report(tx, &report)).await.unwrap();
        ToolOutcome::ok("noted")
    }
}

pub(super) async fn run_in(cwd: &Path, command: &str) {
    let cancel = CancellationToken::new();
    let limit = Duration::from_secs(20);
    let shell = ShellCommand { command, cwd, limit, env: &[], cancel: &cancel };
    let ran = shell::run(shell).await.unwrap();
    assert_eq!(ran.end, End::Exited(0), "{command}: {}", ran.output);
}

const COMMIT: &str = "git add -A && git -c user.name=ada -c user.email=ada@x commit -qm work";

/// Everything that runs, over a repository with one file.
struct Whole {
    dir: tempfile::TempDir,
    store: Store,
    config: Arc<Config>,
    turns: Arc<Mutex<Vec<&'static str>>>,
}

impl Whole {
    async fn new(gate: &str, turns: Vec<&'static str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("demo");
        std::fs::create_dir(&repository).unwrap();
        std::fs::write(repository.join("sum"), "5\n").unwrap();
        let git = Git::at(&repository);
        git.init("main").await.unwrap();
        let author = Identity::parse("You <you@x>");
        git.first_commit("main", "first", &author).await.unwrap();
        let config = format!(
            "{CONFIG}[[projects]]\nname = \"demo\"\npath = {repository:?}\ngates = [{gate:?}]\n"
        );
        let config = Arc::new(toml::from_str(&config).unwrap());
        let store = Store::open(&dir.path().join("data"), Clock::system()).unwrap();
        Self { dir, store, config, turns: Arc::new(Mutex::new(turns)) }
    }

    /// Runs all services until the item has come to rest or `until` says so.
    async fn run(&self, until: impl Fn(&Item) -> bool, id: ItemId) -> Item {
        let cancel = CancellationToken::new();
        let projects = Registry::load(&self.store, &self.config).await.unwrap();
        let places = ProjectPlaces { store: self.store.clone(), projects: projects.clone() };
        let script: Arc<dyn Runtime> = Arc::new(Script { turns: Arc::clone(&self.turns) });
        let agents = Agents::with_runtimes(
            self.store.clone(),
            Arc::clone(&self.config),
            Arc::new(places),
            vec![script],
        );
        agents.set_tools(Arc::new(Reporting(self.store.clone())));
        agents.reconcile().await.unwrap();
        let workshop = Workshop::new(
            self.store.clone(),
            Arc::clone(&self.config),
            projects.clone(),
            agents.clone(),
        );
        let work =
            WorkService::new(self.store.clone(), Arc::clone(&self.config), Arc::new(workshop));
        let merge = MergeService::new(self.store.clone(), projects, self.config.merge.clone());
        let mut tasks = tokio::task::JoinSet::new();
        let pool = (agents, cancel.clone());
        tasks.spawn(async move { pool.0.run(pool.1).await });
        tasks.spawn(work.run(cancel.clone()));
        tasks.spawn(merge.run(cancel.clone()));
        let mut changes = self.store.changes("items");
        let settled = timeout(PATIENCE, async {
            loop {
                let item = self.store.read(move |conn| find(conn, id)).await.unwrap();
                if until(&item) {
                    return item;
                }
                changes.changed().await;
            }
        });
        let item = match settled.await {
            Ok(item) => item,
            Err(_late) => {
                let why = self.store.read(move |conn| explain(conn, id)).await.unwrap();
                panic!("item {id} does not come to rest: {why}")
            }
        };
        cancel.cancel();
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        item
    }

    async fn file_and_start(&self) -> ItemId {
        Registry::load(&self.store, &self.config).await.unwrap();
        self.store
            .write(|tx| {
                let id = create(tx, story("Mend the sum"))?.id;
                start(tx, id, None, &person())?;
                Ok::<_, WorkError>(id)
            })
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_goes_from_start_to_a_commit_on_the_base_branch() {
    let turns = vec![
        // Forgets to commit, then commits what fails the gate, then mends it.
        "echo 3 > sum",
        COMMIT,
        "echo 4 > sum && git -c user.name=ada -c user.email=ada@x commit -qam mend",
    ];
    let whole = Whole::new("grep -qx 4 sum", turns).await;
    let id = whole.file_and_start().await;
    let item = whole.run(|item| item.stage.is_terminal(), id).await;
    let Stage::Done { commit, .. } = &item.stage else { panic!("{:?}", item.stage) };
    let git = Git::at(whole.dir.path().join("demo"));
    assert_eq!(git.branch_tip("main").await.unwrap().as_ref(), Some(commit));
    let sum = std::fs::read_to_string(whole.dir.path().join("demo/sum")).unwrap();
    assert_eq!(sum, "4\n", "the clean checkout followed");
    assert!(whole.turns.lock().unwrap().is_empty(), "every turn was needed");
}

#[tokio::test]
async fn a_worktree_whose_work_cannot_be_saved_stays_and_the_room_is_told_once() {
    let whole = Whole::new("true", vec![]).await;
    let id = whole.file_and_start().await;
    let projects = Registry::load(&whole.store, &whole.config).await.unwrap();
    let project = projects.find(&"demo".into()).unwrap();
    let places = ProjectPlaces { store: whole.store.clone(), projects: projects.clone() };
    let config = Arc::clone(&whole.config);
    let agents = Agents::with_runtimes(whole.store.clone(), config, Arc::new(places), Vec::new());
    let config = Arc::clone(&whole.config);
    let workshop = Workshop::new(whole.store.clone(), config, projects, agents);
    let change = ItemChange { room: Some(Some("!room".into())), ..Default::default() };
    let change = move |tx: &Tx<'_>| update(tx, id, None, change, &person());
    let item = whole.store.write(change).await.unwrap();
    let heard = async || {
        let read = |conn: &Connection| {
            let mut statement = conn.prepare("SELECT outgoing FROM outbox ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?)
        };
        whole.store.read(read).await.unwrap()
    };
    let (data, cancel) = (whole.store.data_dir(), CancellationToken::new());
    let place = worktree::ensure(&project, id, &item.name, data, &cancel).await.unwrap().path;
    std::fs::write(place.join("new"), "not committed\n").unwrap();
    // A repository in the worktree would be saved as a mere link.
    let inner = place.join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("file"), "x").unwrap();
    Git::at(&inner).init("main").await.unwrap();
    let author = Identity::parse("You <you@x>");
    Git::at(&inner).first_commit("main", "first", &author).await.unwrap();
    let given_up = StageEvent::Abandoned { reason: "no".to_owned() };
    let give_up = move |tx: &Tx<'_>| apply(tx, id, &given_up, &person(), "no");
    whole.store.write(give_up).await.unwrap();
    let tidy = async || {
        let now =
            |tx: &Tx<'_>| Ok::<_, StoreError>(tx.execute("UPDATE tidying SET not_before = 0", [])?);
        whole.store.write(now).await.unwrap();
        for _ in 0..2 {
            keeper::step(&whole.store, &workshop).await.unwrap();
        }
    };
    for _again in 0..2 {
        tidy().await;
        assert!(place.join("new").exists());
        let heard = heard().await;
        assert!(heard.len() == 1 && heard[0].contains("its worktree stays"), "{heard:?}");
    }
    std::fs::remove_dir_all(&inner).unwrap();
    tidy().await;
    assert!(!place.exists());
    let heard = heard().await;
    assert!(heard.len() == 2 && heard[1].contains(&format!("refs/rescue/{id}/")), "{heard:?}");
    let saved = project.git().refs_under(&format!("refs/rescue/{id}/")).await.unwrap();
    let text = project.git().show_path(&saved[0], "new").await.unwrap();
    assert_eq!(text, "not committed\n");
}
