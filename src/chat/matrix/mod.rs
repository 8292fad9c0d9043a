//! Matrix as a transport. The only place that knows the SDK.
//!
//! - [`connect`] logs in or restores, or says in one sentence why it cannot.
//! - [`sync`] is our own loop over single syncs. Of each response [`gather`] makes what is to be
//!   journaled, paging back where the server left a gap, and [`journal`] writes it together with
//!   our position in one transaction. The SDK alone is at-most-once: it commits its position
//!   before anybody has seen the events.
//! - [`event`], [`address`], [`access`] and [`content`] are pure: what an event says, whether it
//!   is for us, who is heard, and what we post.

mod access;
mod address;
pub mod connect;
mod content;
mod event;
mod files;
mod gather;
mod invites;
mod journal;
mod outgoing;
mod pace;
mod position;
mod receipts;
mod sync;

pub use connect::ConnectError;
pub use journal::UNDECRYPTABLE;
pub use sync::RunError;

use super::{Part, SendError, Transport, Typing};
use crate::config::MatrixConfig;
use crate::model::ids::{MessageKey, RoomKey, SessionKey};
use crate::store::Store;
use access::Access;
use address::Myself;
use matrix_sdk::ruma::RoomId;
use matrix_sdk::{Client, Room};
use receipts::Receipts;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// How long a typing notice may take to be sent; it is worthless later.
const TYPING_TIMEOUT: Duration = Duration::from_secs(5);

/// The Matrix account as a transport.
pub struct MatrixTransport {
    client: Client,
    access: Access,
    myself: Myself,
    store: Store,
    typing: Typing,
    receipts: Receipts,
    /// Whether the first sync of this start is journaled.
    synced: watch::Sender<bool>,
    /// The directory of the account's files, for messages.
    directory: PathBuf,
}

impl MatrixTransport {
    /// Logs in, or restores the session of an earlier start.
    ///
    /// `prefix` is what begins a command. Who types is told to `typing`.
    pub async fn connect(
        config: &MatrixConfig,
        prefix: &str,
        store: Store,
        typing: Typing,
    ) -> Result<Self, ConnectError> {
        let connected = connect::connect(config, &store).await?;
        Ok(Self {
            client: connected.client,
            access: connected.access,
            myself: Myself {
                user_id: config.user_id.clone(),
                display_name: connected.display_name,
                prefix: prefix.to_owned(),
            },
            store,
            typing,
            receipts: Receipts::default(),
            synced: watch::Sender::new(false),
            directory: connected.files.directory().to_owned(),
        })
    }

    /// Becomes true when the first sync of this start is journaled.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    fn room(&self, room: &RoomKey) -> Result<Room, SendError> {
        let id = RoomId::parse(room.as_str())
            .map_err(|error| SendError::Permanent(format!("{room} is no room id: {error}")))?;
        match self.client.get_room(&id) {
            Some(found) => Ok(found),
            // A fresh login knows no rooms before its first sync.
            None if !*self.synced.borrow() => {
                Err(SendError::Temporary("the first sync is not done yet".to_owned()))
            }
            None => Err(SendError::Permanent("the bot is not in the room".to_owned())),
        }
    }
}

#[async_trait::async_trait]
impl Transport for MatrixTransport {
    fn serves(&self, room: &RoomKey) -> bool {
        room.as_str().starts_with('!')
    }

    async fn send(
        &self,
        txn_id: &str,
        session: &SessionKey,
        part: &Part,
    ) -> Result<MessageKey, SendError> {
        let room = self.room(&session.room)?;
        outgoing::post(&room, txn_id, session, part).await
    }

    async fn typing(&self, room: &RoomKey, typing: bool) {
        let Ok(room) = self.room(room) else { return };
        match tokio::time::timeout(TYPING_TIMEOUT, room.typing_notice(typing)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %outgoing::words(&error), "typing notice failed")
            }
            Err(_elapsed) => tracing::debug!("typing notice took too long"),
        }
    }

    async fn receipt(&self, session: &SessionKey, key: &MessageKey) {
        self.receipts.put(session.clone(), key.clone());
    }
}
