//! One suite that every runtime passes, with the real program behind it.
//!
//! [`row`] says for each runtime what it passes and what it cannot, which is proved, too. A new
//! runtime or a new cell does not compile until every row has it.
//!
//! The pitfalls of driving CLIs that were found before this was written, and the test of each:
//!
//! | pitfall | test |
//! |---|---|
//! | a tool in a session of its own outlives the stop | `kill` here, for each runtime |
//! | `kill -9` of the server in mid-tool leaves survivors or doubles | `crashes::killed_while_*` |
//! | `/clear` and `@path` in what people write | `start` here; `verbatim` |
//! | two messages in one turn: both taken in, one end | `steer_or_queue` here |
//! | a turn that begins by itself | `a_turn_that_begins_by_itself_is_told_and_metered` here |
//! | a permission that waits is interrupted; the late answer | `permission` here |
//! | a failed turn that says `success` | `claude_code::wire` (unit) |
//! | a refused key is tried for ever | `failure` here |
//! | huge lines, bad bytes, half lines, unknown types | `misbehaving`; `rpc`, `lines` (unit) |
//! | a tool server that is dead | `claude_code::wire` (unit) |
//! | the server's environment is inherited | `process::env` (unit) |
//! | Codex cannot commit in a worktree, or could write hooks | `tool_call`, `codex_hooks_*` here |
//! | git run in an agent's worktree runs its hooks | `lost_work`; `project::git` (unit) |
//! | a session to resume that is not there | `resume` here |
//! | a stop while it starts | `start` here |
//! | two processes on one session | `store::agents` (unit): leases |
//! | a CLI of another version | `runtime::probe` (unit); `doctor` |
//! | writing to a dead process | `process` (unit) |
//! | SIGHUP is ignored when the server was started under `nohup` | `process` (unit): none is sent |
//! | anything but JSON on an agent's stdin | `rpc` (unit); `misbehaving` reads nothing else |

mod stage;

use std::future::Future;

use musher::agents::process::{Marked, find_marked, signal};
use musher::agents::runtime::{
    Answer, Delivery, InterruptOutcome, RequestId, RuntimeEvent, TurnOutcome,
};
use musher::config::PermissionMode::{Ask, Auto};
use musher::config::RuntimeKind;
use musher::model::agent::Failure;
use musher::model::llm::Usage;
use nix::sys::signal::Signal;
use serde_json::json;
use stage::{ANSWER, ROLE, Run, Stage, Step};

use crate::support::until;

/// What a runtime does about a cell.
#[derive(Debug, Clone, Copy)]
enum Cell {
    /// It passes.
    Passes,
    /// It cannot: it runs in the server itself, and has no process that could die alone.
    RunsInTheServer,
    /// It cannot: it calls no model.
    CallsNoModel,
}

struct Row {
    start: Cell,
    tool_call: Cell,
    mail: Cell,
    report: Cell,
    steer_or_queue: Cell,
    interrupt: Cell,
    permission: Cell,
    question: Cell,
    resume: Cell,
    crash: Cell,
    kill: Cell,
    usage: Cell,
    failure: Cell,
}

fn row(kind: RuntimeKind) -> Row {
    use Cell::{CallsNoModel, Passes, RunsInTheServer};
    let all = Row {
        start: Passes,
        tool_call: Passes,
        mail: Passes,
        report: Passes,
        steer_or_queue: Passes,
        interrupt: Passes,
        permission: Passes,
        question: Passes,
        resume: Passes,
        crash: Passes,
        kill: Passes,
        usage: Passes,
        failure: Passes,
    };
    match kind {
        RuntimeKind::ClaudeCode | RuntimeKind::Codex | RuntimeKind::Acp => all,
        RuntimeKind::Api => Row { crash: RunsInTheServer, ..all },
        RuntimeKind::Replay => {
            Row { crash: RunsInTheServer, usage: CallsNoModel, failure: CallsNoModel, ..all }
        }
    }
}

macro_rules! suite {
    ($($module:ident: $kind:ident),+; $cells:tt) => {
        /// The runtimes that the suite is run for.
        const COVERED: &[RuntimeKind] = &[$(RuntimeKind::$kind),+];
        $(suite!(@one $module, $kind, $cells);)+
    };
    (@one $module:ident, $kind:ident, [$($cell:ident),+]) => {
        mod $module {
            use super::{Row, RuntimeKind, row};

            #[test]
            fn has_a_test_for_every_cell() {
                // A cell that is not named here does not compile.
                let Row { $($cell: _),+ } = row(RuntimeKind::$kind);
            }

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $cell() {
                    super::judge(RuntimeKind::$kind, row(RuntimeKind::$kind).$cell, super::$cell).await;
                }
            )+
        }
    };
}

suite! {
    claude_code: ClaudeCode, codex: Codex, acp: Acp, api: Api, replay: Replay;
    [start, tool_call, mail, report, steer_or_queue, interrupt, permission, question, resume,
     crash, kill, usage, failure]
}

#[test]
fn every_runtime_is_covered() {
    assert_eq!(COVERED, RuntimeKind::ALL);
}

/// Runs a case, or proves that it makes no sense for this runtime.
async fn judge<F: Future<Output = ()>>(kind: RuntimeKind, cell: Cell, case: fn(Stage) -> F) {
    let stage = Stage::new(kind).await;
    match cell {
        Cell::Passes => return case(stage).await,
        Cell::RunsInTheServer | Cell::CallsNoModel => {}
    }
    stage.plays(&[("hello", vec![Step::Say("Hello.")])]);
    let mut run = stage.open(Auto, None).await;
    run.say("[hello]", Delivery::NextTurn).await;
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    match cell {
        Cell::RunsInTheServer => assert_eq!(run.process(), None),
        Cell::CallsNoModel => assert!(stage.model.all_requests().is_empty()),
        Cell::Passes => {}
    }
    run.stop().await;
}

/// One turn, to its clean end.
async fn turn(run: &mut Run, text: &str) {
    run.say(text, Delivery::NextTurn).await;
    assert_eq!(run.turn_end().await, TurnOutcome::Done, "{:#?}", run.seen);
}

async fn start(stage: Stage) {
    const TRAPS: &str = "/clear\n@/etc/passwd @bob:hs hi";
    stage.plays(&[("hello", vec![Step::Say("Hello.")])]);
    let mut run = stage.open(Auto, None).await;
    let id = run.say(&format!("[hello]\n{TRAPS}"), Delivery::NextTurn).await;
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    assert!(!run.native_id().is_empty());
    assert!(run.said("Hello."), "{:#?}", run.seen);
    let ready = run.place(|event| matches!(event, RuntimeEvent::Ready { .. }));
    let text = run.place(|event| matches!(event, RuntimeEvent::Text(_)));
    assert!(ready < text, "{:#?}", run.seen);
    run.place(|event| *event == RuntimeEvent::Consumed(id));
    if stage.has_model() {
        let request = stage.last_request();
        let asked = request.user_texts().join("\n");
        assert!(asked.contains(TRAPS), "not verbatim: {asked}");
        assert!(!request.mentions("root:x:0"), "a file was read in");
        assert!(request.mentions(ROLE), "the role's prompt is missing");
    }
    run.stop().await;
    // Stopped before anything was said, while it starts.
    stage.open(Auto, None).await.stop().await;
}

async fn tool_call(stage: Stage) {
    let line = "echo made > made.txt && git add -A && git commit -qm Made";
    stage.plays(&[("work", vec![Step::Shell(line), Step::Say("Made.")])]);
    let mut run = stage.open(Auto, None).await;
    turn(&mut run, "[work]").await;
    assert_eq!(stage.last_commit(), "Made");
    let started = run.place(
        |event| matches!(event, RuntimeEvent::ToolStart { summary, .. } if summary.contains("made.txt")),
    );
    let ended = run.place(|event| matches!(event, RuntimeEvent::ToolEnd { ok: true, .. }));
    assert!(started < ended);
    run.stop().await;
}

async fn mail(stage: Stage) {
    let letter = json!({"to": "coder-2", "subject": "Hi", "body": "@ann:hs /clear"});
    let steps = vec![
        Step::Call("mail_check", json!({})),
        Step::Call("mail_send", letter.clone()),
        Step::Say("Sent."),
    ];
    stage.plays(&[("mail", steps)]);
    let mut run = stage.open(Ask, None).await;
    turn(&mut run, "[mail]").await;
    let expected = [("mail_check".to_owned(), json!({})), ("mail_send".to_owned(), letter)];
    assert_eq!(stage.calls(), expected, "in this order, as asked, and once");
    if stage.has_model() {
        assert!(stage.last_request().mentions("the stage heard mail_send"));
    }
    run.stop().await;
}

async fn report(stage: Stage) {
    let done = json!({"summary": "It is done."});
    let steps = vec![Step::Call("report_done", done.clone()), Step::Say("Done.")];
    stage.plays(&[("report", steps)]);
    let mut run = stage.open(Ask, None).await;
    turn(&mut run, "[report]").await;
    assert_eq!(stage.calls(), [("report_done".to_owned(), done)]);
    let named = |event: &RuntimeEvent| matches!(event, RuntimeEvent::ToolStart { name, .. } if name.ends_with("report_done"));
    run.place(named);
    run.stop().await;
}

async fn steer_or_queue(stage: Stage) {
    let line = "touch running; while [ ! -e go ]; do sleep 0.05; done; sleep 1";
    stage.plays(&[
        ("long", vec![Step::Shell(line), Step::Say("Long done.")]),
        ("extra", vec![Step::Say("Extra done.")]),
    ]);
    let mut run = stage.open(Auto, None).await;
    run.say("[long]", Delivery::NextTurn).await;
    stage.until_there("running").await;
    let extra = run.say("[extra] and this", Delivery::Steer).await;
    std::fs::write(stage.worktree.join("go"), "").unwrap();
    let taken = |event: &RuntimeEvent| *event == RuntimeEvent::Consumed(extra);
    let is_end = |event: &RuntimeEvent| matches!(event, RuntimeEvent::TurnEnd(TurnOutcome::Done));
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    if stage.runtime.caps().steer {
        assert!(run.place(taken) < run.place(is_end), "{:#?}", run.seen);
    } else {
        assert!(!run.seen.iter().any(taken), "it says that it cannot steer: {:#?}", run.seen);
        assert_eq!(run.turn_end().await, TurnOutcome::Done);
        assert!(run.place(is_end) < run.place(taken), "{:#?}", run.seen);
    }
    if stage.has_model() {
        assert!(stage.last_request().mentions("and this"));
    }
    run.stop().await;
}

async fn interrupt(stage: Stage) {
    // Once: a recording goes on at the line that was cut off.
    let line = "test -e slept || { touch slept; sleep 600; }";
    stage.plays(&[
        ("long", vec![Step::Shell(line), Step::Say("Long done.")]),
        ("again", vec![Step::Say("Again.")]),
    ]);
    let mut run = stage.open(Auto, None).await;
    let nothing = run.session.interrupt(std::time::Duration::from_secs(3)).await;
    assert_eq!(nothing, InterruptOutcome::NothingRunning);
    run.say("[long]", Delivery::NextTurn).await;
    stage.until_there("slept").await;
    let outcome = run.session.interrupt(std::time::Duration::from_secs(3)).await;
    assert_eq!(outcome, InterruptOutcome::Clean);
    assert_eq!(run.turn_end().await, TurnOutcome::Interrupted);
    let sleeps = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).eq([&b"sleep"[..], b"600", b""])
    };
    until("the tool to be gone", || {
        let left = find_marked(Marked::Exactly(&run.marker));
        (!left.iter().any(|ident| sleeps(ident.pid))).then_some(())
    })
    .await;
    turn(&mut run, "[again]").await;
    run.stop().await;
}

async fn asked(run: &mut Run) -> RequestId {
    run.until("request for permission", |event| match event {
        RuntimeEvent::Ask { request, input, .. } if input.to_string().contains("open(") => {
            Some(request.clone())
        }
        _other => None,
    })
    .await
}

async fn permission(stage: Stage) {
    stage.plays(&[
        ("first", vec![Step::Shell("python3 -c \"open('first', 'w')\""), Step::Say("One.")]),
        ("second", vec![Step::Shell("python3 -c \"open('second', 'w')\""), Step::Say("Two.")]),
        ("third", vec![Step::Shell("python3 -c \"open('third', 'w')\""), Step::Say("Three.")]),
    ]);
    assert!(stage.runtime.caps().approve);
    let mut run = stage.open(Ask, None).await;
    run.say("[first]", Delivery::NextTurn).await;
    let request = asked(&mut run).await;
    assert!(!stage.has("first"), "it waits");
    run.session.answer(&request, Answer::Allow { edited: None }).await.unwrap();
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    assert!(stage.has("first"));

    run.say("[second]", Delivery::NextTurn).await;
    let request = asked(&mut run).await;
    let deny = || Answer::Deny { message: "not today".to_owned(), stop: false };
    run.session.answer(&request, deny()).await.unwrap();
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    assert!(!stage.has("second"));

    run.say("[third]", Delivery::NextTurn).await;
    let request = asked(&mut run).await;
    let outcome = run.session.interrupt(std::time::Duration::from_secs(3)).await;
    assert_eq!(outcome, InterruptOutcome::Clean);
    assert_eq!(run.turn_end().await, TurnOutcome::Interrupted);
    run.place(|event| *event == RuntimeEvent::AskWithdrawn(request.clone()));
    assert!(run.session.answer(&request, deny()).await.is_err(), "a late answer is stale");
    assert!(!stage.has("third"));
    run.stop().await;
}

async fn question(stage: Stage) {
    let steps = vec![Step::Call("ask_human", json!({"summary": "Tabs?"})), Step::Say("Thanks.")];
    stage.plays(&[("ask", steps)]);
    stage.tools_answer(false);
    let mut run = stage.open(Ask, None).await;
    run.say("[ask]", Delivery::NextTurn).await;
    until("the question", || (!stage.calls().is_empty()).then_some(())).await;
    // Nobody has answered, and the session is none the worse for it.
    let late = run.say("[ask] never mind", Delivery::NextTurn).await;
    let withdrawn = run.session.withdraw(late).await.unwrap();
    stage.tools_answer(true);
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    assert!(run.said("Thanks."), "{:#?}", run.seen);
    if stage.has_model() {
        assert!(stage.last_request().mentions("the stage heard ask_human"));
        assert!(!withdrawn || !stage.last_request().mentions("never mind"));
    }
    run.stop().await;
}

async fn resume(stage: Stage) {
    stage.plays(&[("first", vec![Step::Say("One.")]), ("second", vec![Step::Say("Two.")])]);
    assert!(stage.runtime.caps().resume);
    let mut run = stage.open(Auto, None).await;
    turn(&mut run, "[first] remember the heron").await;
    let native = run.native_id();
    run.stop().await;

    let mut run = stage.open(Auto, Some(&native)).await;
    turn(&mut run, "[second]").await;
    assert_eq!(run.native_id(), native);
    assert!(run.said("Two."));
    if stage.has_model() {
        assert!(stage.last_request().mentions("the heron"), "the conversation goes on");
    }
    run.stop().await;

    // A session that is not there is said to be lost, or is told from the one that was asked for.
    let lost = "5f1c1f4e-0c3f-4d6b-9b0a-6f1c1f4e0c3f";
    let mut run = stage.open(Auto, Some(lost)).await;
    run.say("[first]", Delivery::NextTurn).await;
    match run.turn_end().await {
        TurnOutcome::Failed { failure, .. } => assert_eq!(failure, Failure::SessionLost),
        TurnOutcome::Done => assert_ne!(run.native_id(), lost),
        other => panic!("{other:?}"),
    }
    run.stop().await;
}

async fn crash(stage: Stage) {
    let line = "test -e running || { touch running; setsid sleep 600; }";
    stage.plays(&[
        ("first", vec![Step::Say("One.")]),
        ("long", vec![Step::Shell(line), Step::Say("Long done.")]),
        ("again", vec![Step::Say("Again.")]),
    ]);
    let mut run = stage.open(Auto, None).await;
    turn(&mut run, "[first]").await;
    run.say("[long]", Delivery::NextTurn).await;
    stage.until_there("running").await;
    signal(run.process().expect("it has a process"), Signal::SIGKILL);
    match run.turn_end().await {
        TurnOutcome::Failed { failure, message } => {
            assert_eq!(failure, Failure::Crash, "{message}");
        }
        other => panic!("{other:?}"),
    }
    let native = run.native_id();
    run.stop().await;

    let mut run = stage.open(Auto, Some(&native)).await;
    turn(&mut run, "[again]").await;
    assert_eq!(run.native_id(), native);
    run.stop().await;
}

async fn kill(stage: Stage) {
    let line = "setsid sh -c 'trap \"\" TERM INT HUP; touch stubborn; while :; do sleep 1; done' & \
                sleep 600";
    stage.plays(&[("long", vec![Step::Shell(line), Step::Say("Long done.")])]);
    let run = stage.open(Auto, None).await;
    run.say("[long]", Delivery::NextTurn).await;
    stage.until_there("stubborn").await;
    assert!(!find_marked(Marked::Exactly(&run.marker)).is_empty());
    let seen = run.stop().await;
    let ends = seen.iter().filter(|event| matches!(event, RuntimeEvent::TurnEnd(_))).count();
    assert!(ends <= 1, "{seen:#?}");
}

async fn usage(stage: Stage) {
    stage.plays(&[("work", vec![Step::Shell("true"), Step::Say("Done.")])]);
    let mut run = stage.open(Auto, None).await;
    for turns in 1..=2 {
        turn(&mut run, "[work]").await;
        let (mut used, mut money) = (Usage::default(), 0);
        for event in &run.seen {
            if let RuntimeEvent::Used { usage, microusd, .. } = event {
                used += *usage;
                money += microusd;
            }
        }
        let calls = 2 * turns;
        let expected = Usage { input: calls * ANSWER.0, cached: 0, output: calls * ANSWER.1 };
        assert_eq!(used, expected, "{:#?}", run.seen);
        assert!(money > 0 || !stage.runtime.caps().cost, "it says that it knows the cost");
    }
    run.stop().await;
}

async fn failure(stage: Stage) {
    use crate::support::model_server::Reply;
    stage.model.clear_rules();
    stage.model.always(|_| true, Reply::error(401));
    let mut run = stage.open(Auto, None).await;
    run.say("[hello]", Delivery::NextTurn).await;
    match run.turn_end().await {
        TurnOutcome::Failed { failure, message } => {
            assert_eq!(failure, Failure::Auth, "{message}");
        }
        other => panic!("{other:?}"),
    }
    let asked = stage.model.requests().len();
    assert!(asked <= 6, "a key that is refused is not tried {asked} times");
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_hooks_and_configuration_of_git_stay_out_of_reach_of_its_commands() {
    let stage = Stage::new(RuntimeKind::Codex).await;
    // In a script, where no guard reads it: only the sandbox is in its way.
    stage.write(
        "reach.sh",
        "d=$(git rev-parse --git-common-dir); echo x > $d/hooks/post-commit; \
         echo x >> $d/config; touch ../outside; touch tried",
    );
    stage.plays(&[("reach", vec![Step::Shell("sh reach.sh"), Step::Say("Tried.")])]);
    let config = stage.git_config();
    let mut run = stage.open(Auto, None).await;
    turn(&mut run, "[reach]").await;
    assert!(stage.has("tried"), "inside it writes");
    assert_eq!(stage.git_config(), config);
    assert!(!stage.has("../outside"));
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_begins_by_itself_is_told_and_metered() {
    let stage = Stage::new(RuntimeKind::ClaudeCode).await;
    stage.model.clear_rules();
    stage.model.on(|request| {
        use crate::support::model_server::Reply;
        let input = json!({"command": "sleep 1; echo woken", "description": "x", "run_in_background": true});
        Some(match request.tool_results().len() {
            0 => Reply::call("Bash", input).usage(ANSWER.0, ANSWER.1),
            _ => Reply::text("Noted.").usage(ANSWER.0, ANSWER.1),
        })
    });
    let mut run = stage.open(Auto, None).await;
    turn(&mut run, "[go]").await;
    // Nothing is said to it: the end of its command wakes it.
    let before = run.seen.len();
    assert_eq!(run.turn_end().await, TurnOutcome::Done);
    let later = &run.seen[before..];
    assert!(later.contains(&RuntimeEvent::Running), "{later:#?}");
    let metered = |event: &RuntimeEvent| matches!(event, RuntimeEvent::Used { usage, .. } if usage.output == ANSWER.1);
    assert!(later.iter().any(metered), "{later:#?}");
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_asks_before_it_leaves_its_sandbox_also_after_a_resume() {
    let stage = Stage::new(RuntimeKind::Codex).await;
    // What would write outside of the worktree no answer can allow; this is only asked for.
    let out = json!({"cmd": "touch escaped", "sandbox_permissions": "require_escalated"});
    let steps = vec![Step::Call("exec_command", out), Step::Say("Tried.")];
    stage.plays(&[("out", steps)]);
    let mut native = None;
    for _resumed in [false, true] {
        // Everything inside the worktree is allowed.
        let mut run = stage.open(Auto, native.as_deref()).await;
        run.say("[out]", Delivery::NextTurn).await;
        let (request, tool) = run
            .until("request for permission", |event| match event {
                RuntimeEvent::Ask { request, tool, .. } => Some((request.clone(), tool.clone())),
                _other => None,
            })
            .await;
        assert!(tool.contains("outside of the sandbox"), "{tool}");
        let deny = Answer::Deny { message: "stay inside".to_owned(), stop: false };
        run.session.answer(&request, deny).await.unwrap();
        assert_eq!(run.turn_end().await, TurnOutcome::Done);
        assert!(stage.last_request().mentions("stay inside"), "the model hears why");
        assert!(!stage.has("escaped"));
        native = Some(run.native_id());
        run.stop().await;
    }
}
