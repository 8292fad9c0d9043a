use super::*;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

fn tools(dir: &Path) -> LocalTools {
    LocalTools {
        worktree: dir.to_owned(),
        env: crate::agents::process::base_env(&[]),
        marker: format!("test-{}", uuid::Uuid::new_v4()),
        stderr_log: dir.join("stderr.log"),
        confinement: Confinement::None,
        bounds: Bounds::default(),
    }
}

async fn call(tools: &LocalTools, name: &str, input: Value) -> (bool, String) {
    let outcome = tools.call(name, &input, &CancellationToken::new()).await;
    (!outcome.is_error, outcome.text)
}

#[tokio::test]
async fn files_are_written_edited_read_listed_and_searched() {
    let dir = tempfile::tempdir().unwrap();
    let tools = tools(dir.path());
    let written =
        call(&tools, "write_file", json!({"path": "src/a.rs", "content": "one\ntwo\ntwo\n"}));
    assert!(written.await.0);
    let twice = json!({"path": "src/a.rs", "old": "two", "new": "2"});
    let (ok, text) = call(&tools, "edit_file", twice).await;
    assert!(!ok && text.contains("2 times"), "{text}");
    let once = json!({"path": "src/a.rs", "old": "one", "new": "1"});
    assert!(call(&tools, "edit_file", once).await.0);
    let read = call(&tools, "read_file", json!({"path": "src/a.rs", "limit": 1})).await;
    assert_eq!(read.1, "     1\t1\n(2 more lines: offset 2)\n");
    assert_eq!(call(&tools, "list_files", json!({})).await.1, "src/a.rs");
    let found = call(&tools, "search", json!({"pattern": "tw."})).await;
    assert_eq!(found.1, "src/a.rs:2: two\nsrc/a.rs:3: two");
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_worktree() {
    let outside = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    let absolute = outside.path().join("x").display().to_string();
    for path in ["../x", "link/x", "a/../../x", absolute.as_str()] {
        let input = json!({"path": path, "content": "gone"});
        let (ok, text) = call(&tools(dir.path()), "write_file", input).await;
        assert!(!ok && text.contains("outside"), "{path}: {text}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_command_answers_with_both_streams_and_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let tools = tools(dir.path());
    let ran = call(&tools, "shell", json!({"command": "echo out; echo err >&2; exit 3"})).await;
    assert_eq!(ran, (false, "out\nerr\n(exit code 3)".to_owned()));
    let big = call(&tools, "shell", json!({"command": "seq 1 100000"})).await;
    assert!(big.0 && big.1.len() < 40_000 && big.1.contains("99999\n100000\n(exit code 0)"));
}

#[tokio::test]
async fn a_command_that_hangs_or_leaves_something_behind_does_not_hold_the_agent_up() {
    let dir = tempfile::tempdir().unwrap();
    let tools = tools(dir.path());
    let began = Instant::now();
    let left = call(&tools, "shell", json!({"command": "setsid sleep 300 & echo up"})).await;
    assert_eq!(left.1, "up\n(exit code 0)");
    let hung = call(&tools, "shell", json!({"command": "sleep 300", "timeout_s": 1})).await;
    assert!(!hung.0 && hung.1.contains("longer than 1 s"), "{}", hung.1);
    assert!(began.elapsed() < Duration::from_secs(10));
    let left =
        crate::agents::process::find_marked(crate::agents::process::Marked::Exactly(&tools.marker));
    assert_eq!(left, []);
}

/// The agent's part of `./scripts/demo`, played on the repository of the demo.
#[tokio::test]
async fn the_demos_recording_mends_the_demos_repository() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/sample");
    for file in std::fs::read_dir(sample).unwrap().map(Result::unwrap) {
        if file.path().is_file() {
            std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
    }
    let tools = tools(dir.path());
    let prepare = "git init -q && git config user.name a && git config user.email a@b && \
                   git add -A && git commit -qm Start";
    assert!(call(&tools, "shell", json!({"command": prepare})).await.0);
    let test = json!({"command": "python3 -m unittest -q"});
    assert!(!call(&tools, "shell", test.clone()).await.0, "there is something to mend");
    let mut others = vec![];
    for line in include_str!("../../../../config/demo/agent.jsonl").lines() {
        let play: Value = serde_json::from_str(line).unwrap();
        let Some(name) = play["tool"].as_str() else { continue };
        if LocalTools::has(name) {
            let (ok, text) = call(&tools, name, play["input"].clone()).await;
            assert!(ok, "{line}: {text}");
        } else {
            others.push((name.to_owned(), play["input"].clone()));
        }
    }
    assert!(call(&tools, "shell", test).await.0, "it is mended");
    let (_, log) = call(&tools, "shell", json!({"command": "git log --oneline | wc -l"})).await;
    assert!(log.starts_with('2'), "and committed: {log}");
    // The one that is not its own is the report, with the one argument that it needs.
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(others[0].0, "report_done");
    assert!(others[0].1["summary"].is_string() && others[0].1.as_object().unwrap().len() == 1);
}

#[tokio::test]
async fn bubblewrap_lets_work_be_committed_and_nothing_else_be_written_or_seen() {
    assert!(
        crate::agents::process::find_program("bwrap").is_some(),
        "this test needs bubblewrap: apt install bubblewrap"
    );
    let place = tempfile::tempdir().unwrap();
    let (data, repository) = (place.path().join("data"), place.path().join("shop"));
    let worktree = data.join("worktrees/shop/1");
    std::fs::create_dir_all(&repository).unwrap();
    std::fs::create_dir_all(worktree.parent().unwrap()).unwrap();
    std::fs::write(data.join("musher.db"), "secret").unwrap();
    let prepare = format!(
        "git init -q -b main && git config user.name a && git config user.email a@b && \
         git commit -q --allow-empty -m Start && git worktree add -q -b item {}",
        worktree.display()
    );
    let prepared = call(&tools(&repository), "shell", json!({"command": prepare})).await;
    assert!(prepared.0, "{}", prepared.1);
    let mut tools = tools(&worktree);
    tools.confinement = Confinement::Bubblewrap;
    tools.stderr_log = place.path().join("stderr.log");
    tools.bounds = Bounds::new(&data, None, vec![worktree.clone()]);
    let shell = async |command: String| call(&tools, "shell", json!({"command": command})).await;
    let (ok, text) =
        shell("echo x > a && git add a && git commit -qm Work && git log --oneline".to_owned())
            .await;
    assert!(ok && text.contains("Work"), "{text}");
    for forbidden in [
        format!("cat {}", data.join("musher.db").display()),
        format!("echo x > {}", repository.join(".git/config").display()),
        format!("echo x > {}", repository.join(".git/hooks/pre-commit").display()),
        "touch /etc/musher-was-here".to_owned(),
    ] {
        let (ok, text) = shell(forbidden.clone()).await;
        assert!(!ok, "{forbidden}: {text}");
    }
    // What it sees as its machine has only its own processes.
    let (_, text) = shell("ls -d /proc/[0-9]* | wc -l".to_owned()).await;
    let processes: u32 = text.split_whitespace().next().unwrap().parse().unwrap();
    assert!(processes < 12, "{text}");
}
