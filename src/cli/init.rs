//! `musher init`: a working configuration from a few answers, each tried at once.
//!
//! Nothing is written before everything was answered and tried; then the password's file first and
//! the configuration last, so that one cut off leaves no half configuration. No secret stands in
//! the configuration. What is there already is overwritten only when somebody says so.

mod ask;
mod write;

use super::args::InitArgs;
use super::client::print;
use super::failure::{Code, Failure};
use crate::config::{self, Config};
use crate::doctor::{Check, State, check_homeserver, check_login, check_model};
use crate::project::Project;
use ask::Asker;
use serde_json::json;
use std::path::{Path, PathBuf};
use write::{Answers, Password};

/// How often an answer that does not work is asked again.
const TRIES: u32 = 3;

/// Asks, tries, writes.
pub fn init(given: Option<&Path>, args: InitArgs, as_json: bool) -> Result<u8, Failure> {
    let path = given.map_or_else(|| PathBuf::from("musher.toml"), Path::to_owned);
    let asker = Asker::new(args.yes);
    if path.exists() && !args.yes {
        let question = format!("{} exists already. Overwrite it?", path.display());
        if !asker.confirm(&question) {
            return Err(Failure::new(
                Code::Refused,
                format!("{} exists already and is left as it is", path.display()),
            )
            .hint("name another file with -c, or overwrite it with --yes"));
        }
    }
    let trial = !args.no_checks;
    let answers = answers(&asker, args, trial)?;
    let config = write::write(&path, &answers)?;
    let next = if config.matrix.is_some() { "musher run" } else { "musher console" };
    if as_json {
        print(&format!("{}\n", json!({ "file": config.file, "next": next })))?;
    } else {
        for warning in config::warnings(&config) {
            eprintln!("note: {warning}");
        }
        print(&format!(
            "wrote {}\nstart with: {next} -c {}\n",
            config.file.display(),
            path.display()
        ))?;
    }
    Ok(0)
}

fn answers(asker: &Asker, args: InitArgs, trial: bool) -> Result<Answers, Failure> {
    let mut answers = Answers::default();
    homeserver(asker, &mut answers, args.homeserver.clone(), trial)?;
    if !answers.homeserver.is_empty() {
        account(asker, &mut answers, &args, trial)?;
        answers.allow = match args.allow.as_slice() {
            [] => vec![asker.require(
                "Who may use and administer it, @you:server",
                "--allow",
                None,
            )?],
            given => given.to_vec(),
        };
    }
    model(asker, &mut answers, &args, trial)?;
    project(asker, &mut answers, &args, trial)?;
    let runtime =
        asker.or_ask(args.runtime, "How the first agent is run (claude-code, api)", || {
            if crate::project::shell::on_path("claude") { "claude-code" } else { "api" }.to_owned()
        });
    answers.runtime = runtime;
    Ok(answers)
}

/// Asks again until a check does not fail; without a person the first failure is the end.
fn tried(
    asker: &Asker,
    trial: bool,
    mut step: impl FnMut(u32) -> Result<Option<Check>, Failure>,
) -> Result<(), Failure> {
    let mut attempt = 0;
    loop {
        let check = step(attempt)?;
        let Some(check) = check.filter(|_| trial) else { return Ok(()) };
        if check.state != State::Failed {
            eprintln!("  {}", check.message);
            return Ok(());
        }
        attempt += 1;
        if !asker.is_person() || attempt >= TRIES {
            return Err(Failure::new(Code::Failed, check.message).hint(format!(
                "{}; nothing was written (--no-checks skips the trials)",
                check.remedy
            )));
        }
        eprintln!("  {}\n  {}", check.message, check.remedy);
    }
}

fn homeserver(
    asker: &Asker,
    answers: &mut Answers,
    given: Option<String>,
    trial: bool,
) -> Result<(), Failure> {
    tried(asker, trial, |attempt| {
        let given = given.clone().filter(|_| attempt == 0);
        let question = "The homeserver's base URL (empty: no Matrix, the console only)";
        let url = asker.or_ask(given, question, String::new);
        url.clone_into(&mut answers.homeserver);
        if url.is_empty() || !trial {
            return Ok(None);
        }
        Ok(Some(super::runtime()?.block_on(check_homeserver(&url))))
    })
}

fn account(
    asker: &Asker,
    answers: &mut Answers,
    args: &InitArgs,
    trial: bool,
) -> Result<(), Failure> {
    tried(asker, trial, |attempt| {
        let given = args.user.clone().filter(|_| attempt == 0);
        answers.user = asker.require("The bot's account, @name:server", "--user", given)?;
        answers.password = match (&args.password_env, &args.password_file) {
            (Some(name), _) => Password::Env(name.clone()),
            (None, Some(file)) => Password::File(write::absolute(file)),
            (None, None) => Password::Typed(asker.password("Its password", "--password-env")?),
        };
        if !trial {
            return Ok(None);
        }
        let scratch = answers.scratch()?;
        let Some(matrix) = &scratch.config.matrix else { return Ok(None) };
        Ok(Some(super::runtime()?.block_on(check_login(matrix))))
    })
}

fn model(
    asker: &Asker,
    answers: &mut Answers,
    args: &InitArgs,
    trial: bool,
) -> Result<(), Failure> {
    tried(asker, trial, |attempt| {
        let fresh = attempt == 0;
        let provider = args.provider.clone().filter(|_| fresh);
        let question = "The model's provider (anthropic, openai, gemini, ollama)";
        answers.provider = asker.or_ask(provider, question, || "anthropic".to_owned());
        let usual = write::usual(&answers.provider);
        let model = args.model.clone().filter(|_| fresh);
        answers.model = asker.or_ask(model, "The model", || usual.model.to_owned());
        answers.base_url = args.base_url.clone();
        answers.api_key_file = args.api_key_file.as_deref().map(write::absolute);
        answers.api_key_env = None;
        if answers.api_key_file.is_none()
            && (!usual.variable.is_empty() || args.api_key_env.is_some())
        {
            let question = "The variable that holds its API key";
            let given = args.api_key_env.clone().filter(|_| fresh);
            let name = asker.or_ask(given, question, || usual.variable.to_owned());
            answers.api_key_env = Some(name).filter(|name| !name.is_empty());
        }
        if !trial {
            return Ok(None);
        }
        let scratch = answers.scratch()?;
        Ok(Some(super::runtime()?.block_on(check_model(&scratch.config.llm))))
    })
}

fn project(
    asker: &Asker,
    answers: &mut Answers,
    args: &InitArgs,
    trial: bool,
) -> Result<(), Failure> {
    tried(asker, trial, |attempt| {
        let given = args.project.clone().filter(|_| attempt == 0);
        let given = given.map(|path| path.display().to_string());
        let question = "The first project: the directory of a git repository (empty: none)";
        let dir = asker.or_ask(given, question, String::new);
        answers.project = (!dir.is_empty()).then(|| write::absolute(Path::new(&dir)));
        if answers.project.is_none() {
            return Ok(None);
        }
        answers.gates = match args.gate.as_slice() {
            [] => {
                let question = "A command that must succeed before a merge (empty: none)";
                let gate = asker.or_ask(None, question, String::new);
                Some(gate).filter(|gate| !gate.is_empty()).into_iter().collect()
            }
            given => given.to_vec(),
        };
        answers.base = super::runtime()?.block_on(head_branch(answers.project.as_deref()));
        if !trial {
            return Ok(None);
        }
        let scratch = answers.scratch()?;
        Ok(super::runtime()?.block_on(check_project(&scratch.config)))
    })
}

/// The branch that is checked out, as the project's base.
async fn head_branch(path: Option<&Path>) -> Option<String> {
    let git = crate::project::git::Git::at(path?);
    git.head_branch().await.ok().flatten()
}

async fn check_project(config: &Config) -> Option<Check> {
    let project = Project::new(config.projects.first()?.clone(), false);
    Some(match project.check().await {
        Ok(()) => Check::ok("project", format!("{} is a git repository", project.path.display())),
        Err(error) => Check::failed("project", error.to_string(), "name another directory"),
    })
}

#[cfg(test)]
mod tests;
