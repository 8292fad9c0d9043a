//! Two items change the same line. The second does not merge; a mergemaster brings it into a state
//! that does, in the item's own worktree, or says that a person must decide.

use serde_json::json;

use crate::support::desk::Desk;
use crate::support::repository::Repository;
use crate::support::team::{Step, commit, done, play, sh};

/// A desk with two coders and a mergemaster. Item 2 is begun before item 1 has landed, and is
/// finished after that.
async fn two_that_conflict(mergemaster: fn() -> Vec<Step>) -> Desk {
    let repository = Repository::new("shop");
    repository.write("greeting.txt", "hello\n");
    repository.commit("Greet");
    let mut desk = Desk::new(vec![repository]).await;
    let merger = json!({
        "name": "merger-1", "role": "mergemaster", "runtime": "api", "permissions": "auto",
    });
    desk.musher.built_in_agent("coder-1").built_in_agent("coder-2").agent(merger);
    play(&desk.model, move |worker, asked| match (worker.agent.as_str(), worker.item) {
        ("merger-1", 2) => {
            assert!(asked.contains("greeting.txt"), "it is told what conflicts: {asked}");
            mergemaster()
        }
        (_coder, 1) => {
            let begun =
                "until git rev-parse -q --verify item/2-greet-in-german; do sleep 0.05; done";
            vec![sh(begun), commit("greeting.txt", "bonjour"), done("In French.")]
        }
        (_coder, 2) => {
            let landed = "until git log --format=%s main | grep -q '^1 story'; do sleep 0.05; done";
            vec![sh(landed), commit("greeting.txt", "hallo"), done("In German.")]
        }
        other => panic!("nobody asked {other:?} for anything"),
    });
    desk.start();
    for name in ["Greet in French", "Greet in German"] {
        let id = desk.file(name).await;
        desk.begin(id, None).await;
    }
    desk
}

#[tokio::test]
async fn a_mergemaster_resolves_the_conflict_and_both_are_merged() {
    let mut desk = two_that_conflict(|| {
        vec![
            sh("git merge main || printf 'bonjour\\nhallo\\n' > greeting.txt"),
            sh("git add -A && git commit -qm 'Greet in both' && git rev-parse HEAD"),
            Step::Merged("Kept both greetings."),
        ]
    })
    .await;
    let item = desk.until_stage(2, &["done", "blocked", "merge_failure_final"]).await;
    assert_eq!(item["stage"], "done", "{}", desk.show(2).await["explanation"]);
    let greeting = desk.repository().show("main", "greeting.txt");
    assert_eq!(greeting.as_deref(), Some("bonjour\nhallo\n"));
    let subjects = desk.repository().subjects("main");
    let expected = ["2 story Greet in German", "1 story Greet in French", "Greet", "Start"];
    assert_eq!(subjects, expected, "one commit an item");
    let mergers = desk.model.requests();
    let mergers =
        mergers.iter().filter(|request| request.system().contains("Your name is merger-1"));
    assert!(mergers.count() > 0, "a mergemaster did it");
    desk.model.assert_all_scripted();
    desk.stop().await;
    desk.assert_tidy(&[]).await;
}

#[tokio::test]
async fn a_contradiction_is_left_to_a_person_and_the_work_stays_on_its_branch() {
    let mut desk = two_that_conflict(|| {
        let why = json!({"outcome": "merge_failed", "summary": "Only one language can be first."});
        vec![sh("git log --oneline main"), Step::Call("report_done", why)]
    })
    .await;
    desk.until_stage(2, &["blocked"]).await;
    desk.hear("Only one language can be first.").await;
    assert_eq!(desk.repository().show("main", "greeting.txt").as_deref(), Some("bonjour\n"));
    let branch = desk.repository().show("item/2-greet-in-german", "greeting.txt");
    assert_eq!(branch.as_deref(), Some("hallo\n"), "its work is where it was");
    desk.stop().await;
    desk.assert_tidy(&["2"]).await;
}
