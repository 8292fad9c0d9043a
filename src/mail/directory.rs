//! Who has an address, and who is in which group.

use super::MailError;
use crate::config::{CONSOLE_PERSON, Config, nearest};
use crate::model::agent::Role;
use crate::model::ids::ProjectName;
use crate::store::mail::{self as rows, COORDINATOR, MUSHER};
use crate::store::{StoreError, Tx};

/// The addresses of an installation. Projects made in the chat are looked up in the database.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    agents: Vec<Entry>,
    /// Exact ids and `*:server` patterns.
    people: Vec<String>,
    projects: Vec<ProjectName>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    role: Role,
    /// Empty: works in every project.
    projects: Vec<ProjectName>,
}

impl Directory {
    /// Reads the addresses out of the configuration.
    pub fn new(config: &Config) -> Self {
        let agents = config.agents.iter().map(|agent| Entry {
            name: agent.name.0.clone(),
            role: agent.role,
            projects: agent.projects.clone(),
        });
        let matrix = config.matrix.as_ref();
        Self {
            agents: agents.collect(),
            people: matrix.map(|matrix| matrix.allowed_users.clone()).unwrap_or_default(),
            projects: config.projects.iter().map(|project| project.name.clone()).collect(),
        }
    }

    /// The role of a configured agent.
    pub fn role_of(&self, agent: &str) -> Option<Role> {
        self.agents.iter().find(|entry| entry.name == agent).map(|entry| entry.role)
    }

    /// The recipients of mail from `from` to `to`: one, or those of a group without the sender.
    pub(super) fn resolve(
        &self,
        tx: &Tx<'_>,
        from: &str,
        to: &str,
    ) -> Result<Vec<String>, MailError> {
        if let Some(group) = self.group(tx, to)? {
            let others: Vec<String> =
                group.into_iter().filter(|name| *name != from).map(str::to_owned).collect();
            if others.is_empty() {
                return Err(MailError::EmptyGroup(to.to_owned()));
            }
            return Ok(others);
        }
        let known = to == COORDINATOR
            || to == MUSHER
            || self.agents.iter().any(|agent| agent.name == to)
            || self.is_person(to);
        if known { Ok(vec![to.to_owned()]) } else { Err(self.unknown(to)) }
    }

    /// The members of a group, the coordinator not among them; `None` when `to` is no group.
    fn group(&self, tx: &Tx<'_>, to: &str) -> Result<Option<Vec<&str>>, MailError> {
        let with = |wanted: &dyn Fn(&Entry) -> bool| {
            Some(
                self.agents.iter().filter(|agent| wanted(agent)).map(|a| a.name.as_str()).collect(),
            )
        };
        Ok(match to {
            "@all" => with(&|_agent| true),
            "@coders" => with(&|agent| agent.role == Role::Coder),
            "@qa" => with(&|agent| agent.role == Role::Qa),
            "@mergers" => with(&|agent| agent.role == Role::Mergemaster),
            other => match other.strip_prefix("@project:") {
                Some(name) => {
                    let project = ProjectName::from(name);
                    if !self.has_project(tx, &project)? {
                        return Err(MailError::Invalid(format!(
                            "there is no project `{name}`; `projects` lists them"
                        )));
                    }
                    with(&|agent| agent.projects.is_empty() || agent.projects.contains(&project))
                }
                None => None,
            },
        })
    }

    fn has_project(&self, tx: &Tx<'_>, name: &ProjectName) -> Result<bool, StoreError> {
        Ok(self.projects.contains(name) || rows::project_exists(tx, name)?)
    }

    fn is_person(&self, name: &str) -> bool {
        let Some((_, server)) = name.strip_prefix('@').and_then(|rest| rest.split_once(':')) else {
            return false;
        };
        name == CONSOLE_PERSON
            || self.people.iter().any(|allowed| match allowed.strip_prefix("*:") {
                Some(pattern) => pattern == server,
                None => allowed == name,
            })
    }

    fn unknown(&self, name: &str) -> MailError {
        let groups = ["@all", "@coders", "@qa", "@mergers", COORDINATOR];
        let known = self.agents.iter().map(|agent| agent.name.as_str()).chain(groups);
        let hint = nearest(name, known)
            .map_or_else(String::new, |other| format!(", did you mean `{other}`?"));
        MailError::UnknownRecipient { name: name.to_owned(), hint }
    }
}
