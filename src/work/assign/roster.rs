//! Who is busy, what holds starts back, and in which words.

use crate::clock::from_millis;
use crate::config::{AgentConfig, Config, ProjectConfig};
use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId, ProjectName};
use crate::store::agents as sessions;
use crate::store::decisions::{self, What};
use crate::store::items::{self, Waiting};
use crate::store::pauses::{self, Scope};
use crate::store::{Tx, meta};
use crate::work::{WorkError, lead, queue};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The span of the start rate limit, in milliseconds.
const MINUTE_MS: i64 = 60_000;

/// Why an item gets no agent now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hold {
    /// The sort of reason: while it stays the same, it is one decision.
    pub kind: &'static str,
    /// In words, to follow the item's name.
    pub why: String,
    /// What it was decided from.
    pub inputs: Value,
}

/// Why an agent cannot take an item now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WhyNot {
    /// In words.
    pub words: String,
    /// It is at work, and will be free one day by itself.
    pub is_busy: bool,
}

/// Who is busy with what, and what holds starts back.
pub(super) struct Roster<'c> {
    /// The agents that there are.
    pub config: &'c Config,
    /// The time of the pass.
    pub now: DateTime<Utc>,
    /// Agents that cannot start now.
    unfree: HashMap<AgentName, WhyNot>,
    /// How many agents count against the limit of all.
    at_work: usize,
    /// How many of them are in each project.
    in_project: HashMap<ProjectName, usize>,
    /// Items with a live session.
    live: HashMap<ItemId, AgentName>,
    /// Projects as they were looked up.
    projects: HashMap<ProjectName, Result<ProjectConfig, Hold>>,
    /// What keeps everybody from starting, whatever the item.
    everybody: Option<Hold>,
    /// How many were started in the last minute.
    starts: u32,
}

impl<'c> Roster<'c> {
    /// Reads who is busy.
    pub(super) fn read(tx: &Tx<'_>, config: &'c Config) -> Result<Self, WorkError> {
        let mut roster = Self {
            config,
            now: from_millis(tx.now()),
            unfree: HashMap::new(),
            at_work: 0,
            in_project: HashMap::new(),
            live: HashMap::new(),
            projects: HashMap::new(),
            everybody: None,
            starts: decisions::count_since(tx, What::Started, tx.now() - MINUTE_MS)?,
        };
        let mut live = HashMap::new();
        for session in sessions::live_sessions(tx)? {
            roster.live.insert(session.item, session.agent.clone());
            live.insert(session.agent.clone(), session);
        }
        for item in items::claimed(tx)? {
            let Some(agent) = item.stage.claim().cloned() else { continue };
            let session = live.remove(&agent);
            let parked = session.as_ref().is_some_and(lead::rests);
            let since = match session {
                Some(session) => Some(session.created_at),
                None => sessions::newest_session_of(tx, &agent)?.map(|newest| newest.created_at),
            };
            roster.busy(agent, item.id, since);
            // Who waits for the items that it handed out must not take their place.
            if !parked {
                roster.count(&item.project);
            }
        }
        // Sessions that still end, of items that somebody else or nobody holds.
        for (agent, session) in live {
            if let Some(item) = items::find(tx, session.item)? {
                roster.count(&item.project);
            } else {
                roster.at_work += 1;
            }
            roster.busy(agent, session.item, Some(session.created_at));
        }
        for agent in &config.agents {
            let scope = Scope::Runtime(agent.runtime, agent.command.clone());
            if let Some(pause) = pauses::find(tx, &scope)?
                && !roster.unfree.contains_key(&agent.name)
            {
                let words = format!("{} is paused ({})", agent.name, pause.reason);
                roster.unfree.insert(agent.name.clone(), WhyNot { words, is_busy: false });
            }
        }
        roster.everybody = held_for_all(tx)?;
        Ok(roster)
    }

    fn busy(&mut self, agent: AgentName, item: ItemId, since: Option<DateTime<Utc>>) {
        let since = since.map(|since| format!(" since {}", since.format("%H:%M")));
        let words = format!("{agent} is on {item}{}", since.unwrap_or_default());
        self.unfree.insert(agent, WhyNot { words, is_busy: true });
    }

    fn count(&mut self, project: &ProjectName) {
        self.at_work += 1;
        *self.in_project.entry(project.clone()).or_default() += 1;
    }

    /// Notes that an agent was given an item.
    pub(super) fn take(&mut self, agent: &AgentName, item: ItemId, project: &ProjectName) {
        self.busy(agent.clone(), item, Some(self.now));
        self.count(project);
        self.live.insert(item, agent.clone());
        self.starts += 1;
    }

    /// Whether no agent that could do the work of `wants` may start in this pass any more.
    pub(super) fn nobody_is_left(&self, wants: Role) -> bool {
        let could = |agent: &AgentConfig| match wants {
            // Whom a person pins to an item that is coded may have one of these.
            Role::Coder => {
                matches!(agent.role, Role::Coder | Role::Lead | Role::Scout | Role::Reviewer)
            }
            Role::Qa | Role::Mergemaster | Role::Lead | Role::Scout | Role::Reviewer => {
                agent.role == wants
            }
        };
        self.full().is_some()
            || !self
                .config
                .agents
                .iter()
                .any(|agent| could(agent) && !self.unfree.contains_key(&agent.name))
    }

    /// What keeps `agent` from an item now; `None`: it is free.
    pub(super) fn why_not(&self, agent: &AgentConfig) -> Option<&WhyNot> {
        self.unfree.get(&agent.name)
    }

    /// The item's agent of before, while it has not ended.
    pub(super) fn still_ends(&self, item: ItemId) -> Option<Hold> {
        let agent = self.live.get(&item)?;
        Some(Hold {
            kind: "ending",
            why: format!("waits until {agent}, which worked on it before, has ended"),
            inputs: json!({"agent": agent}),
        })
    }

    /// The project, if another agent may start in it.
    pub(super) fn room_in(
        &mut self,
        tx: &Tx<'_>,
        name: &ProjectName,
    ) -> Result<Result<ProjectConfig, Hold>, WorkError> {
        if let Some(hold) = self.full() {
            return Ok(Err(hold));
        }
        let project = match self.projects.entry(name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(look_up(tx, name)?),
        };
        let project = match project {
            Ok(project) => project,
            Err(hold) => return Ok(Err(hold.clone())),
        };
        let here = self.in_project.get(name).copied().unwrap_or(0);
        if let Some(max) = project.max_agents.filter(|max| here >= *max) {
            return Ok(Err(Hold {
                kind: "project_full",
                why: format!(
                    "waits, because {here} agents are busy in {name} and its max_agents is {max}"
                ),
                inputs: json!({"busy_here": here, "max_agents": max}),
            }));
        }
        Ok(Ok(project.clone()))
    }

    /// What keeps everybody from starting.
    fn full(&self) -> Option<Hold> {
        if let Some(hold) = &self.everybody {
            return Some(hold.clone());
        }
        let (busy, limits) = (self.at_work, &self.config.limits);
        if busy >= limits.max_agents {
            let max = limits.max_agents;
            return Some(Hold {
                kind: "full",
                why: format!(
                    "waits, because {busy} agents are busy and limits.max_agents is {max}"
                ),
                inputs: json!({"busy": busy, "max_agents": max}),
            });
        }
        let (starts, max) = (self.starts, limits.max_starts_per_minute);
        (starts >= max).then(|| Hold {
            kind: "start_rate",
            why: format!(
                "waits, because {starts} agents were started in the last minute and \
                 limits.max_starts_per_minute is {max}"
            ),
            inputs: json!({"starts": starts, "max_starts_per_minute": max}),
        })
    }
}

/// The emergency stop, or a pause of the whole machine.
fn held_for_all(tx: &Tx<'_>) -> Result<Option<Hold>, WorkError> {
    if let Some(who) = meta::find(tx, meta::STOPPED_ALL)? {
        return Ok(Some(Hold {
            kind: "stopped",
            why: format!("waits, because everything is stopped (by {who}): `resume all`"),
            inputs: json!({"stopped_by": who}),
        }));
    }
    let pause = match pauses::find(tx, &Scope::Machine)? {
        Some(pause) => Some(pause),
        None => pauses::find(tx, &Scope::Pool)?,
    };
    Ok(pause.map(|pause| Hold {
        kind: "machine",
        why: format!("waits, because no agent may start now: {}", pause.reason),
        inputs: json!({"since": pause.since, "looks": pause.looks}),
    }))
}

fn look_up(tx: &Tx<'_>, name: &ProjectName) -> Result<Result<ProjectConfig, Hold>, WorkError> {
    let Some(row) = queue::project(tx, name)? else {
        return Ok(Err(Hold {
            kind: "no_project",
            why: format!("its project {name} is not registered any more"),
            inputs: json!({"project": name}),
        }));
    };
    if row.paused {
        return Ok(Err(Hold {
            kind: "project_paused",
            why: format!("waits, because project {name} is paused"),
            inputs: json!({"project": name}),
        }));
    }
    if let Some(pause) = pauses::find(tx, &Scope::Project(name.clone()))? {
        return Ok(Err(Hold {
            kind: "project_unfit",
            why: format!("waits, because nothing can be done in {name}: {}", pause.reason),
            inputs: json!({"project": name, "since": pause.since, "looks": pause.looks}),
        }));
    }
    Ok(Ok(row.settings))
}

impl Hold {
    /// Whether it never ends by itself: a person must hear of it.
    pub(super) fn wants_a_person(&self) -> bool {
        matches!(self.kind, "wrong_pin" | "nobody_configured" | "no_project")
    }

    /// Its pinned agent cannot do this work at all.
    pub(super) fn wrong_pin(row: &Waiting, pinned: &AgentName, role: Role, known: bool) -> Self {
        let why = if known {
            let role = role.as_str();
            format!("is pinned to {pinned}, which is no {role} for project {}", row.project)
        } else {
            format!(
                "is pinned to {pinned}, which is not configured: `assign {} AGENT` names another",
                row.id
            )
        };
        Self { kind: "wrong_pin", why, inputs: json!({"pinned": pinned, "role": role}) }
    }

    /// Its pinned agent cannot take it now.
    pub(super) fn pinned(why_not: &WhyNot) -> Self {
        let why = format!("is pinned, and {}", why_not.words);
        Self { kind: "pin", why, inputs: json!({"agents": [why_not.words]}) }
    }

    /// The agent that made the work is waited for.
    pub(super) fn returning(agent: &AgentName, why_not: &WhyNot, until: DateTime<Utc>) -> Self {
        let (busy, at) = (&why_not.words, until.format("%H:%M"));
        Self {
            kind: "returning",
            why: format!(
                "waits for {agent}, which worked on it before: {busy}; another may take it from \
                 {at}"
            ),
            inputs: json!({"agent": agent, "until": until, "agents": [busy]}),
        }
    }

    /// No agent of the role is free.
    pub(super) fn nobody_free(role: Role, project: &ProjectName, why_not: &[&WhyNot]) -> Self {
        let role = role.as_str();
        let words: Vec<&str> = why_not.iter().map(|why_not| why_not.words.as_str()).collect();
        let (kind, why) = if words.is_empty() {
            let why = format!("waits for a {role}, but none is configured for project {project}");
            ("nobody_configured", why)
        } else {
            ("nobody_free", format!("waits for a free {role}: {}", words.join("; ")))
        };
        Self { kind, why, inputs: json!({"role": role, "agents": words}) }
    }
}
