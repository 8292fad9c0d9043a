//! Which projects there are, and whether they can be worked in.
//!
//! The rows in the store are the truth; the registry keeps a copy in memory because everybody asks
//! and hardly anybody writes. Who writes a row calls [`Registry::refresh`] after the commit. A
//! project of the configuration is refreshed from it at every start, so its row never wins over the
//! file; one that was taken out of the file keeps its row (and items) but is not listed.
//!
//! Rooms are known by their ids. An alias of the configuration is resolved by the transport, which
//! [`Registry::bind_rooms`] tells; until it has been, once, the project has no room of its own.

use super::git::{Git, GitError};
use crate::config::{Config, LandingMode, ProjectConfig};
use crate::model::ids::{ProjectName, RoomKey};
use crate::model::item::QaMode;
use crate::store::meta;
use crate::store::projects::{self, ProjectRow, Source};
use crate::store::{Store, StoreError, Tx};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A git repository that work is done in.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// The person's own checkout: nothing is edited here.
    pub path: PathBuf,
    /// The branch that work is merged into.
    pub base: String,
    /// Shell commands that must succeed, in order.
    pub gates: Vec<String>,
    /// Shell commands run once in a new worktree.
    pub setup: Vec<String>,
    /// The id of the room bound to it.
    pub room: Option<String>,
    /// Who decides that work is good, unless an item says otherwise.
    pub qa: QaMode,
    /// Whether the base branch is pushed after a merge.
    pub push: bool,
    /// Who merges: Musher, or people by pull requests.
    pub mode: LandingMode,
    /// The shell command that opens a pull request.
    pub pr_command: Option<String>,
    /// Agents that run at the same time in it.
    pub max_agents: Option<usize>,
    /// Whether nothing new is started in it.
    pub paused: bool,
}

impl Project {
    /// The project that settings describe.
    pub fn new(settings: ProjectConfig, paused: bool) -> Self {
        let ProjectConfig {
            name,
            path,
            base,
            gates,
            setup,
            room,
            qa,
            push,
            mode,
            pr_command,
            max_agents,
            // Read where they are counted.
            usd_per_day: _,
            tokens_per_day: _,
        } = settings;
        Self {
            name,
            path,
            base,
            gates,
            setup,
            room,
            qa,
            push,
            mode,
            pr_command,
            max_agents,
            paused,
        }
    }

    /// Git in the person's checkout.
    pub fn git(&self) -> Git {
        Git::at(&self.path)
    }

    /// The base branch, as a full ref.
    pub fn base_ref(&self) -> String {
        format!("refs/heads/{}", self.base)
    }

    /// Says whether the project can be worked in, and if not, what to change.
    pub async fn check(&self) -> Result<(), ProjectError> {
        check_name(self.name.as_str()).map_err(ProjectError::Name)?;
        let path = self.path.clone();
        if !path.is_dir() {
            return Err(ProjectError::PathMissing { path });
        }
        let git = self.git();
        if !git.is_repo().await? {
            // A repository, or a worktree of one; an empty folder of that name is neither.
            let is_one = |git: PathBuf| git.is_file() || git.join("HEAD").exists();
            let above = path.ancestors().skip(1).find(|above| is_one(above.join(".git")));
            return Err(ProjectError::NotARepository { above: above.map(PathBuf::from), path });
        }
        if git.branch_exists(&self.base).await? {
            return Ok(());
        }
        let branches = git.branches().await?;
        Err(ProjectError::BaseMissing { base: self.base.clone(), path, branches })
    }
}

/// Why a project cannot be worked in. Each message is a sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// Its name is none.
    #[error("{0}")]
    Name(String),
    /// Its directory is missing.
    #[error("the project's directory {} does not exist: create it, or correct `path` and restart", path.display())]
    PathMissing {
        /// The directory.
        path: PathBuf,
    },
    /// Its directory is no repository.
    #[error("{} is not a git repository: {}", path.display(), match above {
        Some(above) => format!("it lies inside the one at {}; set `path` to that and restart", above.display()),
        None => "run `git init` there and make a first commit, or correct `path` and restart".to_owned(),
    })]
    NotARepository {
        /// The directory.
        path: PathBuf,
        /// The repository that it lies in, if any.
        above: Option<PathBuf>,
    },
    /// Its base branch is missing.
    #[error("the repository {} has no branch `{base}`: {}", path.display(), if branches.is_empty() {
        "it has no commit yet; make a first one".to_owned()
    } else {
        format!("set `base` to one that it has ({}) and restart", branches.join(", "))
    })]
    BaseMissing {
        /// The configured base.
        base: String,
        /// The repository.
        path: PathBuf,
        /// The branches that exist.
        branches: Vec<String>,
    },
    /// A program that its commands need is missing.
    #[error(
        "the {what} `{command}` cannot run: `{program}` is not installed, or not on the PATH; \
         install it, or correct the project's `{}` and restart",
        if *what == "gate" { "gates" } else { "setup" }
    )]
    CannotRun {
        /// What sort of command.
        what: &'static str,
        /// The command.
        command: String,
        /// The program.
        program: String,
    },
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
}

/// Checks a project's name against `[a-z][a-z0-9-]{0,38}`; the error says what to change.
pub fn check_name(name: &str) -> Result<(), String> {
    let mut letters = name.chars();
    let fine = letters.next().is_some_and(|first| first.is_ascii_lowercase())
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.len() <= 39;
    if fine {
        return Ok(());
    }
    Err(format!(
        "`{}` cannot be a project's name: use a lower-case letter followed by at most 38 \
         lower-case letters, digits or dashes",
        name.chars().take(60).collect::<String>()
    ))
}

/// The meta row with the id of an alias.
fn alias_key(alias: &str) -> String {
    format!("alias:{alias}")
}

/// The projects. Cloning shares them.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    /// Names that stand in the configuration now.
    configured: HashSet<ProjectName>,
    /// Those whose room is named there by an alias.
    aliases: Vec<(ProjectName, String)>,
    projects: RwLock<BTreeMap<ProjectName, Project>>,
    /// Names that a `new project` of this process is making a project of.
    making: Mutex<HashSet<ProjectName>>,
}

/// Says that a project of that name is being made, until it is dropped.
pub(super) struct Making {
    shared: Arc<Shared>,
    name: ProjectName,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.shared.making.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Writes a project of the configuration into the store. Safe to repeat.
pub fn configure(tx: &Tx<'_>, mut settings: ProjectConfig) -> Result<(), StoreError> {
    if let Some(alias) = settings.room.take_if(|room| room.starts_with('#')) {
        settings.room = meta::find(tx, &alias_key(&alias))?;
    }
    projects::upsert_configured(tx, &settings)
}

impl Registry {
    /// Writes the configuration's projects into the store and reads them all.
    pub async fn load(store: &Store, config: &Config) -> Result<Self, StoreError> {
        let settings = config.projects.clone();
        let configured = settings.iter().map(|settings| settings.name.clone()).collect();
        let aliases = settings.iter().filter_map(|settings| {
            let alias = settings.room.clone().filter(|room| room.starts_with('#'))?;
            Some((settings.name.clone(), alias))
        });
        let aliases = aliases.collect();
        store
            .write(move |tx| settings.into_iter().try_for_each(|settings| configure(tx, settings)))
            .await?;
        let registry = Self {
            shared: Arc::new(Shared {
                store: store.clone(),
                configured,
                aliases,
                projects: RwLock::default(),
                making: Mutex::default(),
            }),
        };
        registry.refresh().await?;
        Ok(registry)
    }

    /// The aliases that the configuration names as projects' rooms.
    pub fn aliases(&self) -> Vec<String> {
        self.shared.aliases.iter().map(|(_, alias)| alias.clone()).collect()
    }

    /// Binds the projects whose room the configuration names by an alias, by the aliases' ids. They
    /// are remembered for a start at which nobody can be asked.
    pub async fn bind_rooms(&self, ids: &HashMap<String, String>) -> Result<(), StoreError> {
        let known = self.shared.aliases.iter().filter_map(|(project, alias)| {
            Some((project.clone(), alias.clone(), ids.get(alias)?.clone()))
        });
        let known: Vec<_> = known.collect();
        if known.is_empty() {
            return Ok(());
        }
        let write = self.shared.store.write(move |tx| {
            for (project, alias, id) in known {
                meta::set(tx, &alias_key(&alias), &id)?;
                if let Some(mut row) = projects::find(tx, &project)? {
                    row.settings.room = Some(id);
                    projects::upsert_configured(tx, &row.settings)?;
                }
            }
            Ok::<_, StoreError>(())
        });
        write.await?;
        self.refresh().await
    }

    /// Reads the rows again, after one was written.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let rows = self.shared.store.read(projects::list).await?;
        let listed = |row: &ProjectRow| match row.source {
            Source::Chat => true,
            Source::Config => self.shared.configured.contains(&row.settings.name),
        };
        let map = rows
            .into_iter()
            .filter(listed)
            .map(|row| (row.settings.name.clone(), Project::new(row.settings, row.paused)))
            .collect();
        *self.shared.projects.write().unwrap_or_else(PoisonError::into_inner) = map;
        Ok(())
    }

    /// All projects, by name.
    pub fn list(&self) -> Vec<Project> {
        let projects = self.shared.projects.read().unwrap_or_else(PoisonError::into_inner);
        projects.values().cloned().collect()
    }

    /// One project.
    pub fn find(&self, name: &ProjectName) -> Option<Project> {
        let projects = self.shared.projects.read().unwrap_or_else(PoisonError::into_inner);
        projects.get(name).cloned()
    }

    /// The project that a room is about: the one it was switched to, the one bound to it, or the
    /// only one there is.
    pub fn current(
        &self,
        conn: &Connection,
        room: &RoomKey,
    ) -> Result<Option<Project>, StoreError> {
        let switched = projects::switched_to(conn, room)?.and_then(|name| self.find(&name));
        if switched.is_some() {
            return Ok(switched);
        }
        let mut all = self.list();
        let bound = all.iter().position(|project| project.room.as_deref() == Some(room.as_str()));
        Ok(match bound {
            Some(index) => Some(all.swap_remove(index)),
            None if all.len() == 1 => all.pop(),
            None => None,
        })
    }

    /// Pauses a project or lets it go on; false when there is none of that name.
    pub async fn set_paused(&self, name: &ProjectName, paused: bool) -> Result<bool, StoreError> {
        let name = name.clone();
        let known =
            self.shared.store.write(move |tx| projects::set_paused(tx, &name, paused)).await?;
        self.refresh().await?;
        Ok(known)
    }

    /// Takes a project out of the books; its files are left alone. False when there was none.
    pub async fn remove(&self, name: &ProjectName) -> Result<bool, StoreError> {
        let name = name.clone();
        let known = self.shared.store.write(move |tx| projects::remove(tx, &name)).await?;
        self.refresh().await?;
        Ok(known)
    }

    /// Checks every project; what cannot be worked in comes back with the reason.
    pub async fn problems(&self) -> Vec<(ProjectName, ProjectError)> {
        let mut problems = Vec::new();
        for project in self.list() {
            if let Err(error) = project.check().await {
                problems.push((project.name, error));
            }
        }
        problems
    }

    /// Takes a name for a project that is to be made; `None` when somebody else has it.
    pub(super) fn making(&self, name: &ProjectName) -> Option<Making> {
        let mut making = self.shared.making.lock().unwrap_or_else(PoisonError::into_inner);
        let free = making.insert(name.clone());
        free.then(|| Making { shared: Arc::clone(&self.shared), name: name.clone() })
    }

    pub(super) fn store(&self) -> &Store {
        &self.shared.store
    }
}
