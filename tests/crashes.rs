//! `kill -9` at every moment that matters: nothing is lost, nothing is done twice.
//!
//! Some moments are chosen from outside (the model holds its answer, a gate waits), the others by
//! a failpoint: the process kills itself between two writes.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::model_server::{Reply, Request};
use crate::support::musher::Musher;
use crate::support::repository::Repository;
use crate::support::scene::{Scene, agents_write, is_agent, is_coordinator, report, shell};
use crate::support::synapse::Synapse;
use crate::support::until;

/// A whole piece of work, and once more the part of it that was cut off.
const WORK: Duration = Duration::from_secs(150);

/// The words in brackets: a message carries one, and its answer repeats it.
fn marks(text: &str) -> Vec<String> {
    let open = text.split('[').skip(1);
    open.filter_map(|rest| rest.split_once(']')).map(|(mark, _)| mark.to_owned()).collect()
}

/// A model that answers with what it was asked.
fn echo(scene: &Scene) {
    scene.model.on(|request| {
        let asked = marks(&request.last_user_text());
        is_coordinator(request).then(|| Reply::text(&format!("Answer to {}.", asked.join(" and "))))
    });
}

/// The process must have died by the failpoint, not of something else.
async fn dies_at_the_failpoint(scene: &mut Scene) {
    use std::os::unix::process::ExitStatusExt;
    let status = scene.musher.wait_for_exit().await;
    assert_eq!(
        status.signal(),
        Some(Signal::SIGKILL as i32),
        "{status}\n{}",
        scene.musher.log_tail()
    );
    scene.musher.without_env("MUSHER_FAILPOINT");
}

/// Says something while Musher is down, starts it, and fails unless every question so far was
/// answered, and was answered once.
async fn comes_back_and_answers_each_once(scene: &mut Scene, asked: &[&str]) {
    scene.say("are you there? [second]").await;
    scene.say("and now? [third]").await;
    scene.musher.start();
    let asked = [asked, &["second", "third"]].concat();
    scene.hear_all(&asked).await;
    let said = scene.said_until_now().await;
    for mark in asked {
        let answers = said.iter().filter(|event| event.body().contains(mark)).count();
        assert_eq!(answers, 1, "answers to {mark}\n{}", scene.ann.print().await);
    }
    let all = scene.ann.messages_of(&scene.room, &scene.musher.id).await;
    let hellos = all.iter().filter(|event| event.body() == all[0].body()).count();
    assert_eq!(hellos, 1, "it said hello once\n{}", scene.ann.print().await);
}

/// Musher dies at this place from now on: not while it says hello, which passes many of them.
async fn with_failpoint(name: &str) -> Scene {
    with_failpoint_and(name, |musher| {
        musher.built_in_agent("coder-1");
    })
    .await
}

async fn with_failpoint_and(name: &str, adjust: impl FnOnce(&mut Musher)) -> Scene {
    let scene = Scene::with(|musher| {
        let armed = musher.directory().join("armed").display().to_string();
        musher.env("MUSHER_FAILPOINT", name).env("MUSHER_FAILPOINT_ARMED", &armed);
        adjust(musher);
    })
    .await;
    echo(&scene);
    std::fs::write(scene.musher.directory().join("armed"), "").unwrap();
    scene
}

/// One question, a death at the failpoint, two questions meanwhile.
async fn a_question_survives(failpoint: &str) {
    let mut scene = with_failpoint(failpoint).await;
    scene.say("is this safe? [first]").await;
    dies_at_the_failpoint(&mut scene).await;
    comes_back_and_answers_each_once(&mut scene, &["first"]).await;
}

#[tokio::test]
async fn killed_when_a_message_is_heard() {
    a_question_survives("heard").await;
}

#[tokio::test]
async fn killed_after_a_message_was_journaled() {
    a_question_survives("journaled").await;
}

#[tokio::test]
async fn killed_when_the_turn_has_taken_its_messages() {
    a_question_survives("turn-began").await;
}

#[tokio::test]
async fn killed_when_the_model_has_answered() {
    a_question_survives("model-answered").await;
}

#[tokio::test]
async fn killed_when_the_answer_is_committed() {
    a_question_survives("turn-ended").await;
}

#[tokio::test]
async fn killed_when_the_answer_is_sent() {
    a_question_survives("sent").await;
}

#[tokio::test]
async fn killed_while_the_model_thinks() {
    let mut scene = Scene::new().await;
    let (held, hold) = Reply::text("too late").held();
    scene.model.once(is_coordinator, held);
    echo(&scene);
    scene.say("is this safe? [first]").await;
    scene.model.wait_for_requests(1, Request::is_musher).await;
    // One that arrives during the turn, and is known to have arrived.
    scene.say("and this? [queued]").await;
    scene.ask("!version").await;
    scene.musher.kill_9().await;
    hold.release();
    comes_back_and_answers_each_once(&mut scene, &["first", "queued"]).await;
    assert!(scene.said().await.iter().all(|event| !event.body().contains("too late")));
}

#[tokio::test]
async fn killed_at_once_after_a_message() {
    let mut scene = Scene::new().await;
    echo(&scene);
    // Where in its way the message is when the axe falls is different in every run.
    scene.say("is this safe? [first]").await;
    scene.musher.kill_9().await;
    comes_back_and_answers_each_once(&mut scene, &["first"]).await;
}

#[tokio::test]
async fn killed_when_a_command_is_about_to_be_carried_out() {
    a_command_survives("command-began").await;
}

#[tokio::test]
async fn killed_when_a_command_is_carried_out() {
    a_command_survives("command-done").await;
}

async fn a_command_survives(failpoint: &str) {
    let mut scene = with_failpoint(failpoint).await;
    scene.say("!story The only one [first]").await;
    dies_at_the_failpoint(&mut scene).await;
    comes_back_and_answers_each_once(&mut scene, &["first"]).await;
    assert_eq!(scene.items().await.len(), 1);
}

#[tokio::test]
async fn killed_when_a_tool_has_had_its_effect() {
    let mut scene = with_failpoint("tool-done").await;
    scene.model.clear_rules();
    scene.model.on(|request| {
        let files = is_coordinator(request) && request.last_user_text().contains("file it");
        let answers = request.answers_since_person();
        match answers {
            0 if files => {
                Some(Reply::call("item_create", json!({"kind": "story", "name": "The only one"})))
            }
            _ => None,
        }
    });
    echo(&scene);
    scene.say("please file it [first]").await;
    dies_at_the_failpoint(&mut scene).await;
    comes_back_and_answers_each_once(&mut scene, &["first"]).await;
    assert_eq!(scene.items().await.len(), 1, "filed once");
}

/// Starts a story, and lets it be killed by `kill`; meanwhile Ann asks for something else.
async fn work_survives(mut scene: Scene, kill: impl AsyncFnOnce(&mut Scene)) {
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    kill(&mut scene).await;
    scene.say("!story Something else").await;
    scene.musher.start();
    scene.hear("Something else").await;
    let (room, bot) = (scene.room.clone(), scene.musher.id.clone());
    let merged = |event: &crate::support::event::Event| {
        event.room == room && event.sender == bot && event.body().to_lowercase().contains("merged")
    };
    scene.ann.wait_within(WORK, "the work is merged", merged).await;
    scene.assert_landed_once(1, "Add a calculator", "calculator.txt").await;
    let said = scene.said_until_now().await;
    let announced = said.iter().filter(|event| event.body().to_lowercase().contains("merged"));
    assert_eq!(announced.count(), 1, "announced once\n{}", scene.ann.print().await);
    let items = scene.items().await;
    let stages: Vec<&str> = items.iter().map(|item| item["stage"].as_str().unwrap()).collect();
    assert_eq!(items.len(), 2, "{items:?}");
    assert!(stages.contains(&"done") && stages.contains(&"backlog"), "{items:?}");
    assert_eq!(scene.repository.branches(), ["main"]);
    let worktrees = scene.repository.git(&["worktree", "list", "--porcelain"]);
    assert_eq!(worktrees.matches("worktree ").count(), 1, "{worktrees}");
    scene.musher.stop().await;
    scene.musher.assert_no_process_left().await;
}

#[tokio::test]
async fn killed_when_an_agents_process_is_spawned() {
    work_of_claude_code_survives_at("agent-spawned").await;
}

#[tokio::test]
async fn killed_when_an_agent_was_given_its_prompt() {
    work_of_claude_code_survives_at("agent-prompted").await;
}

/// Claude Code does the work, and Musher kills itself at `failpoint`.
async fn work_of_claude_code_survives_at(failpoint: &str) {
    let scene = with_failpoint_and(failpoint, |musher| {
        musher.claude_agent("coder-1");
    })
    .await;
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    work_survives(scene, async |scene| dies_at_the_failpoint(scene).await).await;
}

/// The built-in agent does the work, and Musher kills itself at `failpoint`.
async fn work_survives_at(failpoint: &str) {
    let scene = with_failpoint(failpoint).await;
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    work_survives(scene, async |scene| dies_at_the_failpoint(scene).await).await;
}

#[tokio::test]
async fn killed_when_an_item_is_given_to_an_agent() {
    work_survives_at("assigned").await;
}

#[tokio::test]
async fn killed_when_work_was_checked() {
    work_survives_at("checked").await;
}

#[tokio::test]
async fn killed_when_an_agents_turn_began() {
    work_survives_at("agent-turn-began").await;
}

#[tokio::test]
async fn killed_when_an_agents_turn_is_over() {
    work_survives_at("agent-turn-over").await;
}

#[tokio::test]
async fn killed_when_an_agents_turn_is_settled() {
    work_survives_at("agent-turn-settled").await;
}

#[tokio::test]
async fn killed_when_the_squash_commit_is_made() {
    work_survives_at("merge-squashed").await;
}

#[tokio::test]
async fn killed_when_the_merge_has_its_place() {
    work_survives_at("merge-placed").await;
}

#[tokio::test]
async fn killed_when_the_merge_is_tested() {
    work_survives_at("merge-tested").await;
}

#[tokio::test]
async fn killed_when_main_is_about_to_move() {
    work_survives_at("merge-noted").await;
}

#[tokio::test]
async fn killed_when_main_has_moved() {
    work_survives_at("merge-moved").await;
}

#[tokio::test]
async fn killed_when_the_checkout_has_followed() {
    work_survives_at("merge-followed").await;
}

#[tokio::test]
async fn killed_when_the_merge_would_be_pushed() {
    work_survives_at("merge-pushed").await;
}

#[tokio::test]
async fn killed_when_the_merge_is_recorded() {
    work_survives_at("merge-recorded").await;
}

#[tokio::test]
async fn killed_while_claude_code_works() {
    let scene = Scene::with(|musher| {
        musher.claude_agent("coder-1");
    })
    .await;
    echo(&scene);
    let (held, _hold) = Reply::text("too late").held();
    scene.model.once(|request| is_agent(request) && request.brings_tool_result(), held);
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    work_survives(scene, async |scene| {
        // Its first tool has run: there is something half done in the worktree.
        scene.model.wait_for_requests(1, |r| is_agent(r) && r.brings_tool_result()).await;
        scene.musher.kill_9().await;
    })
    .await;
}

#[tokio::test]
async fn killed_while_an_agents_command_runs() {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    echo(&scene);
    let place = scene.repository.path.join(".git/command-runs");
    let line = format!("setsid sleep 600 & touch {}; sleep 600", place.display());
    let mut first = true;
    scene.model.on(move |request| {
        let hangs = is_agent(request) && std::mem::replace(&mut first, false);
        hangs.then(|| shell(request, &line))
    });
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    work_survives(scene, async |scene| {
        until("the agent's command", || place.exists().then_some(())).await;
        scene.musher.kill_9().await;
    })
    .await;
}

/// A gate that waits in its `$hold`-th run, and notes the trees it ran on.
const HOLDING_GATE: &str = r#"
d=$(git rev-parse --git-common-dir)
echo run >> "$d/runs"
if [ "$(grep -c run "$d/runs")" = "$(cat "$d/hold" 2>/dev/null)" ]; then
    touch "$d/held"
    while [ -e "$d/hold" ]; do sleep 0.05; done
fi
git add -A && git write-tree >> "$d/tested"
"#;

/// Killed in the `run`-th run of the gate: the first is the agent's worktree, the second the merge.
async fn work_survives_in_gate(run: u32) {
    let repository = Repository::with_gate("shop", HOLDING_GATE);
    let git = repository.path.join(".git");
    std::fs::write(git.join("hold"), format!("{run}\n")).unwrap();
    let scene = Scene::on(Synapse::shared().await, repository, |musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    echo(&scene);
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    work_survives(scene, async |scene| {
        until("the gate runs", || git.join("held").exists().then_some(())).await;
        scene.musher.kill_9().await;
        std::fs::remove_file(git.join("hold")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn killed_while_the_gates_run() {
    work_survives_in_gate(1).await;
}

#[tokio::test]
async fn killed_while_the_merge_is_tested() {
    work_survives_in_gate(2).await;
}

#[tokio::test]
async fn killed_again_and_again() {
    let mut scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    echo(&scene);
    scene.model.on(|request| is_agent(request).then(|| report(request, "nothing")));
    // Ever later after the start: while it restores, logs in, catches up, answers.
    for round in 0..6 {
        scene.say(&format!("hello [round-{round}]")).await;
        scene.musher.kill_9().await;
        scene.musher.start();
        if round % 2 == 1 {
            scene.hear_all(&[&format!("round-{round}")]).await;
        }
    }
    scene.musher.kill_9().await;
    let asked = ["round-0", "round-1", "round-2", "round-3", "round-4", "round-5"];
    comes_back_and_answers_each_once(&mut scene, &asked).await;
}
