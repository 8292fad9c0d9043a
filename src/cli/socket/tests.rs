use super::super::request::Response;
use super::*;
use crate::clock::Clock;
use crate::mail::NewMail;
use crate::store::Store;
use std::io::{BufRead, Write};

const CONFIG: &str = r#"
[llm]
provider = "replay"
replay_file = "x"
[[agents]]
name = "coder-1"
role = "coder"
runtime = "api"
"#;

struct Server {
    dir: tempfile::TempDir,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// A server whose data directory has a long name, if `deep`.
async fn server(deep: bool) -> (Server, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = if deep { dir.path().join("d".repeat(150)) } else { dir.path().join("data") };
    let store = Store::open(&data, Clock::system()).unwrap();
    let config = Arc::new(toml::from_str(CONFIG).unwrap());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(answer_until(Ctx::new(store, config), None, cancel.clone()));
    while connect(&data).is_err() {
        tokio::task::yield_now().await;
    }
    (Server { dir, cancel, task }, data)
}

fn ask(data: &Path, line: &str) -> Response {
    let stream = connect(data).unwrap();
    (&stream).write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::BufReader::new(&stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

fn send(key: &str) -> String {
    let mail = NewMail::new("tester", "coder-1", "hello", "text");
    let request = Request { key: Some(key.to_owned()), call: Call::MailSend { mail } };
    format!("{}\n", serde_json::to_string(&request).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_repeated_with_its_key_happens_once() {
    let (server, data) = server(false).await;
    let (first, again, other) =
        (ask(&data, &send("a")), ask(&data, &send("a")), ask(&data, &send("b")));
    let id = |response: Response| response.into_result().unwrap()["id"].clone();
    let (first, again, other) = (id(first), id(again), id(other));
    assert_eq!(first, again);
    assert_ne!(first, other);
    server.cancel.cancel();
    server.task.await.unwrap().unwrap();
    assert!(connect(&data).is_err(), "the socket is gone with the server");
    drop(server.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_cut_off_is_not_carried_out_and_nonsense_is_refused() {
    let (server, data) = server(false).await;
    let line = send("a");
    {
        let stream = connect(&data).unwrap();
        (&stream).write_all(line.trim_end().as_bytes()).unwrap();
    }
    let list = r#"{"key":null,"call":{"call":"mail_list","filter":{"unread":false}}}"#;
    let listed = ask(&data, &format!("{list}\n")).into_result().unwrap();
    assert_eq!(listed["messages"], json!([]));
    let failure = ask(&data, "{\"call\":{\"call\":\"dance\"}}\n").into_result().unwrap_err();
    assert!(failure.message.contains("dance"), "{failure}");
    server.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_reaches_the_socket_and_a_long_path_is_no_obstacle() {
    let (server, data) = server(true).await;
    let mode = std::fs::metadata(data.join(NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    ask(&data, &send("a")).into_result().unwrap();
    server.cancel.cancel();
}
