//! Which agents a person may pin to an item: one that could never work on it would make it wait
//! for ever.

use super::WorkError;
use crate::config::{AgentConfig, Config};
use crate::model::agent::Role;
use crate::model::ids::AgentName;
use crate::model::item::Item;

/// The roles that do an item's work.
const WORKERS: [Role; 4] = [Role::Coder, Role::Lead, Role::Scout, Role::Reviewer];

/// Refuses to give `item` to an agent that could never work on it, in words that name those who
/// could.
pub fn check_pin(config: &Config, name: &AgentName, item: &Item) -> Result<(), WorkError> {
    let Some(agent) = config.agents.iter().find(|agent| agent.name == *name) else {
        return Err(WorkError::Invalid(format!("there is no agent {name}: `agents` lists them")));
    };
    let here =
        |agent: &AgentConfig| agent.projects.is_empty() || agent.projects.contains(&item.project);
    if let (Some(parent), Role::Lead) = (item.parent, agent.role) {
        return Err(WorkError::Refused(format!(
            "item {} is a child of item {parent}, and a part is not split again: name a coder",
            item.id
        )));
    }
    let works = WORKERS.contains(&agent.role);
    if works && here(agent) {
        return Ok(());
    }
    let others: Vec<&str> = config
        .agents
        .iter()
        .filter(|agent| WORKERS.contains(&agent.role) && here(agent))
        .map(|agent| agent.name.as_str())
        .collect();
    let others = match others.as_slice() {
        [] => format!("no agent is configured that could work in {}", item.project),
        names => format!("these could: {}", names.join(", ")),
    };
    let why = if agent.role == Role::Mergemaster {
        // Pinned, it would be asked to code as soon as the item goes back to its coder.
        format!("failed merges go to the mergemaster {name} by themselves, and nothing else does")
    } else if works {
        format!("the agent {name} does not work in project {}", item.project)
    } else {
        let role = agent.role.as_str();
        format!("the agent {name} has the role {role}, which is not for an item's own work")
    };
    Err(WorkError::Refused(format!("{why}; {others}")))
}
