//! The program under test: the real binary, in an environment that holds nothing of this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::event::Event;
use super::model_server::ModelServer;
use super::person::Person;
use super::repository::Repository;
use super::synapse::{Account, Synapse};
use super::{PATIENCE, installed, processes, tail};

/// The name and password variables that the configuration names.
const PASSWORD: &str = "MUSHER_MATRIX_PASSWORD";

/// What Musher waits for after a message in tests: long enough for a burst, short for a story.
const COALESCE_MS: u64 = 150;

/// A Musher with an account, a configuration and a data directory; running or not.
#[derive(Debug)]
pub struct Musher {
    /// The bot's account; its password is in the environment.
    pub account: Account,
    /// The bot's user id.
    pub id: String,
    configuration: Value,
    environment: BTreeMap<String, String>,
    binary: PathBuf,
    /// What is put before the binary when it is started.
    wrapper: Vec<String>,
    directory: TempDir,
    child: Option<Child>,
    keyboard: Option<ChildStdin>,
    log_from: u64,
    shown_from: u64,
}

/// What a call of the command line gave.
#[derive(Debug)]
pub struct Called {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Called {
    /// stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("no JSON ({why}): {self:?}"))
    }

    /// Fails unless the call succeeded.
    pub fn succeeded(self) -> Self {
        assert!(self.code == 0, "exit code {}: {self:?}", self.code);
        self
    }
}

impl Musher {
    /// Prepares a Musher on `server` whose coordinator and agents speak to `model`. Nobody is
    /// allowed yet, and it has neither projects nor agents.
    pub async fn new(server: &Synapse, model: &ModelServer) -> Self {
        let account = server.register("musher").await;
        // Registering logs in; that device is not Musher's and shall not be among its devices.
        let person = Person::with_account(account.clone()).await;
        person.call(reqwest::Method::POST, "client/v3/logout", &json!({})).await;
        let mut musher = Self::without_homeserver(model, account);
        let (homeserver, user_id) = (musher.account.homeserver.clone(), musher.id.clone());
        musher.configuration["matrix"] = json!({
            "homeserver": homeserver,
            "user_id": user_id,
            "password_env": PASSWORD,
            "allowed_users": [],
            "allowed_rooms": ["*"],
            "admin_users": [],
        });
        musher
    }

    /// Prepares one for `musher console` and the command line.
    pub fn offline(model: &ModelServer) -> Self {
        let account = Account {
            user_id: "@musher:test.local".to_owned(),
            localpart: "musher".to_owned(),
            password: "none".to_owned(),
            access_token: String::new(),
            device_id: String::new(),
            homeserver: String::new(),
        };
        Self::without_homeserver(model, account)
    }

    fn without_homeserver(model: &ModelServer, account: Account) -> Self {
        let directory = tempfile::Builder::new().prefix("musher-data-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        std::fs::create_dir(at("home")).unwrap();
        let git = "[user]\n  name = Musher\n  email = musher@test.local\n[init]\n  defaultBranch = main\n";
        std::fs::write(at("home/.gitconfig"), git).unwrap();
        let environment = [
            ("PATH", hermetic_path()),
            ("HOME", at("home")),
            ("LANG", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("ANTHROPIC_API_KEY", "test-key".to_owned()),
            ("ANTHROPIC_BASE_URL", model.url.clone()),
            ("OPENAI_API_KEY", "test-key".to_owned()),
            ("OPENAI_BASE_URL", model.url.clone()),
            (PASSWORD, account.password.clone()),
        ];
        let configuration = json!({
            "data_dir": at("data"),
            "llm": {
                "provider": "anthropic",
                "model": "claude-sonnet-4-5",
                "api_key_env": "ANTHROPIC_API_KEY",
                "base_url": model.url,
            },
            "chat": {"coalesce_ms": COALESCE_MS},
            "projects": [],
            "agents": [],
        });
        Self {
            id: account.user_id.clone(),
            account,
            configuration,
            binary: program(),
            wrapper: vec![],
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            directory,
            child: None,
            keyboard: None,
            log_from: 0,
            shown_from: 0,
        }
    }

    // Configuration: takes effect at the next start

    /// Lets `user` talk to Musher.
    pub fn allow(&mut self, user: &str) -> &mut Self {
        self.push("/matrix/allowed_users", json!(user))
    }

    /// Lets `user` talk to Musher and administer it.
    pub fn allow_admin(&mut self, user: &str) -> &mut Self {
        self.allow(user).push("/matrix/admin_users", json!(user))
    }

    /// Adds a project with the gate `sh check.sh`.
    pub fn project(&mut self, repository: &Repository) -> &mut Self {
        let project = json!({
            "name": repository.name, "path": repository.path, "base": "main", "gates": ["sh check.sh"],
        });
        self.push("/projects", project)
    }

    /// Adds an agent that runs Claude Code against the scripted model and asks for nothing.
    pub fn claude_agent(&mut self, name: &str) -> &mut Self {
        self.agent(json!({
            "name": name, "role": "coder", "runtime": "claude-code", "model": "claude-sonnet-4-5",
            "permissions": "auto", "env": ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"],
        }))
    }

    /// Adds an agent that runs Codex against the scripted model and asks for nothing.
    pub fn codex_agent(&mut self, name: &str) -> &mut Self {
        self.agent(json!({
            "name": name, "role": "coder", "runtime": "codex", "model": "gpt-5",
            "permissions": "auto", "env": ["OPENAI_API_KEY", "OPENAI_BASE_URL"],
        }))
    }

    /// Adds an agent that runs Claude behind the Agent Client Protocol, likewise.
    pub fn acp_agent(&mut self, name: &str) -> &mut Self {
        self.agent(json!({
            "name": name, "role": "coder", "runtime": "acp", "command": "claude-agent-acp",
            "permissions": "auto", "env": ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"],
        }))
    }

    /// Adds an agent that runs in Musher itself.
    pub fn built_in_agent(&mut self, name: &str) -> &mut Self {
        self.agent(json!({"name": name, "role": "coder", "runtime": "api", "permissions": "auto"}))
    }

    /// Adds any agent.
    pub fn agent(&mut self, agent: Value) -> &mut Self {
        self.push("/agents", agent)
    }

    /// Sets any key, named by its path: `set("/chat/queue_mode", json!("steer"))`.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut place = &mut self.configuration;
        for key in pointer.trim_start_matches('/').split('/') {
            place = match key.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[key],
            };
        }
        *place = value;
        self
    }

    fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        let list = self.configuration.pointer_mut(pointer).and_then(Value::as_array_mut);
        list.unwrap_or_else(|| panic!("no list at {pointer}")).push(value);
        self
    }

    /// Sets a variable of Musher's environment.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable out of Musher's environment.
    pub fn without_env(&mut self, name: &str) -> &mut Self {
        self.environment.remove(name);
        self
    }

    /// Puts `directory` before all others on the PATH.
    pub fn first_on_path(&mut self, directory: &Path) -> &mut Self {
        let path = format!("{}:{}", directory.display(), self.environment["PATH"]);
        self.env("PATH", &path)
    }

    /// Has the program started by another one, which gets it and its arguments as arguments.
    pub fn wrap(&mut self, words: &[&str]) -> &mut Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The directory that everything of this Musher is in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// Writes `musher.toml` and returns where it is.
    pub fn write_configuration(&self) -> PathBuf {
        let path = self.directory().join("musher.toml");
        // Moved into place: a process of another call may be reading it at this moment.
        let mut new = tempfile::NamedTempFile::new_in(self.directory()).unwrap();
        new.write_all(toml::to_string(&self.configuration).unwrap().as_bytes()).unwrap();
        new.persist(&path).unwrap();
        path
    }

    /// Has a copy of the program started, for a story that replaces it. Returns where it is.
    pub fn copy_program(&mut self) -> PathBuf {
        let copy = self.directory().join("program/musher");
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(&self.binary, &copy).unwrap();
        self.binary.clone_from(&copy);
        copy
    }

    // Running

    /// Starts `musher run`. It is up when it does something; see [`Musher::room_with`].
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "Musher runs already");
        let path = self.write_configuration();
        self.start_with(&["run", "-c", &path.display().to_string()]);
    }

    /// Starts `musher` with any arguments, as a process that stays.
    pub fn start_with(&mut self, arguments: &[&str]) {
        self.spawn(arguments, Stdio::null());
    }

    /// Starts `musher console` with a keyboard that a story types on; see [`Musher::type_line`].
    pub fn start_console(&mut self) {
        let path = self.write_configuration().display().to_string();
        self.shown_from = std::fs::metadata(self.directory().join("stdout.log"))
            .map_or(0, |metadata| metadata.len());
        self.spawn(&["console", "-c", &path], Stdio::piped());
        self.keyboard = self.child.as_mut().and_then(|child| child.stdin.take());
    }

    /// Types a line into the console.
    pub async fn type_line(&mut self, line: &str) {
        let keyboard = self.keyboard.as_mut().expect("a console runs");
        keyboard.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// What the console has shown since its last start.
    pub fn shown(&self) -> String {
        let bytes = std::fs::read(self.directory().join("stdout.log")).unwrap_or_default();
        let from = usize::try_from(self.shown_from).unwrap();
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    fn spawn(&mut self, arguments: &[&str], stdin: Stdio) {
        assert!(self.child.is_none(), "Musher runs already");
        let log = self.open_log("stderr.log");
        self.log_from = log.metadata().unwrap().len();
        // When the test binary is killed, so is Musher: nothing may stay behind on the machine.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.wrapper).arg(&self.binary);
        self.prepare(&mut command, arguments);
        command.stdin(stdin).stdout(self.open_log("stdout.log")).stderr(log);
        self.child = Some(command.spawn().expect("setpriv and musher run"));
    }

    /// Gives a command of a story's own the program's arguments and environment.
    pub fn prepare_for(&self, command: &mut Command, arguments: &[&str]) {
        self.prepare(command, arguments);
    }

    /// Has a conversation over `musher console`: `lines` are what is typed, then it ends.
    pub async fn console(&self, lines: &str) -> Called {
        let typed = self.directory().join("typed");
        std::fs::write(&typed, lines).unwrap();
        let path = self.write_configuration().display().to_string();
        let mut command = Command::new(&self.binary);
        self.prepare(&mut command, &["console", "-c", &path]);
        command.stdin(File::open(typed).unwrap());
        ended(command, "console").await
    }

    fn prepare(&self, command: &mut Command, arguments: &[&str]) {
        command
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.directory())
            .kill_on_drop(true);
    }

    fn open_log(&self, name: &str) -> File {
        File::options().create(true).append(true).open(self.directory().join(name)).unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        let pid = self.child.as_ref().and_then(Child::id).expect("Musher runs");
        pid.cast_signed()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_for_exit().await
    }

    /// Ends it as a power cut would; what it had started may live on.
    pub async fn kill_9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_for_exit().await;
    }

    /// `stop` and `start`.
    pub async fn restart(&mut self) {
        let status = self.stop().await;
        assert!(status.success(), "SIGTERM ended it with {status}\n{}", self.log_tail());
        self.start();
    }

    /// Waits until it has ended by itself, with its terminal open.
    pub async fn wait_for_death(&mut self) -> ExitStatus {
        let what = "Musher to die";
        crate::support::until_within(PATIENCE, what, || (!self.is_running()).then_some(())).await;
        self.wait_for_exit().await
    }

    /// Waits until it has ended by itself; a console's input ends with this.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("Musher runs");
        self.keyboard = None;
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("Musher has not ended after {PATIENCE:?}\n{}", self.log_tail()),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Calls the command line beside it, with the same environment and configuration.
    pub async fn call(&self, arguments: &[&str]) -> Called {
        let path = self.write_configuration().display().to_string();
        self.call_exactly(&[arguments, &["-c", &path]].concat()).await
    }

    /// Calls the command line with just these arguments.
    pub async fn call_exactly(&self, arguments: &[&str]) -> Called {
        let mut command = Command::new(&self.binary);
        self.prepare(&mut command, arguments);
        command.stdin(Stdio::null());
        ended(command, &arguments.join(" ")).await
    }

    // The room

    /// A direct room of `person` with Musher, once Musher has joined it and said hello.
    pub async fn room_with(&mut self, person: &Person) -> String {
        let room = person.direct_room(&self.id).await;
        self.wait_until_greeting(person, &room).await;
        room
    }

    /// Waits until Musher has joined a room that `person` is in, and has said hello there.
    pub async fn wait_until_greeting(&mut self, person: &Person, room: &str) {
        self.wait_until_in(person, room).await;
        let hello = person.next_message(room, &self.id).await;
        assert_eq!(hello.msgtype(), "m.notice", "{}", hello.body());
    }

    /// Waits until Musher has joined a room that `person` is in, for as long as it runs.
    pub async fn wait_until_in(&mut self, person: &Person, room: &str) {
        let began = Instant::now();
        while person.membership(room, &self.id).await != "join" {
            let waited = began.elapsed();
            let gone = if self.is_running() { "" } else { " and it has ended" };
            if !gone.is_empty() || waited > PATIENCE {
                panic!("Musher has not joined after {waited:?}{gone}\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// `person` says something, and waits for Musher's next message in that room.
    pub async fn ask(&self, person: &Person, room: &str, text: &str) -> Event {
        person.say(room, text).await;
        person.next_message(room, &self.id).await
    }

    // Looking inside

    /// Waits until its log has a line with `part`, since the last start.
    pub async fn wait_for_log(&self, part: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            if began.elapsed() > PATIENCE {
                panic!("waited in vain for {part:?} in the log\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its log since the last start.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.directory().join("stderr.log")).unwrap_or_default();
        let from = usize::try_from(self.log_from).unwrap();
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// The end of its log, for a message about what went wrong.
    pub fn log_tail(&self) -> String {
        format!(
            "musher's log:\n{}\nmusher's output:\n{}",
            tail(&self.directory().join("stderr.log"), 60),
            tail(&self.directory().join("stdout.log"), 20),
        )
    }

    /// Living processes that belong to it: agents and their tools, and itself.
    pub fn processes(&self) -> Vec<processes::Process> {
        processes::processes_of(self.directory())
    }

    /// Fails unless, soon, no process of it is left but itself.
    pub async fn assert_no_agent_left(&self) {
        let own = self.child.as_ref().and_then(Child::id).map(u32::cast_signed);
        let agents = || -> Vec<processes::Process> {
            self.processes().into_iter().filter(|process| Some(process.pid) != own).collect()
        };
        let began = Instant::now();
        loop {
            let left = agents();
            if left.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "agents or their tools are left: {left:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Fails unless, soon, no process of it is left at all.
    pub async fn assert_no_process_left(&self) {
        processes::assert_none_left(self.directory()).await;
    }

    /// Resident memory, in bytes.
    pub fn resident_memory(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// CPU time spent so far, its own only, in steps of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The second field is the name in parentheses and may hold anything.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Musher {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        drop(self.child.take());
        processes::kill_all_of(self.directory());
    }
}

/// The program under test: the one built with the tests, unless `MUSHER_BINARY` names another.
pub fn program() -> PathBuf {
    std::env::var_os("MUSHER_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_musher").into(), PathBuf::from)
}

/// Runs a command to its end and takes what it printed.
async fn ended(mut command: Command, what: &str) -> Called {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let Ok(output) = output else { panic!("musher {what} does not end") };
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Called { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
}

/// The system's programs and the installed Claude Code, and nothing of the developer's own.
fn hermetic_path() -> String {
    let claude = installed("npm/node_modules/.bin");
    format!("{}:/usr/local/bin:/usr/bin:/bin", claude.display())
}
