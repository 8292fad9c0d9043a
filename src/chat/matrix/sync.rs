//! The loop that hears.
//!
//! One sync at a time, each response journaled with our own position before the next is asked for.
//! Not the SDK's own loop: that one waits a second between quick syncs and hands events out after
//! it has committed its position. When a response cannot be worked through (the homeserver fails
//! while a gap is paged back), it is tried again until it can: going on would lose it. Nothing is
//! asked for while the disk is full: the SDK could not keep the keys that come with it.
//!
//! **Known race.** A crash before our commit makes the server send the same events again, keys
//! for devices among them; the SDK recognises those as replays. A disk that fills up between our
//! question and the answer can lose such keys; their messages are marked as unreadable then.

use super::gather::Gatherer;
use super::invites::Invites;
use super::journal::{self, Batch};
use super::pace::Pace;
use super::{MatrixTransport, outgoing, position};
use crate::failpoint::failpoint;
use crate::model::ids::{PersonId, RoomKey};
use crate::store::StoreError;
use matrix_sdk::Client;
use matrix_sdk::config::SyncSettings;
use matrix_sdk::ruma::api::client::filter::{
    Filter, FilterDefinition, LazyLoadOptions, RoomEventFilter, RoomFilter,
};
use matrix_sdk::ruma::api::client::sync::sync_events::v3::Filter as SyncFilter;
use matrix_sdk::ruma::api::error::ErrorKind;
use matrix_sdk::ruma::uint;
use matrix_sdk::sync::SyncResponse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the server may hold a sync that has nothing to tell.
const LONG_POLL: Duration = Duration::from_secs(30);

/// The first wait after a failed sync; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(3);

/// The longest wait after a failed sync.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How old our position may get while nothing happens: committing each quiet response would cost
/// a disk flush for every typing notice, and repeating one costs nothing.
const POSITION_AGE: Duration = Duration::from_secs(60);

/// What the SDK keeps our filter's id under. Another filter needs another name: the homeserver's
/// copy never changes.
const FILTER_NAME: &str = "musher-1";

/// How often it is looked whether there is room on the disk again.
const ROOM_TICK: Duration = Duration::from_secs(1);

/// Why the bot stopped hearing.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The session was ended from outside.
    #[error(
        "the homeserver ended the session of {user}: it was logged out or deleted. Move the \
         directory {} away and start again with the password; the bot then logs in as a new \
         device", directory.display()
    )]
    SessionEnded {
        /// The account.
        user: String,
        /// The directory of the account's files.
        directory: PathBuf,
    },
    /// Our own database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MatrixTransport {
    /// Hears until `cancel`, or until the session is ended from outside.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) -> Result<(), RunError> {
        let background = cancel.child_token();
        let _stop = background.clone().drop_guard();
        let invites = Invites::new(self.client.clone(), self.access.clone(), background.clone());
        let helpers = async {
            tokio::join!(self.receipts.run(&self.client, &background), report(&self.client));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            ended = self.sync_loop(&invites) => ended,
            () = helpers => Ok(()),
        }
    }

    async fn sync_loop(&self, invites: &Invites) -> Result<(), RunError> {
        let user = self.myself.user_id.clone();
        let mut position = self.store.read(move |conn| position::find(conn, &user)).await?;
        let mut committed_at = Instant::now();
        // The first sync returns at once, so that the rest of the program can start.
        let mut poll = Duration::ZERO;
        let mut backoff = BACKOFF_FIRST;
        let mut pace = Pace::default();
        let mut filter = self.filter().await;
        invites.consider_all();
        loop {
            tokio::time::sleep(pace.pause(Instant::now())).await;
            self.until_there_is_room().await;
            let settings = SyncSettings::new().timeout(poll).filter(filter.clone());
            let response = match self.client.sync_once(settings).await {
                Ok(response) => response,
                Err(error) => {
                    self.typing.clear();
                    if is_refused(&error) {
                        // A homeserver that was set up anew does not know the filter's id.
                        filter = self::filter().into();
                    }
                    let wait = self.judge(&error, &mut backoff)?;
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            backoff = BACKOFF_FIRST;
            let (own, others) = self.count_events(&response);
            pace.note(Instant::now(), own, others);
            self.note_typing(&response);
            let is_quiet = response
                .rooms
                .joined
                .values()
                .all(|room| room.timeline.events.is_empty() && !room.timeline.limited)
                && poll != Duration::ZERO;
            if !is_quiet || committed_at.elapsed() > POSITION_AGE {
                self.journal(&response, position.as_deref()).await?;
                position = Some(response.next_batch.clone());
                committed_at = Instant::now();
            }
            if !response.rooms.invited.is_empty() {
                invites.consider_all();
            }
            if poll.is_zero() {
                poll = LONG_POLL;
                invites.consider_all();
                self.synced.send_replace(true);
                tracing::info!(user = %self.myself.user_id, "synced with the homeserver");
            }
        }
    }

    /// The filter of our syncs: by its id where the homeserver keeps it, so that neither side
    /// writes and reads it each time.
    async fn filter(&self) -> SyncFilter {
        match self.client.get_or_upload_filter(FILTER_NAME, filter()).await {
            Ok(id) => SyncFilter::FilterId(id),
            Err(error) => {
                tracing::debug!(error = %outgoing::words(&error), "the filter is sent each time");
                filter().into()
            }
        }
    }

    /// How many events of rooms a response has: ours, and other people's.
    fn count_events(&self, response: &SyncResponse) -> (usize, usize) {
        let events = response.rooms.joined.values().flat_map(|room| &room.timeline.events);
        let (own, others): (Vec<_>, Vec<_>) = events.partition(|event| {
            event.sender().is_some_and(|sender| sender.as_str() == self.myself.user_id)
        });
        (own.len(), others.len())
    }

    /// Waits while what a sync brings could not be kept.
    async fn until_there_is_room(&self) {
        if self.store.has_room() {
            return;
        }
        let data_dir = self.store.data_dir().display();
        tracing::error!(%data_dir, "the disk is full: nothing is heard until there is room on it");
        while !self.store.has_room() {
            tokio::time::sleep(ROOM_TICK).await;
        }
        tracing::info!("there is room on the disk again");
    }

    /// Journals a response, for as long as it takes.
    async fn journal(
        &self,
        response: &SyncResponse,
        position: Option<&str>,
    ) -> Result<(), RunError> {
        let gatherer = Gatherer {
            client: &self.client,
            store: &self.store,
            access: &self.access,
            own: &self.myself.user_id,
            position,
        };
        let mut backoff = BACKOFF_FIRST;
        let batch = loop {
            match gatherer.gather(response).await {
                Ok(batch) => break Arc::new(batch),
                Err(super::gather::GatherError::Store(error)) => {
                    self.pause(&error, &mut backoff).await?
                }
                Err(super::gather::GatherError::Matrix(error)) => {
                    let wait = self.judge(&error, &mut backoff)?;
                    tokio::time::sleep(wait).await;
                }
            }
        };
        if batch.rooms.iter().any(|room| !room.events.is_empty()) {
            failpoint("heard");
        }
        loop {
            match self.write(Arc::clone(&batch)).await {
                Ok(()) => return Ok(()),
                Err(error) => self.pause(&error, &mut backoff).await?,
            }
        }
    }

    async fn write(&self, batch: Arc<Batch>) -> Result<(), StoreError> {
        let myself = self.myself.clone();
        let read = self.store.write(move |tx| journal::write(tx, &batch, &myself)).await?;
        if !read.is_empty() {
            failpoint("journaled");
        }
        for (session, key) in read {
            self.receipts.put(session, key);
        }
        Ok(())
    }

    /// Waits after an error of our database; gives up when it is closed. (A full disk is no error:
    /// the store itself waits for room.)
    async fn pause(&self, error: &StoreError, backoff: &mut Duration) -> Result<(), RunError> {
        if matches!(error, StoreError::Closed) {
            return Err(RunError::Store(StoreError::Closed));
        }
        tracing::error!(%error, "cannot journal what was heard; trying again");
        tokio::time::sleep(*backoff).await;
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }

    /// How long to wait after an error of the homeserver, or that there is no point in waiting.
    fn judge(
        &self,
        error: &matrix_sdk::Error,
        backoff: &mut Duration,
    ) -> Result<Duration, RunError> {
        match error.client_api_error_kind() {
            Some(ErrorKind::UnknownToken { .. } | ErrorKind::MissingToken) => {
                return Err(RunError::SessionEnded {
                    user: self.myself.user_id.clone(),
                    directory: self.directory.clone(),
                });
            }
            Some(ErrorKind::LimitExceeded(limit)) => {
                return Ok(outgoing::wait_of(limit.retry_after.as_ref()));
            }
            Some(_) | None => {}
        }
        let wait = *backoff;
        *backoff = (wait * 2).min(BACKOFF_MAX);
        let (error, wait_s) = (outgoing::words(error), wait.as_secs());
        let homeserver = self.client.homeserver();
        tracing::warn!(%homeserver, error, wait_s, "cannot hear from the homeserver; trying again");
        Ok(wait)
    }

    /// Tells who types now.
    fn note_typing(&self, response: &SyncResponse) {
        for (id, update) in &response.rooms.joined {
            let room = RoomKey::from(id.as_str());
            if !self.access.allows_room(&room) {
                continue;
            }
            for event in &update.ephemeral {
                let Ok(json) = serde_json::from_str::<serde_json::Value>(event.json().get()) else {
                    continue;
                };
                if json["type"] != "m.typing" {
                    continue;
                }
                let users = json["content"]["user_ids"].as_array().into_iter().flatten();
                let persons = users
                    .filter_map(|user| user.as_str())
                    .filter(|user| *user != self.myself.user_id && self.access.allows_user(user));
                self.typing.set(&room, persons.map(PersonId::from));
            }
        }
    }
}

/// Whether the server understood the request and will not do it.
fn is_refused(error: &matrix_sdk::Error) -> bool {
    let status = error.as_client_api_error().map(|error| error.status_code.as_u16());
    matches!(status, Some(400 | 404))
}

/// What the server sends: long timelines (what is cut off must be paged back), of the fleeting
/// events only who types, and nothing of who is online.
fn filter() -> FilterDefinition {
    let mut timeline = RoomEventFilter::default();
    timeline.limit = Some(uint!(500));
    timeline.lazy_load_options = LazyLoadOptions::Enabled { include_redundant_members: false };
    let mut state = RoomEventFilter::default();
    state.lazy_load_options = LazyLoadOptions::Enabled { include_redundant_members: false };
    let mut ephemeral = RoomEventFilter::default();
    ephemeral.types = Some(vec!["m.typing".to_owned()]);
    let mut room = RoomFilter::default();
    room.timeline = timeline;
    room.state = state;
    room.ephemeral = ephemeral;
    room.account_data = RoomEventFilter::ignore_all();
    let mut filter = FilterDefinition::default();
    filter.presence = Filter::ignore_all();
    filter.room = room;
    filter
}

/// Says how the account's encryption stands, once it is set up.
async fn report(client: &Client) {
    let encryption = client.encryption();
    encryption.wait_for_e2ee_initialization_tasks().await;
    let is_signed = encryption.cross_signing_status().await.is_some_and(|s| s.is_complete());
    let fingerprint = encryption.ed25519_key().await.unwrap_or_default();
    let device = client.device_id().map_or("", |device| device.as_str());
    if is_signed {
        tracing::info!(device, fingerprint, "the device is ready for encrypted rooms");
    } else {
        tracing::warn!(
            device,
            fingerprint,
            "the device is not cross-signed: clients that exclude such devices will not share \
             their keys with it"
        );
    }
}
