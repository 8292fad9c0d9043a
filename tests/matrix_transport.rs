//! The Matrix transport by itself, against a real Synapse: what is heard, and how often.
//!
//! In place of the dispatcher stands one that answers every message for the bot with "heard" and
//! its text, in the transaction that marks it done. So an answer is proof of exactly one row.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use musher::chat::matrix::{ConnectError, MatrixTransport, Reach};
use musher::chat::{Sender, Transport, Typing};
use musher::clock::Clock;
use musher::config::MatrixConfig;
use musher::model::chat::{Incoming, IncomingBody, Outgoing};
use musher::store::{Store, StoreError, inbox, outbox};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::encrypted_person::EncryptedPerson;
use super::support::event::{Event, Message};
use super::support::person::Person;
use super::support::synapse::{Account, RateLimits, Synapse};
use super::support::{PATIENCE, until};

/// A bot whose data outlives its runs.
struct Bot {
    directory: tempfile::TempDir,
    config: MatrixConfig,
    id: String,
    run: Option<Run>,
}

struct Run {
    store: Store,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    typing: Typing,
    transport: Arc<MatrixTransport>,
}

impl Bot {
    async fn new(server: &Synapse, allowed: &[&str]) -> Self {
        Self::with_account(&server.register("bot").await, allowed)
    }

    fn with_account(account: &Account, allowed: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let password_file: PathBuf = directory.path().join("password");
        write_secret(&password_file, &format!("{}\n", account.password));
        let config = MatrixConfig {
            homeserver: account.homeserver.clone(),
            user_id: account.user_id.clone(),
            password_env: None,
            password_file: Some(password_file),
            store_passphrase_env: None,
            store_passphrase_file: None,
            device_name: "Musher".to_owned(),
            allowed_users: allowed.iter().map(|user| (*user).to_owned()).collect(),
            allowed_rooms: vec!["*".to_owned()],
            admin_users: vec![],
            require_verified_devices: false,
        };
        Self { directory, config, id: account.user_id.clone(), run: None }
    }

    async fn started(server: &Synapse, allowed: &[&str]) -> Self {
        let mut bot = Self::new(server, allowed).await;
        bot.start().await;
        bot
    }

    async fn try_connect(&self) -> Result<(), ConnectError> {
        let store = self.open();
        let outcome = self.reach(&store, Typing::new()).await;
        store.close();
        outcome.map(drop)
    }

    async fn reach(&self, store: &Store, typing: Typing) -> Result<Reach, ConnectError> {
        MatrixTransport::open(&self.config, "!", vec![], store.clone(), typing).await?.reach().await
    }

    fn open(&self) -> Store {
        Store::open(&self.directory.path().join("data"), Clock::system()).unwrap()
    }

    async fn start(&mut self) {
        let store = self.open();
        let typing = Typing::new();
        let transport = match self.reach(&store, typing.clone()).await.unwrap() {
            Reach::Up(transport) => Arc::new(*transport),
            Reach::Down(_) => panic!("the homeserver is down"),
        };
        let cancel = CancellationToken::new();
        let sender = Sender::new(store.clone(), Arc::clone(&transport) as Arc<dyn Transport>);
        let (hearing, stop) = (Arc::clone(&transport), cancel.clone());
        let tasks = vec![
            tokio::spawn(async move {
                if let Err(error) = hearing.run(stop).await {
                    eprintln!("the bot stopped hearing: {error}");
                }
            }),
            tokio::spawn(sender.run(cancel.clone())),
            tokio::spawn(answer(store.clone(), cancel.clone())),
        ];
        let mut synced = transport.synced();
        tokio::time::timeout(PATIENCE, synced.wait_for(|synced| *synced)).await.unwrap().unwrap();
        self.run = Some(Run { store, cancel, tasks, typing, transport });
    }

    /// Ends it without a chance to finish anything, as far as that goes inside a process.
    async fn kill(&mut self) {
        let run = self.run.take().unwrap();
        for task in &run.tasks {
            task.abort();
        }
        for task in run.tasks {
            task.await.ok();
        }
        run.store.close();
    }

    async fn stop(&mut self) {
        let run = self.run.take().unwrap();
        run.cancel.cancel();
        for task in run.tasks {
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        }
        run.store.close();
    }

    fn run(&self) -> &Run {
        self.run.as_ref().unwrap()
    }

    async fn journaled(&self) -> Vec<(String, String, bool)> {
        let rows = self.run().store.read(|conn| {
            let mut statement = conn
                .prepare("SELECT key, incoming, addressed FROM inbox ORDER BY id")
                .map_err(StoreError::from)?;
            let rows = statement
                .query_map([], |row| {
                    Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?))
                })
                .map_err(StoreError::from)?;
            rows.collect::<Result<Vec<_>, _>>().map_err(StoreError::from)
        });
        rows.await.unwrap()
    }
}

/// Writes a file that only its owner may read.
fn write_secret(path: &std::path::Path, secret: &str) {
    std::fs::write(path, secret).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Answers what is for the bot.
async fn answer(store: Store, cancel: CancellationToken) {
    let mut changes = store.changes("inbox");
    loop {
        let rows = store.read(|conn| inbox::take_new(conn, 0)).await.unwrap();
        for (_, incoming) in rows {
            let done = store.write(move |tx| answer_one(tx, &incoming)).await;
            if done.is_err() {
                return;
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = changes.changed() => {}
        }
    }
}

fn answer_one(tx: &musher::store::Tx<'_>, incoming: &Incoming) -> Result<(), StoreError> {
    if inbox::mark_done(tx, std::slice::from_ref(&incoming.key))? == 0 {
        return Ok(());
    }
    let said = match &incoming.body {
        IncomingBody::Text { text, .. } => format!("heard {text}"),
        IncomingBody::Edit { text, .. } => format!("edited {text}"),
        IncomingBody::Redaction { .. } => "redacted".to_owned(),
        IncomingBody::Reaction { key, .. } => format!("reacted {key}"),
    };
    if incoming.addressed {
        outbox::enqueue(tx, &Outgoing::text(incoming.session.clone(), said), None)?;
    }
    Ok(())
}

async fn room_with(bot: &Bot, person: &Person) -> String {
    let room = person.direct_room(&bot.id).await;
    person.wait_until_joined(&room, &bot.id).await;
    person.wait_for_text(&room, &bot.id, "Hello").await;
    room
}

/// What the bot answered, in order, without its hello.
async fn answers(person: &Person, bot: &Bot, room: &str) -> Vec<String> {
    let said = person.messages_of(room, &bot.id).await;
    said.iter()
        .map(|event| event.body().to_owned())
        .filter(|body| body.starts_with("heard"))
        .collect()
}

async fn hear(person: &Person, bot: &Bot, room: &str, part: &str) -> Event {
    person.wait_for_text(room, &bot.id, part).await
}

#[tokio::test]
async fn the_bot_joins_says_hello_once_hears_reads_and_answers() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let mut bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    let question = ann.say(&room, "what **is** up?").await;
    let answer = hear(&ann, &bot, &room, "heard").await;
    assert_eq!(answer.body(), "heard what **is** up?");
    assert_eq!(answer.html(), "<p>heard what <strong>is</strong> up?</p>");
    assert_eq!(answer.content["m.mentions"], json!({}));
    ann.wait_until_read(&room, &bot.id, &question).await;
    // The same account, device and crypto store after a restart, and no second hello.
    bot.stop().await;
    bot.start().await;
    ann.say(&room, "again").await;
    hear(&ann, &bot, &room, "heard again").await;
    let said = ann.messages_of(&room, &bot.id).await;
    assert_eq!(said.len(), 3, "{}", ann.print().await);
    bot.stop().await;
}

#[tokio::test]
async fn the_bot_shows_and_sees_who_types() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    let (key, person) = (room.as_str().into(), ann.id.as_str().into());
    ann.set_typing(&room, true).await;
    until("Ann is seen typing", || bot.run().typing.is_typing(&key, &person).then_some(())).await;
    ann.set_typing(&room, false).await;
    until("Ann stopped", || (!bot.run().typing.is_typing(&key, &person)).then_some(())).await;
    bot.run().transport.typing(&key, true).await;
    ann.wait_until_typing(&room, &bot.id, true).await;
    bot.run().transport.typing(&key, false).await;
    ann.wait_until_typing(&room, &bot.id, false).await;
}

#[tokio::test]
async fn a_stranger_has_no_effect_whatever_they_do() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let eve = Person::new(server, "eve").await;
    let bot = Bot::started(server, &[&ann.id]).await;
    let stranger_room = eve.direct_room(&bot.id).await;
    let room = ann.group_room("team", &[&bot.id, &eve.id]).await;
    ann.wait_until_joined(&room, &bot.id).await;
    let hello = hear(&ann, &bot, &room, "Hello").await;
    eve.accept_invite(&room).await;
    eve.say(&room, Message::text("do something").mention(&bot.id)).await;
    eve.say(&room, "!status").await;
    eve.say(&room, Message::text("yes").reply_to(&hello.id)).await;
    eve.react(&room, &hello.id, "✅").await;
    eve.say(&stranger_room, "!status").await;
    ann.say(&room, Message::text("now me").mention(&bot.id)).await;
    hear(&ann, &bot, &room, "heard now me").await;
    assert_eq!(bot.journaled().await.len(), 1, "{:?}", bot.journaled().await);
    assert_eq!(answers(&ann, &bot, &room).await.len(), 1);
    assert_eq!(eve.membership(&stranger_room, &bot.id).await, "invite");
}

#[tokio::test]
async fn in_a_room_of_many_only_what_is_addressed_is_answered_and_the_rest_is_context() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let bob = Person::new(server, "bob").await;
    let bot = Bot::started(server, &[&ann.id, &bob.id]).await;
    let room = ann.group_room("team", &[&bot.id, &bob.id]).await;
    bob.accept_invite(&room).await;
    ann.wait_until_joined(&room, &bot.id).await;
    let hello = hear(&ann, &bot, &room, "Hello").await;
    ann.say(&room, "just talking").await;
    ann.say(&room, Message::notice("!status")).await;
    ann.say(&room, "!one").await;
    ann.say(&room, Message::text("two").mention(&bot.id)).await;
    ann.say(&room, Message::text("three").reply_to(&hello.id)).await;
    let root = ann.say(&room, format!("{}: four", bot.id).as_str()).await;
    hear(&ann, &bot, &room, "heard four").await;
    assert_eq!(
        answers(&ann, &bot, &room).await,
        ["heard !one", "heard two", "heard three", "heard four"]
    );
    // In a thread that the bot has spoken in, no name is needed, and the answer stays there.
    ann.say(&room, Message::text("!five").in_thread(&root)).await;
    let five = hear(&ann, &bot, &room, "heard !five").await;
    assert_eq!(five.thread(), Some(root.as_str()));
    ann.say(&room, Message::text("six").in_thread(&root)).await;
    hear(&ann, &bot, &room, "heard six").await;
    ann.react(&room, &five.id, "✔\u{fe0f}").await;
    hear(&ann, &bot, &room, "reacted ✔").await;
    let journal = bot.journaled().await;
    assert_eq!(journal.iter().filter(|(_, _, addressed)| !addressed).count(), 1, "{journal:?}");
}

#[tokio::test]
async fn two_hundred_messages_in_a_burst_are_all_heard_in_order() {
    let server = Synapse::shared().await;
    let ann = Arc::new(Person::new(server, "ann").await);
    let bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    // As fast as the server takes them, from four connections at once.
    let mut senders = tokio::task::JoinSet::new();
    for lane in 0..4 {
        let (ann, room) = (Arc::clone(&ann), room.clone());
        senders.spawn(async move {
            for number in 0..50 {
                ann.say(&room, format!("m{lane}-{number:02}").as_str()).await;
            }
        });
    }
    while senders.join_next().await.is_some() {}
    let began = Instant::now();
    let heard = loop {
        let heard = answers(&ann, &bot, &room).await;
        if heard.len() >= 200 || began.elapsed() > PATIENCE {
            break heard;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(heard.len(), 200);
    for lane in 0..4 {
        let prefix = format!("heard m{lane}-");
        let of_lane: Vec<&String> = heard.iter().filter(|body| body.starts_with(&prefix)).collect();
        assert!(of_lane.is_sorted() && of_lane.len() == 50, "{of_lane:?}");
    }
}

#[tokio::test]
async fn what_was_said_while_it_was_down_is_heard_also_beyond_one_page() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let mut bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    ann.say(&room, "before").await;
    hear(&ann, &bot, &room, "heard before").await;
    bot.kill().await;
    // More than a sync holds (Synapse sends 100 events a room at most).
    for number in 0..230 {
        ann.say(&room, format!("n{number:03}").as_str()).await;
    }
    let later = ann.direct_room(&bot.id).await;
    bot.start().await;
    // Two hundred and thirty answers, one after the other, on whatever machine this is.
    let last = |event: &Event| event.room == room && event.says(&bot.id, "heard n229");
    ann.wait_within(Duration::from_secs(120), "the last of the answers", last).await;
    let heard = answers(&ann, &bot, &room).await;
    let expected: Vec<String> = std::iter::once("heard before".to_owned())
        .chain((0..230).map(|number| format!("heard n{number:03}")))
        .collect();
    assert_eq!(heard, expected);
    // An invite from that time counts too.
    hear(&ann, &bot, &later, "Hello").await;
}

#[tokio::test]
async fn a_crash_at_any_moment_loses_nothing_and_doubles_nothing() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let mut bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    let mut expected = vec![];
    for round in 0..6u64 {
        for number in 0..3 {
            let text = format!("r{round}-{number}");
            ann.say(&room, text.as_str()).await;
            expected.push(format!("heard {text}"));
        }
        // Each time at another point between sync, journal, answer and its note.
        tokio::time::sleep(Duration::from_millis(round * 9)).await;
        bot.kill().await;
        bot.start().await;
    }
    hear(&ann, &bot, &room, "heard r5-2").await;
    assert_eq!(answers(&ann, &bot, &room).await, expected);
}

#[tokio::test]
async fn a_crash_between_the_sdks_commit_and_ours_delivers_again() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let mut bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    ann.say(&room, "first").await;
    hear(&ann, &bot, &room, "heard first").await;
    // As if our transactions since had never been made, while the SDK's were.
    let remembered = bot.run().store.read(|conn| {
        let sql = "SELECT (SELECT value FROM meta WHERE key LIKE 'matrix_sync_token:%'),
                          (SELECT last_event FROM rooms)";
        let found: (String, String) = conn
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(StoreError::from)?;
        Ok::<_, StoreError>(found)
    });
    let (token, last_event) = remembered.await.unwrap();
    ann.say(&room, "second").await;
    hear(&ann, &bot, &room, "heard second").await;
    bot.kill().await;
    let store = bot.open();
    store
        .write(move |tx| {
            tx.execute("UPDATE meta SET value = ?1 WHERE key LIKE 'matrix_sync_token:%'", [token])?;
            tx.execute("UPDATE rooms SET last_event = ?1", [last_event])?;
            tx.execute("DELETE FROM inbox WHERE incoming LIKE '%second%'", [])?;
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
    store.close();
    bot.start().await;
    ann.wait_for("the second answer again", |event| event.says(&bot.id, "heard second")).await;
    assert_eq!(answers(&ann, &bot, &room).await, ["heard first", "heard second", "heard second"]);
}

#[tokio::test]
async fn an_encrypted_room_is_answered_in_kind_also_after_a_restart() {
    let server = Synapse::shared().await;
    let ann = EncryptedPerson::new(server, "ann").await;
    let mut bot = Bot::started(server, &[&ann.id]).await;
    let room = ann.direct_room(&bot.id).await;
    ann.wait_until_joined(&room, &bot.id).await;
    let hello = ann.wait_for_text(&room, &bot.id, "Hello").await;
    assert!(hello.decrypted);
    ann.say(&room, "a secret").await;
    let answer = ann.wait_for_text(&room, &bot.id, "heard a secret").await;
    assert!(answer.decrypted);
    bot.kill().await;
    for number in 0..15 {
        ann.say(&room, format!("e{number:02}").as_str()).await;
    }
    bot.start().await;
    ann.wait_for_text(&room, &bot.id, "heard e14").await;
    let heard: Vec<String> = ann
        .events()
        .iter()
        .filter(|event| event.sender == bot.id && event.body().starts_with("heard e"))
        .map(|event| event.body().to_owned())
        .collect();
    assert_eq!(heard, (0..15).map(|number| format!("heard e{number:02}")).collect::<Vec<_>>());
    bot.stop().await;
}

/// Not a test of right or wrong: prints what the transport adds to a bare round trip.
#[tokio::test]
#[ignore = "a measurement; run it by name on an idle machine"]
async fn an_answer_and_the_bare_round_trip_of_two_plain_clients() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let bob = Arc::new(Person::new(server, "bob").await);
    let bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    let plain = ann.direct_room(&bob.id).await;
    bob.accept_invite(&plain).await;
    let (echo, echo_room, ann_id) = (Arc::clone(&bob), plain.clone(), ann.id.clone());
    let echoing = tokio::spawn(async move {
        loop {
            let heard = echo.next_message(&echo_room, &ann_id).await;
            echo.say(&echo_room, format!("heard {}", heard.body()).as_str()).await;
        }
    });
    let mut took = [vec![], vec![]];
    for number in 0..60 {
        for (lane, (room, other)) in [(&plain, &bob.id), (&room, &bot.id)].into_iter().enumerate() {
            let began = Instant::now();
            ann.say(room, format!("p{number}").as_str()).await;
            ann.wait_for_text(room, other, &format!("heard p{number}")).await;
            took[lane].push(began.elapsed());
        }
    }
    echoing.abort();
    for (what, mut took) in ["bare", "bot"].into_iter().zip(took) {
        took.sort();
        println!(
            "{what}: min {:?}, p10 {:?}, p50 {:?}, p90 {:?}",
            took[0], took[6], took[30], took[54]
        );
    }
}

#[tokio::test]
async fn history_from_before_the_bot_came_is_never_a_request() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let account = server.register("bot").await;
    // A room that the account was already in before Musher's first start.
    let as_client = Person::with_account(account.clone()).await;
    let old = ann.direct_room(&account.user_id).await;
    as_client.accept_invite(&old).await;
    ann.say(&old, "old business").await;
    let mut bot = Bot::with_account(&account, &[&ann.id]);
    bot.start().await;
    ann.say(&old, "new business").await;
    hear(&ann, &bot, &old, "heard new").await;
    // A room with a past, into which it is invited now.
    let room = ann.group_room("project", &[]).await;
    ann.say(&room, "!before").await;
    ann.invite(&room, &bot.id).await;
    ann.say(&room, "!while invited").await;
    ann.wait_until_joined(&room, &bot.id).await;
    hear(&ann, &bot, &room, "Hello").await;
    ann.say(&room, "!after").await;
    hear(&ann, &bot, &room, "heard !after").await;
    assert_eq!(answers(&ann, &bot, &old).await, ["heard new business"]);
    assert_eq!(answers(&ann, &bot, &room).await, ["heard !after"]);
}

#[tokio::test]
async fn after_the_loss_of_the_crypto_store_nothing_is_answered_twice_and_nothing_is_missed() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let mut bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    ann.say(&room, "one").await;
    hear(&ann, &bot, &room, "heard one").await;
    bot.kill().await;
    for number in 0..30 {
        ann.say(&room, format!("d{number:02}").as_str()).await;
    }
    let matrix = bot.directory.path().join("data/matrix");
    std::fs::remove_dir_all(matrix.join("store")).unwrap();
    let refused = bot.try_connect().await.unwrap_err().to_string();
    assert!(refused.contains("move the directory"), "{refused}");
    std::fs::rename(&matrix, bot.directory.path().join("away")).unwrap();
    bot.start().await;
    hear(&ann, &bot, &room, "heard d29").await;
    let expected: Vec<String> = std::iter::once("heard one".to_owned())
        .chain((0..30).map(|number| format!("heard d{number:02}")))
        .collect();
    assert_eq!(answers(&ann, &bot, &room).await, expected);
}

#[tokio::test]
async fn what_is_wrong_with_the_account_is_said_in_a_sentence_with_the_remedy() {
    let server = Synapse::shared().await;
    let mut bot = Bot::new(server, &["@ann:test.local"]).await;
    let password = bot.config.password_file.clone().unwrap();
    let right = std::fs::read_to_string(&password).unwrap();
    write_secret(&password, "wrong");
    let error = bot.try_connect().await.unwrap_err().to_string();
    assert!(error.contains("refuses the password") && error.contains("password"), "{error}");
    write_secret(&password, &right);
    bot.config.allowed_rooms = vec!["#nowhere:test.local".to_owned()];
    let error = bot.try_connect().await.unwrap_err().to_string();
    assert!(error.contains("#nowhere:test.local"), "{error}");
    bot.config.allowed_rooms = vec!["*".to_owned()];
    bot.config.password_file = None;
    bot.try_connect().await.expect("the session is there by now");
    bot.config.homeserver = "http://127.0.0.1:9".to_owned();
    let error = bot.try_connect().await.unwrap_err().to_string();
    assert!(error.contains("belongs to"), "{error}");
    let fresh = tempfile::tempdir().unwrap();
    bot.directory = fresh;
    let error = bot.try_connect().await.unwrap_err().to_string();
    assert!(error.contains("password_file"), "{error}");
    write_secret(&bot.directory.path().join("p"), "secret");
    bot.config.password_file = Some(bot.directory.path().join("p"));
    let error = bot.try_connect().await.unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:9") && error.contains("check"), "{error}");
}

#[tokio::test]
async fn a_session_that_was_logged_out_ends_the_run_with_the_way_on() {
    let server = Synapse::shared().await;
    let ann = Person::new(server, "ann").await;
    let mut bot = Bot::started(server, &[&ann.id]).await;
    let session = bot.directory.path().join("data/matrix/session.json");
    let session: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(session).unwrap()).unwrap();
    let token = session["access_token"].as_str().unwrap();
    let url = format!("{}/_matrix/client/v3/logout", bot.config.homeserver);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.post(url).bearer_auth(token).json(&json!({})).send().await.unwrap();
    let hearing = &mut bot.run.as_mut().unwrap().tasks[0];
    tokio::time::timeout(Duration::from_secs(60), hearing).await.unwrap().unwrap();
    bot.run.as_mut().unwrap().tasks.remove(0);
    bot.kill().await;
    let error = bot.try_connect().await.unwrap_err().to_string();
    assert!(error.contains("logged out") && error.contains("Move the directory"), "{error}");
}

#[tokio::test]
async fn the_servers_own_rate_limit_delays_messages_and_loses_none() {
    let server = Synapse::with_default_rate_limits().await;
    assert_ne!(RateLimits::Default, RateLimits::Raised);
    let ann = Person::new(server, "ann").await;
    let bot = Bot::started(server, &[&ann.id]).await;
    let room = room_with(&bot, &ann).await;
    let session = musher::model::ids::SessionKey::main(room.as_str().into());
    bot.run()
        .store
        .write(move |tx| {
            for number in 0..12 {
                let text = format!("heard {number:02}");
                outbox::enqueue(tx, &Outgoing::text(session.clone(), text), None)?;
            }
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
    ann.wait_within(Duration::from_secs(60), "the last message", |event| {
        event.says(&bot.id, "heard 11")
    })
    .await;
    let heard = answers(&ann, &bot, &room).await;
    assert_eq!(heard, (0..12).map(|number| format!("heard {number:02}")).collect::<Vec<_>>());
}
