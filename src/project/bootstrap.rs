//! `new project`: from one line of chat to a registered project.
//!
//! **Forces.** Every step can fail or be cut off by a kill, and a refusal or failure must leave
//! nothing behind; but a directory that may hold somebody's files is never deleted.
//!
//! **Properties.** The name is reserved in the store before anything is made, which also decides
//! between two at once. The project is put together in `.NAME.musher-new` beside its place, and
//! moved there in one step; only that directory is ever deleted. When the move is about to happen,
//! the complete settings are noted: a restart ([`reconcile`]) finishes what was moved and undoes
//! what was not.

use super::git::{Git, GitError, Identity, check_url};
use super::registry::{Project, Registry, check_name};
use super::stacks::{Stack, StackError, Stacks};
use crate::config::{LandingMode, ProjectConfig};
use crate::model::event::Event;
use crate::model::ids::ProjectName;
use crate::model::item::QaMode;
use crate::store::projects::{self, Begun, Source};
use crate::store::{Store, StoreError, log};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The base branch of a project that is made, not cloned.
const FIRST_BRANCH: &str = "main";

/// The shortest time between two progress lines of a clone.
const PROGRESS_PAUSE: Duration = Duration::from_secs(5);

/// What `new project` was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProject {
    /// Its name.
    pub name: String,
    /// Its stack; default: recognised by its files.
    pub stack: Option<String>,
    /// What to clone; default: a new repository.
    pub git_url: Option<String>,
    /// Where; default: `<projects_dir>/<name>`.
    pub path: Option<PathBuf>,
    /// Whether it works on the host, without a container.
    pub host_only: bool,
    /// The room that is bound to it, if any.
    pub room: Option<String>,
}

/// What it needs beside the request.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where projects go.
    pub projects_dir: PathBuf,
    /// The person's configuration directory, for stacks of their own.
    pub config_dir: Option<PathBuf>,
    /// Who makes the first commit.
    pub author: String,
}

/// A project that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    /// It.
    pub project: Project,
    /// Its stack; `None` when nothing was recognised.
    pub stack: Option<String>,
    /// Stacks that it also has files of.
    pub other_stacks: Vec<String>,
}

/// The steps, as named in failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making the directory.
    Directory,
    /// Making or cloning the repository.
    Repository,
    /// The first commit.
    FirstCommit,
    /// Moving it to its place.
    Placing,
    /// Writing it into the books.
    Registering,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Step::Directory => "making the directory",
            Step::Repository => "getting the repository",
            Step::FirstCommit => "making the first commit",
            Step::Placing => "moving it to its place",
            Step::Registering => "registering it",
        }
    }
}

/// Why there is no new project. Each message is a sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The request is wrong; nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// Containers are not in this version.
    #[error(
        "projects in containers are not available in this version: add `--host-only`. Agents, \
         gates and set-up commands then run as Musher's own user, without the isolation of a \
         container: no separate file system, and no limits on CPU, memory or processes"
    )]
    NoContainers,
    /// The name is taken, or being taken.
    #[error("there is already a project `{name}`, or one is just being made: choose another name")]
    NameTaken {
        /// The name.
        name: ProjectName,
    },
    /// The stacks cannot be used.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// A step failed; what was done before it was undone.
    #[error("{} failed, and everything was undone: {why}", step.as_str())]
    Failed {
        /// The step.
        step: Step,
        /// Why.
        why: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn failed(step: Step) -> impl Fn(&dyn std::fmt::Display) -> BootstrapError {
    move |why| BootstrapError::Failed { step, why: why.to_string() }
}

fn git_failed(step: Step) -> impl Fn(GitError) -> BootstrapError {
    move |error| failed(step)(&error)
}

fn io_failed(step: Step) -> impl Fn(std::io::Error) -> BootstrapError {
    move |error| failed(step)(&error)
}

/// Makes a project and registers it; `progress` hears what takes long.
pub async fn create(
    registry: &Registry,
    surroundings: &Surroundings,
    new: NewProject,
    progress: impl Fn(String) + Send + Sync,
) -> Result<Created, BootstrapError> {
    let stacks = Stacks::load(surroundings.config_dir.as_deref())?;
    let plan = check(surroundings, &stacks, new)?;
    let store = registry.store();
    let taken = || BootstrapError::NameTaken { name: plan.name.clone() };
    let _making = registry.making(&plan.name).ok_or_else(taken)?;
    // One that was begun and given up half-way in this process (its future was dropped).
    repair(store, Some(&plan.name)).await?;
    let partial = partial_of(&plan.path, &plan.name);
    let begun = Begun { name: plan.name.clone(), partial, settings: None };
    let reserve = || {
        let reservation = begun.clone();
        store.write(move |tx| projects::begin(tx, &reservation))
    };
    if !reserve().await? {
        // Nobody else makes it. What was given up may have noted its begin only now: a write
        // happens also when nobody waits for it any more.
        repair(store, Some(&plan.name)).await?;
        if !reserve().await? {
            return Err(taken());
        }
    }
    let above: Vec<PathBuf> = plan.path.ancestors().skip(1).map(PathBuf::from).collect();
    let new_folders: Vec<PathBuf> = above.into_iter().take_while(|dir| !dir.exists()).collect();
    let made = make(store, surroundings, &stacks, &plan, begun.clone(), &progress).await;
    if made.is_err() {
        undo(store, &begun).await?;
        for folder in new_folders {
            // Only goes when it is empty.
            let _ = std::fs::remove_dir(folder);
        }
    }
    registry.refresh().await?;
    made
}

/// A request that was found to be fine.
struct Plan {
    name: ProjectName,
    path: PathBuf,
    stack: Option<Stack>,
    git_url: Option<String>,
    room: Option<String>,
}

fn check(
    surroundings: &Surroundings,
    stacks: &Stacks,
    new: NewProject,
) -> Result<Plan, BootstrapError> {
    check_name(&new.name).map_err(BootstrapError::Invalid)?;
    if !new.host_only {
        return Err(BootstrapError::NoContainers);
    }
    let stack = new.stack.map(|name| stacks.get(&name)).transpose()?;
    if let Some(url) = &new.git_url {
        check_url(url).map_err(BootstrapError::Invalid)?;
    }
    let path = match new.path {
        Some(path) if path.is_absolute() => path,
        Some(path) => surroundings.projects_dir.join(path),
        None => surroundings.projects_dir.join(&new.name),
    };
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        let text = format!("the path {} must not hold `..`: write it out", path.display());
        return Err(BootstrapError::Invalid(text));
    }
    if path.parent().is_none() || !is_free(&path) {
        let text = format!(
            "{} exists and is not an empty directory: choose another --path, or empty it",
            path.display()
        );
        return Err(BootstrapError::Invalid(text));
    }
    let name = ProjectName(new.name);
    Ok(Plan { name, path, stack, git_url: new.git_url, room: new.room })
}

/// Whether a new project may be put there: nothing, or an empty directory.
fn is_free(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound && !path.is_symlink(),
    }
}

fn partial_of(path: &Path, name: &ProjectName) -> PathBuf {
    path.with_file_name(format!(".{name}.musher-new"))
}

async fn make(
    store: &Store,
    surroundings: &Surroundings,
    stacks: &Stacks,
    plan: &Plan,
    mut begun: Begun,
    progress: &(impl Fn(String) + Send + Sync),
) -> Result<Created, BootstrapError> {
    let partial = begun.partial.clone();
    remove_partial(&partial).map_err(io_failed(Step::Directory))?;
    let parent = partial.parent().unwrap_or(&partial);
    std::fs::create_dir_all(parent).map_err(io_failed(Step::Directory))?;
    let author = Identity::parse(&surroundings.author);
    let base = match &plan.git_url {
        Some(url) => clone(url, parent, &partial, progress).await?,
        None => {
            std::fs::create_dir(&partial).map_err(io_failed(Step::Directory))?;
            Git::at(&partial).init(FIRST_BRANCH).await.map_err(git_failed(Step::Repository))?;
            FIRST_BRANCH.to_owned()
        }
    };
    let git = Git::at(&partial);
    let empty = !git.branch_exists(&base).await.map_err(git_failed(Step::Repository))?;
    if empty {
        let ignored = plan.stack.as_ref().map_or("", |stack| stack.gitignore.as_str());
        let write = |file: &str, text: &str| std::fs::write(partial.join(file), text);
        write("README.md", &format!("# {}\n", plan.name))
            .and_then(|()| write(".gitignore", ignored))
            .map_err(io_failed(Step::FirstCommit))?;
        let commit = git.first_commit(&base, "Start the project\n", &author);
        commit.await.map_err(git_failed(Step::FirstCommit))?;
    }
    let (stack, other_stacks) = match &plan.stack {
        Some(stack) => (Some(stack.clone()), Vec::new()),
        None => {
            let detected = stacks.detect(&partial);
            (detected.stack, detected.others)
        }
    };
    let settings = settings(plan, base, stack.as_ref());
    begun.settings = Some(settings.clone());
    let noted = begun.clone();
    store.write(move |tx| projects::note_begun(tx, &noted)).await?;
    std::fs::rename(&partial, &plan.path).map_err(io_failed(Step::Placing))?;
    if let Err(error) = register(store, settings.clone()).await {
        // Back to where it may be deleted.
        let _ = std::fs::rename(&plan.path, &partial);
        return Err(failed(Step::Registering)(&error));
    }
    let project = Project::new(settings, false);
    Ok(Created { project, stack: stack.map(|stack| stack.name), other_stacks })
}

async fn clone(
    url: &str,
    parent: &Path,
    partial: &Path,
    progress: &(impl Fn(String) + Send + Sync),
) -> Result<String, BootstrapError> {
    progress(format!("Cloning {url} …"));
    let mut last: Option<Instant> = None;
    let mut hear = |line: &str| {
        let line = line.trim();
        if !line.contains('%') || last.is_some_and(|last| last.elapsed() < PROGRESS_PAUSE) {
            return;
        }
        last = Some(Instant::now());
        progress(line.to_owned());
    };
    let cloned = Git::at(parent).clone_into(url, partial, &mut hear).await;
    cloned.map_err(git_failed(Step::Repository))?;
    let head = Git::at(partial).head_branch().await.map_err(git_failed(Step::Repository))?;
    head.ok_or_else(|| failed(Step::Repository)(&"the remote's HEAD is not a branch"))
}

fn settings(plan: &Plan, base: String, stack: Option<&Stack>) -> ProjectConfig {
    ProjectConfig {
        name: plan.name.clone(),
        path: plan.path.clone(),
        base,
        gates: stack.map(|stack| stack.gates.clone()).unwrap_or_default(),
        setup: stack.map(|stack| stack.setup.clone()).unwrap_or_default(),
        room: plan.room.clone(),
        qa: QaMode::default(),
        push: false,
        mode: LandingMode::default(),
        pr_command: None,
        max_agents: None,
        usd_per_day: None,
        tokens_per_day: None,
    }
}

/// Writes a project that is in its place into the books; safe to repeat.
async fn register(store: &Store, settings: ProjectConfig) -> Result<(), StoreError> {
    store
        .write(move |tx| {
            projects::end_begun(tx, &settings.name)?;
            if projects::insert(tx, &settings, Source::Chat)? {
                log::append_event(tx, &Event::ProjectCreated { project: settings.name.clone() })?;
            }
            Ok(())
        })
        .await
}

fn remove_partial(partial: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn undo(store: &Store, begun: &Begun) -> Result<(), StoreError> {
    if let Err(error) = remove_partial(&begun.partial) {
        tracing::error!(%error, path = %begun.partial.display(), "cannot remove a half-made project");
    }
    let name = begun.name.clone();
    store.write(move |tx| projects::end_begun(tx, &name)).await
}

/// Finishes or undoes what a crash cut off; called once at start.
pub async fn reconcile(registry: &Registry) -> Result<(), StoreError> {
    repair(registry.store(), None).await?;
    registry.refresh().await
}

/// Finishes or undoes what was begun, for all names or one; nobody may be at work on them.
async fn repair(store: &Store, only: Option<&ProjectName>) -> Result<(), StoreError> {
    let begun = store.read(projects::list_begun).await?;
    for begun in begun.into_iter().filter(|begun| only.is_none_or(|only| *only == begun.name)) {
        match &begun.settings {
            Some(settings) if !begun.partial.exists() && settings.path.join(".git").exists() => {
                tracing::info!(project = %begun.name, "finishing a new project that was cut off");
                register(store, settings.clone()).await?;
            }
            Some(_) | None => {
                tracing::info!(project = %begun.name, "undoing a new project that was cut off");
                undo(store, &begun).await?;
            }
        }
    }
    Ok(())
}
