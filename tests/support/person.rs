//! A person with a plain Matrix client: HTTP and nothing else, for rooms without encryption.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::event::{Event, History, Message};
use super::synapse::{Account, Synapse};
use super::{PATIENCE, unique};

/// How long one `/sync` may wait at the server.
const POLL: Duration = Duration::from_secs(5);

/// A logged-in person. All methods take `&self`, so that a story may do several things at once.
#[derive(Debug)]
pub struct Person {
    pub account: Account,
    /// `@name:test.local`
    pub id: String,
    http: reqwest::Client,
    view: Mutex<View>,
}

#[derive(Debug, Default)]
struct View {
    since: Option<String>,
    history: History,
    /// room -> user -> membership
    members: HashMap<String, HashMap<String, String>>,
    /// room -> who is typing
    typing: HashMap<String, Vec<String>>,
}

impl Person {
    /// Registers someone new on `server`.
    pub async fn new(server: &Synapse, name: &str) -> Self {
        let account = server.register(name).await;
        Self::with_account(account).await
    }

    /// Uses an account that exists. What happened before now is not part of the history.
    pub async fn with_account(account: Account) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let id = account.user_id.clone();
        let person = Self { account, id, http, view: Mutex::new(View::default()) };
        person.look(Duration::ZERO).await;
        person
    }

    /// Calls the client-server API; `path` begins after `/_matrix/`.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}/_matrix/{path}", self.account.homeserver);
        let mut request =
            self.http.request(method.clone(), url).bearer_auth(&self.account.access_token);
        if method != Method::GET {
            request = request.json(body);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => panic!("{path}: {error:?}"),
        };
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    async fn must(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status == 200, "{path}: {status} {answer}");
        answer
    }

    // Rooms

    /// A direct room with `other`, marked so on both sides, as Element makes it.
    pub async fn direct_room(&self, other: &str) -> String {
        let options =
            json!({"is_direct": true, "preset": "trusted_private_chat", "invite": [other]});
        let room = self.create_room(&options).await;
        let path = format!("client/v3/user/{}/account_data/m.direct", self.id);
        self.must(Method::PUT, &path, &json!({other: [room]})).await;
        room
    }

    /// A private room with a name and `invited` people.
    pub async fn group_room(&self, name: &str, invited: &[&str]) -> String {
        self.create_room(&json!({"name": name, "preset": "private_chat", "invite": invited})).await
    }

    /// A room by any options of `/createRoom`.
    pub async fn create_room(&self, options: &Value) -> String {
        let answer = self.must(Method::POST, "client/v3/createRoom", options).await;
        answer["room_id"].as_str().unwrap().to_owned()
    }

    /// Invites `user`.
    pub async fn invite(&self, room: &str, user: &str) {
        let path = format!("client/v3/rooms/{room}/invite");
        self.must(Method::POST, &path, &json!({"user_id": user})).await;
    }

    /// Joins a room that this person is invited to (waits for the invite).
    pub async fn accept_invite(&self, room: &str) {
        self.wait_for("an invite", |event| {
            event.room == room
                && event.state_key.as_deref() == Some(&*self.id)
                && event.content["membership"] == "invite"
        })
        .await;
        self.join(room).await;
    }

    /// Joins a room.
    pub async fn join(&self, room: &str) {
        self.must(Method::POST, &format!("client/v3/join/{room}"), &json!({})).await;
    }

    /// Leaves a room.
    pub async fn leave(&self, room: &str) {
        self.must(Method::POST, &format!("client/v3/rooms/{room}/leave"), &json!({})).await;
    }

    /// Removes `user` from a room.
    pub async fn kick(&self, room: &str, user: &str) {
        let path = format!("client/v3/rooms/{room}/kick");
        self.must(Method::POST, &path, &json!({"user_id": user})).await;
    }

    /// Waits until `user` is in the room.
    pub async fn wait_until_joined(&self, room: &str, user: &str) {
        self.wait_until(&format!("{user} joins {room}"), |view| {
            view.membership(room, user) == "join"
        })
        .await;
    }

    /// Waits until `user` is not in the room: left, or refused the invite.
    pub async fn wait_until_left(&self, room: &str, user: &str) {
        self.wait_until(&format!("{user} leaves {room}"), |view| {
            view.membership(room, user) == "leave"
        })
        .await;
    }

    /// What the server says about `user` in the room: `join`, `invite`, `leave`, or empty.
    pub async fn membership(&self, room: &str, user: &str) -> String {
        let path = format!("client/v3/rooms/{room}/state/m.room.member/{user}");
        let (_, answer) = self.call(Method::GET, &path, &Value::Null).await;
        answer["membership"].as_str().unwrap_or_default().to_owned()
    }

    /// Sets a piece of room state.
    pub async fn set_state(&self, room: &str, kind: &str, key: &str, content: &Value) {
        let path = format!("client/v3/rooms/{room}/state/{kind}/{key}");
        self.must(Method::PUT, &path, content).await;
    }

    // Speaking

    /// Sends a message and returns its id.
    pub async fn say(&self, room: &str, message: impl Into<Message>) -> String {
        self.send_event(room, "m.room.message", &message.into().into_content()).await
    }

    /// Sends an event of any type.
    pub async fn send_event(&self, room: &str, kind: &str, content: &Value) -> String {
        let path = format!("client/v3/rooms/{room}/send/{kind}/{}", unique("t"));
        let answer = self.must(Method::PUT, &path, content).await;
        answer["event_id"].as_str().unwrap().to_owned()
    }

    /// Reacts to a message and returns the reaction's id.
    pub async fn react(&self, room: &str, event: &str, key: &str) -> String {
        let relation = json!({"rel_type": "m.annotation", "event_id": event, "key": key});
        self.send_event(room, "m.reaction", &json!({"m.relates_to": relation})).await
    }

    /// Removes an event.
    pub async fn redact(&self, room: &str, event: &str) {
        let path = format!("client/v3/rooms/{room}/redact/{event}/{}", unique("t"));
        self.must(Method::PUT, &path, &json!({})).await;
    }

    /// Shows or hides "is typing" for 30 s.
    pub async fn set_typing(&self, room: &str, typing: bool) {
        let path = format!("client/v3/rooms/{room}/typing/{}", self.id);
        let body = if typing {
            json!({"typing": true, "timeout": 30000})
        } else {
            json!({"typing": false})
        };
        self.must(Method::PUT, &path, &body).await;
    }

    /// Marks everything up to `event` as read.
    pub async fn mark_read(&self, room: &str, event: &str) {
        let path = format!("client/v3/rooms/{room}/receipt/m.read/{event}");
        self.must(Method::POST, &path, &json!({})).await;
    }

    /// Uploads bytes and sends them as a file; returns the message's id.
    pub async fn send_file(&self, room: &str, name: &str, mime: &str, bytes: Vec<u8>) -> String {
        let size = bytes.len();
        let url = format!("{}/_matrix/media/v3/upload", self.account.homeserver);
        let answer: Value = self
            .http
            .post(Url::parse_with_params(&url, [("filename", name)]).unwrap())
            .bearer_auth(&self.account.access_token)
            .header("content-type", mime)
            .body(bytes)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let message = Message::of_type("m.file", name)
            .with("url", answer["content_uri"].clone())
            .with("info", json!({"mimetype": mime, "size": size}));
        self.say(room, message).await
    }

    /// Downloads what an `mxc:` address names.
    pub async fn download(&self, mxc: &str) -> Vec<u8> {
        let media = mxc.trim_start_matches("mxc://");
        let url = format!("{}/_matrix/client/v1/media/download/{media}", self.account.homeserver);
        let response =
            self.http.get(url).bearer_auth(&self.account.access_token).send().await.unwrap();
        assert!(response.status().is_success(), "{mxc}: {}", response.status());
        response.bytes().await.unwrap().to_vec()
    }

    /// Saves what an `mxc:` address names.
    pub async fn save(&self, mxc: &str, path: &Path) {
        std::fs::write(path, self.download(mxc).await).unwrap();
    }

    // Seeing

    /// Waits for an event that fits and was not returned by an earlier wait.
    pub async fn wait_for(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        self.wait_within(PATIENCE, what, fits).await
    }

    /// As [`Person::wait_for`], with its own time limit.
    pub async fn wait_within(
        &self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&Event) -> bool,
    ) -> Event {
        let began = Instant::now();
        loop {
            let mut view = self.view.lock().await;
            if let Some(event) = view.history.take(&fits) {
                return event;
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                panic!(
                    "{} waited {limit:?} in vain for: {what}\n{}",
                    self.id,
                    view.history.print()
                );
            }
            self.poll(&mut view, left.min(POLL)).await;
        }
    }

    async fn wait_until(&self, what: &str, reached: impl Fn(&View) -> bool) {
        let began = Instant::now();
        loop {
            let mut view = self.view.lock().await;
            if reached(&view) {
                return;
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            if left.is_zero() {
                panic!("{} waited in vain until {what}\n{}", self.id, view.history.print());
            }
            self.poll(&mut view, left.min(POLL)).await;
        }
    }

    /// Waits for a message of `sender` in `room` that is shown with `part` in it (edits count).
    pub async fn wait_for_text(&self, room: &str, sender: &str, part: &str) -> Event {
        let what = format!("{sender} says {part:?}");
        self.wait_for(&what, |event| event.room == room && event.says(sender, part)).await
    }

    /// Waits for the next message of `sender` in `room`, whatever it says; edits do not count.
    pub async fn next_message(&self, room: &str, sender: &str) -> Event {
        self.wait_for(&format!("a message of {sender}"), |event| {
            event.room == room
                && event.is_message()
                && event.sender == sender
                && event.edit_of().is_none()
        })
        .await
    }

    /// Waits until `user` is shown as typing in `room`, or as not typing.
    pub async fn wait_until_typing(&self, room: &str, user: &str, typing: bool) {
        let what = format!("{user} {} typing", if typing { "is" } else { "is not" });
        self.wait_until(&what, |view| view.is_typing(room, user) == typing).await;
    }

    /// Waits until `user` has read `event`.
    pub async fn wait_until_read(&self, room: &str, user: &str, event: &str) {
        self.wait_until(&format!("{user} reads {event}"), |view| {
            view.history
                .all()
                .iter()
                .any(|seen| seen.room == room && seen.is_receipt_of(user, event))
        })
        .await;
    }

    /// Asks the server once for what is new, and returns everything seen so far.
    pub async fn events(&self) -> Vec<Event> {
        self.look(Duration::ZERO).await;
        self.view.lock().await.history.all().to_vec()
    }

    /// All messages of `sender` in `room` so far, edits left out.
    ///
    /// To show that something was *not* said, first wait for something that comes after it.
    pub async fn messages_of(&self, room: &str, sender: &str) -> Vec<Event> {
        let fits = |event: &Event| {
            event.room == room
                && event.is_message()
                && event.sender == sender
                && event.edit_of().is_none()
        };
        self.events().await.into_iter().filter(fits).collect()
    }

    /// The text of a message after all its edits.
    pub async fn latest_text(&self, id: &str) -> String {
        self.look(Duration::ZERO).await;
        self.view.lock().await.history.latest_text(id).unwrap_or_default().to_owned()
    }

    /// Everything seen, a line an event.
    pub async fn print(&self) -> String {
        self.view.lock().await.history.print()
    }

    async fn look(&self, wait: Duration) {
        let mut view = self.view.lock().await;
        self.poll(&mut view, wait).await;
    }

    /// One `/sync`. An unreachable server is no failure here: the story may have stopped it.
    async fn poll(&self, view: &mut View, wait: Duration) {
        let url = format!("{}/_matrix/client/v3/sync", self.account.homeserver);
        let filter = json!({"room": {"timeline": {"limit": 100}}, "presence": {"types": []}});
        let mut query =
            vec![("timeout", wait.as_millis().to_string()), ("filter", filter.to_string())];
        query.extend(view.since.clone().map(|since| ("since", since)));
        let url = Url::parse_with_params(&url, query).unwrap();
        let request = self.http.get(url).bearer_auth(&self.account.access_token);
        let Ok(response) = request.send().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return;
        };
        let status = response.status();
        let Ok(answer) = response.json::<Value>().await else { return };
        assert!(status.is_success(), "/sync of {}: {status} {answer}", self.id);
        let since = view.since.clone();
        for (room, joined) in each(&answer["rooms"]["join"]) {
            if joined["timeline"]["limited"] == true && since.is_some() {
                self.fill_gap(view, room, &joined["timeline"]["prev_batch"], since.as_deref())
                    .await;
            }
            for part in ["state", "timeline", "ephemeral", "account_data"] {
                view.take_in(room, &joined[part]["events"]);
            }
        }
        for (room, invited) in each(&answer["rooms"]["invite"]) {
            view.take_in(room, &invited["invite_state"]["events"]);
        }
        for (room, left) in each(&answer["rooms"]["leave"]) {
            view.take_in(room, &left["timeline"]["events"]);
        }
        view.since = answer["next_batch"].as_str().map(str::to_owned);
    }

    /// Fetches what a sync left out, oldest first.
    async fn fill_gap(&self, view: &mut View, room: &str, from: &Value, to: Option<&str>) {
        let mut missed = vec![];
        let mut from = from.as_str().map(str::to_owned);
        while let Some(token) = from {
            let (to, limit) = (to.unwrap_or_default(), 500);
            let path =
                format!("client/v3/rooms/{room}/messages?dir=b&from={token}&to={to}&limit={limit}");
            let answer = self.must(Method::GET, &path, &Value::Null).await;
            let chunk = answer["chunk"].as_array().cloned().unwrap_or_default();
            from = answer["end"].as_str().filter(|_| !chunk.is_empty()).map(str::to_owned);
            missed.extend(chunk);
        }
        missed.reverse();
        view.take_in(room, &Value::Array(missed));
    }
}

impl View {
    fn take_in(&mut self, room: &str, events: &Value) {
        for raw in events.as_array().into_iter().flatten() {
            let event = Event::new(room, raw.clone());
            if let ("m.room.member", Some(user)) = (event.kind.as_str(), &event.state_key) {
                let membership = event.content["membership"].as_str().unwrap_or_default();
                let room = self.members.entry(room.to_owned()).or_default();
                room.insert(user.clone(), membership.to_owned());
            }
            if event.kind == "m.typing" {
                let typing = event.typing().into_iter().map(str::to_owned).collect();
                self.typing.insert(room.to_owned(), typing);
            }
            self.history.add(event);
        }
    }

    fn membership(&self, room: &str, user: &str) -> &str {
        self.members.get(room).and_then(|room| room.get(user)).map_or("", String::as_str)
    }

    fn is_typing(&self, room: &str, user: &str) -> bool {
        self.typing.get(room).is_some_and(|room| room.iter().any(|typing| typing == user))
    }
}

fn each(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}
