//! What the conformance suite stands on: one runtime, the real program behind it, a scripted model
//! or a recording, a worktree, and tools that note how they were called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use musher::agents::permission::Policy;
use musher::agents::process::{Ident, Ladder, Marked, find_marked};
use musher::agents::runtime::{
    AgentTools, Delivery, EVENTS_MAX, Recorder, Runtime, RuntimeEvent, Session, SpawnSpec,
    TurnOutcome, UserMessage, acp::Acp, api::Api, claude_code::ClaudeCode, codex::Codex,
    replay::Replay,
};
use musher::clock::Clock;
use musher::config::{Config, Confinement, PermissionMode, RuntimeKind};
use musher::llm::tools::{ToolCaller, ToolHost, ToolOutcome, ToolSpec};
use musher::model::agent::Role;
use musher::model::ids::{AgentSessionId, ItemId, TurnId};
use musher::store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::support::model_server::{ModelServer, Reply, Request};
use crate::support::repository::Repository;
use crate::support::scene::shell;
use crate::support::{PATIENCE, installed};

/// Tokens of each of the model's answers: in and out.
pub const ANSWER: (u64, u64) = (100, 10);

/// The words of the role's prompt.
pub const ROLE: &str = "You are on the stage.";

/// A step of a turn.
#[derive(Debug, Clone)]
pub enum Step {
    /// A line in the shell.
    Shell(&'static str),
    /// One of our tools.
    Call(&'static str, Value),
    /// Words.
    Say(&'static str),
}

/// Turns by the mark in the message that begins them: `[mark]`.
type Script = Arc<Mutex<Vec<(&'static str, Vec<Step>)>>>;

/// The tools: notes what was called, and answers when it may.
pub struct Host {
    calls: Mutex<Vec<(String, Value)>>,
    answers: watch::Sender<bool>,
}

#[async_trait]
impl ToolHost for Host {
    fn specs(&self, _caller: &ToolCaller) -> Vec<ToolSpec> {
        let spec = |name: &str| ToolSpec {
            name: name.to_owned(),
            description: format!("{name} of the stage"),
            schema: json!({"type": "object", "properties": {"summary": {"type": "string"}}}),
        };
        ["mail_check", "mail_send", "ask_human", "report_done"].map(spec).to_vec()
    }

    async fn call(&self, _: &ToolCaller, _: &str, name: &str, arguments: Value) -> ToolOutcome {
        self.calls.lock().unwrap().push((name.to_owned(), arguments));
        let mut may = self.answers.subscribe();
        may.wait_for(|may| *may).await.unwrap();
        ToolOutcome::ok(format!("the stage heard {name}"))
    }
}

/// One runtime and all that it works with.
pub struct Stage {
    pub kind: RuntimeKind,
    pub runtime: Arc<dyn Runtime>,
    pub model: ModelServer,
    pub worktree: PathBuf,
    host: Arc<Host>,
    script: Script,
    repository: Repository,
    directory: TempDir,
}

impl Stage {
    pub async fn new(kind: RuntimeKind) -> Self {
        let model = ModelServer::start().await;
        // Not under /tmp, which Codex lets everybody write.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let repository = Repository::placed("stage", "true\n", target);
        let directory = tempfile::Builder::new().prefix("stage-").tempdir_in(target).unwrap();
        for name in ["home", "data"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("key"), "test-key").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(directory.path().join("key"), mode).unwrap();
        let worktree = directory.path().join("worktree");
        let place = worktree.display().to_string();
        repository.git(&["worktree", "add", "-q", "-b", "item/1", &place]);
        let store = Store::open(&directory.path().join("data"), Clock::system()).unwrap();
        let config: Config = serde_json::from_value(json!({"llm": {
            "provider": "anthropic", "model": "claude-sonnet-4-5", "base_url": model.url,
            "api_key_file": directory.path().join("key"),
        }}))
        .unwrap();
        let runtime: Arc<dyn Runtime> = match kind {
            RuntimeKind::ClaudeCode => Arc::new(ClaudeCode),
            RuntimeKind::Codex => Arc::new(Codex),
            RuntimeKind::Acp => Arc::new(Acp::default()),
            RuntimeKind::Api => Arc::new(Api::new(store, Arc::new(config))),
            RuntimeKind::Replay => Arc::new(Replay::new(store)),
        };
        let host = Host { calls: Mutex::default(), answers: watch::Sender::new(true) };
        let stage = Self {
            kind,
            runtime,
            model,
            worktree,
            host: Arc::new(host),
            script: Script::default(),
            repository,
            directory,
        };
        stage.follow_the_script();
        stage
    }

    fn follow_the_script(&self) {
        let script = Arc::clone(&self.script);
        self.model.on(move |request| {
            let asked = request.last_user_text();
            let script = script.lock().unwrap();
            let place = |mark: &str| asked.rfind(&format!("[{mark}]"));
            let turn = script.iter().filter(|(mark, _)| place(mark).is_some());
            let steps = &turn.max_by_key(|(mark, _)| place(mark))?.1;
            let step = steps.get(request.answers_since_person());
            let reply =
                step.map_or_else(|| Reply::text("That is all."), |step| reply(request, step));
            Some(reply.usage(ANSWER.0, ANSWER.1))
        });
    }

    /// Says what the model does, or what the recording holds.
    pub fn plays(&self, turns: &[(&'static str, Vec<Step>)]) {
        *self.script.lock().unwrap() = turns.to_vec();
        let mut lines = String::new();
        for step in turns.iter().flat_map(|(_, steps)| steps) {
            let line = match step {
                Step::Shell(line) => json!({"tool": "shell", "input": {"command": line}}),
                Step::Call(tool, input) => json!({"tool": tool, "input": input}),
                Step::Say(words) => json!({"say": words}),
            };
            lines.push_str(&format!("{line}\n"));
            if matches!(step, Step::Say(_)) {
                lines.push_str("{\"end\": true}\n");
            }
        }
        std::fs::write(self.directory.path().join("recording.jsonl"), lines).unwrap();
    }

    /// Whether a model is asked at all.
    pub fn has_model(&self) -> bool {
        self.kind != RuntimeKind::Replay
    }

    /// What the model was asked last.
    pub fn last_request(&self) -> Request {
        self.model.requests().pop().expect("the model was asked")
    }

    /// How our tools were called.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.host.calls.lock().unwrap().clone()
    }

    /// Whether our tools answer, or let their callers wait.
    pub fn tools_answer(&self, may: bool) {
        self.host.answers.send_replace(may);
    }

    /// What git says in the worktree.
    pub fn last_commit(&self) -> String {
        self.repository.git(&["log", "-1", "--format=%s", "item/1"])
    }

    /// The repository's configuration, and its hooks by name.
    pub fn git_config(&self) -> (String, Vec<std::ffi::OsString>) {
        let git = self.repository.path.join(".git");
        let hooks = std::fs::read_dir(git.join("hooks")).into_iter().flatten().flatten();
        let mut hooks: Vec<_> = hooks.map(|entry| entry.file_name()).collect();
        hooks.sort();
        (std::fs::read_to_string(git.join("config")).unwrap(), hooks)
    }

    /// Writes a file into the worktree.
    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.worktree.join(file), text).unwrap();
    }

    /// Whether a file is in the worktree.
    pub fn has(&self, file: &str) -> bool {
        self.worktree.join(file).exists()
    }

    /// Waits for a file in the worktree.
    pub async fn until_there(&self, file: &str) {
        crate::support::until(&format!("{file} in the worktree"), || self.has(file).then_some(()))
            .await;
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let home = self.directory.path().join("home").display().to_string();
        let path = format!(
            "{}:/usr/local/bin:/usr/bin:/bin",
            installed("npm/node_modules/.bin").display()
        );
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), path),
            ("HOME".to_owned(), home),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        for (who, name) in [("AUTHOR", "Coder"), ("COMMITTER", "Coder")] {
            env.insert(format!("GIT_{who}_NAME"), name.to_owned());
            env.insert(format!("GIT_{who}_EMAIL"), "coder@stage.local".to_owned());
        }
        let given: &[(&str, &str)] = match self.kind {
            RuntimeKind::ClaudeCode | RuntimeKind::Acp => {
                &[("ANTHROPIC_API_KEY", "k"), ("ANTHROPIC_BASE_URL", &self.model.url)]
            }
            RuntimeKind::Codex => &[("OPENAI_API_KEY", "k"), ("OPENAI_BASE_URL", &self.model.url)],
            RuntimeKind::Api | RuntimeKind::Replay => &[],
        };
        env.extend(given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        env
    }

    fn spec(&self, mode: PermissionMode, resume: Option<&str>, noted: &Arc<Noted>) -> SpawnSpec {
        let program = match self.kind {
            RuntimeKind::ClaudeCode => Some("claude"),
            RuntimeKind::Codex => Some("codex"),
            RuntimeKind::Acp => Some("claude-agent-acp"),
            RuntimeKind::Api | RuntimeKind::Replay => None,
        };
        let program = program.map(|name| installed(&format!("npm/node_modules/.bin/{name}")));
        let model = match self.kind {
            RuntimeKind::ClaudeCode | RuntimeKind::Api => Some("claude-sonnet-4-5"),
            RuntimeKind::Codex => Some("gpt-5"),
            RuntimeKind::Acp | RuntimeKind::Replay => None,
        };
        let host = Arc::clone(&self.host) as Arc<dyn ToolHost>;
        SpawnSpec {
            tools: Arc::new(AgentTools::new(
                host,
                "coder-1".into(),
                Role::Coder,
                AgentSessionId(1),
                ItemId(1),
                "stage".into(),
                TurnId(1),
            )),
            cwd: self.worktree.clone(),
            role_prompt: ROLE.to_owned(),
            model: model.map(str::to_owned),
            command: program.map(|path| path.display().to_string()),
            resume: resume.map(str::to_owned),
            policy: Policy {
                role: Role::Coder,
                mode,
                allow: vec![],
                deny: vec![],
                worktree: self.worktree.clone(),
                bounds: musher::agents::permission::Bounds::default(),
            },
            env: self.environment(),
            marker: format!("stage-{}", Uuid::new_v4()),
            stderr_log: self.directory.path().join("stderr.log"),
            state_dir: self.directory.path().join("state"),
            confinement: Confinement::None,
            replay_file: Some(self.directory.path().join("recording.jsonl")),
            recorder: Arc::clone(noted) as Arc<dyn Recorder>,
        }
    }

    /// Starts a session.
    pub async fn open(&self, mode: PermissionMode, resume: Option<&str>) -> Run {
        let noted = Arc::new(Noted::default());
        let spec = self.spec(mode, resume, &noted);
        let marker = spec.marker.clone();
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let session = self.runtime.spawn(spec, tell).await.unwrap();
        Run { session, events, marker, noted, seen: vec![] }
    }
}

fn reply(request: &Request, step: &Step) -> Reply {
    match step {
        Step::Shell(line) => shell(request, line),
        Step::Call(tool, input) => {
            let named = request.tools().into_iter().find(|name| name.ends_with(tool));
            let named = named.unwrap_or_else(|| panic!("no {tool} among {:?}", request.tools()));
            Reply::call(named, input.clone())
        }
        Step::Say(words) => Reply::text(words),
    }
}

/// The processes that were recorded.
#[derive(Default)]
pub struct Noted(Mutex<Vec<Ident>>);

#[async_trait]
impl Recorder for Noted {
    async fn spawned(&self, ident: Ident, _marker: &str) -> anyhow::Result<()> {
        self.0.lock().unwrap().push(ident);
        Ok(())
    }
}

/// A session that runs.
pub struct Run {
    pub session: Arc<dyn Session>,
    pub events: mpsc::Receiver<RuntimeEvent>,
    pub marker: String,
    noted: Arc<Noted>,
    pub seen: Vec<RuntimeEvent>,
}

impl Run {
    /// Says something; the id under which the model's having it is told.
    pub async fn say(&self, text: &str, how: Delivery) -> Uuid {
        let id = Uuid::new_v4();
        let header = "Musher says:".to_owned();
        self.session.send(UserMessage { id, header, text: text.to_owned() }, how).await.unwrap();
        id
    }

    /// The process, for runtimes that have one.
    pub fn process(&self) -> Option<Ident> {
        self.noted.0.lock().unwrap().first().copied()
    }

    /// The next event for which `pick` has a value; all before it are in `seen`.
    pub async fn until<T>(&mut self, what: &str, pick: impl Fn(&RuntimeEvent) -> Option<T>) -> T {
        let find = async {
            while let Some(event) = self.events.recv().await {
                let found = pick(&event);
                self.seen.push(event);
                if found.is_some() {
                    return found;
                }
            }
            None
        };
        let found = tokio::time::timeout(PATIENCE, find).await;
        found.ok().flatten().unwrap_or_else(|| panic!("no {what}, but: {:#?}", self.seen))
    }

    /// The end of the turn.
    pub async fn turn_end(&mut self) -> TurnOutcome {
        self.until("end of the turn", |event| match event {
            RuntimeEvent::TurnEnd(outcome) => Some(outcome.clone()),
            _other => None,
        })
        .await
    }

    /// The session's id in the runtime.
    pub fn native_id(&self) -> String {
        let mut ids = self.seen.iter().rev().filter_map(|event| match event {
            RuntimeEvent::Ready { native_id, .. } => Some(native_id.clone()),
            _other => None,
        });
        ids.next().unwrap_or_else(|| panic!("no id: {:#?}", self.seen))
    }

    /// What the model said.
    pub fn said(&self, words: &str) -> bool {
        self.seen
            .iter()
            .any(|event| matches!(event, RuntimeEvent::Text(text) if text.contains(words)))
    }

    /// The place of the first event that fits.
    pub fn place(&self, fits: impl Fn(&RuntimeEvent) -> bool) -> usize {
        let place = self.seen.iter().position(fits);
        place.unwrap_or_else(|| panic!("not among {:#?}", self.seen))
    }

    /// Ends it; nothing may be left, within the eight seconds that are promised, and the last event
    /// says that it is over.
    pub async fn stop(mut self) -> Vec<RuntimeEvent> {
        let began = std::time::Instant::now();
        let session = Arc::clone(&self.session);
        let stopped = tokio::spawn(async move { session.stop(Ladder::default()).await });
        while let Some(event) = self.events.recv().await {
            let over = matches!(event, RuntimeEvent::Exited(_));
            self.seen.push(event);
            if over {
                break;
            }
        }
        let report = stopped.await.unwrap();
        let took = began.elapsed();
        assert_eq!(report.survivors, Vec::<i32>::new());
        assert_eq!(find_marked(Marked::Exactly(&self.marker)), vec![]);
        assert!(took < Duration::from_millis(8500), "it took {took:?}");
        assert!(matches!(self.seen.last(), Some(RuntimeEvent::Exited(_))), "{:#?}", self.seen);
        self.seen
    }
}
