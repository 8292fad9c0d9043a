//! `musher check`: everything that is wrong with the configuration and with what it names.

use super::client::print;
use super::failure::{Code, Failure};
use crate::config::{self, Config, ConfigError, ConfigErrors};
use crate::project::{Project, ProjectError};
use serde_json::json;
use std::path::Path;

/// Reads, validates and prints; exit 2 when anything is wrong.
pub fn check(given: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let loaded = config::find(given).and_then(|path| config::load(&path));
    let (errors, warnings, file) = match loaded {
        Ok(config) => {
            let mut errors = config::check_secrets(&config);
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
            errors.push(config::project_error(config, position, key, &error.to_string()));
        }
    }
    errors
}
