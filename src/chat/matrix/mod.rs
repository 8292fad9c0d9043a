//! Matrix as a transport. The only place that knows the SDK.
//!
//! - `connect` logs in or restores, or says in one sentence why it cannot. A homeserver that is
//!   down keeps a restored session waiting ([`Unreached`]), not from starting.
//! - `sync` is our own loop over single syncs. Of each response `gather` makes what is to be
//!   journaled, paging back where the server left a gap, and `journal` writes it together with
//!   our position in one transaction. The SDK alone is at-most-once: it commits its position
//!   before anybody has seen the events.
//! - `event`, `address`, `access` and `content` are pure: what an event says, whether it
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
pub mod trial;

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
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// How long a typing notice may take to be sent; it is worthless later.
const TYPING_TIMEOUT: Duration = Duration::from_secs(5);

/// The first wait before a homeserver that is down is asked again; doubled each time.
const REACH_FIRST: Duration = Duration::from_secs(1);

/// The longest wait before a homeserver that is down is asked again.
const REACH_MAX: Duration = Duration::from_secs(30);

/// An account with a session, before the homeserver has said whether that stands.
pub struct Unreached {
    config: MatrixConfig,
    prefix: String,
    aliases: Vec<String>,
    store: Store,
    typing: Typing,
    opened: connect::Opened,
}

/// What came of asking the homeserver.
pub enum Reach {
    /// It knows us.
    Up(Box<MatrixTransport>),
    /// It is down, and there is a session to wait with.
    Down(Box<Unreached>),
}

impl Unreached {
    /// Asks the homeserver, once. That a first login is cut off is an error.
    pub async fn reach(self) -> Result<Reach, ConnectError> {
        match connect::reach(&self.config, &self.opened, &self.aliases).await {
            Ok(reached) => Ok(Reach::Up(Box::new(self.transport(reached)))),
            Err(error @ ConnectError::Unreachable { .. }) if self.opened.restored => {
                tracing::warn!("{error}. It is asked again until it answers");
                Ok(Reach::Down(Box::new(self)))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the homeserver again and again, until it answers.
    pub async fn wait(self) -> Result<MatrixTransport, ConnectError> {
        let mut wait = REACH_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REACH_MAX);
            match connect::reach(&self.config, &self.opened, &self.aliases).await {
                Ok(reached) => {
                    tracing::info!(homeserver = self.config.homeserver, "the homeserver answers");
                    return Ok(self.transport(reached));
                }
                Err(error @ ConnectError::Unreachable { .. }) => {
                    tracing::debug!(%error, "asked again in vain");
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn transport(self, reached: connect::Reached) -> MatrixTransport {
        MatrixTransport {
            access: reached.access,
            myself: Myself {
                user_id: self.config.user_id,
                display_name: reached.display_name,
                prefix: self.prefix,
            },
            rooms: reached.rooms,
            store: self.store,
            typing: self.typing,
            receipts: Receipts::default(),
            synced: watch::Sender::new(false),
            directory: self.opened.files.directory().to_owned(),
            client: self.opened.client,
        }
    }
}

/// The Matrix account as a transport.
pub struct MatrixTransport {
    client: Client,
    access: Access,
    myself: Myself,
    /// The ids of the aliases that were asked for.
    rooms: HashMap<String, String>,
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
    /// `prefix` is what begins a command; `aliases` are those of rooms that the rest of the program
    /// must know by their ids. Who types is told to `typing`.
    pub async fn open(
        config: &MatrixConfig,
        prefix: &str,
        aliases: Vec<String>,
        store: Store,
        typing: Typing,
    ) -> Result<Unreached, ConnectError> {
        let opened = connect::open(config, &store).await?;
        let (config, prefix) = (config.clone(), prefix.to_owned());
        Ok(Unreached { config, prefix, aliases, store, typing, opened })
    }

    /// The ids of the aliases that were given to [`MatrixTransport::open`].
    pub fn rooms(&self) -> &HashMap<String, String> {
        &self.rooms
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
