//! What the chat costs: start, memory, latency against two plain clients, CPU a message.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs)]

#[path = "chat/echo.rs"]
mod echo;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use echo::EchoBot;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use support::figures::{Figures, milliseconds, percentile};
use support::model_server::{ModelServer, Reply};
use support::musher::{Musher, program};
use support::person::Person;
use support::processes::{cpu_time, resident_memory};
use support::scene::{Scene, is_agent};
use support::synapse::Synapse;

const STARTS: usize = 10;
const ROUND_TRIPS: usize = 100;
const MESSAGES: usize = 200;
const AGENTS: usize = 20;

/// The line that Musher logs when it is up.
const UP: &str = "synced with the homeserver";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        echo::serve_if_asked().await;
        let mut figures = Figures::new("chat");
        let size = std::fs::metadata(program()).unwrap().len();
        figures.add("binary", &format!("{:.1} MB", size as f64 / 1e6), "");
        start_and_memory(&mut figures).await;
        memory_with_agents(&mut figures).await;
        latency(&mut figures).await;
        processor(&mut figures).await;
        figures.print();
        // The homeserver is a static and would outlive us.
        std::process::exit(0);
    });
}

async fn start_and_memory(figures: &mut Figures) {
    let mut scene = Scene::new().await;
    let mut starts = vec![];
    for _ in 0..STARTS {
        scene.musher.stop().await;
        let began = Instant::now();
        scene.musher.start();
        while !scene.musher.log().contains(UP) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        starts.push(began.elapsed());
    }
    let median = percentile(&starts, 50).as_secs_f64() * 1000.0;
    figures.limit("start to first sync, logged in before", median, "ms", 300.0);
    for _ in 0..20 {
        scene.ask("!status").await;
    }
    let idle = scene.musher.resident_memory() as f64 / 1e6;
    figures.limit("resident memory, idle, after 20 commands", idle, "MB", 40.0);
}

/// Agents that wait for their model: each has a conversation, a worktree and an open request.
async fn memory_with_agents(figures: &mut Figures) {
    let scene = Scene::with(|musher| {
        for number in 0..AGENTS {
            musher.built_in_agent(&format!("coder-{number}"));
        }
        musher.set("/limits", json!({"max_agents": AGENTS, "max_starts_per_minute": 1000}));
    })
    .await;
    scene.model.always(is_agent, Reply::hang());
    for number in 1..=AGENTS {
        scene.say(&format!("!story Wish {number}")).await;
        scene.say(&format!("!start {number}")).await;
    }
    let limit = Duration::from_secs(120);
    scene.model.wait_for_requests_within(limit, AGENTS, is_agent).await;
    let memory = scene.musher.resident_memory() as f64 / 1e6;
    figures.add(
        &format!("resident memory, {AGENTS} agents waiting"),
        &format!("{memory:.1} MB"),
        "",
    );
}

/// Says something, and waits for whatever `other` says next.
async fn round_trip(ann: &Person, room: &str, other: &str, text: &str) -> Duration {
    let began = Instant::now();
    ann.say(room, text).await;
    ann.next_message(room, other).await.seen.duration_since(began)
}

/// A command against a plain client that answers whatever it hears, turn by turn in one run.
async fn latency(figures: &mut Figures) {
    let server = Synapse::shared().await;
    let model = ModelServer::start().await;
    let (ann, bob) = (Person::new(server, "ann").await, Person::new(server, "bob").await);
    let mut musher = Musher::new(server, &model).await;
    musher.allow_admin(&ann.id);
    musher.start();
    let commands = musher.room_with(&ann).await;
    let plain = ann.direct_room(&bob.id).await;
    bob.accept_invite(&plain).await;
    let (partner, place) = (bob.id.clone(), plain.clone());
    let caller = ann.id.clone();
    let echo = tokio::spawn(async move {
        loop {
            bob.next_message(&place, &caller).await;
            bob.say(&place, "yes").await;
        }
    });
    let (mut bare, mut command) = (vec![], vec![]);
    for _ in 0..ROUND_TRIPS {
        bare.push(round_trip(&ann, &plain, &partner, "are you there?").await);
        command.push(round_trip(&ann, &commands, &musher.id, "!status").await);
    }
    echo.abort();
    for percent in [50, 95] {
        let (bare, command) = (percentile(&bare, percent), percentile(&command, percent));
        figures.add(&format!("two plain clients, p{percent}"), &milliseconds(bare), "");
        let name = format!("`!status`, send to receipt, p{percent}");
        let ratio = command.as_secs_f64() / bare.as_secs_f64();
        if percent == 50 {
            figures.ratio(&name, &milliseconds(command), ratio, 1.3);
        } else {
            figures.add(&name, &milliseconds(command), &format!("{ratio:.2}x"));
        }
    }
}

/// CPU time a message that is answered, one by one and all at once, against the least that could
/// answer in the same room of the same homeserver in the same run.
async fn processor(figures: &mut Figures) {
    let scene = Scene::new().await;
    scene.ask("!version").await;
    let server = Synapse::shared().await;
    let (bob, echo) = (Person::new(server, "bob").await, EchoBot::start(server).await);
    let room = bob.direct_room(&echo.id).await;
    bob.wait_until_joined(&room, &echo.id).await;
    round_trip(&bob, &room, &echo.id, "are you there?").await;
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / MESSAGES as f64;

    let before = (scene.musher.cpu_time(), cpu_time(echo.pid()));
    for _ in 0..MESSAGES {
        scene.ask("!version").await;
        round_trip(&bob, &room, &echo.id, "are you there?").await;
    }
    let own = each(scene.musher.cpu_time() - before.0);
    let least = each(cpu_time(echo.pid()) - before.1);
    against(figures, "CPU a message, one by one", own, least, 6.0);

    let before = (scene.musher.cpu_time(), cpu_time(echo.pid()));
    let sends = (0..MESSAGES).map(|_| scene.say("!version"));
    stream::iter(sends).buffer_unordered(8).collect::<Vec<_>>().await;
    for _ in 0..MESSAGES {
        scene.hear(env!("CARGO_PKG_VERSION")).await;
    }
    let sends = (0..MESSAGES).map(|_| bob.say(&room, "are you there?"));
    stream::iter(sends).buffer_unordered(8).collect::<Vec<_>>().await;
    // It loses what falls into a gap of its sync: what it answered counts as all.
    while cpu_time_of_a_second(echo.pid()).await > Duration::from_millis(20) {}
    let own = each(scene.musher.cpu_time() - before.0);
    let least = each(cpu_time(echo.pid()) - before.1);
    against(figures, &format!("CPU a message, {MESSAGES} at once"), own, least, 2.0);
    let memory = |pid| resident_memory(pid) as f64 / 1e6;
    let (own, least) = (memory(scene.musher.pid()), memory(echo.pid()));
    figures.add("resident memory after that", &format!("{own:.1} MB"), "");
    figures.add("the echo bot's", &format!("{least:.1} MB"), "");
}

/// A figure with its target, and the echo bot's beside it.
fn against(figures: &mut Figures, name: &str, own: f64, least: f64, limit: f64) {
    figures.limit(name, own, "ms", limit);
    figures.add("the echo bot's", &format!("{least:.2} ms"), &format!("{:.2}x", own / least));
}

async fn cpu_time_of_a_second(pid: i32) -> Duration {
    let before = cpu_time(pid);
    tokio::time::sleep(Duration::from_secs(1)).await;
    cpu_time(pid) - before
}
