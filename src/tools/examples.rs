//! What the prompts tell agents to call is what the tools take: every example of every prompt is
//! carried out here as an agent of that role would.
//!
//! The shell lines among the examples are carried out by `tests/prompts.rs`, with the real program.

use super::tests::{World, world_with};
use super::*;
use crate::agents::permission::{Decision, Policy};
use crate::config::{PermissionMode, RuntimeKind};
use crate::llm::prompts::Prompts;
use crate::model::ids::{AgentName, AgentSessionId, ItemId, TurnId};
use crate::model::item::Kind;
use crate::model::stage::StageEvent;
use crate::store::agents as sessions;
use crate::store::mail::{self as mails, NewRow};
use crate::work;
use regex::Regex;
use serde_json::json;

/// The item that the prompts' agent works on: its children come after it.
const OWN: i64 = 12;
/// The mail that the prompts answer.
const MAIL: i64 = 7;

const AGENTS: &str = r#"
[[agents]]
name = "mergemaster-1"
role = "mergemaster"
runtime = "api"
[[agents]]
name = "lead-1"
role = "lead"
runtime = "api"
[[agents]]
name = "scout-1"
role = "scout"
runtime = "api"
[[agents]]
name = "reviewer-1"
role = "reviewer"
runtime = "api"
"#;

/// The calls of a prompt in the order in which they stand: in code blocks and in code spans.
fn calls(prompt: &str) -> Vec<(String, Value)> {
    let pattern = Regex::new(r"(?m)(?:^ {4,}|`)([a-z_]+) (\{.*?\})(?:`|$)").unwrap();
    let parsed = pattern.captures_iter(prompt).map(|found| {
        let arguments = serde_json::from_str(&found[2])
            .unwrap_or_else(|error| panic!("{}: {error}", &found[0]));
        (found[1].to_owned(), arguments)
    });
    parsed.collect()
}

/// The shell lines of a prompt.
fn lines(prompt: &str) -> Vec<String> {
    let line = |line: &str| line.strip_prefix("    ").map(|line| line.trim().to_owned());
    prompt.lines().filter_map(line).filter(|line| line.starts_with("musher ")).collect()
}

fn rendered(role: Role) -> String {
    Prompts::default().render(role.as_str(), minijinja::context! {}).unwrap()
}

/// Item 12 with an agent of `role` at work on it, and mail 7 to that agent.
async fn at_work(world: &World, role: Role) -> ToolCaller {
    let name = format!("{}-1", role.as_str());
    let agent = AgentName::from(name.as_str());
    for _ in 0..OWN {
        world.ok_fresh("item_create", json!({"name": "Page through the orders"})).await;
    }
    let (own, claimer) = (ItemId(OWN), agent.clone());
    let session: AgentSessionId = world
        .store
        .write(move |tx| {
            let origin = crate::model::item::Origin {
                kind: OriginKind::User,
                id: "@ada:hs".to_owned(),
                at: crate::clock::from_millis(tx.now()),
            };
            work::start(tx, own, None, &origin).map_err(|error| error.to_string())?;
            let claimed = StageEvent::Claimed { agent: claimer.clone() };
            work::apply(tx, own, &claimed, &origin, "took it").map_err(|e| e.to_string())?;
            for number in 0..MAIL {
                mails::insert(
                    tx,
                    &NewRow {
                        from: "coordinator",
                        to: claimer.as_str(),
                        subject: &format!("mail {number}"),
                        body: "Is it there?",
                        kind: crate::model::mail::MailType::Question,
                        priority: crate::model::mail::Priority::Normal,
                        payload: None,
                        item: Some(own),
                        thread: None,
                    },
                )
                .map_err(|error| error.to_string())?;
            }
            let new = sessions::NewSession {
                agent: claimer.clone(),
                role,
                runtime: RuntimeKind::Api,
                item: own,
                prompt: "go".to_owned(),
                resume_native: None,
            };
            Ok(sessions::create_session(tx, &new).map_err(|error| error.to_string())?)
        })
        .await
        .map_err(|error: Failed| error.0)
        .unwrap();
    let (turn, item) = (TurnId(1), ItemId(OWN));
    ToolCaller::Agent { agent, role, session, turn, item, project: "demo".into() }
}

/// An error of the preparation, in words.
#[derive(Debug)]
struct Failed(String);

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Failed(text)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed(error.to_string())
    }
}

/// The children end, as they have when a lead reports.
async fn children_end(world: &World) {
    world
        .store
        .write(|tx| {
            let at = crate::clock::from_millis(tx.now());
            let origin = crate::model::item::Origin {
                kind: OriginKind::System,
                id: "musher".to_owned(),
                at,
            };
            for child in work::open_children(tx, ItemId(OWN)).map_err(|e| e.to_string())? {
                let merged = StageEvent::Merged { commit: "f00d".to_owned(), at };
                work::apply(tx, child.id, &merged, &origin, "landed").map_err(|e| e.to_string())?;
            }
            Ok::<(), Failed>(())
        })
        .await
        .map_err(|error| error.0)
        .unwrap();
}

async fn reported(world: &World) -> Vec<&'static str> {
    let read = world.store.read(|conn| sessions::reports_of_item(conn, ItemId(OWN))).await.unwrap();
    read.iter().map(|report| report.kind.as_str()).collect()
}

#[tokio::test]
async fn every_call_that_a_prompt_shows_is_taken() {
    let named = Regex::new(r"`([a-z]+_[a-z_]+)`").unwrap();
    for (role, ends_in) in [
        (Role::Coder, &["worker_done"][..]),
        (Role::Qa, &["qa_passed", "qa_failed"]),
        (Role::Mergemaster, &["merged", "merge_failed"]),
        (Role::Lead, &["worker_done"]),
        (Role::Scout, &["worker_done"]),
        (Role::Reviewer, &["worker_done"]),
    ] {
        let world = world_with(AGENTS).await;
        let caller = at_work(&world, role).await;
        let offered: Vec<String> =
            world.tools.specs(&caller).into_iter().map(|spec| spec.name).collect();
        for name in named.captures_iter(&rendered(role)) {
            let known = offered.iter().any(|tool| tool == &name[1]) || ends_in.contains(&&name[1]);
            assert!(known, "a {role:?} reads of {}, which it has not", &name[1]);
        }
        for (number, (tool, arguments)) in calls(&rendered(role)).into_iter().enumerate() {
            assert!(offered.contains(&tool), "a {role:?} is told of {tool}, which it has not");
            if tool == "report_done" {
                children_end(&world).await;
            }
            let shown = format!("{tool} {arguments}");
            let answer = world.call(&caller, &number.to_string(), &tool, arguments).await;
            assert!(!answer.is_error, "a {role:?} is told {shown}, but: {}", answer.text);
        }
        assert_eq!(reported(&world).await, ends_in, "what the prompt of a {role:?} ends in");
    }
}

#[tokio::test]
async fn a_lead_that_does_as_its_prompt_shows_has_three_children_that_fit() {
    let world = world_with(AGENTS).await;
    let caller = at_work(&world, Role::Lead).await;
    for (number, (tool, arguments)) in calls(&rendered(Role::Lead)).into_iter().enumerate() {
        if tool == "item_create" {
            world.call(&caller, &number.to_string(), &tool, arguments).await;
        }
    }
    let children = world.store.read(|conn| work::open_children(conn, ItemId(OWN))).await.unwrap();
    let shape: Vec<_> = children
        .iter()
        .map(|child| (child.id.0, child.kind, child.agent.as_ref().map(|agent| agent.as_str())))
        .collect();
    assert_eq!(
        shape,
        [(13, Kind::Story, None), (14, Kind::Story, None), (15, Kind::Spike, Some("scout-1"))]
    );
    assert_eq!(children[1].depends_on, [ItemId(13)]);
}

#[tokio::test]
async fn a_lead_does_not_report_while_a_child_is_open() {
    let world = world_with(AGENTS).await;
    let caller = at_work(&world, Role::Lead).await;
    let create = json!({"name": "A piece"});
    assert!(!world.call(&caller, "1", "item_create", create).await.is_error);
    let early = world.call(&caller, "2", "report_done", json!({"summary": "All done."})).await;
    assert!(early.is_error && early.text.contains("#13 A piece: not started"), "{}", early.text);
    let sleep = world.call(&caller, "3", "wait_for", json!({"what": "children"})).await;
    assert!(sleep.is_error && sleep.text.contains("item_start"), "{}", sleep.text);
    let stranger = world.call(&caller, "4", "item_start", json!({"item": 11})).await;
    assert!(
        stranger.is_error && stranger.text.contains("no child of item 12"),
        "{}",
        stranger.text
    );
    assert!(reported(&world).await.is_empty());
}

#[test]
fn every_prompt_tells_how_to_report_without_tools_and_nobody_is_asked_about_it() {
    for role in Role::ALL {
        let shown = lines(&rendered(role));
        let reports = shown.iter().filter(|line| line.starts_with("musher report-done"));
        assert!(reports.count() >= 1, "{role:?}");
        let policy = Policy {
            role,
            mode: PermissionMode::Ask,
            allow: vec![],
            deny: vec![],
            worktree: std::env::temp_dir(),
            bounds: crate::agents::permission::Bounds::default(),
        };
        for line in shown {
            let decision = policy.decide("shell", &json!({"command": line}));
            assert_eq!(decision, Decision::Allow, "a {role:?} runs {line}");
        }
    }
}
