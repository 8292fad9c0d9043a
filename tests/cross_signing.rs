//! The bot's device is signed by the bot: clients that shut out other devices speak with it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::scene::Scene;

/// The public key of one of a user's cross-signing keys.
fn public_key(keys: &Value) -> String {
    let keys = keys["keys"].as_object().unwrap_or_else(|| panic!("no keys in {keys}"));
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.values().next().unwrap().as_str().unwrap().to_owned()
}

#[tokio::test]
async fn another_client_sees_the_bots_device_signed_by_the_bots_own_keys() {
    let mut scene = Scene::new().await;
    scene.musher.wait_for_log("the device is ready for encrypted rooms").await;
    let bot = scene.musher.id.clone();
    let asked = json!({"device_keys": {&bot: []}});
    let (status, keys) = scene.ann.call(Method::POST, "client/v3/keys/query", &asked).await;
    assert_eq!(status, 200, "{keys}");
    let master = &keys["master_keys"][&bot];
    let own = &keys["self_signing_keys"][&bot];
    assert_eq!(own["usage"], json!(["self_signing"]), "{keys}");
    let signed_by = |what: &Value, key: &str| {
        what["signatures"][&bot][format!("ed25519:{key}")].as_str().is_some_and(|s| s.len() > 80)
    };
    assert!(signed_by(own, &public_key(master)), "the master key signs the signing key: {keys}");
    let devices = keys["device_keys"][&bot].as_object().unwrap();
    assert_eq!(devices.len(), 1, "{keys}");
    for (id, device) in devices {
        assert!(signed_by(device, &public_key(own)), "{id} is not signed: {keys}");
    }

    // A later start is the same device, with the same keys.
    scene.musher.restart().await;
    scene.musher.wait_for_log("the device is ready for encrypted rooms").await;
    let (_, again) = scene.ann.call(Method::POST, "client/v3/keys/query", &asked).await;
    assert_eq!(again["master_keys"], keys["master_keys"]);
    assert_eq!(again["device_keys"], keys["device_keys"]);
}
