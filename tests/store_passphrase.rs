//! The crypto store under a passphrase, and who is trusted in encrypted rooms.

use serde_json::json;

use crate::support::encrypted_person::EncryptedPerson;
use crate::support::event::Event;
use crate::support::model_server::ModelServer;
use crate::support::musher::Musher;
use crate::support::synapse::Synapse;

const VARIABLE: &str = "MUSHER_STORE_PASSPHRASE";

/// A Musher that was not started yet, and Ann, who may talk to it in encrypted rooms.
async fn prepared() -> (Musher, EncryptedPerson, ModelServer) {
    let server = Synapse::shared().await;
    let model = ModelServer::start().await;
    let ann = EncryptedPerson::new(server, "ann").await;
    let mut musher = Musher::new(server, &model).await;
    musher.allow_admin(&ann.id);
    (musher, ann, model)
}

#[tokio::test]
async fn the_crypto_store_opens_with_its_passphrase_and_with_no_other() {
    let (mut musher, ann, _model) = prepared().await;
    musher.env(VARIABLE, "correct horse").set("/matrix/store_passphrase_env", json!(VARIABLE));
    musher.start();
    let room = ann.direct_room(&musher.id).await;
    ann.wait_until_joined(&room, &musher.id).await;
    ann.say(&room, "!whoami").await;
    ann.wait_for_text(&room, &musher.id, &ann.id).await;
    let devices = ann.devices_of(&musher.id).await;

    // The same device, with the same keys, after a restart.
    musher.restart().await;
    ann.say(&room, "!version").await;
    ann.wait_for_text(&room, &musher.id, env!("CARGO_PKG_VERSION")).await;
    assert_eq!(ann.devices_of(&musher.id).await, devices);
    assert!(musher.stop().await.success());

    // Another one does not open it: that is told with the remedy, and changes nothing.
    musher.env(VARIABLE, "wrong horse");
    let called = musher.call(&["run"]).await;
    assert_eq!(called.code, 1, "{called:?}");
    for part in ["crypto store", "cannot be opened", "store_passphrase_env"] {
        assert!(called.stderr.contains(part), "no {part:?} in {called:?}");
    }
    assert!(!called.stderr.contains("horse"), "the passphrase is repeated: {called:?}");
    musher.env(VARIABLE, "correct horse");
    musher.start();
    ann.say(&room, "!projects").await;
    ann.wait_for_text(&room, &musher.id, "project").await;
}

#[tokio::test]
async fn where_devices_must_be_verified_others_are_not_heard_in_encrypted_rooms() {
    let (mut musher, ann, _model) = prepared().await;
    musher.start();
    let room = ann.direct_room(&musher.id).await;
    ann.wait_until_joined(&room, &musher.id).await;
    // Ann's device is signed by nobody. By default that is enough.
    ann.say(&room, "!whoami").await;
    ann.wait_for_text(&room, &musher.id, &ann.id).await;
    musher.stop().await;

    musher.set("/matrix/require_verified_devices", json!(true));
    musher.start();
    ann.say(&room, "!help stop").await;
    // What is in the clear is read as ever: whoever is answered there has let the other one pass.
    let clear = ann.create_room(json!({"is_direct": true, "invite": [&musher.id]}), false).await;
    ann.wait_until_joined(&clear, &musher.id).await;
    ann.say(&clear, "!version").await;
    let in_the_clear =
        |event: &Event| event.room == clear && event.says(&musher.id, env!("CARGO_PKG_VERSION"));
    ann.wait_for("an answer in the clear", in_the_clear).await;
    // She sees that it was not read.
    let locked = |event: &Event| {
        event.room == room && event.sender == musher.id && event.raw.to_string().contains('🔒')
    };
    ann.wait_for("a lock beside it", locked).await;
    let answered = ann.events().into_iter().any(|event| event.says(&musher.id, "emergency stop"));
    assert!(!answered, "{}", ann.print());
}
