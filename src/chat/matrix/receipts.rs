//! Read receipts, gathered: they are worth little, and each costs the homeserver as much as a
//! message. They are held back for a moment, so that they do not stand in the way of an answer
//! that is on its way, and only the newest of a session is sent.

use super::outgoing;
use crate::model::ids::{MessageKey, SessionKey};
use matrix_sdk::Client;
use matrix_sdk::ruma::api::client::receipt::create_receipt::v3::ReceiptType;
use matrix_sdk::ruma::events::receipt::ReceiptThread;
use matrix_sdk::ruma::{EventId, RoomId};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a receipt is held back.
const HOLD: Duration = Duration::from_millis(400);

/// How long a receipt may take to be sent.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The receipts that wait.
#[derive(Default)]
pub struct Receipts {
    waiting: Mutex<HashMap<SessionKey, MessageKey>>,
    some: Notify,
}

impl Receipts {
    /// Notes that everything in `session` up to `key` was read.
    pub fn put(&self, session: SessionKey, key: MessageKey) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(session, key);
        self.some.notify_one();
    }

    /// Sends receipts until `cancel`.
    pub async fn run(&self, client: &Client, cancel: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.some.notified() => {}
            }
            tokio::time::sleep(HOLD).await;
            let waiting =
                std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            for (session, key) in waiting {
                let sent = tokio::time::timeout(TIMEOUT, send(client, &session, &key)).await;
                if let Ok(Err(error)) = sent {
                    tracing::debug!(error = %outgoing::words(&error), "a read receipt failed");
                }
            }
        }
    }
}

async fn send(
    client: &Client,
    session: &SessionKey,
    key: &MessageKey,
) -> Result<(), matrix_sdk::Error> {
    let (room, event) = (RoomId::parse(session.room.as_str())?, EventId::parse(key.as_str())?);
    let Some(room) = client.get_room(&room) else { return Ok(()) };
    let thread = match &session.thread {
        Some(root) => ReceiptThread::Thread(EventId::parse(root.as_str())?),
        None => ReceiptThread::Main,
    };
    room.send_single_receipt(ReceiptType::Read, thread, event).await
}
