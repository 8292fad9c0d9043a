use super::*;
use crate::clock::Clock;
use crate::store::{Owner, Store, merge_pulls, merge_state};
use chrono::{DateTime, TimeZone, Utc};

const SHOP: &str = "shop";

fn at(minute: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_700_000_000 + minute * 60, 0).unwrap()
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::fixed(at(0))).unwrap();
    (dir, store)
}

fn queue(store: &Store, item: i64, commit: &str, priority: i64) {
    let commit = commit.to_owned();
    store
        .write_blocking(move |tx| enqueue(tx, ItemId(item), &SHOP.into(), &commit, priority))
        .unwrap();
}

fn order(store: &Store) -> Vec<i64> {
    let now = store.clock().millis();
    let rows = store.read_blocking(|conn| list(conn, &SHOP.into(), now)).unwrap();
    rows.iter().map(|row| row.item.0).collect()
}

/// What is queued when: (minute, item, priority); when it is looked at; what the order is then.
type Case<'a> = (&'a [(i64, i64, i64)], i64, &'a [i64]);

#[test]
fn first_in_first_out_but_priority_goes_before_and_age_makes_up_for_it() {
    let cases: &[Case<'_>] = &[
        (&[(0, 3, 0), (1, 1, 0), (2, 2, 0)], 3, &[3, 1, 2]),
        // At the same moment: by number.
        (&[(0, 2, 0), (0, 1, 0)], 1, &[1, 2]),
        (&[(0, 1, 0), (1, 2, 5)], 2, &[2, 1]),
        (&[(0, 1, 0), (1, 2, -1)], 2, &[1, 2]),
        // Half an hour of waiting is worth one step, and then the older goes first.
        (&[(0, 1, 0), (29, 2, 1)], 29, &[2, 1]),
        (&[(0, 1, 0), (30, 2, 1)], 30, &[1, 2]),
        // Nothing waits for ever behind what comes later, however urgent.
        (&[(0, 1, 0), (300, 2, 9)], 300, &[1, 2]),
    ];
    for (queued, looked, expected) in cases {
        let (_dir, store) = store();
        for (minute, item, priority) in *queued {
            store.clock().set(at(*minute));
            queue(&store, *item, "c0ffee", *priority);
        }
        store.clock().set(at(*looked));
        assert_eq!(order(&store), *expected, "{queued:?} at {looked}");
    }
}

#[test]
fn another_priority_changes_the_order_and_not_the_place_in_time() {
    let (_dir, store) = store();
    queue(&store, 1, "one", 0);
    store.clock().set(at(1));
    queue(&store, 2, "two", 0);
    store.clock().set(at(2));
    queue(&store, 1, "one", -1);
    assert_eq!(order(&store), [2, 1]);
    queue(&store, 1, "one", 0);
    assert_eq!(order(&store), [1, 2], "it is still the first that came");
    let find = |item| store.read_blocking(|conn| find(conn, ItemId(item))).unwrap().unwrap();
    assert_eq!(find(1).queued_at, at(0).timestamp_millis());
    queue(&store, 1, "other", 0);
    assert_eq!(find(1).queued_at, at(2).timestamp_millis(), "another commit is a new try");
}

#[test]
fn a_landing_is_noted_for_all_or_none_and_cannot_be_called_back() {
    let (_dir, store) = store();
    queue(&store, 1, "one", 0);
    queue(&store, 2, "two", 0);
    let landing = |commit: &str| Landing {
        base: "base".to_owned(),
        commit: commit.to_owned(),
        tip: Some("s2".to_owned()),
        remote: None,
        clean: vec![],
        dirty: vec![],
    };
    let note = |second: &str| {
        let landings = [
            (ItemId(1), "one".to_owned(), landing("s1")),
            (ItemId(2), second.to_owned(), landing("s2")),
        ];
        store.write_blocking(move |tx| set_landings(tx, &landings)).unwrap()
    };
    let withdrawn = |item| store.write_blocking(move |tx| withdraw(tx, ItemId(item))).unwrap();
    assert!(!note("older"), "the second wants another commit by now");
    let first = store.read_blocking(|conn| find(conn, ItemId(1))).unwrap().unwrap();
    assert_eq!(first.landing, None);
    assert!(note("two"));
    assert!(!withdrawn(1) && !withdrawn(2));
    queue(&store, 1, "another", 9);
    let first = store.read_blocking(|conn| find(conn, ItemId(1))).unwrap().unwrap();
    assert_eq!((first.commit.as_str(), first.priority), ("one", 0), "left alone while it lands");
    store.write_blocking(|tx| clear_landing(tx, ItemId(1))).unwrap();
    assert!(withdrawn(1));
}

#[test]
fn a_landing_of_an_earlier_version_is_read() {
    let text = r#"{"base":"b","commit":"c","clean":["/x"],"dirty":[]}"#;
    let landing: Landing = serde_json::from_str(text).unwrap();
    assert_eq!((landing.tip(), &landing.remote), ("c", &None));
}

#[test]
fn a_queue_that_stands_still_is_due_again_later_each_time_and_says_news_once() {
    let (_dir, store) = store();
    let poll = Duration::seconds(60);
    let due = || {
        let now = store.clock().millis();
        store.read_blocking(|conn| due_projects(conn, now, poll)).unwrap()
    };
    let next = || {
        let now = store.clock().millis();
        let next = store.read_blocking(|conn| next_due(conn, now, poll)).unwrap();
        next.map(|next| (next - now) / 1000)
    };
    let pause = |reason: &'static str| {
        store.write_blocking(move |tx| merge_state::pause(tx, &SHOP.into(), reason, None)).unwrap()
    };
    queue(&store, 1, "one", 0);
    assert_eq!((due(), next()), (vec![SHOP.into()], None));
    let (first, news) = pause("no disk");
    assert!(news && first.tries == 1);
    assert_eq!((due(), next()), (vec![], Some(10)));
    store.clock().set(at(1));
    assert_eq!(due(), [SHOP.into()]);
    let (second, news) = pause("no disk");
    assert!(!news && second.since == first.since && second.tries == 2);
    assert_eq!(next(), Some(20));
    assert!(pause("no network").1, "another reason is news");
    for _ in 0..20 {
        pause("no network");
    }
    assert_eq!(next(), Some(600));
    assert!(store.write_blocking(|tx| merge_state::resume(tx, &SHOP.into())).unwrap());
    assert!(!store.write_blocking(|tx| merge_state::resume(tx, &SHOP.into())).unwrap());
    assert_eq!((due(), next()), (vec![SHOP.into()], None));
}

#[test]
fn an_item_with_an_open_pull_request_holds_up_nobody() {
    let (_dir, store) = store();
    let poll = Duration::seconds(60);
    queue(&store, 1, "one", 0);
    store.clock().set(at(1));
    queue(&store, 2, "two", 0);
    let pull = |commit: &str| merge_pulls::Pull {
        item: ItemId(1),
        branch: "item/1-x".to_owned(),
        commit: commit.to_owned(),
        url: "https://forge.example.org/1".to_owned(),
        seen: "base".to_owned(),
    };
    let open = |commit: &str| {
        let pull = pull(commit);
        store.write_blocking(move |tx| {
            merge_state::set_polled(tx, &SHOP.into())?;
            merge_pulls::put(tx, &SHOP.into(), &pull)
        })
    };
    let waiting = || {
        let now = store.clock().millis();
        let rows = store.read_blocking(|conn| waiting(conn, &SHOP.into(), now)).unwrap();
        rows.iter().map(|row| row.item.0).collect::<Vec<_>>()
    };
    open("one").unwrap();
    assert_eq!(waiting(), [2]);
    let oldest = store.read_blocking(oldest).unwrap();
    assert_eq!(oldest, [(SHOP.into(), ItemId(2), at(1).timestamp_millis())]);
    assert!(store.write_blocking(|tx| withdraw(tx, ItemId(2))).unwrap());
    let due = || {
        let now = store.clock().millis();
        store.read_blocking(|conn| due_projects(conn, now, poll)).unwrap()
    };
    assert_eq!(due(), []);
    let now = store.clock().millis();
    let next = store.read_blocking(|conn| next_due(conn, now, poll)).unwrap();
    assert_eq!(next, Some(at(2).timestamp_millis()), "the next look at the remote");
    store.clock().set(at(2));
    assert_eq!(due(), [SHOP.into()]);
    open("older").unwrap();
    assert_eq!(waiting(), [1], "its pull request has another commit than is wanted now");
}

#[test]
fn a_lease_is_had_by_one_and_lost_by_the_dead() {
    let (_dir, store) = store();
    let (ann, bob) = (Owner { pid: 1, started: 7 }, Owner { pid: 2, started: 7 });
    let take = |me: &Owner, alive: bool| {
        let me = me.clone();
        let taken = store
            .write_blocking(move |tx| merge_state::take_lease(tx, &SHOP.into(), &me, |_| alive));
        taken.unwrap().map(|lease| lease.owner)
    };
    assert_eq!(take(&ann, true), None);
    assert_eq!(take(&ann, true), None, "its own");
    assert_eq!(take(&bob, true), Some(ann.clone()));
    let free = |me: &Owner| {
        let me = me.clone();
        store.write_blocking(move |tx| merge_state::free_lease(tx, &SHOP.into(), &me)).unwrap();
    };
    free(&bob);
    assert_eq!(take(&bob, true), Some(ann.clone()), "nobody gives away what another has");
    assert_eq!(take(&bob, false), None, "ann is dead");
    assert_eq!(take(&ann, true), Some(bob.clone()));
    free(&bob);
    assert_eq!(take(&ann, true), None);
}
