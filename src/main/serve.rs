//! `musher run` and `musher console`: reads the configuration and hands over to the program.

use crate::logging;
use musher::app::{self, Ended, Mode};
use musher::cli::{self, Code, Failure};
use musher::config::{self, Config, ConfigErrors, ProjectConfig};
use musher::project::Project;
use musher::store::OpenError;
use musher::upgrade;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long such a thread stays when it has nothing to do.
const BLOCKING_IDLE: Duration = Duration::from_secs(2);

/// The server.
pub fn run(given: Option<&Path>) -> Result<u8, Failure> {
    let config = load(given)?;
    if config.matrix.is_none() {
        return Err(Failure::new(
            Code::Usage,
            format!("{}: matrix: this table is missing", config.file.display()),
        )
        .hint("add [matrix], or chat on this terminal with `musher console`"));
    }
    logging::start(&config.log, None).map_err(|error| failed(&error.into()))?;
    start(config, Mode::Server)
}

/// The chat on this terminal.
pub fn console(given: Option<&Path>, project: Option<PathBuf>) -> Result<u8, Failure> {
    let mut config = load(given)?;
    if let Some(dir) = project {
        add_project(&mut config, &dir)?;
    }
    // The terminal is the chat's: the log goes beside the database.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
    made.map_err(|error| failed(&error.into()))?;
    let log = config.data_dir.join("console.log");
    logging::start(&config.log, Some(&log)).map_err(|error| failed(&error.into()))?;
    start(config, Mode::Console)
}

/// Makes the directory the first project, unless it is one already.
fn add_project(config: &mut Config, dir: &Path) -> Result<(), Failure> {
    let path = std::fs::canonicalize(dir).map_err(|error| {
        Failure::new(Code::Usage, format!("--project {}: {error}", dir.display()))
            .hint("name the directory of a git repository")
    })?;
    let known = config.projects.iter().position(|project| project.path == path);
    let project = match known {
        Some(position) => config.projects.remove(position),
        None => project_of(path)?,
    };
    if config.projects.iter().any(|other| other.name == project.name) {
        return Err(Failure::new(
            Code::Usage,
            format!("--project {}: another project is called {}", dir.display(), project.name),
        )
        .hint("add it to the configuration under a name of its own"));
    }
    config.projects.insert(0, project);
    Ok(())
}

/// The repository in a directory as a project; its base is the branch that is checked out there.
fn project_of(path: PathBuf) -> Result<ProjectConfig, Failure> {
    let refuse = |why: String, hint: &str| {
        Failure::new(Code::Usage, format!("--project {}: {why}", path.display())).hint(hint)
    };
    let mut settings = ProjectConfig::of_directory(path.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(&error.into()))?;
    runtime.block_on(async {
        let repository = Project::new(settings.clone(), false);
        if let Ok(Some(branch)) = repository.git().head_branch().await {
            settings.base = branch;
        }
        match Project::new(settings.clone(), false).check().await {
            Ok(()) => Ok(settings),
            Err(error) => {
                let text = error.to_string();
                let (why, hint) = text.split_once(": ").unwrap_or((&text, "name another one"));
                Err(refuse(why.to_owned(), hint))
            }
        }
    })
}

fn load(given: Option<&Path>) -> Result<Config, Failure> {
    let config = config::load(&config::find(given)?)?;
    let errors = cli::check_named(&config);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors).into());
    }
    for warning in config::warnings(&config) {
        eprintln!("musher: warning: {warning}");
    }
    Ok(config)
}

fn start(config: Config, mode: Mode) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // The Matrix SDK's database works on these threads, as ours does. Idle ones go soon: each
        // that stays keeps its own heap.
        .thread_keep_alive(BLOCKING_IDLE)
        .build()
        .map_err(|error| failed(&error.into()))?;
    let file = Some(config.file.clone());
    let ended = runtime.block_on(app::run(config, file, mode)).map_err(|error| match error
        .downcast::<OpenError>()
    {
        Ok(error) => error.into(),
        Err(error) => failed(&error),
    })?;
    // Nothing of this process may run on into the next one.
    drop(runtime);
    match ended {
        Ended::Stopped => Ok(0),
        Ended::Replace(replacement) => {
            let error = upgrade::exec(&replacement);
            Err(failed(&anyhow::Error::from(error).context("cannot replace the running program")))
        }
    }
}

fn failed(error: &anyhow::Error) -> Failure {
    Failure::new(Code::Failed, format!("{error:#}"))
}
