//! `musher check`: everything that is wrong with the configuration and with what it names.

use super::client::print;
use super::failure::{Code, Failure};
use crate::agents::runtime::replay;
use crate::config::{self, Config, ConfigError, ConfigErrors, Provider, RuntimeKind};
use crate::llm::caps;
use crate::llm::replay::Recording;
use crate::project::{Project, ProjectError};
use serde_json::json;
use std::path::Path;

/// Reads, validates and prints; exit 2 when anything is wrong.
pub fn check(given: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let loaded = config::find(given).and_then(|path| config::load(&path));
    let (errors, warnings, file) = match loaded {
        Ok(config) => {
            let mut errors = check_named(&config);
            errors.extend(super::runtime()?.block_on(check_projects(&config)));
            (errors, config::warnings(&config), config.file)
        }
        Err(ConfigErrors(errors)) => (errors, vec![], Default::default()),
    };
    if !errors.is_empty() {
        if !json {
            return Err(ConfigErrors(errors).into());
        }
        let message = ConfigErrors(errors.clone()).to_string();
        let hint = "put the keys right; config/musher.example.toml shows every key";
        let error = json!({
            "code": Code::Usage, "message": message, "hint": hint, "errors": errors,
        });
        print(&format!("{}\n", json!({ "error": error })))?;
        return Ok(Code::Usage.exit());
    }
    if json {
        print(&format!("{}\n", json!({ "ok": true, "file": file, "warnings": warnings })))?;
    } else {
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        print(&format!("{} is good\n", file.display()))?;
    }
    Ok(0)
}

/// What is wrong with what the configuration names and a start needs: secrets, recordings, prices.
/// Projects are not among it: one that cannot be worked in does not stand in the others' way.
pub fn check_named(config: &Config) -> Vec<ConfigError> {
    let mut errors = config::check_secrets(config);
    if let (Provider::Replay, Some(file)) = (config.llm.provider, &config.llm.replay_file)
        && let Err(error) = Recording::load(file)
    {
        errors.push(unplayable(config, "llm.replay_file", &error.to_string()));
    }
    for (position, agent) in config.agents.iter().enumerate() {
        if let (RuntimeKind::Replay, Some(file)) = (agent.runtime, &agent.replay_file)
            && let Err(why) = replay::check(file)
        {
            let key = format!("agents[{position}].replay_file");
            errors.push(unplayable(config, &key, &why));
        }
    }
    let unheld = caps::unheld(config).into_iter();
    errors.extend(unheld.map(|cap| config::error_at(config, &cap.key, &cap.why)));
    errors
}

fn unplayable(config: &Config, key: &str, why: &str) -> ConfigError {
    config::error_at(config, key, &format!("{why}: name a recording that can be played"))
}

/// The projects that are not what they are configured to be.
async fn check_projects(config: &Config) -> Vec<ConfigError> {
    let mut errors = vec![];
    for (position, settings) in config.projects.iter().enumerate() {
        let project = Project::new(settings.clone(), false);
        if let Err(error) = project.check().await {
            let key = match &error {
                ProjectError::BaseMissing { .. } => "base",
                ProjectError::Name(_) => "name",
                ProjectError::CannotRun { what: "gate", .. } => "gates",
                ProjectError::CannotRun { .. } => "setup",
                ProjectError::PathMissing { .. }
                | ProjectError::NotARepository { .. }
                | ProjectError::Git(_) => "path",
            };
            let key = format!("projects[{position}].{key}");
            errors.push(config::error_at(config, &key, &error.to_string()));
        }
    }
    errors
}
