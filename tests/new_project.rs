//! From one chat line to a project that work can be done in.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::scene::{Scene, agents_write};
use crate::support::synapse::free_port;
use crate::support::until;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// With a folder for new projects.
async fn scene() -> (Scene, std::path::PathBuf) {
    let scene = Scene::with(|musher| {
        let projects = musher.directory().join("projects");
        musher.set("/projects_dir", json!(projects)).built_in_agent("coder-1");
    })
    .await;
    let projects = scene.musher.directory().join("projects");
    (scene, projects)
}

#[tokio::test]
async fn a_new_project_is_ready_and_survives_a_restart() {
    let (mut scene, projects) = scene().await;
    scene.say("!new project tools --host-only").await;
    scene.hear("tools").await;
    let path = projects.join("tools");
    scene.hear_all(&[&path.display().to_string()]).await;
    assert_eq!(git(&path, &["status", "--porcelain"]), "");
    assert!(!git(&path, &["log", "--format=%s"]).is_empty(), "there is a first commit");
    let listed = scene.ask("!projects").await;
    assert!(listed.body().contains("tools") && listed.body().contains("shop"), "{}", listed.body());

    scene.musher.restart().await;
    let switched = scene.ask("!switch tools").await;
    assert!(switched.body().contains("tools"), "{}", switched.body());
    agents_write(&scene.model, "Add a hammer", "hammer.txt");
    scene.ask("!story Add a hammer").await;
    assert_eq!(scene.items().await[0]["name"], "Add a hammer");
    scene.say("!start 1").await;
    scene.hear("erged").await;
    let base = git(&path, &["symbolic-ref", "--short", "HEAD"]);
    assert!(git(&path, &["log", "-1", "--format=%s", &base]).contains("Add a hammer"));
    assert_eq!(git(&path, &["status", "--porcelain"]), "");
    assert!(path.join("hammer.txt").exists());
    assert_eq!(scene.repository.subjects("main"), ["Start"], "the other project is untouched");
}

#[tokio::test]
async fn what_cannot_be_made_leaves_nothing_behind() {
    let (scene, projects) = scene().await;
    std::fs::create_dir_all(projects.join("full")).unwrap();
    std::fs::write(projects.join("full/mine.txt"), "keep me").unwrap();
    let nowhere = format!("file://{}/no-such-repository", projects.display());
    for (command, words) in [
        ("!new project Tools --host-only", "lower-case"),
        ("!new project ../up --host-only", "lower-case"),
        ("!new project shop --host-only", "shop"),
        ("!new project full --host-only", "full"),
        ("!new project tools --stack cobol --host-only", "cobol"),
        (
            "!new project tools --git https://ann:secret@example.org/x.git --host-only",
            "credentials",
        ),
        (&format!("!new project tools --git {nowhere} --host-only"), "https"),
        ("!new project tools --git https://127.0.0.1:1/x.git --host-only", "etting the repository"),
    ] {
        scene.say(command).await;
        let answer = scene.hear(words).await;
        assert!(!answer.body().contains("secret"), "{}", answer.body());
    }
    scene.ask("!version").await;
    let listed = scene.ask("!projects").await;
    assert!(!listed.body().contains("tools"), "{}", listed.body());
    let left: Vec<_> = std::fs::read_dir(&projects)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["full"], "nothing but what was there");
    assert_eq!(std::fs::read_to_string(projects.join("full/mine.txt")).unwrap(), "keep me");
}

/// Serves the repositories below a directory by git's own protocol.
async fn git_daemon(base: &Path) -> (tokio::process::Child, String) {
    let port = free_port();
    // The program itself, not `git daemon`: killing that leaves its child listening for ever, with
    // the test's output held open.
    let exec_path = std::process::Command::new("git").arg("--exec-path").output().unwrap();
    let exec_path = String::from_utf8(exec_path.stdout).unwrap();
    let child = tokio::process::Command::new(Path::new(exec_path.trim()).join("git-daemon"))
        .args(["--listen=127.0.0.1", "--export-all", "--reuseaddr"])
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", base.display()))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let up = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
    until("git daemon listens", up).await;
    (child, format!("git://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_clone_gets_the_gates_of_its_stack() {
    let (scene, projects) = scene().await;
    scene.repository.write("Cargo.toml", "[package]\nname = \"x\"\nversion = \"0.1.0\"\n");
    scene.repository.commit("Make it a crate");
    let (_daemon, url) = git_daemon(scene.repository.path.parent().unwrap()).await;
    let place = projects.join("elsewhere");
    let path = place.display().to_string();
    scene.say(&format!("!new project copy --git {url}/shop --path {path} --host-only")).await;
    scene.hear_all(&[&path, "cargo test", "rust"]).await;
    assert_eq!(git(&place, &["log", "-1", "--format=%s", "main~0"]), "Make it a crate");
    let listed = scene.ask("!projects").await;
    assert!(listed.body().contains("copy"), "{}", listed.body());
    assert!(!projects.join("copy").exists());
}
