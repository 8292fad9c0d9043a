//! Projects: from the configuration, and from `new project`.

use super::types::Json;
use super::{StoreError, Tx};
use crate::config::ProjectConfig;
use crate::model::ids::{ProjectName, RoomKey};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// Where a project came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `musher.toml`: its settings there win over the row.
    Config,
    /// `new project`: the row is all there is.
    Chat,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Source::Config => "config",
            Source::Chat => "chat",
        }
    }
}

/// A project's row.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectRow {
    /// Its settings.
    pub settings: ProjectConfig,
    /// Where it came from.
    pub source: Source,
    /// Whether nothing new is started in it.
    pub paused: bool,
}

const COLUMNS: &str = "settings, source, paused";

fn from_row(row: &Row<'_>) -> rusqlite::Result<ProjectRow> {
    Ok(ProjectRow {
        settings: row.get::<_, Json<ProjectConfig>>(0)?.0,
        source: if row.get::<_, String>(1)? == "chat" { Source::Chat } else { Source::Config },
        paused: row.get(2)?,
    })
}

/// Writes a project of the configuration; whether it is paused is kept.
pub fn upsert_configured(tx: &Tx<'_>, settings: &ProjectConfig) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO projects (name, path, base, settings, source, created_at)
         VALUES (?1, ?2, ?3, ?4, 'config', ?5)
         ON CONFLICT (name) DO UPDATE SET path = excluded.path, base = excluded.base,
             settings = excluded.settings, source = excluded.source",
    )?
    .execute(params![
        settings.name,
        settings.path.to_string_lossy(),
        settings.base,
        Json(settings),
        tx.now()
    ])?;
    Ok(())
}

/// Writes a new project; false when the name is taken.
pub fn insert(tx: &Tx<'_>, settings: &ProjectConfig, source: Source) -> Result<bool, StoreError> {
    let inserted = tx
        .prepare_cached(
            "INSERT INTO projects (name, path, base, settings, source, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING",
        )?
        .execute(params![
            settings.name,
            settings.path.to_string_lossy(),
            settings.base,
            Json(settings),
            source.as_str(),
            tx.now()
        ])?;
    Ok(inserted == 1)
}

/// One project.
pub fn find(conn: &Connection, name: &ProjectName) -> Result<Option<ProjectRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM projects WHERE name = ?1");
    Ok(conn.prepare_cached(&sql)?.query_row([name], from_row).optional()?)
}

/// All rows, by name; those of the configuration may be of an earlier one.
pub fn list(conn: &Connection) -> Result<Vec<ProjectRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM projects ORDER BY name");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Pauses a project or lets it go on; false when there is none of that name.
pub fn set_paused(tx: &Tx<'_>, name: &ProjectName, paused: bool) -> Result<bool, StoreError> {
    let mut statement = tx.prepare_cached("UPDATE projects SET paused = ?2 WHERE name = ?1")?;
    Ok(statement.execute(params![name, paused])? == 1)
}

/// Takes a project out of the books; its files are left alone. False when there was none.
pub fn remove(tx: &Tx<'_>, name: &ProjectName) -> Result<bool, StoreError> {
    Ok(tx.prepare_cached("DELETE FROM projects WHERE name = ?1")?.execute([name])? == 1)
}

/// The project that a room was switched to, if any.
pub fn switched_to(conn: &Connection, room: &RoomKey) -> Result<Option<ProjectName>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT project FROM rooms WHERE room = ?1")?;
    Ok(statement.query_row([room], |row| row.get(0)).optional()?.flatten())
}

/// A `new project` that was begun: what a restart after a crash finishes or undoes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// Its name.
    pub name: ProjectName,
    /// Where it is put together, beside its place.
    pub partial: std::path::PathBuf,
    /// Set when it is complete and about to be moved to its place.
    pub settings: Option<ProjectConfig>,
}

fn begun_key(name: &ProjectName) -> String {
    format!("new_project:{name}")
}

/// Notes that a project is being made; false when it exists or somebody else makes it.
pub fn begin(tx: &Tx<'_>, begun: &Begun) -> Result<bool, StoreError> {
    if find(tx, &begun.name)?.is_some() {
        return Ok(false);
    }
    let mut statement =
        tx.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    Ok(statement.execute(params![begun_key(&begun.name), Json(begun)])? == 1)
}

/// Notes how far the making of a project has come.
pub fn note_begun(tx: &Tx<'_>, begun: &Begun) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")?
        .execute(params![begun_key(&begun.name), Json(begun)])?;
    Ok(())
}

/// Forgets that a project was being made.
pub fn end_begun(tx: &Tx<'_>, name: &ProjectName) -> Result<(), StoreError> {
    super::meta::remove(tx, &begun_key(name)).map(drop)
}

/// The projects whose making was cut off by a crash.
pub fn list_begun(conn: &Connection) -> Result<Vec<Begun>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT value FROM meta WHERE key LIKE 'new\\_project:%' ESCAPE '\\'")?;
    let rows = statement.query_map([], |row| Ok(row.get::<_, Json<Begun>>(0)?.0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
