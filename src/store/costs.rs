//! Money and tokens: one row a model call or turn, and sums over them.

use super::{StoreError, Tx};
use crate::model::ids::{ItemId, ProjectName};
use crate::model::llm::Usage;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};

/// Who spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The coordinator, in a chat session.
    Coordinator,
    /// An agent, in a turn.
    Agent,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Source::Coordinator => "coordinator",
            Source::Agent => "agent",
        }
    }
}

/// What a model call or a turn cost.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Who spent.
    pub source: Source,
    /// The chat session or the agent's name.
    pub name: String,
    /// The model.
    pub model: String,
    /// The item, if any.
    pub item: Option<ItemId>,
    /// The project, if any.
    pub project: Option<ProjectName>,
    /// Tokens.
    pub usage: Usage,
    /// Money, in millionths of a US dollar; 0 where it is not known.
    pub microusd: i64,
}

/// A sum of costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Tokens.
    pub usage: Usage,
    /// Money, in millionths of a US dollar.
    pub microusd: i64,
}

impl Spent {
    /// All tokens, in and out, cached ones included.
    pub fn tokens(&self) -> u64 {
        self.usage.input + self.usage.cached + self.usage.output
    }
}

/// By what costs are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Each item.
    Item,
    /// Each agent, and the coordinator's sessions.
    Name,
    /// Each project.
    Project,
    /// Each model.
    Model,
}

const SUMS: &str = "coalesce(sum(input), 0), coalesce(sum(cached), 0), coalesce(sum(output), 0), \
                    coalesce(sum(microusd), 0)";

fn spent(row: &Row<'_>, first: usize) -> rusqlite::Result<Spent> {
    let tokens =
        |column: usize| row.get::<_, i64>(first + column).map(|count| count.max(0).cast_unsigned());
    Ok(Spent {
        usage: Usage { input: tokens(0)?, cached: tokens(1)?, output: tokens(2)? },
        microusd: row.get(first + 3)?,
    })
}

/// Records a cost, and adds it to its item. Nothing when it is nothing.
pub fn record(tx: &Tx<'_>, cost: &Cost) -> Result<(), StoreError> {
    if cost.usage == Usage::default() && cost.microusd == 0 {
        return Ok(());
    }
    tx.prepare_cached(
        "INSERT INTO costs (source, name, model, item, project, input, cached, output, microusd, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        cost.source.as_str(),
        cost.name,
        cost.model,
        cost.item,
        cost.project,
        cost.usage.input.cast_signed(),
        cost.usage.cached.cast_signed(),
        cost.usage.output.cast_signed(),
        cost.microusd,
        tx.now()
    ])?;
    if let Some(item) = cost.item {
        tx.prepare_cached("UPDATE items SET cost_microusd = cost_microusd + ?2 WHERE id = ?1")?
            .execute(params![item, cost.microusd])?;
    }
    Ok(())
}

/// What was spent on an item, by everybody.
pub fn of_item(conn: &Connection, item: ItemId) -> Result<Spent, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {SUMS} FROM costs WHERE item = ?1"))?;
    Ok(statement.query_row([item], |row| spent(row, 0))?)
}

/// What one agent, or one chat session, spent on an item.
pub fn of_name_on_item(conn: &Connection, name: &str, item: ItemId) -> Result<Spent, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {SUMS} FROM costs WHERE item = ?1 AND name = ?2"))?;
    Ok(statement.query_row(params![item, name], |row| spent(row, 0))?)
}

/// What was spent since a moment, by everybody.
pub fn since(conn: &Connection, from: DateTime<Utc>) -> Result<Spent, StoreError> {
    let mut statement = conn.prepare_cached(&format!("SELECT {SUMS} FROM costs WHERE at >= ?1"))?;
    Ok(statement.query_row([from.timestamp_millis()], |row| spent(row, 0))?)
}

/// What was spent since a moment, summed by something, dearest first.
///
/// The key is the item's number, the name, the project or the model; empty where there is none.
pub fn grouped_since(
    conn: &Connection,
    from: DateTime<Utc>,
    by: By,
) -> Result<Vec<(String, Spent)>, StoreError> {
    let key = match by {
        By::Item => "coalesce(CAST(item AS TEXT), '')",
        By::Name => "CASE source WHEN 'coordinator' THEN 'coordinator' ELSE name END",
        By::Project => "coalesce(project, '')",
        By::Model => "model",
    };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {key}, {SUMS} FROM costs WHERE at >= ?1 GROUP BY 1
         ORDER BY sum(microusd) DESC, sum(input + output) DESC, 1"
    ))?;
    let rows = statement.query_map([from.timestamp_millis()], |row| {
        Ok((row.get::<_, String>(0)?, spent(row, 1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;

    #[test]
    fn costs_are_summed_by_item_name_project_and_model() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Clock::system()).unwrap();
        let cost = |source, name: &str, item: Option<i64>, microusd| Cost {
            source,
            name: name.to_owned(),
            model: "m".to_owned(),
            item: item.map(ItemId),
            project: Some("demo".into()),
            usage: Usage { input: 10, cached: 5, output: 1 },
            microusd,
        };
        store
            .write_blocking(move |tx| {
                record(tx, &cost(Source::Agent, "coder-1", Some(1), 300))?;
                record(tx, &cost(Source::Agent, "coder-1", Some(2), 100))?;
                record(tx, &cost(Source::Coordinator, "!room", None, 50))?;
                let nothing = Cost { usage: Usage::default(), ..cost(Source::Agent, "x", None, 0) };
                record(tx, &nothing)
            })
            .unwrap();
        store
            .read_blocking(|conn| {
                assert_eq!(of_item(conn, ItemId(1))?.microusd, 300);
                assert_eq!(of_name_on_item(conn, "coder-1", ItemId(2))?.tokens(), 16);
                assert_eq!(since(conn, DateTime::UNIX_EPOCH)?.microusd, 450);
                let names = grouped_since(conn, DateTime::UNIX_EPOCH, By::Name)?;
                let names: Vec<_> =
                    names.iter().map(|(name, spent)| (name.as_str(), spent.microusd)).collect();
                assert_eq!(names, [("coder-1", 400), ("coordinator", 50)]);
                assert_eq!(grouped_since(conn, Utc::now(), By::Model)?, []);
                Ok::<(), StoreError>(())
            })
            .unwrap();
    }
}
