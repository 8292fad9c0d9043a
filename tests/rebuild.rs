//! `rebuild`: the running program is replaced by one built from its source, or goes on.
//!
//! The compiler is a script here: a real build takes minutes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::musher::Musher;
use crate::support::scene::Scene;

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

#[tokio::test]
async fn a_good_build_takes_over_and_the_room_is_told() {
    let mut scene = Scene::with(|musher| {
        // What it builds is this program, with a mark in its environment to tell it by.
        let real = env!("CARGO_BIN_EXE_musher");
        let script = format!(
            "out=$CARGO_TARGET_DIR/debug/musher; mkdir -p \"$CARGO_TARGET_DIR/debug\"\n\
             printf '#!/bin/sh\\nMARK=new exec {real} \"$@\"\\n' > \"$out\"\n\
             chmod +x \"$out\"\n"
        );
        with_compiler(musher, &script);
    })
    .await;
    scene.ask("!story Something to keep").await;
    let pid = scene.musher.pid();
    scene.say("!rebuild").await;
    scene.hear("I am back").await;
    assert!(scene.musher.is_running());
    assert_eq!(scene.musher.pid(), pid, "replaced in place");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("MARK=new"), "the new program runs");

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
