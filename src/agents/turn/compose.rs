//! What a turn says: the prompt, and the mail that it was given. Pure.

use crate::model::mail::Mail;
use crate::store::mail::Claimed;
use crate::store::nudges::Nudge;

/// Puts the prompt and the mail together.
pub(super) fn compose(prompt: &str, mail: &Claimed, nudges: &[Nudge]) -> String {
    let mut text = prompt.to_owned();
    for nudge in nudges {
        text.push_str("\n\n");
        text.push_str(poke(nudge).trim_end());
    }
    if !mail.mails.is_empty() {
        text.push_str("\n\nYou have mail. What needs an answer is answered with `mail_reply`.\n");
        for mail in &mail.mails {
            text.push('\n');
            text.push_str(&letter(mail));
        }
    }
    if mail.more > 0 {
        text.push_str(&format!(
            "\n\n{} more messages wait: fetch them with `mail_check`.",
            mail.more
        ));
    }
    text
}

/// A nudge, as a model reads it.
pub(super) fn poke(nudge: &Nudge) -> String {
    let urgent = if nudge.urgent { " urgent=\"yes\"" } else { "" };
    format!("<nudge from=\"{}\"{urgent}>\n{}\n</nudge>\n", nudge.from, nudge.text)
}

/// One message, as a model reads it: its number and type, so that it can be answered.
pub(super) fn letter(mail: &Mail) -> String {
    let mut head = format!(
        "<mail id=\"{}\" from=\"{}\" type=\"{}\" priority=\"{}\"",
        mail.id,
        mail.from,
        mail.kind.as_str(),
        mail.priority.as_str()
    );
    if let Some(item) = mail.item {
        head.push_str(&format!(" item=\"{item}\""));
    }
    let mut text = format!("{head}>\nSubject: {}\n\n{}", mail.subject, mail.body);
    if let Some(payload) = &mail.payload {
        text.push_str(&format!("\n\nPayload: {payload}"));
    }
    text.push_str("\n</mail>\n");
    text
}
