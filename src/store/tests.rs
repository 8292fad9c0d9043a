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
