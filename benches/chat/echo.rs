//! What to compare with: the least that answers on the same SDK, with the same store and no more.
//!
//! It is this bench's own program, started again with other arguments, so that both are built
//! with the same profile.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use matrix_sdk::config::SyncSettings;
use matrix_sdk::{Client, SqliteStoreConfig};
use serde_json::{Value, json};

use crate::support::synapse::Synapse;

/// The first argument of the program as an echo bot.
const MODE: &str = "--echo-bot";

/// An echo bot that runs.
pub struct EchoBot {
    /// Its account.
    pub id: String,
    /// Its process.
    child: Child,
    _directory: tempfile::TempDir,
}

impl EchoBot {
    /// Starts one with a new account.
    pub async fn start(server: &Synapse) -> Self {
        let account = server.register("echo").await;
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([MODE, &account.homeserver, &account.user_id, &account.password])
            .arg(directory.path())
            .spawn()
            .unwrap();
        Self { id: account.user_id, child, _directory: directory }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for EchoBot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs as an echo bot, if the arguments say so; never returns then.
pub async fn serve_if_asked() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, homeserver, user, password, directory] = arguments.as_slice() else { return };
    if mode != MODE {
        return;
    }
    let store = SqliteStoreConfig::with_low_memory_config(Path::new(directory)).key(Some(&[7; 32]));
    let client = Client::builder()
        .homeserver_url(homeserver)
        .sqlite_store_with_config_and_cache_path(store, None::<&Path>)
        .build()
        .await
        .unwrap();
    client.matrix_auth().login_username(user, password).await.unwrap();
    let settings = SyncSettings::new().timeout(Duration::from_secs(30));
    loop {
        let response = client.sync_once(settings.clone()).await.unwrap();
        for id in response.rooms.invited.keys() {
            client.join_room_by_id(id).await.unwrap();
        }
        for (id, update) in &response.rooms.joined {
            for event in &update.timeline.events {
                let event: Value = serde_json::from_str(event.raw().json().get()).unwrap();
                if event["type"] == "m.room.message" && event["sender"] != user.as_str() {
                    let answer = json!({"msgtype": "m.text", "body": "yes"});
                    let room = client.get_room(id).unwrap();
                    room.send_raw("m.room.message", answer).await.unwrap();
                }
            }
        }
    }
}
