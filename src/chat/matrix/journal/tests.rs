use super::*;
use crate::clock::{Clock, from_millis};
use crate::store::Store;

fn myself() -> Myself {
    Myself { user_id: "@bot:hs".to_owned(), display_name: None, prefix: "!".to_owned() }
}

fn event(key: &str, kind: Kind) -> (Event, String) {
    let event = Event { key: key.into(), sender: "@ann:hs".into(), sent_at: from_millis(1), kind };
    (event, "Ann".to_owned())
}

fn said(text: &str) -> Said {
    Said { body: text.to_owned(), ..Said::default() }
}

fn batch(events: Vec<(Event, String)>) -> Batch {
    let room = RoomBatch {
        room: "!a:hs".into(),
        direct: false,
        encrypted: false,
        joined_at: None,
        last_event: events.last().map(|(event, _)| event.key.clone()),
        events,
    };
    Batch { token: "t1".to_owned(), rooms: vec![room] }
}

fn with_store<T: Send + 'static>(
    work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    store.write_blocking(work).unwrap()
}

#[test]
fn a_batch_is_journaled_with_its_position_and_a_repeat_changes_nothing() {
    with_store(|tx| {
        let mut batch = batch(vec![
            event("$1", Kind::Message(said("!status"))),
            event("$2", Kind::Message(said("not for the bot"))),
        ]);
        batch.rooms[0].joined_at = Some(from_millis(7));
        let read = write(tx, &batch, &myself())?;
        assert_eq!(read, HashMap::from([(SessionKey::main("!a:hs".into()), "$1".into())]));
        assert!(write(tx, &batch, &myself())?.is_empty());
        let rows = inbox::take_new(tx, 0)?;
        let addressed: Vec<bool> = rows.iter().map(|(_, incoming)| incoming.addressed).collect();
        assert_eq!(addressed, [true, false]);
        assert_eq!(position::find(tx, "@bot:hs")?.as_deref(), Some("t1"));
        let known = rooms::journaled(tx, &"!a:hs".into())?.unwrap();
        assert_eq!(known.last_event, Some("$2".into()));
        // One hello, however often it joins.
        assert_eq!(outbox::count_pending(tx)?, 1);
        Ok(())
    });
}

#[test]
fn replies_and_threads_lead_to_the_bot_by_what_it_has_posted() {
    with_store(|tx| {
        let posted =
            outbox::enqueue(tx, &Outgoing::text(SessionKey::main("!a:hs".into()), "x"), None)?;
        outbox::mark_sent(tx, posted, Some(&"$bot".into()))?;
        let thread = SessionKey { room: "!a:hs".into(), thread: Some("$root".into()) };
        outbox::enqueue(tx, &Outgoing::notice(thread, "working"), None)?;
        let reply = |to: &str| Said { reply_to: Some(to.into()), ..said("yes") };
        let threaded = |root: &str| Said { thread: Some(root.into()), ..said("yes") };
        for (key, said, addressed) in [
            ("$1", reply("$bot"), true),
            ("$2", reply("$ann"), false),
            ("$3", threaded("$root"), true),
            ("$4", threaded("$bot"), true),
            ("$5", threaded("$else"), false),
        ] {
            write(tx, &batch(vec![event(key, Kind::Message(said))]), &myself())?;
            let found = inbox::find(tx, &key.into())?.unwrap();
            assert_eq!(found.addressed, addressed, "{key}");
        }
        rooms::set_ambient(tx, &"!a:hs".into(), true)?;
        write(tx, &batch(vec![event("$6", Kind::Message(said("hello")))]), &myself())?;
        assert!(inbox::find(tx, &"$6".into())?.unwrap().addressed);
        Ok(())
    });
}

#[test]
fn edits_redactions_and_reactions_of_what_is_unknown_are_nothing() {
    with_store(|tx| {
        let events = |of: &str, tag: &str| {
            vec![
                event(&format!("$e{tag}"), Kind::Edit { of: of.into(), said: said("new") }),
                event(&format!("$r{tag}"), Kind::Redaction { of: of.into() }),
                event(&format!("$k{tag}"), Kind::Reaction { to: of.into(), key: "👍".to_owned() }),
            ]
        };
        write(tx, &batch(events("$gone", "1")), &myself())?;
        assert!(inbox::take_new(tx, 0)?.is_empty());
        let thread = Said { thread: Some("$t".into()), ..said("old") };
        write(tx, &batch(vec![event("$1", Kind::Message(thread))]), &myself())?;
        write(tx, &batch(events("$1", "2")), &myself())?;
        let rows = inbox::take_new(tx, 0)?;
        assert_eq!(rows.len(), 4);
        let session = SessionKey { room: "!a:hs".into(), thread: Some("$t".into()) };
        assert!(rows.iter().all(|(_, incoming)| incoming.session == session));
        Ok(())
    });
}

#[test]
fn a_reaction_to_the_bots_message_is_for_the_bot() {
    with_store(|tx| {
        let thread = SessionKey { room: "!a:hs".into(), thread: Some("$root".into()) };
        let posted = outbox::enqueue(tx, &Outgoing::text(thread.clone(), "ok?"), None)?;
        outbox::mark_sent(tx, posted, Some(&"$ask".into()))?;
        let kind = Kind::Reaction { to: "$ask".into(), key: "✅".to_owned() };
        write(tx, &batch(vec![event("$1", kind)]), &myself())?;
        let found = inbox::find(tx, &"$1".into())?.unwrap();
        assert_eq!((found.session, found.addressed), (thread, true));
        Ok(())
    });
}

#[test]
fn what_cannot_be_decrypted_is_marked_and_counted_once() {
    with_store(|tx| {
        for _repeat in 0..2 {
            write(tx, &batch(vec![event("$1", Kind::Undecryptable)]), &myself())?;
        }
        assert_eq!(meta::find(tx, UNDECRYPTABLE)?.as_deref(), Some("1"));
        assert_eq!(outbox::count_pending(tx)?, 1);
        assert!(!inbox::is_known(tx, &"$1".into())?);
        Ok(())
    });
}
