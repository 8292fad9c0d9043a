use super::*;
use crate::clock::Clock;
use crate::store::Store;

#[test]
fn settings_are_kept_apart_from_how_far_the_room_was_journaled() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    store
        .write_blocking(|tx| {
            let room = RoomKey::from("!a");
            assert!(!settings(tx, &room)?.ambient);
            set_ambient(tx, &room, true)?;
            set_project(tx, &room, Some(&"calc".into()))?;
            set_queue_mode(tx, &room, Some(QueueMode::Steer))?;
            assert_eq!(journaled(tx, &room)?, None);
            set_joined(tx, &room, from_millis(5))?;
            set_last_event(tx, &room, &"$9".into())?;
            set_encrypted(tx, &room)?;
            let expected = RoomSettings {
                room: room.clone(),
                project: Some("calc".into()),
                ambient: true,
                queue_mode: Some(QueueMode::Steer),
            };
            assert_eq!(settings(tx, &room)?, expected);
            assert_eq!(all(tx)?, [expected]);
            let known =
                Journaled { joined_at: Some(from_millis(5)), last_event: Some("$9".into()) };
            assert_eq!(journaled(tx, &room)?, Some(known));
            Ok::<(), StoreError>(())
        })
        .unwrap();
}
