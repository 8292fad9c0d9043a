//! Who decides that work is good: a QA agent, or a person.

use serde_json::json;

use crate::support::desk::Desk;
use crate::support::repository::Repository;
use crate::support::team::{Step, commit, done, play, sh};

async fn desk(qa: &str) -> Desk {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    desk.musher.set("/projects/0/qa", json!(qa));
    desk.musher.built_in_agent("coder-1").built_in_agent("coder-2");
    desk
}

#[tokio::test]
async fn a_qa_agent_sends_work_back_to_its_coder_and_lets_the_mended_one_through() {
    const FINDING: &str = "total.txt:1: it says 3, and 2 + 2 is 4; run `cat total.txt`";
    let mut desk = desk("agent").await;
    let qa = json!({"name": "qa-1", "role": "qa", "runtime": "api", "permissions": "auto"});
    desk.musher.agent(qa);
    play(&desk.model, |worker, asked| match worker.agent.as_str() {
        "qa-1" => vec![
            sh("cat total.txt"),
            Step::Verdict {
                passes_when: "4",
                findings: vec![FINDING],
                summary: "Looked at the total.",
            },
        ],
        // The finding reaches the coder in the words of QA.
        "coder-1" if asked.contains(FINDING) => vec![commit("total.txt", "4"), done("Mended.")],
        "coder-1" => vec![commit("total.txt", "3"), done("Added it up.")],
        other => panic!("{other} was asked: {asked}"),
    });
    desk.start();
    desk.file("Add it up").await;
    desk.begin(1, None).await;
    let item = desk.until_stage(1, &["done", "blocked"]).await;
    assert_eq!(item["stage"], "done", "{}", desk.show(1).await["explanation"]);
    assert_eq!(desk.repository().show("main", "total.txt").as_deref(), Some("4\n"));
    desk.model.assert_all_scripted();
    desk.stop().await;
    desk.assert_tidy(&[]).await;
}

#[tokio::test]
async fn a_person_approves_one_piece_of_work_and_turns_another_down() {
    let mut desk = desk("human").await;
    play(&desk.model, |worker, _asked| {
        let file = format!("piece-{}.txt", worker.item);
        vec![commit(&file, "made"), done("Made.")]
    });
    desk.start();
    for name in ["Make one", "Make two"] {
        let id = desk.file(name).await;
        desk.begin(id, None).await;
    }
    for id in [1, 2] {
        desk.until_stage(id, &["review_hold"]).await;
    }
    assert_eq!(desk.repository().subjects("main"), ["Start"], "nothing lands by itself");
    desk.say("!approve 1").await;
    desk.say("!reject 2 it is not what I meant").await;
    desk.until_stage(1, &["done"]).await;
    desk.until_stage(2, &["rejected"]).await;
    assert_eq!(desk.repository().subjects("main"), ["1 story Make one", "Start"]);
    desk.stop().await;
    // What was turned down stays for inspection, branch and worktree.
    desk.assert_tidy(&["2"]).await;
    let kept = desk.musher.data().join("worktrees/shop/2/piece-2.txt");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "made\n");
}
