//! Posting to Matrix, and what its errors mean for us.

use super::content::{self, Event};
use crate::chat::{Part, SendError};
use crate::model::ids::{MessageKey, SessionKey};
use matrix_sdk::attachment::AttachmentConfig;
use matrix_sdk::config::RequestConfig;
use matrix_sdk::room::reply::{EnforceThread, Reply};
use matrix_sdk::ruma::api::error::{ErrorKind, RetryAfter};
use matrix_sdk::ruma::events::Mentions;
use matrix_sdk::ruma::events::room::message::{AddMentions, ReplyWithinThread};
use matrix_sdk::ruma::{EventId, OwnedTransactionId};
use matrix_sdk::{Error, HttpError, Room};
use std::time::{Duration, SystemTime};

/// How long one attempt to post may take.
const POST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait when the server limits us without saying how long.
const LIMIT_WAIT: Duration = Duration::from_secs(5);

/// Posts one message.
pub async fn post(
    room: &Room,
    txn_id: &str,
    session: &SessionKey,
    part: &Part,
) -> Result<MessageKey, SendError> {
    let event = match part {
        Part::Message { markdown, weight, mentions, reply_to } => {
            content::message(session, markdown, *weight, mentions, reply_to.as_ref())
        }
        Part::Edit { of, markdown, weight } => content::edit(of, markdown, *weight),
        Part::Reaction { to, key } => content::reaction(to, key),
        Part::File { name, media_type, content } => {
            return post_file(room, txn_id, session, (name, media_type, content)).await;
        }
    };
    let Event { event_type, content } = event;
    let txn_id = OwnedTransactionId::from(txn_id);
    let sent = room
        .send_raw(event_type, content)
        .with_transaction_id(&txn_id)
        // The sender repeats; the SDK's own repeats would hide the server's wishes from it.
        .with_request_config(RequestConfig::new().disable_retry().timeout(POST_TIMEOUT))
        .await;
    sent.map(|sent| sent.response.event_id.as_str().into()).map_err(|error| classify(&error))
}

async fn post_file(
    room: &Room,
    txn_id: &str,
    session: &SessionKey,
    (name, media_type, content): (&str, &str, &str),
) -> Result<MessageKey, SendError> {
    let media_type: mime::Mime = media_type.parse().unwrap_or(mime::APPLICATION_OCTET_STREAM);
    let root = session.thread.as_ref().map(|root| EventId::parse(root.as_str()));
    let reply = root.transpose().map_err(|error| SendError::Permanent(error.to_string()))?.map(
        |event_id| Reply {
            event_id,
            enforce_thread: EnforceThread::Threaded(ReplyWithinThread::No),
            add_mentions: AddMentions::No,
        },
    );
    let config = AttachmentConfig::new()
        .txn_id(OwnedTransactionId::from(txn_id))
        .mentions(Some(Mentions::new()))
        .reply(reply);
    let sent = room.send_attachment(name, &media_type, content.as_bytes().to_vec(), config).await;
    sent.map(|sent| sent.event_id.as_str().into()).map_err(|error| classify(&error))
}

/// Whether a failed attempt may work later.
pub fn classify(error: &Error) -> SendError {
    match error.client_api_error_kind() {
        Some(ErrorKind::LimitExceeded(limit)) => {
            return SendError::RetryAfter(wait_of(limit.retry_after.as_ref()));
        }
        // The sync loop notices it too and ends the program: the message waits for the next start.
        Some(ErrorKind::UnknownToken { .. } | ErrorKind::MissingToken) => {
            return SendError::Temporary(words(error));
        }
        Some(_) | None => {}
    }
    let status = error.as_client_api_error().map(|error| error.status_code.as_u16());
    match (status, error) {
        (Some(429), _) => SendError::RetryAfter(LIMIT_WAIT),
        (Some(408 | 500..), _) => SendError::Temporary(words(error)),
        (Some(_), _) => SendError::Permanent(words(error)),
        (None, Error::WrongRoomState(_)) => {
            SendError::Permanent("the bot is not in the room: invite it again".to_owned())
        }
        (None, _) => SendError::Temporary(words(error)),
    }
}

/// How long the server wants us to wait.
pub fn wait_of(retry_after: Option<&RetryAfter>) -> Duration {
    match retry_after {
        Some(RetryAfter::Delay(wait)) => *wait,
        Some(RetryAfter::DateTime(until)) => {
            until.duration_since(SystemTime::now()).unwrap_or_default()
        }
        None => LIMIT_WAIT,
    }
}

/// An error in few words: no URLs, which hold room and transaction ids.
pub fn words(error: &Error) -> String {
    if let Some(api) = error.as_client_api_error() {
        let status = api.status_code.as_u16();
        return match api.error_kind() {
            Some(kind) => format!("{status} {}", kind.errcode()),
            None => format!("HTTP status {status}"),
        };
    }
    if let Error::Http(http) = error
        && let HttpError::Reqwest(error) = http.as_ref()
    {
        return if error.is_timeout() {
            "no answer in time".to_owned()
        } else if error.is_connect() {
            "no connection".to_owned()
        } else {
            // The innermost cause; the outer ones name the URL.
            let mut cause: &dyn std::error::Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            cause.to_string()
        };
    }
    error.to_string()
}
