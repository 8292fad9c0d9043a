//! What handlers share: who asks, where, and what that means.

use super::{Caller, CommandError, Registry};
use crate::clock::from_millis;
use crate::model::ids::{AgentName, ItemId, ProjectName};
use crate::model::item::{Item, Origin, OriginKind};
use crate::project::Project;
use crate::services::Services;
use crate::store::{StoreError, Tx};
use crate::work::{self, WorkError};
use rusqlite::Connection;

/// How alike a typed name and a known one must be for a suggestion.
const ALIKE: f64 = 0.7;

/// What a handler works with.
#[derive(Clone)]
pub struct Context {
    /// The services.
    pub services: Services,
    /// The commands, for `help`.
    pub registry: std::sync::Arc<Registry>,
    /// Who asks, and where.
    pub caller: Caller,
}

/// Refuses, with a sentence.
pub fn refused<T>(text: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::Refused(text.into()))
}

impl From<WorkError> for CommandError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Store(error) => error.into(),
            WorkError::NotFound(_)
            | WorkError::Illegal(..)
            | WorkError::Conflict { .. }
            | WorkError::Invalid(_)
            | WorkError::Refused(_) => CommandError::Refused(sentence(&error.to_string())),
        }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        CommandError::Internal(error.into())
    }
}

/// A message as a sentence: it begins with a capital letter and ends with a full stop.
pub fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut letters = text.chars();
    let mut out: String =
        letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    out.push_str(letters.as_str());
    if !out.ends_with(['.', '!', '?', '`', ':']) || out.ends_with("`") && !out.ends_with("```") {
        out.push('.');
    }
    out
}

impl Context {
    /// Who causes what the command changes.
    pub fn origin(&self, now: i64) -> Result<Origin, CommandError> {
        Origin::new(OriginKind::User, self.caller.person.as_str(), from_millis(now))
            .map_err(|error| CommandError::Internal(error.into()))
    }

    /// As [`Context::origin`], at the time of a transaction.
    pub fn origin_in(&self, tx: &Tx<'_>) -> Result<Origin, CommandError> {
        self.origin(tx.now())
    }

    /// The room's project; refuses when it is not clear which that is.
    pub fn project(&self, conn: &Connection) -> Result<Project, CommandError> {
        if let Some(project) = self.find_project(conn)? {
            return Ok(project);
        }
        match self.services.projects.list().as_slice() {
            [] => refused(
                "There is no project yet. An administrator makes one with \
                 `new project NAME --host-only`, or names one in `musher.toml` \
                 and restarts me.",
            ),
            several => {
                let names: Vec<String> =
                    several.iter().map(|project| format!("`{}`", project.name)).collect();
                refused(format!(
                    "Which project do you mean? There are {}. `switch NAME` chooses one for this \
                     room.",
                    names.join(", ")
                ))
            }
        }
    }

    /// The room's project, if that is clear.
    pub fn find_project(&self, conn: &Connection) -> Result<Option<Project>, CommandError> {
        Ok(self.services.projects.current(conn, &self.caller.session.room)?)
    }

    /// The project of an item, as it is configured now.
    pub fn project_of(&self, item: &Item) -> Result<Project, CommandError> {
        match self.services.projects.find(&item.project) {
            Some(project) => Ok(project),
            None => refused(format!(
                "Item {} belongs to the project `{}`, which is not configured any more.",
                item.id, item.project
            )),
        }
    }

    /// The project called `name`; refuses with the nearest one.
    pub fn named_project(&self, name: &ProjectName) -> Result<Project, CommandError> {
        let projects = &self.services.projects;
        if let Some(project) = projects.find(name) {
            return Ok(project);
        }
        let known: Vec<String> =
            projects.list().into_iter().map(|project| project.name.0).collect();
        refused(missing("project", name.as_str(), &known, "`projects` lists them"))
    }

    /// Refuses when there is no agent called `name`.
    pub fn check_agent(&self, name: &AgentName) -> Result<(), CommandError> {
        let agents = &self.services.config.agents;
        if agents.iter().any(|agent| agent.name == *name) {
            return Ok(());
        }
        let known: Vec<String> = agents.iter().map(|agent| agent.name.0.clone()).collect();
        refused(missing("agent", name.as_str(), &known, "`agents` lists them"))
    }

    /// Refuses when no agent called `name` could ever work on the item.
    pub fn check_pin(
        &self,
        conn: &Connection,
        name: &AgentName,
        item: ItemId,
    ) -> Result<(), CommandError> {
        self.check_agent(name)?;
        let item = self.item(conn, item)?;
        Ok(work::check_pin(&self.services.config, name, &item)?)
    }

    /// Reads an item that must be there.
    pub fn item(&self, conn: &Connection, id: ItemId) -> Result<Item, CommandError> {
        Ok(work::find(conn, id)?)
    }
}

/// Says that something does not exist, and what is near to it or where to look.
fn missing(what: &str, typed: &str, known: &[String], remedy: &str) -> String {
    let typed: String = typed.replace('`', "'").chars().take(40).collect();
    let likeness = |name: &String| strsim::jaro_winkler(&typed, name);
    let nearest = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|name| likeness(name) >= ALIKE);
    match (nearest, known) {
        (Some(nearest), _) => {
            format!("There is no {what} `{typed}`. Did you mean `{nearest}`? ({remedy}.)")
        }
        (None, []) => format!("There is no {what} `{typed}`, nor any other."),
        (None, known) => {
            format!("There is no {what} `{typed}`. There are: {}.", known.join(", "))
        }
    }
}

/// Money for people; empty when it is none.
pub fn money(microusd: i64) -> String {
    match microusd {
        0 => String::new(),
        ..10_000 => "<$0.01".to_owned(),
        _ => format!("${:.2}", microusd as f64 / 1_000_000.0),
    }
}

/// The first line of a text, cut to `limit` characters.
pub fn one_line(text: &str, limit: usize) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let cut: String = line.chars().take(limit).collect();
    if cut.len() < line.len() { format!("{cut}…") } else { cut }
}

/// A text as a code block that it cannot end.
pub fn fenced(text: &str) -> String {
    format!("```\n{}\n```", text.trim_end().replace("```", "'''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_begin_large_and_end() {
        for (given, expected) in [
            ("there is no item 3", "There is no item 3."),
            ("say `start 3`", "Say `start 3`."),
            ("really?", "Really?"),
            ("failed\n```\nx\n```", "Failed\n```\nx\n```"),
        ] {
            assert_eq!(sentence(given), expected);
        }
    }

    #[test]
    fn what_is_missing_names_the_nearest_or_all() {
        let known = ["shop".to_owned(), "tools".to_owned()];
        let answer = |typed| missing("project", typed, &known, "`projects` lists them");
        assert!(answer("shoop").contains("Did you mean `shop`?"));
        assert_eq!(answer("zzz"), "There is no project `zzz`. There are: shop, tools.");
    }

    #[test]
    fn money_is_shown_in_dollars() {
        for (given, expected) in [(0, ""), (4_000, "<$0.01"), (1_234_567, "$1.23")] {
            assert_eq!(money(given), expected);
        }
    }
}
