//! What people write reaches a model as they wrote it. For the real Claude Code a line that begins
//! with `/` would be a command of its own, and `@path` a file to be read in.

use crate::support::model_server::Reply;
use crate::support::scene::{Scene, is_agent, report, shell};
use crate::support::until;

const TRAPS: [&str; 3] = ["/clear", "@/etc/passwd", "@name:server hi"];

/// Works once somebody has made the file `go`.
const WORK: &str = "d=$(git rev-parse --git-common-dir); touch $d/runs; \
                    while [ ! -e $d/go ]; do sleep 0.05; done; \
                    echo made > greeting.txt && git add -A && git commit -qm Work";

#[tokio::test]
async fn slashes_and_ats_reach_claude_code_as_text() {
    let scene = Scene::with(|musher| {
        musher.claude_agent("coder-1");
    })
    .await;
    scene.model.on(|request| {
        is_agent(request).then(|| match request.tool_results().len() {
            0 => shell(request, WORK),
            1 => report(request, "It is written."),
            _ => Reply::text("Done."),
        })
    });
    // In the item's text, which is part of the prompt.
    scene.ask(&format!("!story Greet\n{}", TRAPS.join("\n"))).await;
    scene.say("!start 1").await;
    let git = scene.repository.path.join(".git");
    until("the agent works", || git.join("runs").exists().then_some(())).await;
    // And said to the running turn, each for itself.
    for trap in TRAPS {
        scene.say(&format!("!tell coder-1 {trap}")).await;
        scene.hear("Told coder-1").await;
    }
    std::fs::write(git.join("go"), "").unwrap();
    scene.hear("erged").await;
    scene.assert_landed_once(1, "Greet", "greeting.txt").await;

    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let inlined = passwd.lines().next().unwrap();
    let requests = scene.model.all_requests();
    assert!(requests.iter().all(|request| !request.mentions(inlined)), "a file was read in");
    let last = scene.model.claude_requests().pop().unwrap();
    // The CLI puts what steers a turn behind the result of the tool that runs.
    let results = last.tool_results().into_iter().map(|(_, text)| text);
    let said = last.user_texts().into_iter().chain(results).collect::<Vec<_>>().join("\n");
    for trap in TRAPS {
        let times = said.lines().filter(|line| *line == trap).count();
        assert_eq!(times, 2, "{trap:?} must stand there as a line, twice:\n{said}");
    }
    assert!(said.contains("): Greet"), "the conversation was not cleared:\n{said}");
    let mut sessions: Vec<String> = scene
        .model
        .claude_requests()
        .iter()
        .map(|request| request.claude_session().to_owned())
        .collect();
    sessions.dedup();
    assert_eq!(sessions.len(), 1, "one conversation from first to last: {sessions:?}");
}
