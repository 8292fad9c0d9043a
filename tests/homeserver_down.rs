//! The homeserver is down when Musher starts: it waits, works meanwhile, and then is there.

use std::time::Duration;

use crate::support::musher::Musher;
use crate::support::repository::Repository;
use crate::support::scene::{Scene, items};
use crate::support::synapse::{RateLimits, Synapse};

/// Long enough for a homeserver to start on a busy machine, and for the wait before it is asked.
const BACK: Duration = Duration::from_secs(120);

fn complaints(musher: &Musher) -> usize {
    musher.log().matches("cannot be reached").count()
}

#[tokio::test]
async fn a_start_without_the_homeserver_waits_for_it() {
    let server = Synapse::start(RateLimits::Raised).await;
    let mut scene = Scene::on(&server, Repository::new("shop"), |_| {}).await;
    scene.ask("!story Before").await;
    scene.musher.stop().await;
    server.kill();

    scene.musher.start();
    scene.musher.wait_for_log("cannot be reached").await;
    // Everything that needs no room works: the command line is answered by the server itself.
    let create = ["items", "create", "Meanwhile", "--project", "shop"];
    scene.musher.call(&create).await.succeeded();
    assert_eq!(items(&scene.musher).await.len(), 2);
    assert!(scene.musher.is_running());

    server.resume().await;
    scene.say("!story After").await;
    let after = |event: &crate::support::event::Event| event.says(&scene.musher.id, "After");
    scene.ann.wait_within(BACK, "it is back", after).await;
    assert_eq!(items(&scene.musher).await.len(), 3);
    assert_eq!(complaints(&scene.musher), 1, "said once\n{}", scene.musher.log_tail());
}

#[tokio::test]
async fn a_start_that_waits_for_the_homeserver_can_be_ended() {
    let server = Synapse::start(RateLimits::Raised).await;
    let mut scene = Scene::on(&server, Repository::new("shop"), |_| {}).await;
    scene.musher.stop().await;
    server.kill();
    scene.musher.start();
    scene.musher.wait_for_log("cannot be reached").await;
    let status = scene.musher.stop().await;
    assert!(status.success(), "{status}\n{}", scene.musher.log_tail());
    scene.musher.assert_no_process_left().await;
}
