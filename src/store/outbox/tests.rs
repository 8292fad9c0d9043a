use super::*;
use crate::clock::Clock;
use crate::store::Store;

fn write<T: Send + 'static>(
    work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    store.write_blocking(work).unwrap()
}

fn to(room: &str, text: &str) -> Outgoing {
    Outgoing::text(SessionKey::main(room.into()), text)
}

#[test]
fn rows_wait_in_order_per_room_and_a_row_put_off_holds_back_its_room_only() {
    write(|tx| {
        let first = enqueue(tx, &to("!a", "1"), None)?;
        let other = enqueue(tx, &to("!b", "x"), None)?;
        let second = enqueue(tx, &to("!a", "2"), None)?;
        let later = from_millis(tx.now() + 60_000);
        mark_retry(tx, first, later, "busy")?;
        let rooms = waiting_rooms(tx)?;
        assert_eq!(rooms, [("!a".into(), later), ("!b".into(), from_millis(0))]);
        let rows = pending_of(tx, &"!a".into(), 10)?;
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [first, second]);
        assert_eq!((rows[0].attempts, rows[0].not_before), (1, later));
        mark_sent(tx, other, Some(&"$x".into()))?;
        assert_eq!(waiting_rooms(tx)?.len(), 1);
        assert_eq!(count_pending(tx)?, 2);
        Ok(())
    });
}

#[test]
fn a_dedup_key_gives_the_first_row_also_after_it_was_sent() {
    write(|tx| {
        let first = enqueue(tx, &to("!a", "hello"), Some("hello:!a"))?;
        mark_sent(tx, first, Some(&"$1".into()))?;
        assert_eq!(enqueue(tx, &to("!a", "hello again"), Some("hello:!a"))?, first);
        assert_eq!(count_pending(tx)?, 0);
        Ok(())
    });
}

#[test]
fn what_failed_is_kept_with_its_reason_and_is_not_pending() {
    write(|tx| {
        let id = enqueue(tx, &to("!a", "x"), None)?;
        mark_failed(tx, id, "the room is gone")?;
        mark_sent(tx, id, Some(&"$late".into()))?;
        let kept = failed(tx, 10)?;
        assert_eq!((kept.len(), kept[0].id, kept[0].error.as_str()), (1, id, "the room is gone"));
        assert_eq!(count_pending(tx)?, 0);
        Ok(())
    });
}

#[test]
fn every_piece_of_a_message_leads_back_to_its_row() {
    write(|tx| {
        let id = enqueue(tx, &to("!a", "long"), None)?;
        record_part(tx, id, 0, &"$0".into())?;
        record_part(tx, id, 1, &"$1".into())?;
        record_part(tx, id, 1, &"$1".into())?;
        mark_sent(tx, id, Some(&"$0".into()))?;
        assert_eq!(parts_of(tx, id)?, [(0, "$0".into()), (1, "$1".into())]);
        assert_eq!(row_of_key(tx, &"$1".into())?, Some(id));
        assert_eq!(row_of_key(tx, &"$2".into())?, None);
        assert_eq!(sent_key(tx, id)?, Some("$0".into()));
        Ok(())
    });
}

#[test]
fn the_only_piece_of_a_message_is_known_from_its_row() {
    write(|tx| {
        let id = enqueue(tx, &to("!a", "short"), None)?;
        assert_eq!(parts_of(tx, id)?, []);
        mark_sent(tx, id, Some(&"$0".into()))?;
        record_part(tx, id, 1, &"$1".into())?;
        assert_eq!(parts_of(tx, id)?, [(0, "$0".into()), (1, "$1".into())]);
        Ok(())
    });
}

#[test]
fn a_thread_is_the_bots_once_something_was_written_into_it() {
    write(|tx| {
        let thread = SessionKey { room: "!a".into(), thread: Some("$root".into()) };
        assert!(!has_spoken_in(tx, &thread)?);
        enqueue(tx, &Outgoing::notice(thread.clone(), "working"), None)?;
        assert!(has_spoken_in(tx, &thread)?);
        assert!(!has_spoken_in(tx, &SessionKey::main("!a".into()))?);
        Ok(())
    });
}

#[test]
fn the_installation_id_is_made_once() {
    write(|tx| {
        assert_eq!(installation_id(tx)?, installation_id(tx)?);
        Ok(())
    });
}
