use super::*;
use std::os::unix::fs::PermissionsExt;

fn script(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("agent.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn spec(dir: &Path, body: &str, marker: &str) -> Spawn {
    Spawn {
        program: script(dir, body),
        args: vec![],
        cwd: dir.to_owned(),
        env: base_env(&[]),
        marker: marker.to_owned(),
        stderr_log: dir.join("stderr.log"),
    }
}

fn quick() -> Ladder {
    Ladder { terminate: Duration::from_millis(300), ..Ladder::default() }
}

#[tokio::test]
async fn a_tool_in_its_own_session_is_gone_after_stop() {
    let dir = tempfile::tempdir().unwrap();
    let marker = format!("test-{}", uuid::Uuid::new_v4());
    // One tool in its own session, one whose parent is gone already, and an agent deaf to SIGTERM.
    let body = "trap '' TERM\nsetsid sleep 300 &\n(setsid sleep 301 & )\necho up\nsleep 302";
    let (process, _stdin, mut lines) = spawn(&spec(dir.path(), body, &marker)).unwrap();
    assert_eq!(lines.next().await.unwrap(), Line::Text("up".to_owned()));
    // In the middle of an exec a process has no environment for a moment.
    for _ in 0..100 {
        if find_marked(Marked::Exactly(&marker)).len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = std::time::Instant::now();
    let report = process.stop(quick()).await;
    assert_eq!(report.signal, Some(9));
    assert_eq!(report.survivors, Vec::<i32>::new());
    assert_eq!(find_marked(Marked::Exactly(&marker)), []);
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn an_agent_that_follows_sigterm_is_not_killed_but_its_leftovers_are() {
    let dir = tempfile::tempdir().unwrap();
    let marker = format!("test-{}", uuid::Uuid::new_v4());
    let body = "setsid sleep 300 &\ntrap 'echo bye >&2; exit 3' TERM\necho up\nwhile :; do sleep 0.05; done";
    let (process, _stdin, mut lines) = spawn(&spec(dir.path(), body, &marker)).unwrap();
    lines.next().await.unwrap();
    let report = process.stop(Ladder::default()).await;
    assert_eq!((report.code, report.signal), (Some(3), None));
    assert_eq!(report.stderr_tail, "bye");
    assert_eq!(find_marked(Marked::Exactly(&marker)), []);
}

#[tokio::test]
async fn it_runs_in_its_own_session_and_group_and_sees_only_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    let marker = format!("test-{}", uuid::Uuid::new_v4());
    let body =
        "cut -d' ' -f1,5,6 /proc/$$/stat\necho \"$MUSHER_AGENT_ID\"\necho \"$CARGO_MANIFEST_DIR.\"";
    let (process, _stdin, mut lines) = spawn(&spec(dir.path(), body, &marker)).unwrap();
    let pid = process.ident().pid;
    assert_eq!(lines.next().await.unwrap(), Line::Text(format!("{pid} {pid} {pid}")));
    assert_eq!(lines.next().await.unwrap(), Line::Text(marker));
    assert_eq!(lines.next().await.unwrap(), Line::Text(".".to_owned()));
    assert_eq!(process.exited().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn writing_to_a_dead_process_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (process, mut stdin, _lines) = spawn(&spec(dir.path(), "exit 0", "test-dead")).unwrap();
    process.exited().await;
    let error = stdin.write_line("hello").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn stderr_is_drained_and_its_tail_kept_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let body =
        "head -c 300000 /dev/zero | tr '\\0' x >&2\necho ' sk-ant-api03-abcdefghijklmnop' >&2";
    let (process, _stdin, _lines) = spawn(&spec(dir.path(), body, "test-noise")).unwrap();
    process.exited().await;
    let report = process.stop(Ladder::default()).await;
    assert!(report.stderr_tail.len() <= STDERR_TAIL, "{}", report.stderr_tail.len());
    assert!(report.stderr_tail.ends_with("x [redacted]"), "{}", report.stderr_tail);
}
