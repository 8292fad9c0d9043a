//! Joining rooms that allowed persons invite the bot to. Everyone else is not even declined: a
//! refusal would tell a stranger that somebody is there.

use super::access::Access;
use super::outgoing;
use crate::model::ids::RoomKey;
use matrix_sdk::ruma::OwnedRoomId;
use matrix_sdk::{Client, Room, RoomState};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long one attempt to join may take: large rooms over federation need minutes.
const JOIN_TIMEOUT: Duration = Duration::from_secs(180);

/// The waits between attempts. An invite may be seen before it can be accepted, and a federated
/// server may be down.
const WAITS: [u64; 10] = [1, 2, 5, 10, 30, 60, 120, 300, 900, 3600];

/// Joins rooms, each in a task of its own.
#[derive(Clone)]
pub struct Invites {
    client: Client,
    access: Access,
    /// Rooms that are being joined.
    busy: Arc<Mutex<HashSet<OwnedRoomId>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Invites {
    /// For the rooms of `client` that `access` allows, until `cancel`.
    pub fn new(client: Client, access: Access, cancel: CancellationToken) -> Self {
        Self { client, access, busy: Arc::default(), tasks: TaskTracker::new(), cancel }
    }

    /// Looks at every open invite, also those that came while the bot was down. Returns at once.
    pub fn consider_all(&self) {
        for room in self.client.invited_rooms() {
            self.consider(room);
        }
    }

    /// Looks at one invite. Returns at once.
    fn consider(&self, room: Room) {
        let id = room.room_id().to_owned();
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            return;
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = this.cancel.cancelled() => {}
                () = this.join(&room) => {}
            }
            this.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    async fn join(&self, room: &Room) {
        if !self.is_welcome(room).await {
            return;
        }
        for wait in WAITS {
            let error = match tokio::time::timeout(JOIN_TIMEOUT, room.join()).await {
                Ok(Ok(())) => {
                    tracing::info!(room = %room.room_id(), "joined a room");
                    return;
                }
                Ok(Err(error)) => outgoing::words(&error),
                Err(_elapsed) => "no answer in time".to_owned(),
            };
            if room.state() != RoomState::Invited {
                return;
            }
            tracing::warn!(room = %room.room_id(), %error, wait, "cannot join a room yet");
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
        tracing::error!(room = %room.room_id(), "gave up joining a room: invite the bot again");
    }

    /// Whether an allowed person invites into an allowed room.
    async fn is_welcome(&self, room: &Room) -> bool {
        let id = room.room_id();
        let inviter = match room.invite_details().await {
            Ok(invite) => invite.inviter_id,
            Err(error) => {
                tracing::warn!(room = %id, %error, "cannot tell who invites");
                return false;
            }
        };
        let welcome = self.access.allows_user(inviter.as_str())
            && self.access.allows_room(&RoomKey::from(id.as_str()));
        if !welcome {
            tracing::info!(room = %id, %inviter, "ignored an invite that is not allowed");
        }
        welcome
    }
}
