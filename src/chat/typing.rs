//! Who is typing where, as a value that can be watched.

use crate::model::ids::{PersonId, RoomKey};
use std::collections::{BTreeSet, HashMap};
use tokio::sync::watch;

/// The persons who type at the moment, by room; rooms where nobody does are absent.
pub type Typists = HashMap<RoomKey, BTreeSet<PersonId>>;

/// Knows which persons type in which room. Fed by the transport, read by the dispatcher; cloning
/// shares it. The bot itself never stands in it.
///
/// A hint, not a fact: after a lost connection somebody may seem to type who does not. Whoever
/// waits for the end of typing must have a limit of their own.
#[derive(Debug, Clone, Default)]
pub struct Typing {
    now: watch::Sender<Typists>,
}

impl Typing {
    /// Nobody types.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what is known of `room`. Called by the transport.
    pub fn set(&self, room: &RoomKey, persons: impl IntoIterator<Item = PersonId>) {
        let persons: BTreeSet<PersonId> = persons.into_iter().collect();
        self.now.send_if_modified(|now| {
            if persons.is_empty() {
                return now.remove(room).is_some();
            }
            let changed = now.get(room) != Some(&persons);
            now.insert(room.clone(), persons);
            changed
        });
    }

    /// Forgets everything: the connection was lost.
    pub fn clear(&self) {
        self.now.send_if_modified(|now| {
            let changed = !now.is_empty();
            now.clear();
            changed
        });
    }

    /// Whether `person` types in `room`.
    pub fn is_typing(&self, room: &RoomKey, person: &PersonId) -> bool {
        self.now.borrow().get(room).is_some_and(|persons| persons.contains(person))
    }

    /// Watches for changes, in any room.
    pub fn subscribe(&self) -> watch::Receiver<Typists> {
        self.now.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_replaces_the_one_before_and_only_a_difference_is_told() {
        let typing = Typing::new();
        let mut seen = typing.subscribe();
        let (room, ann) = (RoomKey::from("!a"), PersonId::from("@ann:hs"));
        typing.set(&room, [ann.clone()]);
        assert!(seen.has_changed().unwrap() && typing.is_typing(&room, &ann));
        seen.mark_unchanged();
        typing.set(&room, [ann.clone()]);
        typing.set(&"!b".into(), []);
        assert!(!seen.has_changed().unwrap());
        typing.set(&room, []);
        assert!(seen.has_changed().unwrap() && !typing.is_typing(&room, &ann));
    }
}
