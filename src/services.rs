//! The handles that commands, tools and the command line act through, in one bundle.

use crate::agents::Agents;
use crate::config::Config;
use crate::llm::Llm;
use crate::mail::Directory;
use crate::project::Registry;
use crate::project::bootstrap::Surroundings;
use crate::store::Store;
use crate::upgrade::Upgrade;
use std::path::PathBuf;
use std::sync::Arc;

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
