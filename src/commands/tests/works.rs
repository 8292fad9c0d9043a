//! What people do with items, command by command: each positive, with what it changed.

use super::*;
use crate::model::agent::Role;
use crate::model::ids::{AgentName, AgentSessionId, ItemId, OutboxId};
use crate::model::item::{Item, Origin, OriginKind, QaMode};
use crate::model::llm::Usage;
use crate::model::stage::{Stage, StageEvent};
use crate::project::git::{Git, Identity};
use crate::store::agents::{self as sessions, NewSession};
use crate::store::requests::{self, RequestKind, RequestState};
use crate::store::{costs, items, outbox};
use crate::work::{self, WorkService, Workshop};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

impl Desk {
    pub(super) fn repository(&self) -> std::path::PathBuf {
        self.services.config.projects[0].path.clone()
    }

    /// Makes a commit on `branch` (which begins at main) without a checkout.
    pub(super) async fn commit(&self, branch: &str, message: &str) -> String {
        let git = Git::at(self.repository());
        let name = format!("refs/heads/{branch}");
        let old = git.find_commit(&name).await.unwrap();
        let parent = match &old {
            Some(old) => old.clone(),
            None => git.rev_parse("main").await.unwrap(),
        };
        // Any tree that is another one: the empty one, or the first one again.
        let first = git.tree_of("main").await.unwrap();
        let empty = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let tree = if git.tree_of(&parent).await.unwrap() == first { empty } else { &first };
        let author = Identity::parse("coder-1 <coder-1@hs>");
        let commit = git.commit_tree(tree, &[&parent], message, &author).await.unwrap();
        git.update_ref(&name, &commit, old.as_deref(), "test").await.unwrap();
        commit
    }

    pub(super) async fn item(&self, id: i64) -> Item {
        self.services.store.read(move |conn| items::find(conn, ItemId(id))).await.unwrap().unwrap()
    }

    /// Brings an item by facts to where the test begins.
    pub(super) async fn facts(&self, id: i64, facts: Vec<StageEvent>) {
        let write = self.services.store.write(move |tx| {
            let origin = Origin {
                kind: OriginKind::System,
                id: "musher".to_owned(),
                at: crate::clock::from_millis(tx.now()),
            };
            for fact in &facts {
                work::apply(tx, ItemId(id), fact, &origin, "test")?;
            }
            Ok::<_, work::WorkError>(())
        });
        write.await.unwrap();
    }

    /// An item that an agent has, with a session and something that was seen of it.
    async fn at_work(&mut self, name: &str) -> AgentSessionId {
        self.ask(&format!("!story {name}")).await;
        self.ask("!start 1 coder-1").await;
        self.facts(1, vec![StageEvent::Claimed { agent: "coder-1".into() }]).await;
        let config = self.services.config.agents[0].clone();
        let write = self.services.store.write(move |tx| {
            let new = NewSession {
                agent: config.name.clone(),
                role: Role::Coder,
                runtime: config.runtime,
                item: ItemId(1),
                prompt: "go".to_owned(),
                resume_native: None,
            };
            let session = sessions::create_session(tx, &new).map_err(anyhow::Error::new)?;
            let turn = sessions::begin_turn(tx, session)?.expect("a prompt waits");
            sessions::append_turn_event(tx, turn, session, "tool", "Read src/total.rs")?;
            let cost = costs::Cost {
                source: costs::Source::Agent,
                name: "coder-1".to_owned(),
                model: "some-model".to_owned(),
                item: Some(ItemId(1)),
                project: Some("shop".into()),
                usage: Usage { input: 1000, cached: 0, output: 200 },
                microusd: 420_000,
            };
            costs::record(tx, &cost)?;
            Ok::<_, anyhow::Error>(session)
        });
        write.await.unwrap()
    }

    /// An item whose verdict the room was asked for, in the message `$ask`.
    async fn asked(&mut self) {
        self.ask("!story Add a calculator").await;
        self.ask("!qa 1 human").await;
        self.ask("!start 1").await;
        let commit = self.commit("item/1-add-a-calculator", "Add it").await;
        self.facts(
            1,
            vec![
                StageEvent::Claimed { agent: "coder-1".into() },
                StageEvent::GatesPassed { commit, qa: QaMode::Human },
            ],
        )
        .await;
        self.ask_the_room().await;
    }

    /// Lets the loops of work run until the room was asked, and posts the question.
    async fn ask_the_room(&self) {
        let Services { store, config, projects, agents, .. } = self.services.clone();
        let workshop = Workshop::new(store.clone(), Arc::clone(&config), projects, agents);
        let service = WorkService::new(store.clone(), config, Arc::new(workshop));
        let cancel = CancellationToken::new();
        let loops = tokio::spawn(service.run(cancel.clone()));
        let mut changes = store.changes("requests");
        let asked = async {
            loop {
                let open = store.read(requests::list_open).await.unwrap();
                if let Some(outbox) = open.first().and_then(|request| request.asked.outbox) {
                    return outbox;
                }
                changes.changed().await;
            }
        };
        let row: OutboxId = tokio::time::timeout(PATIENCE, asked).await.expect("it is asked");
        cancel.cancel();
        loops.await.unwrap();
        let write = store.write(move |tx| outbox::mark_sent(tx, row, Some(&"$ask".into())));
        write.await.unwrap();
    }

    /// Ann does something with the message `$ask`; returns what was said, and whether it was taken.
    async fn responds(&mut self, room: &str, body: IncomingBody) -> (bool, String) {
        self.asked += 1;
        let key = MessageKey(format!("${}", self.asked));
        let session = SessionKey::main(RoomKey::from(room));
        let incoming = Incoming {
            key: key.clone(),
            session: session.clone(),
            sender: "@ann:hs".into(),
            sender_name: "Ann".to_owned(),
            sent_at: Utc::now(),
            addressed: true,
            body: body.clone(),
        };
        self.services.store.write(move |tx| inbox::insert(tx, &incoming)).await.unwrap();
        let caller =
            Caller { person: "@ann:hs".into(), name: "Ann".to_owned(), session, admin: false, key };
        let (services, registry) = (self.services.clone(), Arc::clone(&self.registry));
        let context = Context { services, registry, caller };
        let taken = match body {
            IncomingBody::Reaction { to, key } => {
                react(context, to, key).await.unwrap();
                true
            }
            IncomingBody::Text { text, reply_to } => {
                answer_request(context, reply_to.unwrap(), text).await.unwrap()
            }
            other @ (IncomingBody::Edit { .. } | IncomingBody::Redaction { .. }) => {
                panic!("{other:?}")
            }
        };
        (taken, self.newest_answer().await)
    }

    async fn reacts(&mut self, emoji: &str) -> String {
        let body = IncomingBody::Reaction { to: "$ask".into(), key: emoji.to_owned() };
        self.responds("!room", body).await.1
    }

    async fn replies(&mut self, text: &str) -> (bool, String) {
        let reply_to = Some("$ask".into());
        self.responds("!room", IncomingBody::Text { text: text.to_owned(), reply_to }).await
    }

    async fn request(&self) -> requests::Request {
        let id = crate::model::ids::RequestId(1);
        self.services.store.read(move |conn| requests::find(conn, id)).await.unwrap().unwrap()
    }

    pub(super) async fn stage(&self, id: i64) -> &'static str {
        self.item(id).await.stage.name()
    }
}

#[tokio::test]
async fn a_question_for_a_verdict_shows_the_diff_and_takes_a_reaction_once() {
    let mut desk = Desk::new().await;
    desk.asked().await;
    let read = desk.services.store.read(|conn| {
        let sql = "SELECT outgoing ->> '$.content.markdown' FROM outbox WHERE sent_key = '$ask'";
        Ok::<String, StoreError>(conn.query_row(sql, [], |row| row.get(0))?)
    });
    let asked = read.await.unwrap();
    for part in ["Add a calculator", "1 file, +0 −1, 1 commit", "`README`", "`diff 1`", "👍"] {
        assert!(asked.contains(part), "no {part:?} in {asked}");
    }
    let before = desk.count("outbox").await;
    desk.reacts("🎉").await;
    assert_eq!(desk.count("outbox").await, before, "only a reaction");
    let said = desk.reacts("👍").await;
    assert!(said.contains("in the merge queue"), "{said}");
    let request = desk.request().await;
    assert_eq!((request.asked.kind, request.state), (RequestKind::Approve, RequestState::Answered));
    assert_eq!(request.answered_by, Some("@ann:hs".into()));
    let said = desk.reacts("👎").await;
    assert!(said.contains("is closed: @ann:hs approved it"), "{said}");
    assert_eq!(desk.stage(1).await, "merge");
}

#[tokio::test]
async fn a_verdict_is_taken_from_a_reply_in_words_and_a_remark_is_left_alone() {
    let mut desk = Desk::new().await;
    desk.asked().await;
    for remark in ["what does it do?", "yes but rename it", "status"] {
        assert!(!desk.replies(remark).await.0, "{remark}");
    }
    assert_eq!(desk.stage(1).await, "review_hold");
    let (taken, said) = desk.replies("reject 2 tests are missing").await;
    assert!(taken && said.contains("Rejected #1") && said.contains("move 1 backlog"), "{said}");
    let stage = desk.item(1).await.stage;
    assert_eq!(stage, Stage::Rejected { reason: "2 tests are missing".to_owned() });
    let elsewhere = desk.ask("!move 1 backlog").await;
    assert!(elsewhere.contains("in backlog now"), "{elsewhere}");
}

#[tokio::test]
async fn a_verdict_from_another_room_does_not_count() {
    let mut desk = Desk::new().await;
    desk.asked().await;
    let thumb = IncomingBody::Reaction { to: "$ask".into(), key: "👍".to_owned() };
    desk.responds("!other", thumb).await;
    let yes = IncomingBody::Text { text: "approve".to_owned(), reply_to: Some("$ask".into()) };
    assert!(!desk.responds("!other", yes).await.0);
    assert_eq!(desk.stage(1).await, "review_hold");
}

#[tokio::test]
async fn approve_and_reject_by_command_close_the_question() {
    for (command, stage, outcome) in [
        ("!approve 1", "merge", "✅ **Approved** by @ann:hs"),
        ("!reject 1 it is ugly", "rejected", "❌ **Rejected** by @ann:hs: it is ugly"),
        ("!move 1 coding", "coding", "**Closed**: it is in coding now"),
    ] {
        let mut desk = Desk::new().await;
        desk.asked().await;
        let wrong = desk.ask("!approve 1 beefbeef").await;
        assert!(wrong.contains("not `beefbeef`"), "{wrong}");
        desk.ask(command).await;
        assert_eq!(desk.stage(1).await, stage, "{command}");
        assert_ne!(desk.request().await.state, RequestState::Open, "{command}");
        let read = desk.services.store.read(|conn| {
            let sql = "SELECT outgoing ->> '$.content.markdown' FROM outbox
                       WHERE outgoing ->> '$.content.content' = 'edit'";
            Ok::<String, StoreError>(conn.query_row(sql, [], |row| row.get(0))?)
        });
        let shown = read.await.unwrap();
        assert!(shown.contains(outcome), "{command}: {shown}");
    }
}

#[tokio::test]
async fn who_is_asked_for_a_verdict_is_told_only_what_works_then() {
    let mut desk = Desk::new().await;
    desk.asked().await;
    let told = desk.ask("!tell coder-1 the total is wrong").await;
    assert!(told.contains("no work"), "its session is over: {told}");
    let page = desk.ask("!help reject").await;
    assert!(page.contains("`move N coding`") && !page.contains("tell"), "{page}");
}

#[tokio::test]
async fn every_command_that_changes_an_item_changes_it() {
    let mut desk = Desk::new().await;
    for name in ["A", "B", "C", "D", "E"] {
        desk.ask(&format!("!story {name}")).await;
    }
    for (command, answer, stage) in [
        ("!depends 2 on 1", "#2 B waits for #1 now", "backlog"),
        ("!depends 2 on none", "depends on nothing now", "backlog"),
        ("!assign 2 coder-1", "is for coder-1 now", "backlog"),
        ("!assign 2 none", "any free agent", "backlog"),
        ("!priority 2 7", "has priority 7 now", "backlog"),
        ("!qa 2 human", "a person's verdict", "backlog"),
        ("!qa 2 agent", "a QA agent", "backlog"),
        ("!freeze 2", "Froze #2 B", "frozen"),
        ("!unfreeze 2", "#2 B is in backlog now", "backlog"),
        ("!start 2", "Started **#2 B**", "coding"),
        ("!block 2 the API is down", "Blocked #2 B: the API is down", "blocked"),
        ("!unblock 2", "#2 B is in coding now", "coding"),
        ("!move 2 upcoming", "#2 B is in upcoming now", "upcoming"),
        ("!move 2 to backlog", "#2 B is in backlog now", "backlog"),
        ("!move 2 archived", "#2 B is in archived now", "archived"),
        ("!move 2 backlog", "#2 B is in backlog now", "backlog"),
        ("!abandon 2 we buy it", "Gave up #2 B. `move 2 backlog`", "abandoned"),
        ("!move 2 backlog", "#2 B is in backlog now", "backlog"),
        ("!supersede 2 by 3", "#2 B is superseded by #3", "superseded"),
    ] {
        let said = desk.ask(command).await;
        assert!(said.contains(answer), "{command}: {said}");
        assert_eq!(desk.stage(2).await, stage, "{command}");
    }
    let item = desk.item(2).await;
    assert_eq!((item.priority, item.qa, item.agent), (7, QaMode::Agent, None));
    for (command, answer) in [
        ("!supersede 3 by 3", "cannot be superseded by itself"),
        ("!supersede 3 by 99", "no item 99"),
        ("!supersede 2 by 3", "cannot be superseded"),
        ("!abandon 2 again", "cannot be abandoned"),
        ("!qa 3 maybe", "`gates`, `agent` or `human`"),
        ("!abandon 3", "say why"),
    ] {
        let said = desk.ask(command).await;
        assert!(said.contains(answer), "{command}: {said}");
    }
    let origins = desk.services.store.read(|conn| {
        let sql = "SELECT count(*) FROM transitions WHERE origin ->> '$.id' <> '@ann:hs'";
        Ok::<i64, StoreError>(conn.query_row(sql, [], |row| row.get(0))?)
    });
    assert_eq!(origins.await.unwrap(), 0, "who did it is known of every move");
}

#[tokio::test]
async fn an_epic_holds_items_and_says_how_far_they_are() {
    let mut desk = Desk::new().await;
    desk.ask("!epic Checkout").await;
    for name in ["A", "B"] {
        desk.ask(&format!("!story {name}")).await;
    }
    let said = desk.ask("!epic 2 3 of 1").await;
    assert!(said.contains("#2, #3 are part of **#1 Checkout** now (0 of 2 done)"), "{said}");
    assert!(desk.ask("!show 2").await.contains("part of epic #1 Checkout"));
    let shown = desk.ask("!show 1").await;
    assert!(shown.contains("0 of 2 done") && shown.contains("#3 B (backlog)"), "{shown}");
    let board = desk.ask("!status").await;
    assert!(board.contains("🗂️ #1 Checkout · 0 of 2 done"), "{board}");
    for (command, words) in [
        ("!epic 3 of 2", "tem 2 is a story, not an epic"),
        ("!epic 1 of 1", "cannot be part of itself"),
        ("!depends 2 on 1", "circle"),
        ("!epic 9 of 1", "no item 9"),
    ] {
        let said = desk.ask(command).await;
        assert!(said.contains(words), "{command}: {said}");
    }
    assert!(desk.ask("!epic 3 of none").await.contains("#3 is part of no epic now"));
    assert_eq!(desk.item(3).await.epic, None);
    let said = desk.ask("!epic Season 2 of the shop").await;
    assert!(said.contains("Filed epic **#4 Season 2 of the shop**"), "{said}");
}

#[tokio::test]
async fn an_agent_that_could_never_do_it_is_not_taken() {
    let mut desk = Desk::new().await;
    desk.ask("!story A").await;
    for command in ["!start 1 qa-1", "!assign 1 qa-1"] {
        let said = desk.ask(command).await;
        assert!(
            said.contains("qa-1 has the role qa") && said.contains("these could: coder-1"),
            "{said}"
        );
    }
    let said = desk.ask("!start 1 helper-1").await;
    assert!(said.contains("helper-1 does not work in project shop"), "{said}");
    assert_eq!((desk.stage(1).await, desk.item(1).await.agent), ("backlog", None));
}

#[tokio::test]
async fn a_running_agent_is_seen_told_and_stopped() {
    let mut desk = Desk::new().await;
    let session = desk.at_work("Add a calculator").await;
    let said = desk.ask("!tell coder-1 use integers").await;
    assert!(said.contains("Told coder-1, who is on #1"), "{said}");
    let told = desk.services.store.read(|conn| {
        let sql =
            "SELECT sender || ' > ' || recipient || ': ' || body || ' ' || priority FROM mail";
        Ok::<String, StoreError>(conn.query_row(sql, [], |row| row.get(0))?)
    });
    assert_eq!(told.await.unwrap(), "@ann:hs > coder-1: use integers 3");
    let logs = desk.ask("!logs 1").await;
    assert!(logs.contains("tool") && logs.contains("Read src/total.rs"), "{logs}");
    let status = desk.ask("!status 1").await;
    for part in ["Read src/total.rs", "$0.42", "coder-1", "Next", "started by @ann:hs"] {
        assert!(status.contains(part), "no {part:?} in {status}");
    }
    let said = desk.ask("!stop 1").await;
    assert!(said.contains("Stopped #1 Add a calculator: coder-1"), "{said}");
    assert!(said.contains("is ended"), "{said}");
    assert_eq!(desk.stage(1).await, "blocked");
    let read = desk.services.store.read(move |conn| sessions::find_session(conn, session));
    assert!(read.await.unwrap().unwrap().state.is_over());
}

#[tokio::test]
async fn stop_all_ends_every_agent() {
    let mut desk = Desk::new().await;
    desk.at_work("Add a calculator").await;
    let said = desk.ask("!stop all").await;
    assert!(said.contains("Ended coder-1 on #1"), "{said}");
    assert!(desk.ask("!why 1").await.contains("everything is stopped"));
}

#[tokio::test]
async fn costs_are_summed_by_item_day_and_week() {
    let mut desk = Desk::new().await;
    desk.at_work("Add a calculator").await;
    let today = chrono::Utc::now().format("%a %-d %b: $0.42").to_string();
    for (command, parts) in [
        (
            "!cost 1",
            ["#1 Add a calculator**: $0.42 (1000 tokens in", "coder-1", "some-model", &today],
        ),
        ("!cost", ["$0.42", "coder-1", "#1", "some-model"]),
        ("!cost week", ["coder-1", "#1", "some-model", &today]),
    ] {
        let said = desk.ask(command).await;
        for part in parts {
            assert!(said.contains(part), "{command}: no {part:?} in {said}");
        }
    }
}

#[tokio::test]
async fn a_diff_is_shown_and_a_missing_base_is_said_in_words() {
    let mut desk = Desk::new().await;
    desk.ask("!story Add a calculator").await;
    desk.commit("item/1-add-a-calculator", "Add it").await;
    let diff = desk.ask("!diff 1").await;
    assert!(diff.contains("```diff") && diff.contains("-a shop"), "{diff}");
    std::fs::remove_dir_all(desk.repository().join(".git")).unwrap();
    let said = desk.ask("!diff 1").await;
    assert!(said.contains("of a git repository") && !said.contains("incident"), "{said}");
}

#[tokio::test]
async fn the_board_shows_uncommitted_work_and_places_in_the_queue() {
    let mut desk = Desk::new().await;
    for name in ["A", "B"] {
        desk.ask(&format!("!story {name}")).await;
    }
    for id in [1, 2] {
        desk.ask(&format!("!start {id}")).await;
        let agent: AgentName = "coder-1".into();
        let commit = "c0ffee".to_owned();
        desk.facts(
            id,
            vec![
                StageEvent::Claimed { agent },
                StageEvent::GatesPassed { commit, qa: QaMode::Gates },
            ],
        )
        .await;
    }
    desk.ask("!story C").await;
    desk.ask("!start 3").await;
    let project = desk.services.projects.list().remove(0);
    let data_dir = desk.services.store.data_dir().to_owned();
    let cancel = CancellationToken::new();
    let place =
        crate::project::worktree::ensure(&project, ItemId(3), "C", &data_dir, &cancel).await;
    std::fs::write(place.unwrap().path.join("new.txt"), "x").unwrap();
    let board = desk.ask("!status").await;
    for line in [
        "- ⏳ #3 C · waits for a coder · 1 uncommitted",
        "- 🔀 #1 A · next to be merged",
        "- 🔀 #2 B · merge queue, 1 before it",
    ] {
        assert!(board.contains(line), "no {line:?} in {board}");
    }
    let triage = desk.ask("!status 3").await;
    assert!(triage.contains("Not committed: `new.txt`"), "{triage}");
}

#[tokio::test]
async fn doctor_answers_in_the_chat() {
    let mut desk = Desk::new().await;
    let said = desk.ask("!doctor").await;
    assert!(said.contains("disk") && said.contains("git"), "{said}");
}

#[tokio::test]
async fn a_project_is_shown_stopped_started_and_taken_out() {
    let mut desk = Desk::new().await;
    let info = desk.ask("!project info shop").await;
    for part in ["**shop**", "base `main`", "gates: none", "coder-1, qa-1", "on the host"] {
        assert!(info.contains(part), "no {part:?} in {info}");
    }
    assert!(desk.ask_as(false, "!project stop shop").await.contains("administrator"));
    assert!(desk.ask("!project stop shop").await.contains("No agent was at work in it"));
    for shown in ["!project info shop", "!projects", "!status"] {
        let shown = desk.ask(shown).await;
        assert!(shown.contains("stopped") || shown.contains("paused"), "{shown}");
    }
    assert!(desk.ask("!project start shop").await.contains("goes on"));
    assert!(desk.ask("!project start shop").await.contains("was not stopped"));
    assert!(!desk.ask("!status").await.contains("paused"));
    let refusal = desk.ask("!project remove shop --confirm").await;
    assert!(refusal.contains("stands in the configuration"), "{refusal}");
    assert!(desk.ask("!project info shpo").await.contains("shop"), "the nearest is named");

    let made: crate::config::ProjectConfig =
        serde_json::from_value(serde_json::json!({"name": "toys", "path": "/nowhere"})).unwrap();
    let insert = move |tx: &Tx<'_>| {
        crate::store::projects::insert(tx, &made, crate::store::projects::Source::Chat)
    };
    desk.services.store.write(insert).await.unwrap();
    desk.services.projects.refresh().await.unwrap();
    let info = desk.ask("!project info toys").await;
    assert!(info.contains("/nowhere does not exist"), "what is wrong with it: {info}");
    assert!(desk.ask("!switch toys").await.contains("toys"));
    desk.ask("!story A top").await;
    let refusal = desk.ask("!project remove toys --confirm").await;
    assert!(refusal.contains("has open items (#1)"), "{refusal}");
    desk.ask("!abandon 1 no use").await;
    assert!(desk.ask("!project remove toys").await.contains("--confirm"));
    assert!(desk.ask("!projects").await.contains("toys"));
    assert!(desk.ask("!project remove toys --confirm").await.contains("Removed toys"));
    assert!(!desk.ask("!projects").await.contains("toys"));
    assert!(desk.ask("!project info toys").await.contains("no project"), "it is gone");
}
