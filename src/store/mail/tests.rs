use super::*;
use crate::clock::Clock;
use crate::store::Store;
use chrono::{TimeDelta, TimeZone, Utc};

struct Desk {
    _dir: tempfile::TempDir,
    store: Store,
    clock: Clock,
}

fn desk() -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 11, 21, 9, 0, 0).unwrap());
    let store = Store::open(dir.path(), clock.clone()).unwrap();
    Desk { _dir: dir, store, clock }
}

impl Desk {
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        self.store.write_blocking(work).unwrap()
    }

    fn put(&self, to: &'static str, subject: &'static str, priority: Priority) -> MailId {
        self.write(move |tx| {
            let row = NewRow {
                from: "coder-2",
                to,
                subject,
                body: "0123456789",
                kind: MailType::Status,
                priority,
                payload: None,
                item: None,
                thread: None,
            };
            insert(tx, &row)
        })
    }

    fn claim(&self, turn: i64, cap: usize) -> (Vec<String>, u64) {
        let claimed = self.write(move |tx| claim(tx, "coder-1", TurnId(turn), cap));
        (claimed.mails.into_iter().map(|mail| mail.subject).collect(), claimed.more)
    }

    fn later(&self, time: TimeDelta) {
        self.clock.set(self.clock.now() + time);
    }
}

#[test]
fn mail_is_given_once_in_order_of_urgency_and_then_of_sending() {
    let desk = desk();
    for (subject, priority) in [
        ("a", Priority::Low),
        ("b", Priority::Normal),
        ("c", Priority::Urgent),
        ("d", Priority::Normal),
    ] {
        desk.put("coder-1", subject, priority);
    }
    desk.put("coder-3", "not yours", Priority::Urgent);
    assert_eq!(desk.claim(1, 10_000), (vec!["c".into(), "b".into(), "d".into(), "a".into()], 0));
    assert_eq!(desk.claim(2, 10_000), (vec![], 0), "claimed by another turn");
    assert_eq!(desk.write(|tx| acknowledge(tx, "coder-1", TurnId(1))), 4);
    assert_eq!(desk.write(|tx| acknowledge(tx, "coder-1", TurnId(1))), 0, "safe to repeat");
    desk.write(|tx| give_back(tx, "coder-1", TurnId(1)));
    desk.later(TimeDelta::days(1));
    assert_eq!(desk.claim(3, 10_000), (vec![], 0), "acknowledged mail never comes again");
}

#[test]
fn what_does_not_fit_is_announced_by_count() {
    let desk = desk();
    for subject in ["a", "b", "c"] {
        desk.put("coder-1", subject, Priority::Normal);
    }
    // Each has eleven bytes.
    assert_eq!(desk.claim(1, 22), (vec!["a".into(), "b".into()], 1));
    assert_eq!(desk.claim(1, 10), (vec![], 1), "nothing is cut to fit");
}

#[test]
fn a_dead_turns_mail_comes_back_later_each_time_and_the_fifth_time_is_a_dead_letter() {
    let desk = desk();
    let id = desk.put("coder-1", "a", Priority::Normal);
    let mut rest = TimeDelta::seconds(30);
    for turn in 1..=4 {
        assert_eq!(desk.claim(turn, 1000).0, ["a"], "attempt {turn}");
        desk.write(move |tx| give_back(tx, "coder-1", TurnId(turn)));
        desk.later(rest - TimeDelta::seconds(1));
        assert_eq!(desk.claim(turn + 10, 1000).0, [""; 0], "rests after attempt {turn}");
        desk.later(TimeDelta::seconds(1));
        rest = rest * 2;
    }
    assert_eq!(desk.claim(5, 1000).0, ["a"]);
    desk.write(|tx| {
        tx.execute("INSERT INTO rooms (room, joined_at) VALUES ('!r:hs', 1)", [])?;
        give_back(tx, "coder-1", TurnId(5))
    });
    desk.later(TimeDelta::days(30));
    assert_eq!(desk.claim(6, 1000), (vec![], 0));
    let told = desk.write(|tx| check(tx, "coder-2", tx.now(), 10)).mails;
    assert_eq!(told.len(), 1, "the sender is told once");
    assert!(told[0].subject == "Not delivered: a" && told[0].thread_id == id, "{told:?}");
    let posted: String = desk.write(|tx| {
        Ok(tx.query_row("SELECT outgoing FROM outbox WHERE room = '!r:hs'", [], |row| row.get(0))?)
    });
    assert!(posted.contains("could not be delivered 5 times"), "{posted}");
}

#[test]
fn after_a_crash_agents_claims_are_put_back_and_the_coordinators_stay() {
    let desk = desk();
    desk.put("coder-1", "a", Priority::Normal);
    desk.put(COORDINATOR, "b", Priority::Normal);
    desk.claim(1, 1000);
    desk.write(|tx| claim(tx, COORDINATOR, TurnId(1), 1000));
    desk.write(give_back_orphans);
    desk.later(TimeDelta::minutes(1));
    assert_eq!(desk.claim(2, 1000).0, ["a"]);
    assert_eq!(desk.write(|tx| acknowledge(tx, COORDINATOR, TurnId(1))), 1);
}

#[test]
fn a_purge_spares_unread_mail_and_protocol_mail_of_open_items() {
    let desk = desk();
    desk.put("coder-1", "unread", Priority::Normal);
    let read = desk.put("coder-1", "read", Priority::Normal);
    let protocol = desk.put("coder-1", "protocol", Priority::Normal);
    desk.write(move |tx| {
        tx.execute(
            "INSERT INTO items (project, kind, name, qa, origin, stage, stage_name, col, badge,
                                created_at, updated_at)
             VALUES ('p', 'story', 'x', 'gates', '{}', '{}', 'coding', 'coding', 'active', 0, 0)",
            [],
        )?;
        tx.execute("UPDATE mail SET type = 'merge_ready', item = 1 WHERE id = ?1", [protocol])?;
        mark_read(tx, read)?;
        mark_read(tx, protocol)
    });
    desk.later(TimeDelta::days(90));
    assert_eq!(desk.write(|tx| purge(tx, tx.now() - 1)), 1);
    let left: Vec<String> =
        desk.write(|tx| list(tx, &Filter::default())).into_iter().map(|m| m.subject).collect();
    assert_eq!(left, ["protocol", "unread"]);
    desk.write(|tx| Ok(tx.execute("UPDATE items SET col = 'done'", [])?));
    assert_eq!(desk.write(|tx| purge(tx, tx.now() - 1)), 1);
}

#[test]
fn sending_and_fetching_are_index_searches_whatever_the_number_of_messages() {
    let desk = desk();
    let plan = |sql: String, count: usize| -> String {
        desk.store
            .read_blocking(move |conn| {
                let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let nulls = vec![rusqlite::types::Null; count];
                let rows = statement
                    .query_map(rusqlite::params_from_iter(nulls), |row| row.get::<_, String>(3))?;
                Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?.join("\n"))
            })
            .unwrap()
    };
    let fetch = plan(waiting_sql(COLUMNS, "ORDER BY priority DESC, id LIMIT ?3"), 3);
    assert!(fetch.contains("SEARCH mail USING INDEX mail_unread (recipient=?)"), "{fetch}");
    assert!(!fetch.contains("TEMP B-TREE"), "{fetch}");
    let acknowledge = plan(
        "UPDATE mail SET read_at = 1 WHERE recipient = ?1 AND claimed_by = ?2
         AND claimed_by IS NOT NULL AND read_at IS NULL"
            .to_owned(),
        2,
    );
    assert!(acknowledge.contains("mail_claimed (recipient=? AND claimed_by=?)"), "{acknowledge}");
    let to = Some("coder-1".to_owned());
    for (filter, index) in [
        (Filter { to: to.clone(), ..Filter::default() }, "mail_recipient"),
        (Filter { to, unread: true, ..Filter::default() }, "mail_unread"),
        (Filter { from: Some("x".into()), ..Filter::default() }, "mail_sender"),
        (Filter { item: Some(ItemId(1)), ..Filter::default() }, "mail_item"),
    ] {
        let list = plan(list_sql(&filter), 4);
        assert!(list.contains(index), "{filter:?}: {list}");
    }
}
