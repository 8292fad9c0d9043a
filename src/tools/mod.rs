//! The tools of models: one typed definition each, for the coordinator, the CLIs and the
//! built-in agent alike.
//!
//! A tool is a function of its arguments' type; schema, check and the text of a refusal come from
//! that type. Its effects are the same calls that the commands make. There are three sorts:
//!
//! - **Reading** tools change nothing and may be called again at will.
//! - **Writing** tools change the store: effect and stored answer are one transaction under the
//!   call's id, so that a call repeated after a crash is answered and not repeated.
//! - **Acting** tools reach outside (git, gates, processes) and are not repeated blindly.
//!
//! What cannot be undone wants a person's own words (`confirm`).

mod agents;
mod args;
mod confirm;
mod items;
mod mail;
mod projects;
mod time;

use crate::llm::tools::{ToolCaller, ToolHost, ToolOutcome, ToolSpec};
use crate::model::agent::Role;
use crate::model::ids::{ProjectName, RoomKey};
use crate::model::item::{Origin, OriginKind};
use crate::project::Project;
use crate::services::Services;
use crate::store::conversation::{self, CallOwner, CallState};
use crate::store::{StoreError, Tx};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// The tools. Cloning shares them.
#[derive(Clone)]
pub struct Tools {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<Context>,
    tools: Vec<Tool>,
}

/// What tools have at hand.
struct Context {
    services: Services,
}

/// Why a tool did nothing.
#[derive(Debug)]
enum Refusal {
    /// The model's to put right, or to tell a person.
    Said(String),
    /// A person's words are wanted for this.
    Unconfirmed(String),
    /// The database's.
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Refusal::Store(error)
    }
}

/// Makes refusals of the errors of the layers below: each message is a sentence with a remedy.
macro_rules! refusal_from {
    ($($error:ty),+) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Refusal::Said(error.to_string())
            }
        }
    )+};
}

refusal_from!(
    crate::work::WorkError,
    crate::mail::MailError,
    crate::timers::TimerError,
    crate::timers::WhenError,
    crate::project::bootstrap::BootstrapError,
    crate::project::git::GitError
);

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Said(text.into()))
}

/// What a tool answers.
type Answer = Result<String, Refusal>;

/// Who has a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The coordinator.
    Coordinator,
    /// The coordinator, and leads among the agents.
    Planners,
    /// Agents.
    Agents,
    /// All.
    Everybody,
}

impl Who {
    fn includes(self, caller: &ToolCaller) -> bool {
        match (self, caller) {
            (Who::Everybody, _)
            | (Who::Coordinator | Who::Planners, ToolCaller::Coordinator { .. })
            | (Who::Agents, ToolCaller::Agent { .. }) => true,
            (Who::Planners, ToolCaller::Agent { role, .. }) => *role == Role::Lead,
            (Who::Coordinator, ToolCaller::Agent { .. })
            | (Who::Agents, ToolCaller::Coordinator { .. }) => false,
        }
    }
}

type Read = dyn Fn(&Context, &Connection, &ToolCaller, Value) -> Answer + Send + Sync;
type Write = dyn Fn(&Context, &Tx<'_>, &ToolCaller, Value) -> Answer + Send + Sync;
/// Asked outside before a tool that writes; its refusal is the tool's.
type Before = fn(Arc<Context>, &Value) -> BoxFuture<'static, Result<(), Refusal>>;
type Act = dyn Fn(Arc<Context>, ToolCaller, Value) -> BoxFuture<'static, Answer> + Send + Sync;

/// What a tool does.
enum Work {
    Read(Arc<Read>),
    Write(Arc<Write>),
    Act(Arc<Act>),
}

/// A tool's definition.
struct Tool {
    name: &'static str,
    who: Who,
    description: &'static str,
    schema: Value,
    before: Option<Before>,
    work: Work,
}

impl Tool {
    /// The tool, carried out only when `before` does not refuse.
    fn after(mut self, before: Before) -> Self {
        self.before = Some(before);
        self
    }
}

/// Defines a tool that only reads.
fn reading<A: DeserializeOwned + JsonSchema + 'static>(
    name: &'static str,
    who: Who,
    description: &'static str,
    run: fn(&Context, &Connection, &ToolCaller, A) -> Answer,
) -> Tool {
    let schema = args::schema::<A>();
    let known = schema.clone();
    let work = Work::Read(Arc::new(move |context, conn, caller, value| {
        run(context, conn, caller, args::parse(name, &known, value)?)
    }));
    Tool { name, who, description, schema, before: None, work }
}

/// Defines a tool that changes the store and nothing else.
fn writing<A: DeserializeOwned + JsonSchema + 'static>(
    name: &'static str,
    who: Who,
    description: &'static str,
    run: fn(&Context, &Tx<'_>, &ToolCaller, A) -> Answer,
) -> Tool {
    let schema = args::schema::<A>();
    let known = schema.clone();
    let work = Work::Write(Arc::new(move |context, tx, caller, value| {
        run(context, tx, caller, args::parse(name, &known, value)?)
    }));
    Tool { name, who, description, schema, before: None, work }
}

/// Defines a tool that reaches outside.
fn acting<A, F>(
    name: &'static str,
    who: Who,
    description: &'static str,
    run: fn(Arc<Context>, ToolCaller, A) -> F,
) -> Tool
where
    A: DeserializeOwned + JsonSchema + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let schema = args::schema::<A>();
    let known = schema.clone();
    let work =
        Work::Act(Arc::new(move |context, caller, value| match args::parse(name, &known, value) {
            Ok(parsed) => Box::pin(run(context, caller, parsed)),
            Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
        }));
    Tool { name, who, description, schema, before: None, work }
}

impl Tools {
    /// The tools over `services`.
    pub fn new(services: Services) -> Self {
        let mut tools = Vec::new();
        tools.extend(items::tools());
        tools.extend(agents::tools());
        tools.extend(mail::tools());
        tools.extend(projects::tools());
        tools.extend(time::tools());
        let context = Arc::new(Context { services });
        Self { inner: Arc::new(Inner { context, tools }) }
    }

    fn find(&self, name: &str) -> Option<&Tool> {
        self.inner.tools.iter().find(|tool| tool.name == name)
    }

    async fn run(
        &self,
        tool: &Tool,
        caller: &ToolCaller,
        call_id: &str,
        arguments: Value,
    ) -> Answer {
        let context = Arc::clone(&self.inner.context);
        let caller = caller.clone();
        let mut refusal = None;
        if let Some(before) = tool.before {
            match before(Arc::clone(&context), &arguments).await {
                Err(Refusal::Said(text)) => refusal = Some(text),
                other => other?,
            }
        }
        match &tool.work {
            Work::Read(run) => {
                let run = Arc::clone(run);
                let store = context.services.store.clone();
                store.read(move |conn| run(&context, conn, &caller, arguments)).await
            }
            Work::Write(run) => {
                let (run, name, id) =
                    (Arc::clone(run), tool.name, call_key(&caller, call_id, &arguments));
                let store = context.services.store.clone();
                store
                    .write(move |tx| {
                        let owner = owner_of(&caller);
                        if let CallState::Answered { text, .. } =
                            conversation::call_state(tx, owner, &id)?
                        {
                            return Ok(text);
                        }
                        conversation::begin_call(tx, owner, &id, name, &arguments)?;
                        let text = run(&context, tx, &caller, arguments)?;
                        // What is wrong with the call itself is said first; nothing is kept.
                        if let Some(text) = refusal {
                            return refuse(text);
                        }
                        conversation::finish_call(tx, owner, &id, &text, false)?;
                        Ok(text)
                    })
                    .await
            }
            Work::Act(run) => run(context, caller, arguments).await,
        }
    }
}

fn owner_of(caller: &ToolCaller) -> CallOwner {
    match caller {
        ToolCaller::Coordinator { chat_turn, .. } => CallOwner::Chat(*chat_turn),
        ToolCaller::Agent { turn, .. } => CallOwner::Agent(*turn),
    }
}

/// The key under which a call is stored. A CLI that is started anew within a turn counts its
/// calls from one again, so for agents the arguments are part of it.
fn call_key(caller: &ToolCaller, call_id: &str, arguments: &Value) -> String {
    match caller {
        ToolCaller::Coordinator { .. } => call_id.to_owned(),
        ToolCaller::Agent { .. } => {
            let name = arguments.to_string();
            let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes());
            format!("{call_id}/{}", hash.simple())
        }
    }
}

#[async_trait]
impl ToolHost for Tools {
    fn specs(&self, caller: &ToolCaller) -> Vec<ToolSpec> {
        let mine = self.inner.tools.iter().filter(|tool| tool.who.includes(caller));
        mine.map(|tool| ToolSpec {
            name: tool.name.to_owned(),
            description: tool.description.to_owned(),
            schema: tool.schema.clone(),
        })
        .collect()
    }

    fn is_repeatable(&self, name: &str) -> bool {
        self.find(name).is_some_and(|tool| match tool.work {
            Work::Read(_) | Work::Write(_) => true,
            Work::Act(_) => false,
        })
    }

    async fn call(
        &self,
        caller: &ToolCaller,
        call_id: &str,
        name: &str,
        arguments: Value,
    ) -> ToolOutcome {
        let Some(tool) = self.find(name).filter(|tool| tool.who.includes(caller)) else {
            let names: Vec<String> = self.specs(caller).into_iter().map(|spec| spec.name).collect();
            return ToolOutcome::error(format!(
                "There is no tool {name}. There are: {}.",
                names.join(", ")
            ));
        };
        match self.run(tool, caller, call_id, arguments).await {
            Ok(text) => ToolOutcome::ok(text),
            Err(Refusal::Said(text)) => ToolOutcome::error(text),
            Err(Refusal::Unconfirmed(what)) => {
                let (caller, text) = (caller.clone(), confirm::question(&what));
                let store = &self.inner.context.services.store;
                let kept = store.write(move |tx| confirm::remember(tx, &caller, &what)).await;
                if let Err(error) = kept {
                    tracing::error!(%error, "cannot remember what waits for a yes");
                }
                ToolOutcome::error(text)
            }
            Err(Refusal::Store(error)) => {
                tracing::error!(tool = name, %error, "a tool failed");
                ToolOutcome::error(format!(
                    "{error}. Tell the person; `doctor` looks for the cause."
                ))
            }
        }
    }
}

/// Who does what a tool does, for the logs and `why`.
fn origin(caller: &ToolCaller, tx: &Tx<'_>) -> Origin {
    let (kind, id) = match caller {
        ToolCaller::Coordinator { people, .. } => {
            let people: Vec<&str> = people.iter().map(|person| person.as_str()).collect();
            let who = if people.is_empty() { "nobody".to_owned() } else { people.join(", ") };
            (OriginKind::Bot, format!("coordinator for {who}"))
        }
        ToolCaller::Agent { agent, .. } => (OriginKind::Agent, agent.0.clone()),
    };
    Origin { kind, id, at: crate::clock::from_millis(tx.now()) }
}

/// The name under which a caller sends mail.
fn sender(caller: &ToolCaller) -> String {
    match caller {
        ToolCaller::Coordinator { .. } => crate::store::mail::COORDINATOR.to_owned(),
        ToolCaller::Agent { agent, .. } => agent.0.clone(),
    }
}

/// The room that hears about what a caller files.
fn room(caller: &ToolCaller) -> Option<RoomKey> {
    match caller {
        ToolCaller::Coordinator { session, .. } => Some(session.room.clone()),
        ToolCaller::Agent { .. } => None,
    }
}

impl Context {
    /// The project that a call is about: the one it names, or the caller's.
    fn project(&self, caller: &ToolCaller, named: Option<&str>) -> Result<Project, Refusal> {
        let name = match (named, caller) {
            (Some(name), _) => ProjectName::from(name),
            (None, ToolCaller::Coordinator { project: Some(project), .. })
            | (None, ToolCaller::Agent { project, .. }) => project.clone(),
            (None, ToolCaller::Coordinator { project: None, .. }) => {
                return refuse(format!(
                    "Which project? {} Give `project`, or use project_switch for this room.",
                    self.project_names()
                ));
            }
        };
        match self.services.projects.find(&name) {
            Some(project) => Ok(project),
            None => refuse(format!("There is no project `{name}`. {}", self.project_names())),
        }
    }

    fn project_names(&self) -> String {
        let names: Vec<String> =
            self.services.projects.list().into_iter().map(|project| project.name.0).collect();
        if names.is_empty() {
            "There is none yet: a person can say `new project NAME --host-only`.".to_owned()
        } else {
            format!("There are: {}.", names.join(", "))
        }
    }
}

/// Marks text from outside: it is data to a model, whatever it says.
fn data(text: &str) -> String {
    let inside = text.replace("</data", "‹/data").replace("<data", "‹data");
    format!("<data>\n{}\n</data>", inside.trim_end())
}

#[cfg(test)]
mod examples;
#[cfg(test)]
mod tests;
