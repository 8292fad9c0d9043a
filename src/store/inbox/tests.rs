use super::*;
use crate::clock::Clock;
use crate::store::Store;

fn said(key: &str, room: &str, text: &str) -> Incoming {
    Incoming {
        key: key.into(),
        session: SessionKey::main(room.into()),
        sender: "@ann:hs".into(),
        sender_name: "Ann".to_owned(),
        sent_at: crate::clock::from_millis(1_000),
        addressed: true,
        body: IncomingBody::Text { text: text.to_owned(), reply_to: None },
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    (dir, store)
}

fn text(incoming: &Incoming) -> &str {
    match &incoming.body {
        IncomingBody::Text { text, .. } | IncomingBody::Edit { text, .. } => text,
        IncomingBody::Redaction { .. } | IncomingBody::Reaction { .. } => "",
    }
}

fn write<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
) -> T {
    store.write_blocking(work).unwrap()
}

#[test]
fn a_redelivered_event_inserts_nothing_whatever_became_of_the_first() {
    let (_dir, store) = store();
    write(&store, |tx| {
        let message = said("$1", "!a", "hello");
        assert!(insert(tx, &message)?);
        assert!(!insert(tx, &message)?);
        assert_eq!(mark_done(tx, &["$1".into()])?, 1);
        assert!(!insert(tx, &message)?);
        assert_eq!(take_new(tx, 0)?, vec![]);
        Ok(())
    });
}

#[test]
fn open_rows_come_in_order_and_only_once_a_turn_is_over_do_they_go() {
    let (_dir, store) = store();
    write(&store, |tx| {
        for (key, room) in [("$1", "!a"), ("$2", "!b"), ("$3", "!a")] {
            insert(tx, &said(key, room, key))?;
        }
        let new = take_new(tx, 0)?;
        assert_eq!(new.iter().map(|(_, m)| text(m)).collect::<Vec<_>>(), ["$1", "$2", "$3"]);
        assert_eq!(take_new(tx, new[1].0)?.len(), 1);
        mark_batched(tx, &["$1".into(), "$3".into()])?;
        assert_eq!(take_new(tx, 0)?.len(), 1);
        assert_eq!(open_of(tx, &SessionKey::main("!a".into()))?.len(), 2);
        assert_eq!(open(tx)?.len(), 3);
        assert_eq!(mark_done(tx, &["$1".into(), "$3".into()])?, 2);
        assert_eq!(mark_done(tx, &["$1".into()])?, 0);
        assert_eq!(open(tx)?.len(), 1);
        Ok(())
    });
}

#[test]
fn an_edit_replaces_only_the_senders_own_message_and_only_before_a_turn_takes_it() {
    let (_dir, store) = store();
    write(&store, |tx| {
        insert(tx, &said("$1", "!a", "first"))?;
        assert!(!replace_text(tx, &"$1".into(), &"@eve:hs".into(), "hacked")?);
        assert!(replace_text(tx, &"$1".into(), &"@ann:hs".into(), "second")?);
        mark_batched(tx, &["$1".into()])?;
        assert!(replace_text(tx, &"$1".into(), &"@ann:hs".into(), "third")?);
        mark_taken(tx, &["$1".into()], 7)?;
        assert!(!replace_text(tx, &"$1".into(), &"@ann:hs".into(), "late")?);
        assert!(!remove(tx, &"$1".into())?);
        assert_eq!(text(&open(tx)?[0].1), "third");
        Ok(())
    });
}

#[test]
fn what_is_taken_back_or_stopped_is_dropped_and_never_comes_back() {
    let (_dir, store) = store();
    write(&store, |tx| {
        for key in ["$1", "$2", "$3"] {
            insert(tx, &said(key, "!a", key))?;
        }
        insert(tx, &said("$other", "!b", "stays"))?;
        assert!(remove(tx, &"$1".into())?);
        assert!(!remove(tx, &"$1".into())?);
        mark_taken(tx, &["$2".into()], 1)?;
        // What a turn has taken is its to end.
        assert_eq!(mark_dropped(tx, &["$2".into(), "$3".into()])?, 1);
        assert!(!insert(tx, &said("$1", "!a", "again"))?);
        assert_eq!(open(tx)?.len(), 2);
        Ok(())
    });
}
