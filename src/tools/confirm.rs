//! What cannot be undone wants a person's own words.
//!
//! A call is let through when a person's message of this turn asks for just that. Otherwise it is
//! refused and remembered, and the model is told to ask; when a person then says yes, the same
//! call is let through once. The words are looked for in people's messages only, never in what
//! tools or agents said. A word that is not known costs a question, never a deed.

use super::{Refusal, refuse};
use crate::llm::tools::ToolCaller;
use crate::store::{StoreError, Tx, meta};
use serde::{Deserialize, Serialize};

/// Answers that mean yes, when a message begins with one.
const YES: &[&str] = &[
    "yes",
    "y",
    "yep",
    "yeah",
    "ok",
    "okay",
    "sure",
    "confirm",
    "confirmed",
    "do it",
    "go ahead",
    "please do",
    "ja",
    "klar",
    "mach",
    "genau",
    "oui",
    "d'accord",
    "si",
    "sí",
    "vale",
    "sim",
    "👍",
    "✅",
];

/// What was asked for and not yet confirmed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    what: String,
    turn: i64,
}

/// Lets `what` through, or refuses it with what to ask the person.
///
/// `words` are groups of which each must have a word in the person's message: verbs, and names.
pub fn demand(
    tx: &Tx<'_>,
    caller: &ToolCaller,
    what: &str,
    words: &[&[&str]],
) -> Result<(), Refusal> {
    let ToolCaller::Coordinator { session, asked, chat_turn, .. } = caller else {
        return refuse(format!("Only a person can have that done: {what}. Ask with ask_human."));
    };
    let asked = asked.to_lowercase();
    let key = format!("confirm:{session}");
    if words.iter().all(|group| group.iter().any(|word| has_word(&asked, word))) {
        meta::remove(tx, &key)?;
        return Ok(());
    }
    let waiting: Option<Waiting> =
        meta::find(tx, &key)?.and_then(|text| serde_json::from_str(&text).ok());
    if let Some(waiting) = waiting
        && waiting.what == what
        && waiting.turn != *chat_turn
        && is_yes(&asked)
    {
        meta::remove(tx, &key)?;
        return Ok(());
    }
    Err(Refusal::Unconfirmed(what.to_owned()))
}

/// What the model is told when a person's words are wanted.
pub fn question(what: &str) -> String {
    format!(
        "Not done: nobody asked for just that in this turn. Ask the person to confirm: \"{what}?\" \
         When they say yes, make this call again."
    )
}

/// Remembers what waits for a person's yes. Apart from [`demand`], whose transaction is rolled
/// back with its refusal.
pub fn remember(tx: &Tx<'_>, caller: &ToolCaller, what: &str) -> Result<(), StoreError> {
    let ToolCaller::Coordinator { session, chat_turn, .. } = caller else { return Ok(()) };
    let waiting = Waiting { what: what.to_owned(), turn: *chat_turn };
    let text = serde_json::to_string(&waiting).unwrap_or_default();
    meta::set(tx, &format!("confirm:{session}"), &text)
}

fn is_yes(asked: &str) -> bool {
    asked.lines().any(|line| {
        let line = line.trim_start();
        YES.iter().any(|yes| {
            line.strip_prefix(yes)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\''))
        })
    })
}

/// Whether `text` has `word` with nothing alphanumeric beside it.
fn has_word(text: &str, word: &str) -> bool {
    let word = word.to_lowercase();
    text.match_indices(&word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_is_a_whole_word_at_the_beginning_of_a_line() {
        for (text, expected) in [
            ("yes", true),
            ("yes, please", true),
            ("ok!", true),
            ("hm\ndo it", true),
            ("yesterday it worked", false),
            ("no", false),
            ("what does yes mean", false),
            ("si'l", false),
        ] {
            assert_eq!(is_yes(text), expected, "{text}");
        }
        assert!(has_word("reject #12 please", "12"));
        assert!(!has_word("reject #123 please", "12"));
    }
}
