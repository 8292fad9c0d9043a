//! What the board shows: the sums of each column and the top of it, without reading the rest.

use super::{COLUMNS, from_row};
use crate::model::ids::{ItemId, ProjectName};
use crate::model::item::Item;
use crate::model::stage::Column;
use crate::store::StoreError;
use rusqlite::{Connection, params};
use std::collections::HashMap;

/// What stands in one column of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// The column.
    pub column: Column,
    /// How many items.
    pub items: u64,
    /// What they have cost, in millionths of a US dollar.
    pub cost_microusd: i64,
}

/// How far an epic's items have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// All of them.
    pub items: u64,
    /// Those that are done, or archived as finished.
    pub done: u64,
    /// Those that ended otherwise.
    pub dropped: u64,
}

impl Progress {
    /// Whether there is something, and all of it is done.
    pub fn is_complete(&self) -> bool {
        self.items > 0 && self.done == self.items
    }
}

/// The sums of every column in which something stands, in board order.
pub fn tally(conn: &Connection, project: &ProjectName) -> Result<Vec<Tally>, StoreError> {
    // Two queries, each answered by an index alone.
    let mut counts = conn.prepare_cached(COUNTS)?;
    let counts: HashMap<String, u64> = counts
        .query_map([project], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut costs = conn.prepare_cached(COSTS)?;
    let costs: HashMap<String, i64> = costs
        .query_map([project], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let tally = |column: Column| {
        let items = *counts.get(column.as_str())?;
        let cost_microusd = costs.get(column.as_str()).copied().unwrap_or(0);
        Some(Tally { column, items, cost_microusd })
    };
    Ok(Column::ALL.into_iter().filter_map(tally).collect())
}

const COUNTS: &str = "SELECT col, count(*) FROM items WHERE project = ?1 GROUP BY col";
const COSTS: &str = "SELECT col, sum(cost_microusd) FROM items
     WHERE project = ?1 AND cost_microusd > 0 GROUP BY col";

/// The first items of a column, **without their bodies**: the most urgent first, then by number;
/// in the column of done items the newest first.
pub fn top(
    conn: &Connection,
    project: &ProjectName,
    column: Column,
    limit: usize,
) -> Result<Vec<Item>, StoreError> {
    let mut statement = conn.prepare_cached(&top_sql(column))?;
    let rows = statement.query_map(params![project, limit as i64], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn top_sql(column: Column) -> String {
    let light = COLUMNS.replacen("body", "'' AS body", 1);
    let order = if column == Column::Done { "updated_at DESC" } else { "priority DESC, id" };
    format!(
        "SELECT {light} FROM items WHERE project = ?1 AND col = '{}' ORDER BY {order} LIMIT ?2",
        column.as_str()
    )
}

/// What makes a row count as done.
const DONE: &str = "(stage_name = 'done'
     OR stage_name = 'archived' AND stage ->> '$.reason.why' = 'finished')";

/// How far an epic's items have come.
pub fn progress(conn: &Connection, epic: ItemId) -> Result<Progress, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT count(*), count(*) FILTER (WHERE {DONE}),
                count(*) FILTER (WHERE col IN ('archived', 'closed') AND NOT {DONE})
         FROM items WHERE epic = ?1"
    ))?;
    Ok(statement.query_row([epic], |row| {
        Ok(Progress { items: row.get(0)?, done: row.get(1)?, dropped: row.get(2)? })
    })?)
}

/// The epics that are not started, held or ended: the ones that may close by themselves.
pub fn open_epics(conn: &Connection) -> Result<Vec<ItemId>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id FROM items WHERE kind = 'epic' AND stage_name IN ('upcoming', 'backlog')",
    )?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;

    /// The board's questions must not grow with what they do not show.
    #[test]
    fn the_board_is_answered_from_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Clock::system()).unwrap();
        let plan = |sql: &str| -> String {
            store
                .read_blocking(|conn| {
                    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                    let count = statement.parameter_count();
                    let given = [&"demo" as &dyn rusqlite::ToSql, &9_i64];
                    let rows =
                        statement.query_map(&given[..count], |row| row.get::<_, String>(3))?;
                    Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?.join("; "))
                })
                .unwrap()
        };
        for sql in [COUNTS, COSTS] {
            let plan = plan(sql);
            assert!(plan.contains("USING COVERING INDEX"), "{sql}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
        for column in Column::ALL {
            let plan = plan(&top_sql(column));
            assert!(!plan.contains("TEMP B-TREE FOR ORDER BY"), "{column:?}: {plan}");
            assert!(plan.contains("USING INDEX items_"), "{column:?}: {plan}");
        }
    }
}
