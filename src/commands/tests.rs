//! Commands on a real store, through the real services; no model, no agent, no room.

mod remedies;
mod repository;
mod works;

use super::*;
use crate::agents::{Agents, ProjectPlaces};
use crate::clock::Clock;
use crate::config::Config;
use crate::llm::Llm;
use crate::mail::Directory;
use crate::model::chat::{Incoming, IncomingBody, Outgoing};
use crate::model::ids::RoomKey;
use crate::project::git::{Git, Identity};
use crate::services::{Runs, Services};
use crate::store::{Store, StoreError, Tx, inbox, merge_state, outbox};
use crate::upgrade::Upgrade;
use chrono::Utc;
use std::sync::Arc;

struct Desk {
    _dir: tempfile::TempDir,
    services: Services,
    registry: Arc<Registry>,
    asked: usize,
}

impl Desk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            r#"
            data_dir = "{0}/data"
            [llm]
            provider = "ollama"
            model = "none"
            [[projects]]
            name = "shop"
            path = "{0}/shop"
            [[agents]]
            name = "coder-1"
            role = "coder"
            runtime = "api"
            model = "some-model"
            [[agents]]
            name = "qa-1"
            role = "qa"
            runtime = "api"
            [[agents]]
            name = "helper-1"
            role = "coder"
            runtime = "api"
            projects = ["tools"]
            "#,
            dir.path().display()
        );
        let config: Arc<Config> = Arc::new(toml::from_str(&config).unwrap());
        let shop = dir.path().join("shop");
        std::fs::create_dir(&shop).unwrap();
        let git = Git::at(&shop);
        std::fs::write(shop.join("README"), "a shop\n").unwrap();
        git.init("main").await.unwrap();
        git.first_commit("main", "Start", &Identity::parse("Ann <ann@hs>")).await.unwrap();
        let store = Store::open(&config.data_dir, Clock::system()).unwrap();
        let projects = crate::project::Registry::load(&store, &config).await.unwrap();
        let places = ProjectPlaces { store: store.clone(), projects: projects.clone() };
        let services = Services {
            agents: Agents::new(store.clone(), Arc::clone(&config), Arc::new(places)),
            directory: Arc::new(Directory::new(&config)),
            llm: Llm::new(&config.llm, None).unwrap(),
            upgrade: Upgrade::new(store.clone(), None),
            config_dir: None,
            store,
            config,
            projects,
            runs: Runs::default(),
        };
        Self { _dir: dir, services, registry: Arc::new(Registry::builtin()), asked: 0 }
    }

    /// Puts a command into the inbox, carries it out, and returns the answer.
    async fn ask_as(&mut self, admin: bool, text: &str) -> String {
        self.asked += 1;
        let key = MessageKey(format!("${}", self.asked));
        self.ask_again(admin, key, text).await
    }

    async fn ask(&mut self, text: &str) -> String {
        self.ask_as(true, text).await
    }

    async fn ask_again(&mut self, admin: bool, key: MessageKey, text: &str) -> String {
        let session = SessionKey::main(RoomKey::from("!room"));
        let incoming = Incoming {
            key: key.clone(),
            session: session.clone(),
            sender: "@ann:hs".into(),
            sender_name: "Ann".to_owned(),
            sent_at: Utc::now(),
            addressed: true,
            body: IncomingBody::Text { text: text.to_owned(), reply_to: None },
        };
        let store = &self.services.store;
        store.write(move |tx| inbox::insert(tx, &incoming)).await.unwrap();
        let answer = match self.registry.parse(text, "!", true, &Names::default()) {
            Parsed::Command(command) => {
                let caller = Caller {
                    person: "@ann:hs".into(),
                    name: "Ann".to_owned(),
                    session,
                    admin,
                    key: key.clone(),
                };
                let registry = Arc::clone(&self.registry);
                let context = Context { services: self.services.clone(), registry, caller };
                if let Some(rest) = execute(context, command).await.unwrap() {
                    rest.await;
                }
                self.newest_answer().await
            }
            Parsed::Misused { answer } => return answer,
            other @ (Parsed::Prompt { .. } | Parsed::Unknown { .. } | Parsed::Talk) => {
                panic!("{text}: {other:?}")
            }
        };
        let open = self.services.store.read(move |conn| inbox::is_open(conn, &key)).await.unwrap();
        assert!(!open, "{text} is not done");
        answer
    }

    async fn newest_answer(&self) -> String {
        let read = self.services.store.read(|conn| {
            let sql =
                "SELECT outgoing ->> '$.content.markdown' FROM outbox ORDER BY id DESC LIMIT 1";
            Ok::<String, StoreError>(conn.query_row(sql, [], |row| row.get(0))?)
        });
        read.await.unwrap()
    }

    async fn count(&self, table: &'static str) -> i64 {
        let read = self.services.store.read(move |conn| {
            let sql = format!("SELECT count(*) FROM {table}");
            Ok::<i64, StoreError>(conn.query_row(&sql, [], |row| row.get(0))?)
        });
        read.await.unwrap()
    }
}

#[tokio::test]
async fn a_story_is_filed_started_and_shown() {
    let mut desk = Desk::new().await;
    assert_eq!(
        desk.ask("!status").await,
        "**shop**: 0 open\n\nNothing on the board. `!story NAME` files the first item."
    );
    assert_eq!(
        desk.ask("!story Add a calculator\n\nIt adds.").await,
        "Filed story **#1 Add a calculator** in shop. `start 1` gives it to an agent."
    );
    desk.ask("!bug The total is wrong").await;
    desk.ask("!depends 2 on 1").await;
    assert_eq!(
        desk.ask("!start 1 coder-1").await,
        "Started **#1 Add a calculator**: it is in coding, for coder-1."
    );
    desk.ask("!freeze 2").await;
    desk.ask("!spike Can we stream?").await;
    insta::assert_snapshot!(desk.ask("!status").await, @"
    **shop**: 3 open

    **Backlog**
    - ❄️ #2 The total is wrong · frozen in backlog
    - ⚪ #3 Can we stream?

    **Coding**
    - ⏳ #1 Add a calculator · coder-1 (some-model) · waits for a coder
    ");
    let shown = desk.ask("!show 1").await;
    assert!(shown.contains("It adds.") && shown.contains("filed by @ann:hs"), "{shown}");
    assert!(desk.ask("!why 1").await.contains("Add a calculator"));
    let triage = desk.ask("!status 1").await;
    assert!(triage.contains("Next: "), "{triage}");
    let stopped = desk.ask("!stop 1").await;
    assert!(stopped.contains("Stopped #1") && stopped.contains("nobody was at work"), "{stopped}");
}

#[tokio::test]
async fn what_cannot_be_carried_out_says_why_and_changes_nothing() {
    let mut desk = Desk::new().await;
    desk.ask("!story Add a calculator").await;
    for (command, words) in [
        ("!start", &["start", "N"][..]),
        ("!start 99", &["99", "status"]),
        ("!start 1 coder-9", &["coder-9", "coder-1"]),
        ("!assign 1 coder-9", &["coder-9", "coder-1"]),
        ("!show 99", &["99"]),
        ("!why 99", &["99"]),
        ("!logs 99", &["99"]),
        ("!diff 99", &["99"]),
        ("!status 99", &["99"]),
        ("!delete 99 --confirm", &["99"]),
        ("!tell coder-9 hello", &["coder-9", "coder-1"]),
        ("!tell coder-1 hello", &["coder-1", "no work"]),
        ("!mail coder-9", &["coder-9"]),
        ("!switch shoop", &["shoop", "shop"]),
        ("!depends 1 on 99", &["99"]),
        ("!depends 1 on 1", &["1"]),
        ("!stop 1", &["1"]),
        ("!approve 1", &["1"]),
        ("!unblock 1", &["1"]),
        ("!unfreeze 1", &["1"]),
        ("!move 1 done", &["done"]),
        ("!timer cancel 99", &["99"]),
        ("!remind me when pigs fly to look up", &["remind"]),
        ("!new project tools", &["--host-only"]),
    ] {
        let answer = desk.ask(command).await;
        assert!((10..900).contains(&answer.len()), "{command}: {answer}");
        assert!(!answer.contains("incident"), "{command}: {answer}");
        for word in words {
            assert!(answer.contains(word), "{command}: no {word:?} in {answer}");
        }
    }
    assert_eq!(desk.count("items").await, 1);
    assert_eq!(desk.count("transitions").await, 1, "it was filed, and no more");
    assert_eq!(desk.count("timers").await, 0);
}

#[tokio::test]
async fn a_command_that_is_repeated_after_a_crash_has_its_effect_once() {
    let mut desk = Desk::new().await;
    for _ in 0..2 {
        desk.ask_again(true, "$same".into(), "!story Only one").await;
    }
    assert_eq!((desk.count("items").await, desk.count("outbox").await), (1, 1));
}

#[tokio::test]
async fn administration_is_for_administrators() {
    let mut desk = Desk::new().await;
    for command in ["!stop all", "!resume all", "!rebuild", "!new project x --host-only"] {
        let answer = desk.ask_as(false, command).await;
        assert!(answer.contains("administrator"), "{command}: {answer}");
    }
    assert!(desk.ask("!stop all").await.contains("Everything is stopped"));
    assert!(desk.ask("!status").await.contains("Everything is stopped"));
    let pause = |tx: &Tx<'_>| {
        merge_state::pause(tx, &"demo".into(), "`make` is not installed", None).map(drop)
    };
    desk.services.store.write(pause).await.unwrap();
    let answer = desk.ask("!resume all").await;
    assert!(answer.contains("Going on"), "{answer}");
    assert!(answer.contains("The merge queue of demo is tried again now."), "{answer}");
}

#[tokio::test]
async fn rooms_timers_and_costs_answer() {
    let mut desk = Desk::new().await;
    for (command, expected) in [
        ("!ambient on", "every message"),
        ("!queue steer", "next step"),
        ("!whoami", "an administrator"),
        ("!whoami", "messages during an answer: steer"),
        ("!projects", "**shop**"),
        ("!switch shop", "**shop** now"),
        ("!remind me in 2 hours to leave", "leave (timer 1)"),
        ("!timers", "leave"),
        ("!timer cancel 1", "Took back"),
        ("!timers", "Nothing is set"),
        ("!cost", "nothing yet"),
        ("!mail", "No mail yet"),
        ("!agents", "**coder-1** (coder, api some-model) is free"),
        ("!version", env!("CARGO_PKG_VERSION")),
        ("!help", "**See**"),
        ("!help stop", "emergency stop"),
        ("!story x", "#1 x"),
        ("!delete 1", "--confirm"),
        ("!delete 1 --confirm", "Deleted #1 x"),
    ] {
        let answer = desk.ask(command).await;
        assert!(answer.contains(expected), "{command}: {answer}");
    }
    assert_eq!(desk.count("items").await, 0);
}

#[tokio::test]
async fn a_reply_to_mail_that_was_posted_goes_back_as_mail_exactly_once() {
    let desk = Desk::new().await;
    let session = SessionKey::main(RoomKey::from("!room"));
    let key = MessageKey::from("$reply");
    let incoming = Incoming {
        key: key.clone(),
        session: session.clone(),
        sender: "@ann:hs".into(),
        sender_name: "Ann".to_owned(),
        sent_at: Utc::now(),
        addressed: true,
        body: IncomingBody::Text { text: "80".to_owned(), reply_to: Some("$mail".into()) },
    };
    let posted = Outgoing::text(session.clone(), "Which port?");
    let write = desk.services.store.write(move |tx| {
        inbox::insert(tx, &incoming)?;
        tx.execute(
            "INSERT INTO mail (id, thread_id, sender, recipient, subject, body, type, priority,
                               created_at)
             VALUES (1, 1, 'coder-1', '@ann:hs', 'Which port?', '80 or 81', 'question', 1, 0)",
            [],
        )?;
        let row = outbox::enqueue(tx, &posted, Some("mail:1"))?;
        outbox::mark_sent(tx, row, Some(&"$mail".into()))
    });
    write.await.unwrap();
    let caller = Caller {
        person: "@ann:hs".into(),
        name: "Ann".to_owned(),
        session,
        admin: false,
        key: key.clone(),
    };
    let context = || {
        let (services, registry) = (desk.services.clone(), Arc::clone(&desk.registry));
        Context { services, registry, caller: caller.clone() }
    };
    let answer = |to: &str| answer_mail(context(), to.into(), "80".to_owned());
    assert!(!answer("$other").await.unwrap());
    assert!(answer("$mail").await.unwrap());
    assert_eq!(desk.newest_answer().await, "Passed on to coder-1 as mail.");
    assert!(answer("$mail").await.unwrap());
    assert_eq!(desk.count("mail").await, 2);
    let read = desk.services.store.read(|conn| {
        let sql = "SELECT recipient || ': ' || body || ' in ' || thread_id FROM mail WHERE id = 2";
        Ok::<String, StoreError>(conn.query_row(sql, [], |row| row.get(0))?)
    });
    assert_eq!(read.await.unwrap(), "coder-1: 80 in 1");
}
