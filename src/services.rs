//! The handles that commands, tools and the command line act through, in one bundle.

use crate::agents::Agents;
use crate::config::Config;
use crate::llm::Llm;
use crate::mail::Directory;
use crate::model::ids::{ItemId, SessionKey};
use crate::project::Registry;
use crate::project::bootstrap::Surroundings;
use crate::store::Store;
use crate::upgrade::Upgrade;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Everything a command or tool may act on. Cloning shares it.
#[derive(Clone)]
pub struct Services {
    /// The rows.
    pub store: Store,
    /// What was configured.
    pub config: Arc<Config>,
    /// The directory of the configuration file: pages, prompts and stacks of the user's own.
    pub config_dir: Option<PathBuf>,
    /// The projects.
    pub projects: Registry,
    /// The agents: told, listed and stopped through here.
    pub agents: Agents,
    /// Who has a mail address.
    pub directory: Arc<Directory>,
    /// The coordinator's model.
    pub llm: Llm,
    /// Rebuilding and replacing the program.
    pub upgrade: Upgrade,
    /// Checks that people have started.
    pub runs: Runs,
}

impl Services {
    /// What `new project` needs beside the request.
    pub fn surroundings(&self) -> Surroundings {
        let projects_dir = self.config.projects_dir.clone();
        Surroundings {
            projects_dir: projects_dir.unwrap_or_else(|| self.store.data_dir().join("projects")),
            config_dir: self.config_dir.clone(),
            author: self.config.merge.author.clone(),
        }
    }
}

/// Checks that people have started by hand, and how to end them. Cloning shares them.
///
/// Nothing durable: a run that a restart cut off is begun again with its command.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    inner: Arc<Mutex<Vec<Run>>>,
}

/// A check that runs.
#[derive(Debug, Clone)]
struct Run {
    id: uuid::Uuid,
    session: SessionKey,
    item: Option<ItemId>,
    what: String,
    cancel: CancellationToken,
}

/// A check's own handle: while it lives, the check can be ended by others.
#[derive(Debug)]
pub struct Running {
    runs: Runs,
    id: uuid::Uuid,
    /// Ends it.
    pub cancel: CancellationToken,
}

impl Runs {
    /// Notes a check; `what` is its name for people.
    pub fn begin(&self, session: SessionKey, item: Option<ItemId>, what: &str) -> Running {
        let (id, cancel) = (uuid::Uuid::new_v4(), CancellationToken::new());
        let run = Run { id, session, item, what: what.to_owned(), cancel: cancel.clone() };
        self.hold().push(run);
        Running { runs: self.clone(), id, cancel }
    }

    /// Ends the checks of an item; returns what they were.
    pub fn stop_item(&self, item: ItemId) -> Vec<String> {
        self.stop(|run| run.item == Some(item))
    }

    /// Ends the checks that were started in a conversation.
    pub fn stop_session(&self, session: &SessionKey) -> Vec<String> {
        self.stop(|run| run.session == *session)
    }

    /// Ends every check.
    pub fn stop_all(&self) -> Vec<String> {
        self.stop(|_| true)
    }

    fn stop(&self, which: impl Fn(&Run) -> bool) -> Vec<String> {
        let runs = self.hold();
        let hit = runs.iter().filter(|run| which(run) && !run.cancel.is_cancelled());
        hit.map(|run| {
            run.cancel.cancel();
            run.what.clone()
        })
        .collect()
    }

    fn hold(&self) -> MutexGuard<'_, Vec<Run>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runs.hold().retain(|run| run.id != self.id);
    }
}
