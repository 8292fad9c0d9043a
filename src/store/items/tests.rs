use super::*;
use crate::clock::Clock;
use crate::model::item::OriginKind;
use crate::store::Store;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    (dir, store)
}

fn origin() -> Origin {
    Origin::new(OriginKind::User, "@you:hs", from_millis(0)).unwrap()
}

fn file(tx: &Tx<'_>, name: &str) -> Result<ItemId, ItemError> {
    let new = NewRow {
        project: &"demo".into(),
        kind: Kind::Story,
        name,
        body: "",
        epic: None,
        parent: None,
        agent: None,
        qa: QaMode::Gates,
        origin: &origin(),
        room: None,
        stage: &Stage::Backlog,
    };
    Ok(insert(tx, &new, "filed")?)
}

#[test]
fn a_writer_that_read_an_older_version_loses_and_is_told_what_stands_there() {
    let (_dir, store) = store();
    let outcome = store.write_blocking(|tx| {
        let id = file(tx, "one")?;
        let old = get(tx, id)?;
        let (new, _) = put_stage(tx, &old, Stage::Upcoming, "moved", &origin())?;
        assert_eq!(new, get(tx, id)?);
        put_stage(tx, &old, Stage::Backlog, "moved back", &origin())
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, ItemError::Stale { expected: 1, found: 2, .. }), "{error}");
}

#[test]
fn a_number_is_not_used_again_after_its_item_was_deleted() {
    let (_dir, store) = store();
    let (first, second) = store
        .write_blocking(|tx| {
            let first = file(tx, "one")?;
            assert!(delete(tx, first)?);
            assert!(!delete(tx, first)?);
            Ok::<_, ItemError>((first, file(tx, "two")?))
        })
        .unwrap();
    assert!(second > first);
}

#[test]
fn a_circle_of_dependencies_is_refused_with_the_whole_way_round() {
    let (_dir, store) = store();
    let outcome = store.write_blocking(|tx| {
        let ids = [file(tx, "a")?, file(tx, "b")?, file(tx, "c")?];
        set_dependencies(tx, ids[0], &[ids[1]])?;
        set_dependencies(tx, ids[1], &[ids[2]])?;
        assert_eq!(get(tx, ids[0])?.depends_on, [ids[1]]);
        let itself = set_dependencies(tx, ids[0], &[ids[0]]).unwrap_err();
        assert_eq!(itself.to_string(), "that would be a circle: 1 depends on 1");
        set_dependencies(tx, ids[2], &[ids[0]])
    });
    let circle = "that would be a circle: 3 depends on 1 depends on 2 depends on 3";
    assert_eq!(outcome.unwrap_err().to_string(), circle);
}

#[test]
fn an_unknown_dependency_is_refused_and_nothing_changes() {
    let (_dir, store) = store();
    store
        .write_blocking(|tx| {
            let (a, b) = (file(tx, "a")?, file(tx, "b")?);
            set_dependencies(tx, a, &[b])?;
            let error = set_dependencies(tx, a, &[ItemId(99)]).unwrap_err();
            assert!(matches!(error, ItemError::UnknownDependency(ItemId(99))));
            assert_eq!(get(tx, a)?.depends_on, [b]);
            let waiting: Vec<_> = dependents(tx, b)?.iter().map(|item| item.id).collect();
            assert_eq!(waiting, [a]);
            Ok::<(), ItemError>(())
        })
        .unwrap();
}

#[test]
fn a_pass_reads_indexes_and_not_the_board() {
    let (_dir, store) = store();
    let plan = |sql: &str| -> String {
        store
            .read_blocking(|conn| {
                let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let given = [&"coder" as &dyn rusqlite::ToSql; 2];
                let count = statement.parameter_count();
                let rows = statement.query_map(&given[..count], |row| row.get::<_, String>(3))?;
                Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?.join("; "))
            })
            .unwrap()
    };
    let waiting = "SELECT id, project, agent, coder, moved_at FROM items
                   WHERE wants = ?1 ORDER BY priority DESC, id";
    let waiting = plan(waiting);
    assert!(waiting.contains("USING COVERING INDEX items_waiting"), "{waiting}");
    assert!(!waiting.contains("TEMP B-TREE"), "{waiting}");
    for (sql, index) in [
        ("SELECT * FROM items WHERE due = 1 ORDER BY priority DESC, id", "items_due"),
        ("SELECT * FROM items WHERE claim IS NOT NULL", "items_claimed"),
        ("SELECT * FROM items WHERE stage_name = ?1 AND moved_at <= ?2", "items_standing"),
    ] {
        let plan = plan(sql);
        assert!(plan.contains(&format!("INDEX {index}")), "{sql}: {plan}");
    }
}
