use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    (dir, store)
}

fn put(tx: &Tx<'_>, key: &str) -> Result<(), StoreError> {
    tx.execute("INSERT INTO meta (key, value) VALUES (?1, '')", [key])?;
    Ok(())
}

async fn count(store: &Store) -> i64 {
    store
        .read(|conn| {
            Ok::<i64, StoreError>(
                conn.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))?,
            )
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn one_failing_or_panicking_write_of_a_group_takes_nobody_with_it() {
    let (_dir, store) = store();
    let writes = (0..30).map(|number| {
        let store = store.clone();
        async move {
            store
                .write(move |tx| {
                    put(tx, &format!("k{number}"))?;
                    match number % 3 {
                        0 => Ok(()),
                        1 => Err(StoreError::Closed),
                        _ => panic!("a bug in one closure"),
                    }
                })
                .await
        }
    });
    let outcomes = futures_util::future::join_all(writes).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
    assert_eq!(count(&store).await, 10);
}

#[tokio::test]
async fn a_commit_hints_at_the_tables_it_touched_and_at_no_other() {
    let (_dir, store) = store();
    let mut timers = store.changes("timers");
    let mut mail = store.changes("mail");
    store
        .write(|tx| {
            tx.execute(
                "INSERT INTO timers (kind, created_by, due_at, zone, created_at)
                 VALUES ('reminder', 'x', 0, 'UTC', 0)",
                [],
            )?;
            Ok::<(), StoreError>(())
        })
        .await
        .unwrap();
    timers.changed().await;
    assert!(futures_util::FutureExt::now_or_never(mail.changed()).is_none());
}

#[tokio::test]
async fn a_closed_store_says_so_and_frees_its_directory() {
    let (dir, store) = store();
    store.close();
    let outcome = store.write(|tx| put(tx, "late")).await;
    assert!(matches!(outcome, Err(StoreError::Closed)));
    Store::open(dir.path(), Clock::system()).unwrap();
}

/// How many pages the database may have; what does not fit meets a full disk.
fn limit_pages(store: &Store, most: i64) {
    let writer = hold(&store.shared.writer);
    let conn = &writer.as_ref().unwrap().conn;
    // The smallest that SQLite takes is what there is.
    conn.pragma_update(None, "max_page_count", most).unwrap();
}

fn put_big(tx: &Tx<'_>, key: &str) -> Result<(), StoreError> {
    tx.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", [key, &"x".repeat(200_000)])?;
    Ok(())
}

async fn until_faulty(store: &Store) {
    let faulty = async {
        while store.fault().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), faulty).await.unwrap();
}

#[tokio::test]
async fn while_nothing_can_be_written_writers_wait_and_then_nothing_is_lost_or_doubled() {
    let (_dir, store) = store();
    limit_pages(&store, 1);
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let writes: Vec<_> = (0..20)
        .map(|number| {
            let (store, runs) = (store.clone(), Arc::clone(&runs));
            tokio::spawn(async move {
                let write = store.write(move |tx| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    put_big(tx, &format!("k{number}"))
                });
                write.await
            })
        })
        .collect();
    until_faulty(&store).await;
    assert!(writes.iter().all(|write| !write.is_finished()), "they wait");
    assert!(!store.has_room());
    let why = store.fault().unwrap();
    assert!(why.contains("cannot be written") && why.contains("disk"), "{why}");
    // Who cannot wait is told, and has changed nothing.
    let impatient = store.clone();
    let told = tokio::task::spawn_blocking(move || impatient.write_blocking(|tx| put(tx, "now")));
    let told = told.await.unwrap();
    assert!(matches!(&told, Err(StoreError::Unwritable(text)) if *text == why), "{told:?}");
    assert_eq!(count(&store).await, 0);

    limit_pages(&store, i64::from(i32::MAX));
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(count(&store).await, 20, "each once");
    assert!(runs.load(Ordering::Relaxed) > 20, "what was undone was run again");
    assert_eq!(store.fault(), None);
    store.write(|tx| put(tx, "later")).await.unwrap();
}

#[tokio::test]
async fn a_program_that_ends_waits_for_no_room() {
    let (_dir, store) = store();
    limit_pages(&store, 1);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.write(|tx| put_big(tx, "k")).await }
    });
    until_faulty(&store).await;
    store.hurry();
    let told = waiting.await.unwrap();
    assert!(matches!(told, Err(StoreError::Unwritable(_))), "{told:?}");
    let told = store.write(|tx| put_big(tx, "k")).await;
    assert!(matches!(told, Err(StoreError::Unwritable(_))), "{told:?}");
    store.close();
    let told = store.write(|tx| put(tx, "late")).await;
    assert!(matches!(told, Err(StoreError::Closed)), "{told:?}");
}

#[tokio::test]
async fn a_commit_that_is_refused_for_good_is_told_and_holds_up_nobody() {
    let (_dir, store) = store();
    let refuse = |yes: bool| {
        let writer = hold(&store.shared.writer);
        let conn = &writer.as_ref().unwrap().conn;
        conn.commit_hook(yes.then_some(|| true));
    };
    refuse(true);
    let told = store.write(|tx| put(tx, "k")).await;
    assert!(matches!(told, Err(StoreError::Unwritable(_))), "{told:?}");
    assert_eq!(store.fault(), None);
    refuse(false);
    store.write(|tx| put(tx, "k")).await.unwrap();
    assert_eq!(count(&store).await, 1);
}

/// Writes small rows until `done`; each must get through. Returns how many there were.
async fn write_small_until(store: &Store, done: impl Fn() -> bool) -> i64 {
    let patience = std::time::Duration::from_secs(60);
    let writes = async {
        let mut number = 0;
        while !done() {
            let key = format!("small{number}");
            store.write(move |tx| put(tx, &key)).await.unwrap();
            number += 1;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        number
    };
    tokio::time::timeout(patience, writes).await.expect("it comes to an end")
}

#[tokio::test]
async fn what_is_too_large_by_itself_is_given_up_while_others_are_written() {
    let (_dir, store) = store();
    let pages: i64 = store
        .read(|conn| {
            Ok::<_, StoreError>(conn.pragma_query_value(None, "page_count", |r| r.get(0))?)
        })
        .await
        .unwrap();
    limit_pages(&store, pages + 20);
    let large = tokio::spawn({
        let store = store.clone();
        async move { store.write(|tx| put_big(tx, "big")).await }
    });
    until_faulty(&store).await;
    let small = write_small_until(&store, || large.is_finished()).await;
    let told = large.await.unwrap();
    assert!(matches!(&told, Err(StoreError::Unwritable(_))), "{told:?}");
    assert_eq!(store.fault(), None);
    assert_eq!(count(&store).await, small, "the small ones, and nothing of the large one");
    // And the fault is over: groups go through at once.
    assert!(hold(&store.shared.fault).is_none());
}

#[tokio::test]
async fn what_is_too_large_waits_for_room_when_nothing_else_is_written_either() {
    let (_dir, store) = store();
    limit_pages(&store, 1);
    let runs = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let large = tokio::spawn({
        let (store, runs) = (store.clone(), Arc::clone(&runs));
        async move {
            let work = move |tx: &Tx<'_>| {
                runs.fetch_add(1, Ordering::Relaxed);
                put_big(tx, "big")
            };
            store.write(work).await
        }
    });
    let often = async {
        while runs.load(Ordering::Relaxed) <= group::LOSSES_MAX + 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), often).await.unwrap();
    assert!(!large.is_finished(), "nobody else got through either");
    limit_pages(&store, i64::from(i32::MAX));
    large.await.unwrap().unwrap();
}

#[tokio::test]
async fn after_the_second_failed_commit_what_is_small_gets_through_alone() {
    let (_dir, store) = store();
    // As a disk with some room: a transaction with something large in it does not fit.
    *hold(&store.shared.refuse_commit) = Some(|conn| {
        let longest = "SELECT coalesce(max(length(value)), 0) FROM meta";
        conn.query_row(longest, [], |row| row.get::<_, i64>(0)).unwrap() > 100_000
    });
    let write = |big: bool, key: &'static str| {
        let store = store.clone();
        tokio::spawn(async move {
            let work = move |tx: &Tx<'_>| if big { put_big(tx, key) } else { put(tx, key) };
            store.write(work).await
        })
    };
    let large = write(true, "big");
    until_faulty(&store).await;
    let small: Vec<_> = ["a", "b", "c"].into_iter().map(|key| write(false, key)).collect();
    for written in small {
        written.await.unwrap().unwrap();
    }
    assert!(!large.is_finished(), "it waits, alone");
    assert_eq!(store.fault(), None, "others can be written");
    // Who cannot wait gets through, too.
    let impatient = store.clone();
    let now = tokio::task::spawn_blocking(move || impatient.write_blocking(|tx| put(tx, "now")));
    now.await.unwrap().unwrap();
    assert_eq!(count(&store).await, 4);
    *hold(&store.shared.refuse_commit) = None;
    large.await.unwrap().unwrap();
    assert_eq!(count(&store).await, 5, "each once");
    assert!(hold(&store.shared.fault).is_none());
}
