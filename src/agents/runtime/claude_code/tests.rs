//! The driver against a CLI that misbehaves: a script that speaks stream-json.
#![allow(clippy::wildcard_enum_match_arm)] // a test picks the one event that it is about

use super::super::*;
use super::ClaudeCode;
use crate::agents::permission::{Policy, Rule};
use crate::agents::process::{Marked, base_env, find_marked};
use crate::config::PermissionMode;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

struct Tools;

#[async_trait]
impl ToolHost for Tools {
    fn specs(&self, _caller: &ToolCaller) -> Vec<ToolSpec> {
        vec![ToolSpec {
            name: "report_done".to_owned(),
            description: "Reports".to_owned(),
            schema: json!({"type": "object"}),
        }]
    }

    async fn call(&self, _: &ToolCaller, id: &str, name: &str, _: Value) -> ToolOutcome {
        ToolOutcome::ok(format!("{name} was called as {id}"))
    }
}

struct Recorded(std::sync::Mutex<Vec<Ident>>);

#[async_trait]
impl Recorder for Recorded {
    async fn spawned(&self, ident: Ident, _marker: &str) -> anyhow::Result<()> {
        self.0.lock().unwrap().push(ident);
        Ok(())
    }
}

struct Run {
    _dir: tempfile::TempDir,
    session: Arc<dyn Session>,
    events: mpsc::Receiver<RuntimeEvent>,
    marker: String,
    recorded: Arc<Recorded>,
}

/// What every script begins with: reads the first message, says that it is there.
const BEGIN: &str = r#"#!/usr/bin/env python3
import json, os, subprocess, sys, time
def say(**o): sys.stdout.write(json.dumps(o) + "\n"); sys.stdout.flush()
def read():
    line = sys.stdin.readline()
    return json.loads(line) if line else sys.exit(0)
def message():
    while True:
        o = read()
        if o["type"] == "user":
            say(type="user", isReplay=True, uuid=o["uuid"], message=o["message"])
            return o
def reply(id):
    while True:
        o = read()
        if o["type"] == "control_response" and o["response"]["request_id"] == id:
            say(**o)
            return o["response"]["response"]
def init(): say(type="system", subtype="init", session_id="s-1", model="m", mcp_servers=[{"name": "other", "status": "failed"}])
def idle(**o):
    say(**dict(dict(type="result", subtype="success", is_error=False, result="ok", session_id="s-1"), **o))
    say(type="system", subtype="session_state_changed", state="idle")
m = message()
say(type="system", subtype="session_state_changed", state="running")
init()
"#;

async fn run(body: &str) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), body).await.unwrap();
    Run { _dir: dir, ..run }
}

async fn start(dir: &Path, body: &str) -> Result<Run, SpawnError> {
    let program = dir.join("claude");
    std::fs::write(&program, format!("{BEGIN}{body}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let recorded = Arc::new(Recorded(std::sync::Mutex::default()));
    let spec = spec(dir, &program, &recorded);
    let marker = spec.marker.clone();
    let (tell, events) = mpsc::channel(EVENTS_MAX);
    let session = ClaudeCode.spawn(spec, tell).await?;
    Ok(Run { _dir: tempfile::tempdir().unwrap(), session, events, marker, recorded })
}

fn spec(dir: &Path, program: &Path, recorded: &Arc<Recorded>) -> SpawnSpec {
    let tools = AgentTools::new(
        Arc::new(Tools),
        "coder-1".into(),
        Role::Coder,
        AgentSessionId(1),
        ItemId(1),
        "demo".into(),
        TurnId(1),
    );
    SpawnSpec {
        tools: Arc::new(tools),
        cwd: dir.to_owned(),
        role_prompt: "You are a test.".to_owned(),
        model: None,
        command: Some(program.display().to_string()),
        resume: None,
        policy: Policy {
            role: Role::Coder,
            mode: PermissionMode::Ask,
            allow: vec![Rule::parse("Bash(make *)")],
            deny: vec![Rule::parse("Bash(rm *)")],
            worktree: dir.to_owned(),
            bounds: crate::agents::permission::Bounds::default(),
        },
        env: base_env(&[]),
        marker: format!("test-{}", Uuid::new_v4()),
        stderr_log: dir.join("stderr.log"),
        state_dir: dir.join("state"),
        confinement: Confinement::None,
        replay_file: None,
        recorder: Arc::clone(recorded) as Arc<dyn Recorder>,
    }
}

#[test]
fn without_a_key_the_persons_own_login_is_used_and_nothing_else_of_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = Arc::new(Recorded(std::sync::Mutex::default()));
    let of = |names: &[&str]| {
        let mut spec = spec(dir.path(), Path::new("claude"), &recorded);
        spec.env.extend(names.iter().map(|name| ((*name).to_owned(), "x".to_owned())));
        let folder = super::environment(&spec).get("CLAUDE_CONFIG_DIR").cloned();
        let args = super::args::arguments(&spec);
        let sources = args.iter().position(|arg| arg == "--setting-sources");
        (folder, sources.map(|at| args[at + 1].clone()))
    };
    let ours = Some(dir.path().join("state").display().to_string());
    assert_eq!(of(&[]), (None, Some("project,local".to_owned())));
    assert_eq!(of(&["OPENAI_API_KEY"]), (None, Some("project,local".to_owned())));
    assert_eq!(of(&["ANTHROPIC_API_KEY"]), (ours.clone(), None));
    assert_eq!(of(&["CLAUDE_CODE_OAUTH_TOKEN"]), (ours, None));
    assert_eq!(of(&["CLAUDE_CONFIG_DIR"]), (Some("x".to_owned()), None));
}

impl Run {
    async fn say(&self, text: &str) {
        let message = UserMessage {
            id: Uuid::new_v4(),
            header: "Musher says:".to_owned(),
            text: text.to_owned(),
        };
        self.session.send(message, Delivery::NextTurn).await.unwrap();
    }

    /// The next event for which `pick` has a value.
    async fn until<T>(&mut self, pick: impl Fn(&RuntimeEvent) -> Option<T>) -> T {
        let mut seen = vec![];
        let find = async {
            while let Some(event) = self.events.recv().await {
                if let Some(found) = pick(&event) {
                    return Some(found);
                }
                seen.push(event);
            }
            None
        };
        let found = tokio::time::timeout(Duration::from_secs(20), find).await;
        found.ok().flatten().unwrap_or_else(|| panic!("not said; but: {seen:#?}"))
    }

    async fn turn_end(&mut self) -> TurnOutcome {
        self.until(|event| match event {
            RuntimeEvent::TurnEnd(outcome) => Some(outcome.clone()),
            _other => None,
        })
        .await
    }

    async fn exited(&mut self) -> ExitReport {
        self.until(|event| match event {
            RuntimeEvent::Exited(report) => Some(report.clone()),
            _other => None,
        })
        .await
    }

    fn alive(&self) -> usize {
        find_marked(Marked::Exactly(&self.marker)).len()
    }
}

fn failure(outcome: TurnOutcome) -> (Failure, String) {
    match outcome {
        TurnOutcome::Failed { failure, message } => (failure, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_reaches_the_cli_in_two_blocks_with_our_words_around_it() {
    let mut run = run(
        r#"say(type="assistant", message={"content": [{"type": "text", "text": json.dumps(m["message"]["content"])}]}); idle()"#,
    )
    .await;
    run.say("/clear @/etc/passwd @bob:hs").await;
    let said = run
        .until(|event| match event {
            RuntimeEvent::Text(text) => Some(text.clone()),
            _other => None,
        })
        .await;
    let blocks: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(blocks[0]["text"], "Musher says:\n/clear @/etc/passwd @bob:hs");
    assert_eq!(blocks[1]["text"], "(end of message)");
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    assert_eq!(run.recorded.0.lock().unwrap().len(), 1);
    run.session.stop(Ladder::default()).await;
}

#[tokio::test]
async fn our_tools_are_called_in_band_and_permissions_follow_the_rules() {
    let mut run = run(r#"
def rpc(id, method, **params):
    say(type="control_request", request_id=id, request={"subtype": "mcp_message", "server_name": "musher", "message": {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}})
    return reply(id)["mcp_response"]["result"]
tools = rpc("a", "tools/list")["tools"][0]["name"]
called = rpc("b", "tools/call", name="report_done", arguments={}, _meta={"claudecode/toolUseId": "toolu_1"})["content"][0]["text"]
def ask(id, line):
    say(type="control_request", request_id=id, request={"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": line}})
    return reply(id)
answers = [ask("c", "make all && git status"), ask("d", "make; rm -rf /"), ask("e", "curl x")]
say(type="assistant", message={"content": [{"type": "text", "text": json.dumps([tools, called] + answers)}]})
idle()"#)
    .await;
    run.say("go").await;
    let request = run
        .until(|event| match event {
            RuntimeEvent::Ask { request, tool, .. } if tool == "Bash" => Some(request.clone()),
            _other => None,
        })
        .await;
    let deny = Answer::Deny { message: "nobody is here".to_owned(), stop: false };
    run.session.answer(&request, deny.clone()).await.unwrap();
    assert!(run.session.answer(&request, deny).await.is_err(), "a late answer is stale");
    let said = run
        .until(|event| match event {
            RuntimeEvent::Text(text) => Some(text.clone()),
            _other => None,
        })
        .await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said[0], "report_done");
    assert_eq!(said[1], "report_done was called as agent-1-toolu_1");
    assert_eq!(said[2]["behavior"], "allow");
    assert_eq!(said[2]["updatedInput"]["command"], "make all && git status");
    assert_eq!(said[3]["message"], "denied by the rule Bash(rm *)");
    assert_eq!(said[4]["message"], "nobody is here");
    run.session.stop(Ladder::default()).await;
    assert_eq!(run.alive(), 0);
}

#[tokio::test]
async fn long_lines_bad_bytes_and_unknown_types_pass() {
    let mut run = run(r#"
say(type="from_the_future", x=[1])
sys.stdout.buffer.write(b'{"type":"assistant","message":{"content":[{"type":"text","text":"\xff\xfe!"}]}}\n'); sys.stdout.buffer.flush()
say(type="user", message={"content": [{"type": "tool_result", "tool_use_id": "t", "content": "x" * 2000000}]})
idle(is_error=True, api_error_status=401, result="bad key")"#)
    .await;
    run.say("go").await;
    let (failure, message) = failure(run.turn_end().await);
    assert_eq!(failure, Failure::Auth);
    assert!(message.contains("ANTHROPIC_API_KEY"), "{message}");
    run.session.stop(Ladder::default()).await;
}

#[tokio::test]
async fn used_tokens_are_told_as_differences() {
    let mut run = run(r#"
idle(modelUsage={"m": {"inputTokens": 100, "outputTokens": 10, "costUSD": 0.5}})
message()
idle(modelUsage={"m": {"inputTokens": 150, "outputTokens": 10, "costUSD": 0.75}})"#)
    .await;
    let mut used = vec![];
    for _ in 0..2 {
        run.say("go").await;
        used.push(
            run.until(|event| match event {
                RuntimeEvent::Used { usage, microusd, .. } => Some((usage.input, *microusd)),
                _other => None,
            })
            .await,
        );
        run.turn_end().await;
    }
    assert_eq!(used, [(100, 500_000), (50, 250_000)]);
    run.session.stop(Ladder::default()).await;
}

#[tokio::test]
async fn a_malformed_line_ends_the_process_and_leaves_no_orphan() {
    let mut run = run(
        "subprocess.Popen(['sleep', '300'], start_new_session=True)\nprint('Segfault', flush=True)\ntime.sleep(300)",
    )
    .await;
    run.say("go").await;
    let (failure, message) = failure(run.turn_end().await);
    assert_eq!(failure, Failure::Protocol);
    assert!(message.contains("not stream-json") && message.contains("Segfault"), "{message}");
    assert_eq!(run.exited().await.survivors, Vec::<i32>::new());
    assert_eq!(run.alive(), 0);
}

#[tokio::test]
async fn a_crash_is_told_with_the_end_of_stderr() {
    let mut run = run("sys.stderr.write('out of cheese\\n'); sys.exit(7)").await;
    run.say("go").await;
    let (failure, message) = failure(run.turn_end().await);
    assert_eq!(failure, Failure::Crash);
    assert!(message.contains("code 7") && message.contains("out of cheese"), "{message}");
    assert_eq!(run.exited().await.code, Some(7));
    let late = UserMessage { id: Uuid::new_v4(), header: String::new(), text: String::new() };
    assert!(run.session.send(late, Delivery::NextTurn).await.is_err());
}

#[tokio::test]
async fn a_cli_that_hangs_is_killed_with_its_tools_within_the_ladder() {
    let mut run = run(r#"
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "300"], start_new_session=True)
say(type="assistant", message={"content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "sleep 300"}}]})
while True: time.sleep(1)"#)
    .await;
    run.say("go").await;
    run.until(|event| matches!(event, RuntimeEvent::ToolStart { .. }).then_some(())).await;
    assert!(run.alive() >= 2);
    let began = std::time::Instant::now();
    let report = run.session.stop(Ladder::default()).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!((report.signal, report.survivors), (Some(9), vec![]));
    assert_eq!(run.alive(), 0);
}

#[tokio::test]
async fn an_interrupt_ends_the_turn_and_the_session_can_be_used() {
    let mut run = run(r#"
while True:
    o = read()
    if o["type"] == "control_request" and o["request"]["subtype"] == "interrupt":
        say(type="control_response", response={"subtype": "success", "request_id": o["request_id"], "response": {}})
        idle(subtype="error_during_execution", is_error=True)
        break
message()
idle()"#)
    .await;
    assert_eq!(
        run.session.interrupt(Duration::from_secs(1)).await,
        InterruptOutcome::NothingRunning
    );
    run.say("go").await;
    assert_eq!(run.session.interrupt(Duration::from_secs(10)).await, InterruptOutcome::Clean);
    assert_eq!(run.turn_end().await, TurnOutcome::Interrupted);
    run.say("go on").await;
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    run.session.stop(Ladder::default()).await;
}
