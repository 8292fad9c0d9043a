//! What a message between agents costs: in the store against a bare durable insert, and as a
//! whole process; with a thousand messages in the database, and with a million.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use musher::clock::Clock;
use musher::config::Config;
use musher::mail::{self, Directory, MailError, NewMail};
use musher::store::{Store, StoreError, mail as rows};
use serde_json::Value;
use support::figures::{Figures, milliseconds, percentile};
use support::installed;
use support::model_server::ModelServer;
use support::musher::{Musher, program};
use support::synapse::Synapse;

const ROUNDS: usize = 2000;
const PROCESSES: usize = 60;
/// The line that Musher logs when it is up.
const UP: &str = "synced with the homeserver";
const BODY: &str = "The parser is done; its tests pass. What is open: the error messages.";

fn main() {
    let mut figures = Figures::new("mail");
    for existing in [1_000, 1_000_000] {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), existing);
        in_the_store(&mut figures, directory.path(), existing);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for existing in [1_000, 1_000_000] {
        runtime.block_on(as_a_process(&mut figures, existing));
    }
    figures.print();
    // The homeserver is a static and would outlive us.
    std::process::exit(0);
}

fn configuration() -> Config {
    let text = r#"
        [llm]
        provider = "replay"
        [[agents]]
        name = "coder-1"
        role = "coder"
        runtime = "api"
        [[agents]]
        name = "coder-2"
        role = "coder"
        runtime = "api"
    "#;
    toml::from_str(text).unwrap()
}

/// Puts `count` read messages into the database, some hundreds in one transaction.
fn fill(data: &Path, count: usize) {
    let store = Store::open(data, Clock::system()).unwrap();
    let directory = Directory::new(&configuration());
    for first in (0..count).step_by(5_000) {
        let directory = directory.clone();
        let last = count.min(first + 5_000);
        let sent: Result<(), MailError> = store.write_blocking(move |tx| {
            for number in first..last {
                let subject = format!("note {number}");
                for id in
                    mail::send(tx, &directory, NewMail::new("coder-2", "coder-1", subject, BODY))?
                {
                    rows::mark_read(tx, id)?;
                }
            }
            Ok(())
        });
        sent.unwrap();
    }
    store.close();
}

/// A durable insert with nothing around it, in a database of its own on the same file system.
fn bare_inserts(directory: &Path) -> Vec<Duration> {
    let conn = rusqlite::Connection::open(directory.join("bare.db")).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    conn.pragma_update(None, "synchronous", "FULL").unwrap();
    conn.execute_batch(
        "CREATE TABLE note (id INTEGER PRIMARY KEY, sender, recipient, subject, body, type,
                            priority, created_at);
         CREATE INDEX by_recipient ON note (recipient, priority, id);",
    )
    .unwrap();
    let insert = "INSERT INTO note (sender, recipient, subject, body, type, priority, created_at)
                  VALUES (?1, ?2, ?3, ?4, 'status', 1, ?5)";
    let mut insert = conn.prepare(insert).unwrap();
    timed(ROUNDS, |number| {
        let subject = format!("note {number}");
        insert.execute(("coder-2", "coder-1", subject, BODY, number as i64)).unwrap();
    })
}

fn timed(rounds: usize, mut work: impl FnMut(usize)) -> Vec<Duration> {
    let one = |number| {
        let began = Instant::now();
        work(number);
        began.elapsed()
    };
    (0..rounds).map(one).collect()
}

fn in_the_store(figures: &mut Figures, data: &Path, existing: usize) {
    let bare_before = bare_inserts(tempfile::tempdir_in(data).unwrap().path());
    let store = Store::open(data, Clock::system()).unwrap();
    let directory = Directory::new(&configuration());
    let sent = timed(ROUNDS, |number| {
        let directory = directory.clone();
        let subject = format!("note {number}");
        let message = NewMail::new("coder-2", "coder-1", subject, BODY);
        let sent: Result<_, MailError> =
            store.write_blocking(move |tx| mail::send(tx, &directory, message));
        sent.unwrap();
    });
    let checked = timed(ROUNDS, |_| {
        let now = store.clock().millis();
        let found = store.read_blocking(|conn| rows::check(conn, "coder-1", now, 1));
        let found: Result<_, StoreError> = found;
        let id = found.unwrap().mails[0].id;
        let read: Result<bool, StoreError> =
            store.write_blocking(move |tx| rows::mark_read(tx, id));
        assert!(read.unwrap());
    });
    store.close();
    // The disk's mood changes: the bare inserts stand before and after, and the median counts.
    let bare_after = bare_inserts(tempfile::tempdir_in(data).unwrap().path());
    let bare = percentile(&[bare_before, bare_after].concat(), 50);
    let (sent, checked) = (percentile(&sent, 50), percentile(&checked, 50));
    let title = format!("{existing} messages");
    figures.add(&format!("{title}: bare durable insert"), &milliseconds(bare), "");
    let ratio = |time: Duration| time.as_secs_f64() / bare.as_secs_f64();
    figures.ratio(&format!("{title}: send in the store"), &milliseconds(sent), ratio(sent), 1.3);
    figures.ratio(
        &format!("{title}: check and mark read"),
        &milliseconds(checked),
        ratio(checked),
        1.3,
    );
}

/// Runs a command many times from a process that is small itself, since the kernel counts what a
/// child was before it became the program; before each run another one, which does not count.
/// Prints milliseconds and peak memory in KiB.
const MEASURE: &str = r#"
import json, os, sys, time
rounds, before, timed = json.loads(sys.argv[1])
quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
def run(command):
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, (command, status)
    return (time.perf_counter() - began) * 1000, usage.ru_maxrss
times, peak = [], 0
for _ in range(rounds):
    if before:
        run(before)
    took, memory = run(timed)
    times.append(took)
    peak = max(peak, memory)
print(json.dumps({"times": times, "peak": peak}))
"#;

async fn as_a_process(figures: &mut Figures, existing: usize) {
    let model = ModelServer::start().await;
    let mut musher = Musher::new(Synapse::shared().await, &model).await;
    musher.allow_admin("@ann:test.local").built_in_agent("coder-1").built_in_agent("coder-2");
    tokio::task::block_in_place(|| fill(&musher.data(), existing));
    let configuration = musher.write_configuration();
    let command = |words: &[&str]| -> Vec<String> {
        let program = program();
        let ends = ["-c".into(), configuration.display().to_string()];
        let words = words.iter().map(|word| (*word).to_owned());
        std::iter::once(program.display().to_string()).chain(words).chain(ends).collect()
    };
    let send = ["mail", "send", "--to", "coder-1", "--from", "coder-2", "--subject", "note"];
    let send = command(&[&send[..], &["--body", BODY]].concat());
    let check = command(&["mail", "check", "--agent", "coder-1"]);
    for server in [false, true] {
        if server {
            musher.start();
            musher.wait_for_log(UP).await;
        }
        for (name, before, timed) in
            [("mail send", vec![], send.clone()), ("mail check", send.clone(), check.clone())]
        {
            // What is there already would be checked with it, up to fifty at a time.
            measure(3, &[], &check);
            let measured = measure(PROCESSES, &before, &timed);
            let times: Vec<Duration> = measured["times"]
                .as_array()
                .unwrap()
                .iter()
                .map(|time| Duration::from_secs_f64(time.as_f64().unwrap() / 1000.0))
                .collect();
            let beside = if server { "beside a server" } else { "no server" };
            let title = format!("{existing} messages: whole `musher {name}`, {beside}");
            let median = percentile(&times, 50);
            figures.limit(&title, median.as_secs_f64() * 1000.0, "ms", 10.0);
            let peak = measured["peak"].as_f64().unwrap() / 1024.0;
            figures.limit(&format!("{title}, peak memory"), peak, "MiB", 15.0);
        }
    }
}

fn measure(rounds: usize, before: &[String], timed: &[String]) -> Value {
    let what = serde_json::json!([rounds, before, timed]).to_string();
    let output = Command::new(installed("venv/bin/python"))
        .args(["-I", "-S", "-c", MEASURE, &what])
        .env("ANTHROPIC_API_KEY", "test-key")
        .env("MUSHER_MATRIX_PASSWORD", "none")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
