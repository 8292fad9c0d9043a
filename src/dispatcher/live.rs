//! The dispatcher's ports, bound to the commands and the coordinator that there are.

use super::ports::{Abandoned, CommandRunner, TurnRequest, TurnRunner};
use crate::commands::{self, Caller, Command, Context, FollowUp, Names, Registry};
use crate::coordinator::{self, Coordinator, TurnInput};
use crate::model::ids::{MessageKey, SessionKey};
use crate::services::Services;
use crate::store::{Store, StoreError, Tx};
use async_trait::async_trait;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Turns by the coordinator.
pub struct CoordinatorTurns {
    /// The coordinator.
    pub coordinator: Coordinator,
    /// Where unfinished turns stand.
    pub store: Store,
}

#[async_trait]
impl TurnRunner for CoordinatorTurns {
    async fn run(&self, request: TurnRequest, cancel: CancellationToken) -> anyhow::Result<()> {
        let TurnRequest { session, batch, steer } = request;
        self.coordinator.run_turn(TurnInput { session, batch, steer }, cancel).await?;
        Ok(())
    }

    async fn unfinished(&self) -> anyhow::Result<Vec<SessionKey>> {
        Ok(self.store.read(coordinator::resume_turns).await?)
    }

    fn abandon(&self, tx: &Tx<'_>, session: &SessionKey, how: Abandoned) -> Result<(), StoreError> {
        coordinator::abandon(tx, session, how == Abandoned::Cancelled)
    }

    fn reset(&self, tx: &Tx<'_>, session: &SessionKey) -> Result<(), StoreError> {
        coordinator::reset(tx, session)
    }
}

/// Commands on the services.
pub struct ServiceCommands {
    /// What they act on.
    pub services: Services,
    /// Their pages, for `help`.
    pub registry: Arc<Registry>,
}

impl ServiceCommands {
    fn context(&self, caller: Caller) -> Context {
        let (services, registry) = (self.services.clone(), Arc::clone(&self.registry));
        Context { services, registry, caller }
    }
}

#[async_trait]
impl CommandRunner for ServiceCommands {
    async fn execute(&self, caller: Caller, command: Command) -> anyhow::Result<Option<FollowUp>> {
        commands::execute(self.context(caller), command).await
    }

    async fn react(&self, caller: Caller, to: MessageKey, emoji: String) -> anyhow::Result<()> {
        commands::react(self.context(caller), to, emoji).await
    }

    async fn answer_request(
        &self,
        caller: Caller,
        to: MessageKey,
        text: String,
    ) -> anyhow::Result<bool> {
        commands::answer_request(self.context(caller), to, text).await
    }

    async fn answer_mail(
        &self,
        caller: Caller,
        to: MessageKey,
        text: String,
    ) -> anyhow::Result<bool> {
        commands::answer_mail(self.context(caller), to, text).await
    }

    fn stop_runs(&self, session: &SessionKey) -> Vec<String> {
        self.services.runs.stop_session(session)
    }

    fn names(&self) -> Names {
        let agents = self.services.config.agents.iter().map(|agent| agent.name.clone());
        let projects = self.services.projects.list().into_iter().map(|project| project.name);
        Names { agents: agents.collect(), projects: projects.collect() }
    }
}
