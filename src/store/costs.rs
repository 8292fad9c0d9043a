//! Money and tokens: one row a model call or turn, and sums over them.

use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::ids::{ItemId, ProjectName};
use crate::model::llm::Usage;
use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
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

/// Which costs are summed: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Span {
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
    /// On this item.
    pub item: Option<ItemId>,
    /// In this project.
    pub project: Option<ProjectName>,
}

impl Span {
    /// Everything since a moment.
    pub fn since(from: DateTime<Utc>) -> Self {
        Self { from: Some(from), ..Self::default() }
    }

    /// Everything on an item.
    pub fn of_item(item: ItemId) -> Self {
        Self { item: Some(item), ..Self::default() }
    }

    /// Only the conditions that are given, so that the planner sees which index fits; the others'
    /// parameters are named all the same, because they are bound by number.
    fn condition(&self) -> String {
        let given = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
        format!(
            "{} AND {} AND {} AND {}",
            given(self.from.is_some(), "at >= ?1", "?1 IS NULL"),
            given(self.to.is_some(), "at < ?2", "?2 IS NULL"),
            given(self.item.is_some(), "item = ?3", "?3 IS NULL"),
            given(self.project.is_some(), "project = ?4", "?4 IS NULL"),
        )
    }

    fn params(&self) -> [Box<dyn rusqlite::ToSql>; 4] {
        [
            Box::new(self.from.map(|at| at.timestamp_millis())),
            Box::new(self.to.map(|at| at.timestamp_millis())),
            Box::new(self.item),
            Box::new(self.project.clone()),
        ]
    }
}

/// What was spent in a span, by everybody.
pub fn sum(conn: &Connection, span: &Span) -> Result<Spent, StoreError> {
    let sql = format!("SELECT {SUMS} FROM costs WHERE {}", span.condition());
    let params = rusqlite::params_from_iter(span.params());
    Ok(conn.prepare_cached(&sql)?.query_row(params, |row| spent(row, 0))?)
}

/// What was spent since a moment, by everybody.
pub fn since(conn: &Connection, from: DateTime<Utc>) -> Result<Spent, StoreError> {
    sum(conn, &Span::since(from))
}

/// What was spent in a span, summed by something, dearest first.
///
/// The key is the item's number, the name, the project or the model; empty where there is none.
pub fn grouped(conn: &Connection, span: &Span, by: By) -> Result<Vec<(String, Spent)>, StoreError> {
    let key = match by {
        By::Item => "coalesce(CAST(item AS TEXT), '')",
        By::Name => "CASE source WHEN 'coordinator' THEN 'coordinator' ELSE name END",
        By::Project => "coalesce(project, '')",
        By::Model => "model",
    };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {key}, {SUMS} FROM costs WHERE {} GROUP BY 1
         ORDER BY sum(microusd) DESC, sum(input + output) DESC, 1",
        span.condition()
    ))?;
    let rows = statement.query_map(rusqlite::params_from_iter(span.params()), |row| {
        Ok((row.get::<_, String>(0)?, spent(row, 1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What was spent in a span, by the days of `zone`, oldest first; days without any are left out.
pub fn by_day(
    conn: &Connection,
    span: &Span,
    zone: Tz,
) -> Result<Vec<(NaiveDate, Spent)>, StoreError> {
    // Zones differ by quarters of an hour, so a quarter of an hour belongs to one day.
    let mut statement = conn.prepare_cached(&format!(
        "SELECT at / 900000, {SUMS} FROM costs WHERE {} GROUP BY 1 ORDER BY 1",
        span.condition()
    ))?;
    let rows = statement.query_map(rusqlite::params_from_iter(span.params()), |row| {
        let begin = from_millis(row.get::<_, i64>(0)? * 900_000);
        Ok((begin.with_timezone(&zone).date_naive(), spent(row, 1)?))
    })?;
    let mut days: Vec<(NaiveDate, Spent)> = vec![];
    for row in rows {
        let (date, more) = row?;
        match days.last_mut() {
            Some((last, sum)) if *last == date => {
                sum.usage += more.usage;
                sum.microusd += more.microusd;
            }
            Some(_) | None => days.push((date, more)),
        }
    }
    Ok(days)
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
                let names = grouped(conn, &Span::default(), By::Name)?;
                let names: Vec<_> =
                    names.iter().map(|(name, spent)| (name.as_str(), spent.microusd)).collect();
                assert_eq!(names, [("coder-1", 400), ("coordinator", 50)]);
                let later = Span::since(Utc::now() + chrono::TimeDelta::hours(1));
                assert_eq!(grouped(conn, &later, By::Model)?, []);
                let one = Span::of_item(ItemId(1));
                let models = grouped(conn, &one, By::Model)?;
                assert_eq!((models.len(), models[0].1.microusd), (1, 300));
                let project = |name: &str| Span { project: Some(name.into()), ..Span::default() };
                assert_eq!(sum(conn, &project("demo"))?.microusd, 450);
                assert_eq!(sum(conn, &project("other"))?.microusd, 0);
                let before = Span { to: Some(DateTime::UNIX_EPOCH), ..Span::default() };
                assert_eq!(sum(conn, &before)?, Spent::default());
                Ok::<(), StoreError>(())
            })
            .unwrap();
    }
}
