//! Opening and migrating the database file.

use super::StoreError;
use super::lock::{self, DataLock, LockError};
use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

/// Every migration, in order. A shipped one is never edited: add the next.
const ALL: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_pipeline.sql"),
    include_str!("migrations/0003_movers.sql"),
    include_str!("migrations/0004_permissions.sql"),
    include_str!("migrations/0005_brakes.sql"),
];

static MIGRATIONS: LazyLock<Migrations<'static>> =
    LazyLock::new(|| Migrations::new(ALL.iter().map(|sql| M::up(sql)).collect()));

/// How long a reader waits for the moment in which the WAL is reset.
const BUSY: Duration = Duration::from_secs(5);

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the data directory, or it cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The data directory cannot be made.
    #[error("cannot create the data directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A newer version wrote the database.
    #[error(
        "the database {} has schema version {found}, this musher knows only {known}: \
         install the newer musher, or restore the copy that was kept beside it",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: usize,
    },
    /// The database cannot be read or migrated.
    #[error("cannot open the database {}: {source}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The database's file.
pub fn database_path(data_dir: &Path) -> PathBuf {
    data_dir.join("musher.db")
}

/// Takes the lock, opens the file and migrates it.
pub fn open(data_dir: &Path) -> Result<(DataLock, Connection), OpenError> {
    make_directory(data_dir)
        .map_err(|source| OpenError::Directory { path: data_dir.to_owned(), source })?;
    let lock = lock::take(data_dir)?;
    let path = database_path(data_dir);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Database {
        path: path.clone(),
        source,
    };
    let mut conn = Connection::open(&path).map_err(|error| failed(error.into()))?;
    configure(&conn).map_err(|error| failed(error.into()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| failed(error.into()))?;
    let found: i64 = conn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| failed(error.into()))?;
    let known = ALL.len();
    if found > known as i64 {
        return Err(OpenError::Newer { path, found, known });
    }
    if found < known as i64 {
        if found > 0 {
            keep_copy(&conn, data_dir, found).map_err(|error| failed(error.into()))?;
        }
        MIGRATIONS.to_latest(&mut conn).map_err(|error| failed(error.into()))?;
    }
    Ok((lock, conn))
}

/// Opens a read-only connection beside the writer's.
pub fn reader(data_dir: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(database_path(data_dir), flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

/// What a look at the database from beside finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its schema version.
    pub version: i64,
    /// The newest that this program knows.
    pub known: i64,
    /// What SQLite's own check says: `ok`, or the first damage.
    pub check: String,
}

/// Looks at the database without taking the lock or changing anything; `None`: there is none.
pub fn inspect(data_dir: &Path) -> Result<Option<Inspection>, StoreError> {
    if !database_path(data_dir).exists() {
        return Ok(None);
    }
    let conn = reader(data_dir)?;
    let version = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let check = sound(&conn)?;
    Ok(Some(Inspection { version, known: ALL.len() as i64, check }))
}

/// What SQLite's own check says of the file: `ok`, or the first damage.
pub fn sound(conn: &Connection) -> Result<String, StoreError> {
    Ok(conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?)
}

/// Reads beside whoever owns the database; `None`: there is none yet.
pub fn read_beside<T>(
    data_dir: &Path,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    if !database_path(data_dir).exists() {
        return Ok(None);
    }
    work(&reader(data_dir)?).map(Some)
}

fn make_directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", "ON")?;
    conn.set_prepared_statement_cache_capacity(256);
    Ok(())
}

/// Keeps a copy of the database as it was before a migration.
fn keep_copy(conn: &Connection, data_dir: &Path, version: i64) -> rusqlite::Result<()> {
    let copy = data_dir.join(format!("musher.db.v{version}"));
    // A copy left by a migration that failed half-way is older than what is there now.
    let _ = std::fs::remove_file(&copy);
    conn.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_valid() {
        MIGRATIONS.validate().unwrap();
    }

    /// A database as the second migration left it, with items in many states.
    const OF_VERSION_2: &str = r#"
        INSERT INTO items (id, project, kind, name, qa, origin, stage, stage_name, col, badge,
                           created_at, updated_at)
        SELECT id, 'demo', 'story', 'Item ' || id, 'gates', '{}', stage,
               json_extract(stage, '$.stage'), 'x', 'x', 10, 20
        FROM (SELECT 1 AS id, '{"stage":"backlog"}' AS stage
              UNION ALL SELECT 2, '{"stage":"coding","claim":null}'
              UNION ALL SELECT 3, '{"stage":"coding","claim":"coder-1"}'
              UNION ALL SELECT 4, '{"stage":"qa","claim":null}'
              UNION ALL SELECT 5, '{"stage":"merge_failure","claim":null,"kind":{"kind":"conflict"}}'
              UNION ALL SELECT 6, '{"stage":"merge_failure","claim":null,"kind":{"kind":"gate_failed"}}'
              UNION ALL SELECT 7, '{"stage":"merge_failure_final","claim":null,"started":true}'
              UNION ALL SELECT 8, '{"stage":"merge_failure_final","claim":null,"started":false}'
              UNION ALL SELECT 9, '{"stage":"done"}'
              UNION ALL SELECT 10, '{"stage":"abandoned"}'
              UNION ALL SELECT 11, '{"stage":"rejected"}'
              UNION ALL SELECT 12, '{"stage":"done"}');
        INSERT INTO agent_sessions (agent, role, runtime, item, state, last_activity, created_at,
                                    updated_at)
        SELECT 'coder-2', 'coder', 'api', id, 'completed', 1, 1, 1 FROM items WHERE id <> 12;
        INSERT INTO transitions (item, to_stage, cause, origin, at) VALUES (2, '{}', 'c', '{}', 15);
        INSERT INTO decisions (item, what, why, inputs, at) VALUES
            (9, 'worktree_removed', 'it has ended', '{}', 30),
            (10, 'worktree_removed', 'it stays: the disk is full', '{}', 30),
            (40, 'deleted', 'by ann', '{"item":{"project":"demo","name":"Gone","room":"!r"}}', 30),
            (41, 'deleted', 'by ann', '{"item":{"project":"demo","name":"Tidy","room":null}}', 30),
            (41, 'worktree_removed', 'it has ended', '{}', 31);
    "#;

    #[test]
    fn a_database_with_work_in_it_is_brought_up_to_date_and_a_copy_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = Connection::open(database_path(dir.path())).unwrap();
        configure(&conn).unwrap();
        MIGRATIONS.to_version(&mut conn, 2).unwrap();
        conn.execute_batch(OF_VERSION_2).unwrap();
        drop(conn);
        let (_lock, conn) = open(dir.path()).unwrap();
        let rows = |sql: &str| -> Vec<String> {
            let mut statement = conn.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(
            rows("SELECT id || ' ' || wants FROM items WHERE wants IS NOT NULL ORDER BY id"),
            ["2 coder", "4 qa", "5 mergemaster", "7 mergemaster"]
        );
        assert_eq!(rows("SELECT id || ' ' || claim FROM items WHERE claim <> ''"), ["3 coder-1"]);
        assert_eq!(rows("SELECT id || '' FROM items WHERE due = 1"), ["1"]);
        assert_eq!(
            rows("SELECT coder || ' ' || moved_at FROM items WHERE id IN (2, 3) ORDER BY id"),
            ["coder-2 15", "coder-2 20"]
        );
        // What stayed, and what was deleted and never looked at; not what is gone, what was
        // rejected, and what nobody ever worked on.
        assert_eq!(
            rows(
                "SELECT item || ' ' || name || ' ' || coalesce(room, '-') FROM tidying ORDER BY item"
            ),
            ["10 Item 10 -", "40 Gone !r"]
        );
        let copy = Connection::open(dir.path().join("musher.db.v2")).unwrap();
        let kept: i64 = copy.query_row("SELECT count(*) FROM items", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 12, "a copy of what was there is kept");
    }

    #[test]
    fn a_database_of_a_newer_version_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let conn = Connection::open(database_path(dir.path())).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        drop(conn);
        let error = open(dir.path()).err().unwrap().to_string();
        assert!(
            error.contains("version 99") && error.contains(&format!("only {}", ALL.len())),
            "{error}"
        );
    }

    #[test]
    fn a_second_opener_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        let error = open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        open(dir.path()).unwrap();
    }
}
