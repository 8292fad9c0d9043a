//! Sending mail: who may be written to, what a message may hold, groups, replies.
//!
//! Everything here is a plain function on a transaction, so a message is sent in the transaction
//! that causes it. A refusal writes nothing. Delivery (claim, acknowledge, give back) is in
//! [`crate::store::mail`]; a committed send wakes its recipient by the hint on the table `mail`.
//!
//! People are addresses too: mail to `@user:server` is posted in a room under the deduplication
//! key `mail:ID`, by which a reply to that post is known as a reply to the mail
//! ([`crate::store::mail::of_message`], then [`reply`]).

mod directory;
pub mod payload;
mod report;

pub use directory::Directory;
pub use report::{send_reporting, terminal_types};

use crate::model::chat::Outgoing;
use crate::model::ids::{ItemId, MailId, PersonId, SessionKey};
use crate::model::mail::{Mail, MailType, Priority};
use crate::store::mail::{self as rows, NewRow};
use crate::store::{StoreError, Tx, outbox};

/// The longest body, in bytes.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// The longest subject, in bytes: it is one line of a list.
const MAX_SUBJECT_BYTES: usize = 500;
/// The longest sender's name, in bytes: that of a Matrix id.
const MAX_SENDER_BYTES: usize = 255;

/// Why mail was not sent. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Nobody has this address.
    #[error(
        "nobody is called `{name}`{hint}; `agents` lists the agents, `coordinator` and @all, @coders, @qa, @mergers, @project:NAME are addresses too"
    )]
    UnknownRecipient {
        /// The address.
        name: String,
        /// `, did you mean …`, or nothing.
        hint: String,
    },
    /// A group without anybody but the sender.
    #[error("nobody but the sender is in the group `{0}`, so the mail would reach no one")]
    EmptyGroup(String),
    /// The payload does not fit the type.
    #[error("the payload does not fit the type `{kind}`: {reason}; it wants {shape}", kind = kind.as_str(), shape = payload::shape(*kind))]
    Payload {
        /// The type.
        kind: MailType,
        /// What is wrong.
        reason: String,
    },
    /// The body is too long.
    #[error(
        "the body has {bytes} bytes, more than the {MAX_BODY_BYTES} allowed; put long material into a file and name it"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// There is no such item.
    #[error("there is no item {0}; `status all` lists the items")]
    UnknownItem(ItemId),
    /// There is no such message.
    #[error("there is no mail {0}; `musher mail list` lists the mail")]
    NotFound(MailId),
    /// A person without a room to be reached in.
    #[error("no room is known in which {0} can be reached; invite the bot to a room first")]
    NoRoom(String),
    /// Something else that the sender can put right.
    #[error("{0}")]
    Invalid(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message as a sender hands it in.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NewMail {
    /// Who sends it.
    pub from: String,
    /// Whom it is for: an agent, `coordinator`, `musher`, a person, or a group.
    pub to: String,
    /// One line; not blank.
    pub subject: String,
    /// Markdown; at most 256 KiB.
    pub body: String,
    /// What sort.
    pub kind: MailType,
    /// How urgent.
    pub priority: Priority,
    /// The payload of a protocol type.
    pub payload: Option<serde_json::Value>,
    /// The item it is about.
    pub item: Option<ItemId>,
    /// The message whose thread it continues.
    pub reply_to: Option<MailId>,
}

impl NewMail {
    /// A message of type `status` and normal priority.
    pub fn new(
        from: impl Into<String>,
        to: impl Into<String>,
        subject: impl Into<String>,
        body: impl Into<String>,
    ) -> Self {
        Self {
            from: from.into(),
            to: to.into(),
            subject: subject.into(),
            body: body.into(),
            kind: MailType::Status,
            priority: Priority::Normal,
            payload: None,
            item: None,
            reply_to: None,
        }
    }
}

/// Checks a message, expands its group, and writes one row a recipient.
pub fn send(
    tx: &Tx<'_>,
    directory: &Directory,
    mut mail: NewMail,
) -> Result<Vec<MailId>, MailError> {
    check_text(&mail)?;
    mail.item = payload::check(mail.kind, mail.payload.as_ref(), mail.item)
        .map_err(|reason| MailError::Payload { kind: mail.kind, reason })?;
    if let Some(item) = mail.item
        && !rows::item_exists(tx, item)?
    {
        return Err(MailError::UnknownItem(item));
    }
    let mut thread = match mail.reply_to {
        Some(id) => Some(rows::find(tx, id)?.ok_or(MailError::NotFound(id))?.thread_id),
        None => None,
    };
    let recipients = directory.resolve(tx, &mail.from, &mail.to)?;
    let mut sent = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        let id = rows::insert(
            tx,
            &NewRow {
                from: &mail.from,
                to: &recipient,
                subject: mail.subject.trim(),
                body: &mail.body,
                kind: mail.kind,
                priority: mail.priority,
                payload: mail.payload.as_ref(),
                item: mail.item,
                thread,
            },
        )?;
        // The copies of a broadcast are one thread.
        thread.get_or_insert(id);
        if recipient.starts_with('@') {
            post(tx, id, &recipient, &mail)?;
        }
        sent.push(id);
    }
    Ok(sent)
}

fn check_text(mail: &NewMail) -> Result<(), MailError> {
    let invalid = |text: &str| Err(MailError::Invalid(text.to_owned()));
    if mail.subject.trim().is_empty() {
        return invalid("the subject is empty; say in one line what the mail is about");
    }
    if mail.subject.len() > MAX_SUBJECT_BYTES || mail.subject.trim().contains('\n') {
        return invalid(
            "the subject must be one line of at most 500 bytes; the rest is the body's",
        );
    }
    if mail.from.trim().is_empty() || mail.from.len() > MAX_SENDER_BYTES {
        return invalid("the sender's name is empty or too long");
    }
    if mail.body.len() > MAX_BODY_BYTES {
        return Err(MailError::TooLong { bytes: mail.body.len() });
    }
    Ok(())
}

/// Posts a person's mail in a room.
fn post(tx: &Tx<'_>, id: MailId, person: &str, mail: &NewMail) -> Result<(), MailError> {
    let room = rows::room_of(tx, mail.item, person)?
        .ok_or_else(|| MailError::NoRoom(person.to_owned()))?;
    let item = mail.item.map_or_else(String::new, |item| format!(" (item {item})"));
    let text = format!(
        "Mail from **{}** to {person}{item}: **{}**\n\n{}",
        mail.from,
        mail.subject.trim(),
        mail.body
    );
    let mut outgoing =
        Outgoing::text(SessionKey::main(room), text).mentioning(PersonId::from(person));
    outgoing.item = mail.item;
    outbox::enqueue(tx, &outgoing, Some(&format!("mail:{id}")))?;
    Ok(())
}

/// An answer to a message: what is not given is taken from it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Reply {
    /// The message that is answered.
    pub to_mail: MailId,
    /// Who answers.
    pub from: String,
    /// Markdown.
    pub body: String,
    /// Default: the sender of the message, or its recipient when its sender answers.
    pub to: Option<String>,
    /// Default: `Re: ` and the message's subject.
    pub subject: Option<String>,
    /// Default: `status`, never the message's own type.
    pub kind: Option<MailType>,
    /// Default: normal.
    pub priority: Option<Priority>,
    /// The payload of a protocol type.
    pub payload: Option<serde_json::Value>,
}

/// Sends an answer in the thread of the message it answers, and marks that message read.
pub fn reply(tx: &Tx<'_>, directory: &Directory, reply: Reply) -> Result<Vec<MailId>, MailError> {
    let original = rows::find(tx, reply.to_mail)?.ok_or(MailError::NotFound(reply.to_mail))?;
    let sent = send(tx, directory, answer(&original, reply.clone()))?;
    if original.to == reply.from && original.read_at.is_none() {
        rows::mark_read(tx, original.id)?;
    }
    Ok(sent)
}

fn answer(original: &Mail, reply: Reply) -> NewMail {
    let other = if reply.from == original.from { &original.to } else { &original.from };
    let subject = reply.subject.unwrap_or_else(|| {
        if original.subject.starts_with("Re: ") {
            original.subject.clone()
        } else {
            // A subject at the limit would not leave room for the `Re: `.
            let cut = original.subject.floor_char_boundary(MAX_SUBJECT_BYTES - 4);
            format!("Re: {}", &original.subject[..cut])
        }
    });
    NewMail {
        from: reply.from,
        to: reply.to.unwrap_or_else(|| other.clone()),
        subject,
        body: reply.body,
        kind: reply.kind.unwrap_or(MailType::Status),
        priority: reply.priority.unwrap_or_default(),
        payload: reply.payload,
        item: original.item,
        reply_to: Some(original.id),
    }
}

#[cfg(test)]
mod tests;
