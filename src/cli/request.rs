//! What the command line asks for: typed, and the same over the socket and in one process.

use super::args::MoveAction;
use super::failure::Failure;
use crate::mail::{NewMail, Reply};
use crate::model::ids::{AgentName, ItemId, MailId, ProjectName};
use crate::model::item::{Kind, QaMode};
use crate::store::mail::Filter;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A call, as one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Names the call, so that repeating it after a lost answer has no second effect.
    pub key: Option<String>,
    /// What is asked for.
    pub call: Call,
}

/// The answer, as one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The result, as `--json` prints it.
    Ok(Value),
    /// Why there is none.
    Error(Failure),
}

impl Response {
    /// As a result.
    pub fn into_result(self) -> Result<Value, Failure> {
        match self {
            Response::Ok(value) => Ok(value),
            Response::Error(failure) => Err(failure),
        }
    }
}

impl From<Result<Value, Failure>> for Response {
    fn from(result: Result<Value, Failure>) -> Self {
        match result {
            Ok(value) => Response::Ok(value),
            Err(failure) => Response::Error(failure),
        }
    }
}

/// An item to be filed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewItem {
    /// One line.
    pub name: String,
    /// Where; `None`: the only project.
    pub project: Option<ProjectName>,
    /// What sort.
    pub kind: Kind,
    /// Markdown.
    pub body: String,
    /// What must be finished first.
    pub depends_on: Vec<ItemId>,
    /// Its epic.
    pub epic: Option<ItemId>,
    /// Who decides that the work is good; `None`: as its project says.
    pub qa: Option<QaMode>,
    /// The only agent that may work on it.
    pub pinned: Option<AgentName>,
}

/// What happens to an item that is moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Move {
    /// Where to.
    pub action: MoveAction,
    /// Why.
    pub reason: String,
    /// The item that replaces it.
    pub replaced_by: Option<ItemId>,
}

/// Fields of an item that are to change; what is `None` stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Fields {
    /// Its name.
    pub name: Option<String>,
    /// Its text.
    pub body: Option<String>,
    /// All that it depends on.
    pub depends_on: Option<Vec<ItemId>>,
    /// Its epic.
    pub epic: Option<Assigned<ItemId>>,
    /// The only agent that may work on it.
    pub agent: Option<Assigned<AgentName>>,
    /// Who decides that the work is good.
    pub qa: Option<QaMode>,
    /// Order of starting and merging.
    pub priority: Option<i64>,
}

/// What a field that may be empty is set to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assigned<T> {
    /// To nothing.
    None,
    /// To this.
    To(T),
}

impl<T> Assigned<T> {
    /// As the optional value of the field.
    pub fn into_option(self) -> Option<T> {
        match self {
            Assigned::None => None,
            Assigned::To(value) => Some(value),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// `mail send`
    MailSend {
        /// The message; an empty sender is the first administrator.
        mail: NewMail,
    },
    /// `mail check`: reads; [`Call::MailRead`] follows when it was printed.
    MailCheck {
        /// Whose.
        agent: String,
    },
    /// What `mail check` printed, and its reader has now seen.
    MailSeen {
        /// Which.
        ids: Vec<MailId>,
    },
    /// `mail reply`
    MailReply {
        /// The answer; an empty sender is the first administrator.
        reply: Reply,
    },
    /// `mail list`
    MailList {
        /// Which.
        filter: Filter,
    },
    /// `mail read`
    MailRead {
        /// Which.
        id: MailId,
        /// Who reads; marks it read when it is theirs.
        reader: Option<String>,
    },
    /// `mail purge`
    MailPurge {
        /// Older than so many days.
        days: u32,
    },
    /// `report-done`
    ReportDone {
        /// The report, as the mail that carries it.
        mail: NewMail,
    },
    /// `status [N]`
    Status {
        /// Only this one.
        item: Option<ItemId>,
        /// Only those of this project.
        project: Option<ProjectName>,
    },
    /// `items show N`
    ItemShow {
        /// Which.
        item: ItemId,
    },
    /// `items create`
    ItemCreate {
        /// What is filed.
        item: NewItem,
        /// Who files it: an agent; `None` is the person at the terminal.
        agent: Option<AgentName>,
    },
    /// `items update N`
    ItemUpdate {
        /// Which.
        item: ItemId,
        /// The version that the caller has seen.
        version: Option<i64>,
        /// What is changed.
        fields: Fields,
        /// Who changes it: an agent; `None` is the person at the terminal.
        by: Option<AgentName>,
    },
    /// `items move N ACTION`
    ItemMove {
        /// Which.
        item: ItemId,
        /// What happens to it.
        step: Move,
        /// The version that the caller has seen.
        version: Option<i64>,
        /// Who moves it: an agent; `None` is the person at the terminal.
        by: Option<AgentName>,
    },
    /// `items start N`
    ItemStart {
        /// Which.
        item: ItemId,
        /// Who works on it.
        agent: Option<AgentName>,
        /// Who starts it: an agent; `None` is the person at the terminal.
        #[serde(default)]
        by: Option<AgentName>,
    },
    /// `agents`
    Agents,
    /// `logs N`
    Logs {
        /// The item.
        item: ItemId,
        /// How many.
        count: usize,
        /// Only those after this one, oldest first; `None`: the newest.
        #[serde(default)]
        after: Option<i64>,
    },
    /// `replay N`
    Replay {
        /// The item.
        item: ItemId,
    },
    /// `nudge AGENT`
    Nudge {
        /// Whom.
        agent: AgentName,
        /// Who pokes; empty: the person at the terminal.
        from: String,
        /// What; blank: to look at its mail.
        text: String,
        /// Whether it comes before others and waits longer.
        urgent: bool,
    },
    /// `cost`
    Cost {
        /// Only this item.
        #[serde(default)]
        item: Option<ItemId>,
        /// Over how many days.
        days: u32,
    },
    /// `export`
    Export,
    /// `mcp`: the tools of an agent. Only a server answers.
    Tools {
        /// The agent.
        agent: AgentName,
    },
    /// `mcp`: one call of a tool. Only a server answers.
    Tool {
        /// The agent.
        agent: AgentName,
        /// Names the call.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
}
