//! Eight agents work through a night that goes wrong in several ways. In the morning the bill is
//! what was allowed, nothing runs that should not, and each trouble was said in one line.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::desk::{Desk, WORK};
use crate::support::model_server::Reply;
use crate::support::repository::Repository;
use crate::support::team::{commit, done, play, sh, worker};
use crate::support::until_within;

/// What each answer of the model is said to use, in tokens.
const CALL: u64 = 1_000;

/// Has every answer to an agent cost [`CALL`].
fn priced(reply: Reply) -> Reply {
    reply.usage(CALL - 100, 100)
}

/// The tokens of each item, by its number, and of all.
async fn bill(desk: &Desk) -> (Vec<(String, u64)>, u64) {
    let cost = desk.musher.call(&["cost", "--json"]).await.succeeded().json();
    let items =
        cost["items"].as_array().unwrap().iter().map(|item| {
            (item["name"].as_str().unwrap().to_owned(), item["tokens"].as_u64().unwrap())
        });
    (items.collect(), cost["total"]["tokens"].as_u64().unwrap())
}

async fn agents(desk: &Desk) -> Vec<Value> {
    let table = desk.musher.call(&["agents", "--json"]).await.succeeded().json();
    table["agents"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_agents_through_a_night_and_what_it_cost() {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    for n in 1..=8 {
        let mut agent = json!({
            "name": format!("coder-{n}"), "role": "coder", "runtime": "api", "permissions": "auto",
        });
        match n {
            5 => agent["max_tokens"] = json!(12 * CALL),
            7 => agent["stall_timeout_s"] = json!(2),
            _ => {}
        }
        desk.musher.agent(agent);
    }
    desk.musher.set("/limits/tokens_per_item", json!(20 * CALL));
    // It hangs, every time.
    desk.model.on(|request| (worker(request)?.item == 7).then(Reply::hang));
    desk.model.on(|request| match worker(request)?.item {
        // These never come to an end.
        5 | 8 => Some(priced(crate::support::scene::shell(request, "true"))),
        // Says that it is done and has done nothing.
        6 => Some(priced(Reply::text("I have thought about it."))),
        _ => None,
    });
    play(&desk.model, |worker, _asked| {
        let file = format!("piece-{}.txt", worker.item);
        vec![sh("true"), commit(&file, "made"), done("It is done.")]
    });
    desk.start();
    for n in 1..=8 {
        let id = desk.file(&format!("Make piece {n}")).await;
        desk.begin(id, Some(&format!("coder-{n}"))).await;
    }
    let items = desk.until_all(WORK, &["done", "blocked"]).await;
    for (id, stage, reason) in [
        (1, "done", ""),
        (2, "done", ""),
        (3, "done", ""),
        (4, "done", ""),
        (5, "blocked", "coder-5 reached its limit of 12000 tokens on one item (max_tokens)"),
        (6, "blocked", "without committing"),
        (7, "blocked", "silent for too long"),
        (8, "blocked", "item 8 reached its limit of 20000 tokens"),
    ] {
        let words = desk.show(id).await["explanation"].as_str().unwrap().to_owned();
        assert_eq!(items[&id]["stage"], stage, "{words}");
        assert!(words.contains(reason), "{words}");
    }
    // The bill: nobody has gone beyond what was allowed by more than the call that reached it.
    let (items, _total) = bill(&desk).await;
    for (item, most) in [("5", 12 * CALL), ("8", 20 * CALL)] {
        let spent = items.iter().find(|(name, _)| name == item).unwrap().1;
        assert!((most..most + CALL).contains(&spent), "item {item} has used {spent} of {most}");
    }
    // Nothing runs.
    for agent in agents(&desk).await {
        assert_eq!((&agent["state"], &agent["processes"]), (&json!("free"), &json!(0)), "{agent}");
    }
    // One line each.
    let shown = desk.musher.shown();
    for id in 5..=8 {
        let blocked = format!("#{id} Make piece {id}** is blocked:");
        assert_eq!(shown.matches(&blocked).count(), 1, "{blocked}\n{shown}");
    }
    let warned = shown.matches("coder-5 has used").count();
    assert_eq!(warned, 1, "the room was warned once: {shown}");
    desk.stop().await;
    desk.musher.assert_no_process_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_the_day_holds_all_and_what_it_held_goes_on_when_there_is_more() {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    for n in 1..=8 {
        desk.musher.built_in_agent(&format!("coder-{n}"));
    }
    let most = 30 * CALL;
    desk.musher.set("/limits/tokens_per_day", json!(most));
    let steps = || {
        let mut steps = vec![sh("true"); 8];
        steps.push(commit("piece.txt", "made"));
        steps
    };
    desk.model.on(move |request| {
        let worker = worker(request)?;
        let mut plan = steps();
        plan.pop();
        plan.push(commit(&format!("piece-{}.txt", worker.item), "made"));
        plan.push(done("It is done."));
        let step = plan.get(request.answers_since_person());
        let reply = step.map_or_else(|| Reply::text("That is all."), |step| step.reply(request));
        Some(priced(reply))
    });
    desk.start();
    for n in 1..=8 {
        let id = desk.file(&format!("Make piece {n}")).await;
        desk.begin(id, None).await;
    }
    desk.hear("Then it goes on by itself").await;
    // What runs ends, and nothing begins any more.
    let began = std::time::Instant::now();
    while agents(&desk).await.iter().any(|agent| agent["state"] == "in_turn") {
        assert!(began.elapsed() < WORK, "{:?}", agents(&desk).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (_items, spent) = bill(&desk).await;
    assert!((most..=most + 8 * CALL).contains(&spent), "{spent} of {most}");
    let said = desk.musher.shown();
    assert_eq!(said.matches("Then it goes on by itself").count(), 1, "{said}");
    assert_eq!(said.matches("of today's 30000 tokens are spent (").count(), 1, "{said}");
    assert!(!said.contains("is blocked"), "a limit of the day blocks nothing: {said}");
    desk.stop().await;
    // There is more: everything goes on by itself.
    desk.musher.set("/limits/tokens_per_day", json!(1_000 * CALL));
    desk.start();
    desk.until_all(WORK, &["done"]).await;
    desk.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_followed_nudged_and_replayed_from_the_command_line() {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    desk.musher.built_in_agent("coder-1");
    play(&desk.model, |_worker, asked| {
        if asked.contains("go on now") {
            return vec![commit("piece.txt", "made"), done("It is done.")];
        }
        let wait = json!({"what": "reply", "detail": "a word"});
        vec![sh("echo first step"), crate::support::team::Step::Call("wait_for", wait)]
    });
    desk.start();
    let id = desk.file("Make it").await;
    desk.begin(id, None).await;
    let began = std::time::Instant::now();
    while agents(&desk).await[0]["state"] != "waiting" {
        assert!(began.elapsed() < WORK, "{:?}", agents(&desk).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Somebody follows what it does, until its item has ended.
    let mut follower = tokio::process::Command::new("setpriv");
    follower.args(["--pdeathsig", "KILL", "--"]).arg(crate::support::musher::program());
    let configuration = desk.musher.write_configuration().display().to_string();
    let output = desk.musher.directory().join("followed");
    desk.musher.prepare_for(&mut follower, &["logs", "1", "-f", "-c", &configuration]);
    follower.stdout(std::fs::File::create(&output).unwrap());
    let mut follower = follower.spawn().unwrap();
    let followed = || std::fs::read_to_string(&output).unwrap_or_default();
    until_within(WORK, "the first lines", || followed().contains("echo first step").then_some(()))
        .await;
    desk.musher.call(&["nudge", "coder-1", "go on now"]).await.succeeded();
    until_within(WORK, "what came after", || followed().contains("git commit").then_some(())).await;
    desk.until_stage(1, &["done"]).await;
    let ended = tokio::time::timeout(WORK, follower.wait()).await;
    assert!(ended.expect("it ends with the item").unwrap().success());
    let told = desk.musher.call(&["replay", "1"]).await.succeeded().stdout;
    for part in [
        "== turn 1 of coder-1",
        "echo first step",
        "== turn 2 of coder-1",
        "go on now",
        "ended by itself",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    desk.say("!agents").await;
    desk.hear("**coder-1** (coder, api) is free").await;
    desk.say("!replay 1").await;
    desk.hear("== turn 2 of coder-1").await;
    desk.stop().await;
}

/// The hint goes through the server's socket: no tick is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_from_another_process_wakes_its_recipient_at_once() {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    desk.musher.built_in_agent("coder-1");
    play(&desk.model, |_worker, _asked| {
        vec![crate::support::team::Step::Call("wait_for", json!({"what": "reply"}))]
    });
    desk.start();
    let id = desk.file("Make it").await;
    desk.begin(id, None).await;
    let mut best = i64::MAX;
    for round in 1..=5 {
        let began = std::time::Instant::now();
        let told = async |desk: &Desk| {
            let told = desk.musher.call(&["replay", "1", "--json"]).await.succeeded().json();
            told["turns"].as_array().unwrap().clone()
        };
        while told(&desk).await.iter().filter(|turn| turn["duration_ms"].is_u64()).count() < round {
            assert!(began.elapsed() < WORK, "round {round}: {:?}", agents(&desk).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let send = [
            "mail",
            "send",
            "--to",
            "coder-1",
            "--from",
            "coordinator",
            "--subject",
            "wake",
            "--body",
            "up",
        ];
        desk.musher.call(&send).await.succeeded();
        let turn = loop {
            if let Some(turn) = told(&desk).await.get(round) {
                break turn.clone();
            }
            assert!(began.elapsed() < WORK, "round {round}: it is not woken");
        };
        let list =
            desk.musher.call(&["mail", "list", "--to", "coder-1", "--limit", "1", "--json"]).await;
        let sent = list.succeeded().json()["messages"][0]["created_at"].clone();
        let at = |time: &Value| {
            let time: chrono::DateTime<chrono::Utc> = time.as_str().unwrap().parse().unwrap();
            time.timestamp_millis()
        };
        best = best.min(at(&turn["began"]) - at(&sent));
    }
    assert!(best < 50, "the best of five took {best} ms");
    desk.stop().await;
}
