//! What becomes of a queue that has grown too long: its oldest messages become one note.

use crate::model::chat::{Incoming, IncomingBody};
use crate::model::ids::MessageKey;

/// How much of one message stands in the note.
const EXCERPT_CHARS: usize = 200;

/// How long the note is at most.
const NOTE_CHARS: usize = 16_000;

/// A batch within its limit.
#[derive(Debug, PartialEq)]
pub struct Condensed {
    /// The note, then the newest messages as they are. The note has the key of the oldest message
    /// that it stands for, and is stored in its place.
    pub batch: Vec<Incoming>,
    /// The other messages that the note stands for.
    pub folded: Vec<MessageKey>,
}

/// Condenses the oldest messages of `batch` into one, so that at most `cap` are left.
///
/// `None` when it is short enough.
pub fn condense(batch: &[Incoming], cap: usize) -> Option<Condensed> {
    let cap = cap.max(2);
    if batch.len() <= cap {
        return None;
    }
    let (old, new) = batch.split_at(batch.len() - (cap - 1));
    let (first, rest) = old.split_first()?;
    let mut note = first.clone();
    note.sender_name = "Musher".to_owned();
    note.body = IncomingBody::Text { text: text_of(old, cap), reply_to: None };
    let folded = rest.iter().map(|incoming| incoming.key.clone()).collect();
    Some(Condensed { batch: std::iter::once(note).chain(new.iter().cloned()).collect(), folded })
}

fn text_of(old: &[Incoming], cap: usize) -> String {
    let mut out = format!(
        "(Note by Musher: more than {cap} messages were waiting. The oldest {} stand here \
         shortened.)",
        old.len()
    );
    let mut length = out.chars().count();
    for (index, incoming) in old.iter().enumerate() {
        let IncomingBody::Text { text, .. } = &incoming.body else { continue };
        let excerpt: String = text.chars().take(EXCERPT_CHARS).collect();
        let dots = if excerpt.len() < text.len() { " …" } else { "" };
        let time = incoming.sent_at.format("%H:%M:%S");
        let line = format!("\n- {time} {}: {excerpt}{dots}", incoming.sender);
        length += line.chars().count();
        if length > NOTE_CHARS {
            out.push_str(&format!("\n- and {} more", old.len() - index));
            break;
        }
        out.push_str(&line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::SessionKey;
    use chrono::DateTime;

    fn batch(count: usize, text: &str) -> Vec<Incoming> {
        let message = |index: usize| Incoming {
            key: MessageKey(index.to_string()),
            session: SessionKey::main("!r".into()),
            sender: "@ann:hs".into(),
            sender_name: "Ann".to_owned(),
            sent_at: DateTime::UNIX_EPOCH,
            addressed: true,
            body: IncomingBody::Text { text: format!("{index}{text}"), reply_to: None },
        };
        (0..count).map(message).collect()
    }

    #[test]
    fn a_short_queue_is_left_alone() {
        assert_eq!(condense(&batch(50, ""), 50), None);
    }

    #[test]
    fn the_oldest_become_one_note_that_says_so_and_quotes_them() {
        let condensed = condense(&batch(5, " hi"), 3).unwrap();
        assert_eq!(condensed.batch.len(), 3);
        assert_eq!(condensed.folded, ["1".into(), "2".into()]);
        let IncomingBody::Text { text, .. } = &condensed.batch[0].body else { panic!() };
        insta::assert_snapshot!(text, @r"
        (Note by Musher: more than 3 messages were waiting. The oldest 3 stand here shortened.)
        - 00:00:00 @ann:hs: 0 hi
        - 00:00:00 @ann:hs: 1 hi
        - 00:00:00 @ann:hs: 2 hi
        ");
        assert_eq!(condensed.batch[0].key, "0".into());
    }

    #[test]
    fn the_note_is_bounded_and_says_how_many_it_leaves_out() {
        let condensed = condense(&batch(1000, &" x".repeat(300)), 50).unwrap();
        let IncomingBody::Text { text, .. } = &condensed.batch[0].body else { panic!() };
        assert!(text.chars().count() < NOTE_CHARS + 100);
        assert!(text.contains(" more"), "{text}");
    }
}
