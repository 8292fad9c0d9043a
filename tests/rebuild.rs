//! `rebuild`: the running program is replaced by one built from its source, or goes on.
//!
//! The compiler is a script in most stories, and the real one on a package of one file in another:
//! a build of the program itself takes minutes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::model_server::{Reply, Request};
use crate::support::musher::Musher;
use crate::support::scene::Scene;
use crate::support::until_within;

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Gives Musher a source checkout, and a `cargo` that runs `script`.
fn with_compiler(musher: &mut Musher, script: &str) {
    musher.copy_program();
    let source = musher.directory().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("Cargo.toml"), "").unwrap();
    let cargo = musher.directory().join("cargo");
    write_program(&cargo, &format!("#!/bin/sh\n{script}"));
    musher.env("MUSHER_SOURCE", &source.display().to_string());
    musher.env("CARGO", &cargo.display().to_string());
}

/// A compiler whose output is this program, with a mark in its environment to tell it by.
fn good_compiler() -> String {
    let real = env!("CARGO_BIN_EXE_musher");
    format!(
        "out=$CARGO_TARGET_DIR/debug/musher; mkdir -p \"$CARGO_TARGET_DIR/debug\"\n\
         printf '#!/bin/sh\\nMARK=new exec {real} \"$@\"\\n' > \"$out\"\n\
         chmod +x \"$out\"\n"
    )
}

fn is_replaced(musher: &Musher) -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", musher.pid())).unwrap();
    String::from_utf8_lossy(&environment).contains("MARK=new")
}

#[tokio::test]
async fn a_good_build_takes_over_and_the_room_is_told() {
    let mut scene = Scene::with(|musher| with_compiler(musher, &good_compiler())).await;
    scene.ask("!story Something to keep").await;
    let pid = scene.musher.pid();
    scene.say("!rebuild").await;
    scene.hear("I am back").await;
    assert!(scene.musher.is_running());
    assert_eq!(scene.musher.pid(), pid, "replaced in place");
    assert!(is_replaced(&scene.musher), "the new program runs");

    // It goes on where the old one was: what was asked meanwhile too, and nothing twice.
    scene.say("!status").await;
    scene.hear("Something to keep").await;
    let said = scene.said_until_now().await;
    let back = said.iter().filter(|event| event.body().contains("I am back")).count();
    assert_eq!(back, 1, "{}", scene.ann.print().await);
}

#[tokio::test]
async fn a_failed_build_changes_nothing_and_shows_why() {
    let mut scene = Scene::with(|musher| {
        with_compiler(musher, "echo 'error[E0308]: mismatched types' >&2; exit 101\n");
    })
    .await;
    let program = scene.musher.directory().join("program/musher");
    let before = std::fs::metadata(&program).unwrap().modified().unwrap();
    scene.say("!rebuild").await;
    scene.hear("error[E0308]: mismatched types").await;
    scene.ask("!version").await;
    assert!(scene.musher.is_running());
    assert_eq!(std::fs::metadata(&program).unwrap().modified().unwrap(), before);
}

#[tokio::test]
async fn a_program_that_does_not_run_does_not_take_over() {
    let mut scene = Scene::with(|musher| {
        let script = "mkdir -p \"$CARGO_TARGET_DIR/debug\"\n\
                      printf '#!/bin/sh\\necho it crashes at once; exit 9\\n' \
                      > \"$CARGO_TARGET_DIR/debug/musher\"\n\
                      chmod +x \"$CARGO_TARGET_DIR/debug/musher\"\n";
        with_compiler(musher, script);
    })
    .await;
    scene.say("!rebuild").await;
    scene.hear("it crashes at once").await;
    scene.ask("!version").await;
    assert!(scene.musher.is_running());
}

/// Ann asks something, and the model's answer is held back while she asks for a rebuild.
async fn rebuild_during_an_answer(command: &str) -> (Scene, impl FnOnce()) {
    let scene = Scene::with(|musher| with_compiler(musher, &good_compiler())).await;
    let (held, hold) = Reply::text("the long answer").held();
    scene.model.once(Request::is_musher, held);
    scene.model.always(Request::is_musher, Reply::text("the other answer"));
    scene.say("a long question").await;
    scene.model.wait_for_requests(1, Request::is_musher).await;
    scene.say(command).await;
    scene.hear("it replaces").await;
    (scene, move || hold.release())
}

#[tokio::test]
async fn a_running_answer_is_finished_before_the_program_is_replaced() {
    let (scene, release) = rebuild_during_an_answer("!rebuild").await;
    // Nothing new is begun, and commands are answered as ever.
    scene.say("one more question").await;
    scene.say("!story Meanwhile").await;
    scene.hear("Meanwhile").await;
    assert_eq!(scene.model.requests().len(), 1, "{}", scene.model.print());
    assert!(!is_replaced(&scene.musher));

    release();
    scene.hear_all(&["the long answer", "I am back", "the other answer"]).await;
    assert!(is_replaced(&scene.musher));
    let said = scene.said_until_now().await;
    for part in ["the long answer", "I am back", "the other answer"] {
        let count = said.iter().filter(|event| event.body().contains(part)).count();
        assert_eq!(count, 1, "{part}\n{}", scene.ann.print().await);
    }
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 2, "{}", scene.model.print());
    assert!(requests[1].last_user_text().contains("one more question"));
}

#[tokio::test]
async fn with_now_a_running_answer_is_cut_off_and_begun_again_afterwards() {
    let (scene, release) = rebuild_during_an_answer("!rebuild --now").await;
    scene.hear_all(&["I am back", "the other answer"]).await;
    assert!(is_replaced(&scene.musher));
    release();
    let said = scene.said_until_now().await;
    let answers = said.iter().filter(|event| event.body().contains("answer")).count();
    assert_eq!(answers, 1, "{}", scene.ann.print().await);
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 2, "{}", scene.model.print());
    assert!(requests[1].last_user_text().contains("a long question"));
}

/// A package called as ours is, whose program says its version as ours does and is otherwise the
/// program under test. Returns the commit it stands at.
fn tiny_package(source: &Path) -> String {
    std::fs::create_dir_all(source.join("src")).unwrap();
    let manifest =
        "[package]\nname = \"musher\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n";
    std::fs::write(source.join("Cargo.toml"), manifest).unwrap();
    let program = format!(
        "use std::os::unix::process::CommandExt;\n\
         fn main() {{\n\
         \x20   if std::env::args().nth(1).as_deref() == Some(\"--version\") {{\n\
         \x20       return println!(\"musher {{}}\", option_env!(\"MUSHER_VERSION\").unwrap());\n\
         \x20   }}\n\
         \x20   let mut real = std::process::Command::new({:?});\n\
         \x20   panic!(\"{{}}\", real.args(std::env::args_os().skip(1)).env(\"MARK\", \"new\").exec());\n\
         }}\n",
        env!("CARGO_BIN_EXE_musher")
    );
    std::fs::write(source.join("src/main.rs"), program).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let ran = std::process::Command::new(program).args(arguments).current_dir(source).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    };
    run(env!("CARGO"), &["generate-lockfile", "--offline"]);
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
    run("git", &["init", "-q"]);
    run("git", &["add", "-A"]);
    run("git", &[&identity[..], &["commit", "-qm", "First"]].concat());
    run("git", &["describe", "--always"])
}

#[tokio::test]
async fn the_real_compiler_builds_what_takes_over() {
    let mut commit = String::new();
    let scene = Scene::with(|musher| {
        musher.copy_program();
        let source = musher.directory().join("source");
        commit = tiny_package(&source);
        musher.env("MUSHER_SOURCE", &source.display().to_string()).env("CARGO", env!("CARGO"));
        // The compiler itself, not the one that asks the user's home which to take.
        musher.first_on_path(Path::new(env!("CARGO")).parent().unwrap());
    })
    .await;
    scene.say("!rebuild").await;
    let built = format!("Built musher **0.1.0+{commit}**");
    scene
        .ann
        .wait_within(std::time::Duration::from_secs(120), "it is built", |event| {
            event.says(&scene.musher.id, &built)
        })
        .await;
    scene.hear("I am back").await;
    until_within(std::time::Duration::from_secs(5), "it is replaced", || {
        is_replaced(&scene.musher).then_some(())
    })
    .await;
    let installed = scene.musher.directory().join("program");
    assert!(installed.join("musher.previous").exists(), "the old program is kept");
}
