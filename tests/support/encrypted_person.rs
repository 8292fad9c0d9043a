//! A person in encrypted rooms: matrix-nio in a process of its own (`nio_person.py`).

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, oneshot};

use super::event::{Event, History, Message};
use super::synapse::{Account, Synapse};
use super::{PATIENCE, installed, repository, tail};

/// A logged-in person with a crypto store of its own.
#[derive(Debug)]
pub struct EncryptedPerson {
    pub account: Account,
    /// `@name:test.local`
    pub id: String,
    shared: Arc<Shared>,
    stdin: tokio::sync::Mutex<ChildStdin>,
    next: AtomicU64,
    directory: TempDir,
    _child: Child,
}

#[derive(Debug, Default)]
struct Shared {
    history: Mutex<History>,
    answers: Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>,
    changed: Notify,
}

impl EncryptedPerson {
    /// Registers someone new on `server`, with a device whose keys are published.
    pub async fn new(server: &Synapse, name: &str) -> Self {
        let account = server.register(name).await;
        let directory = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut child = Command::new(installed("venv/bin/python"))
            .arg(repository().join("tests/support/nio_person.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the venv's Python runs");
        let shared = Arc::new(Shared::default());
        tokio::spawn(read_lines(child.stdout.take().unwrap(), Arc::clone(&shared)));
        let person = Self {
            id: account.user_id.clone(),
            account,
            shared,
            stdin: tokio::sync::Mutex::new(child.stdin.take().unwrap()),
            next: AtomicU64::new(1),
            directory,
            _child: child,
        };
        let account = &person.account;
        let login = json!({
            "do": "login", "homeserver": account.homeserver, "user_id": account.user_id,
            "device_id": account.device_id, "access_token": account.access_token,
            "store": person.directory.path(),
        });
        person.run(login).await;
        person
    }

    /// Runs a command of `nio_person.py`; panics when it fails.
    pub async fn run(&self, command: Value) -> Value {
        let what = command.clone();
        self.try_run(command).await.unwrap_or_else(|why| panic!("{what}: {why}\n{}", self.log()))
    }

    /// Runs a command of `nio_person.py`.
    pub async fn try_run(&self, mut command: Value) -> Result<Value, String> {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        command["id"] = json!(id);
        let (sender, answer) = oneshot::channel();
        self.shared.answers.lock().unwrap().insert(id, sender);
        let line = format!("{command}\n");
        self.stdin.lock().await.write_all(line.as_bytes()).await.map_err(|e| e.to_string())?;
        match tokio::time::timeout(PATIENCE * 2, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("the Python process has ended".to_owned()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    // Rooms

    /// An encrypted direct room with `other`.
    pub async fn direct_room(&self, other: &str) -> String {
        let options =
            json!({"is_direct": true, "preset": "trusted_private_chat", "invite": [other]});
        self.create_room(options, true).await
    }

    /// An encrypted private room with a name and `invited` people.
    pub async fn group_room(&self, name: &str, invited: &[&str]) -> String {
        let options = json!({"name": name, "preset": "private_chat", "invite": invited});
        self.create_room(options, true).await
    }

    /// A room by any options of `/createRoom`.
    pub async fn create_room(&self, options: Value, encrypted: bool) -> String {
        let command = json!({"do": "create_room", "options": options, "encrypted": encrypted});
        self.run(command).await["room_id"].as_str().unwrap().to_owned()
    }

    /// Turns encryption on in a room that had none.
    pub async fn enable_encryption(&self, room: &str) {
        self.run(json!({"do": "enable_encryption", "room": room})).await;
    }

    /// Joins a room that this person is invited to (waits for the invite).
    pub async fn accept_invite(&self, room: &str) {
        self.wait_for("an invite", |event| {
            event.room == room
                && event.state_key.as_deref() == Some(&*self.id)
                && event.content["membership"] == "invite"
        })
        .await;
        self.run(json!({"do": "join", "room": room})).await;
    }

    /// Waits until `user` joins the room. A message sent before can be read by `user` only if
    /// the sender's client shares keys with the invited; nio does.
    pub async fn wait_until_joined(&self, room: &str, user: &str) {
        self.wait_for(&format!("{user} joins {room}"), |event| {
            event.room == room
                && event.kind == "m.room.member"
                && event.state_key.as_deref() == Some(user)
                && event.content["membership"] == "join"
        })
        .await;
    }

    // Speaking

    /// Sends a message, encrypted where the room is, and returns its id.
    pub async fn say(&self, room: &str, message: impl Into<Message>) -> String {
        let content = message.into().into_content();
        self.send_event(room, "m.room.message", content).await
    }

    /// Sends an event of any type.
    pub async fn send_event(&self, room: &str, kind: &str, content: Value) -> String {
        let command = json!({"do": "send", "room": room, "type": kind, "content": content});
        self.run(command).await["event_id"].as_str().unwrap().to_owned()
    }

    /// Reacts to a message (reactions are never encrypted) and returns the reaction's id.
    pub async fn react(&self, room: &str, event: &str, key: &str) -> String {
        let relation = json!({"rel_type": "m.annotation", "event_id": event, "key": key});
        self.send_event(room, "m.reaction", json!({"m.relates_to": relation})).await
    }

    /// Removes an event.
    pub async fn redact(&self, room: &str, event: &str) {
        self.run(json!({"do": "redact", "room": room, "event": event})).await;
    }

    /// Shows or hides "is typing" for 30 s.
    pub async fn set_typing(&self, room: &str, typing: bool) {
        self.run(json!({"do": "typing", "room": room, "typing": typing})).await;
    }

    /// Sends bytes as an encrypted file; returns the message's id.
    pub async fn send_file(&self, room: &str, name: &str, mime: &str, bytes: &[u8]) -> String {
        let path = self.directory.path().join("outgoing");
        std::fs::write(&path, bytes).unwrap();
        let command =
            json!({"do": "send_file", "room": room, "name": name, "mime": mime, "path": path});
        self.run(command).await["event_id"].as_str().unwrap().to_owned()
    }

    /// Downloads and decrypts the file that a message carries.
    pub async fn open_file(&self, message: &Event) -> Vec<u8> {
        let path = self.directory.path().join("incoming");
        self.run(json!({"do": "save_file", "content": message.content, "path": path})).await;
        std::fs::read(path).unwrap()
    }

    /// Device id and fingerprint of every device of `user`.
    pub async fn devices_of(&self, user: &str) -> HashMap<String, String> {
        let answer = self.run(json!({"do": "devices", "user": user})).await;
        serde_json::from_value(answer["devices"].clone()).unwrap()
    }

    // Seeing

    /// Waits for an event that fits and was not returned by an earlier wait.
    pub async fn wait_for(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        self.wait_within(PATIENCE, what, fits).await
    }

    /// As [`EncryptedPerson::wait_for`], with its own time limit.
    pub async fn wait_within(
        &self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&Event) -> bool,
    ) -> Event {
        let began = Instant::now();
        loop {
            // Registered before looking, so that nothing slips in between.
            let changed = self.shared.changed.notified();
            if let Some(event) = self.shared.history.lock().unwrap().take(&fits) {
                return event;
            }
            let left = limit.saturating_sub(began.elapsed());
            if tokio::time::timeout(left, changed).await.is_err() {
                let seen = self.print();
                panic!("{} waited {limit:?} in vain for: {what}\n{seen}\n{}", self.id, self.log());
            }
        }
    }

    /// Waits for a message of `sender` in `room` that arrived encrypted and is shown with `part`.
    pub async fn wait_for_text(&self, room: &str, sender: &str, part: &str) -> Event {
        let what = format!("{sender} says {part:?}, encrypted");
        self.wait_for(&what, |event| {
            event.room == room && event.decrypted && event.says(sender, part)
        })
        .await
    }

    /// Everything seen so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared.history.lock().unwrap().all().to_vec()
    }

    /// The text of a message after all its edits.
    pub fn latest_text(&self, id: &str) -> String {
        self.shared.history.lock().unwrap().latest_text(id).unwrap_or_default().to_owned()
    }

    /// Everything seen, a line an event.
    pub fn print(&self) -> String {
        self.shared.history.lock().unwrap().print()
    }

    fn log(&self) -> String {
        format!("matrix-nio's log:\n{}", tail(&self.directory.path().join("log"), 30))
    }
}

async fn read_lines(stdout: ChildStdout, shared: Arc<Shared>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(id) = message["id"].as_u64() {
            let answer = match message["error"].as_str() {
                Some(why) => Err(why.to_owned()),
                None => Ok(message["ok"].clone()),
            };
            if let Some(sender) = shared.answers.lock().unwrap().remove(&id) {
                sender.send(answer).ok();
            }
        } else {
            let room = message["room"].as_str().unwrap_or_default();
            let mut event = Event::new(room, message["event"].clone());
            event.decrypted = message["decrypted"] == true;
            shared.history.lock().unwrap().add(event);
            shared.changed.notify_waiters();
        }
    }
    // Whoever waits for an answer now learns that there will be none.
    shared.answers.lock().unwrap().clear();
}
