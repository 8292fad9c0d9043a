//! What the coordinator itself says in a room, beside the model's words.

use super::limits::Limit;
use chrono::{DateTime, Utc};

/// Under an answer that somebody stopped half-way.
pub fn stopped(so_far: &str) -> String {
    format!("{so_far}\n\n_(stopped)_")
}

/// A turn that ended with an error.
pub fn failed(so_far: &str, error: &str) -> String {
    let sentence = format!("I could not answer: {error}. Your message is kept.");
    join(so_far, &sentence)
}

/// A turn that ended at a limit.
pub fn limited(so_far: &str, limit: &Limit) -> String {
    join(so_far, &format!("I stopped: {limit}. Your message is kept."))
}

/// A model that said nothing.
pub const EMPTY: &str = "the model gave an empty answer: say `retry`, or put it differently";

/// An answer that was cut off.
pub fn cut_off(answer: &str) -> String {
    format!("{answer}\n\n_(cut off: the answer reached [llm] max_output_tokens)_")
}

/// An answer that was refused.
pub const REFUSED: &str =
    "the model or its provider's filter refused to answer: put it differently";

/// The label of a growing answer's last line.
pub fn using_tool(name: &str) -> String {
    format!("_using {name} …_")
}

/// To the model: a call whose outcome a crash hid.
pub const OUTCOME_UNKNOWN: &str = "Outcome unknown: the program stopped while this ran. Check \
                                   whether it took effect before you call it again.";

/// To the model: a call that was never carried out.
pub const NOT_CARRIED_OUT: &str = "Not carried out: the turn was ended before.";

/// To the model: go on where a failed turn stopped.
pub const GO_ON: &str = "<notes>The last turn broke off before it was answered. A person asks you \
                         to go on.</notes>";

/// A moment, as the model reads it.
pub fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

fn join(first: &str, second: &str) -> String {
    if first.trim().is_empty() { second.to_owned() } else { format!("{first}\n\n{second}") }
}
