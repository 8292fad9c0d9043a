//! One data directory, one server.

use crate::support::scene::Scene;

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let mut scene = Scene::new().await;
    let second = scene.musher.call(&["run"]).await;
    assert_eq!(second.code, 4, "{second:?}");
    let pid = scene.musher.pid().to_string();
    assert!(second.stderr.contains(&pid), "it names the process that runs: {second:?}");
    scene.ask("!version").await;

    // The lock is of a process, not of a file that it might leave behind.
    scene.musher.kill_9().await;
    scene.musher.start();
    scene.say("!version").await;
    scene.hear(env!("CARGO_PKG_VERSION")).await;
}

#[tokio::test]
async fn the_console_is_refused_beside_the_server() {
    let scene = Scene::new().await;
    let console = scene.musher.call(&["console"]).await;
    assert_eq!(console.code, 4, "{console:?}");
    assert!(console.stderr.contains(&scene.musher.pid().to_string()), "{console:?}");
}
