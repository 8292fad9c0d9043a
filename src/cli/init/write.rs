//! From answers to a file that was read back and found good.

use super::super::failure::{Code, Failure};
use crate::agents::permission;
use crate::config::{self, Config, ProjectConfig};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file of a typed password, beside the configuration.
const PASSWORD_FILE: &str = "matrix-password";

/// Where the account's password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// In this variable.
    Env(String),
    /// In this file.
    File(PathBuf),
    /// Typed; goes into a file of its own.
    Typed(String),
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Empty: no Matrix.
    pub homeserver: String,
    /// The bot's account.
    pub user: String,
    /// Where its password is.
    pub password: Password,
    /// Who may use and administer it.
    pub allow: Vec<String>,
    /// The model's provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// Another server.
    pub base_url: Option<String>,
    /// The variable with the key.
    pub api_key_env: Option<String>,
    /// The file with the key.
    pub api_key_file: Option<PathBuf>,
    /// The first project.
    pub project: Option<PathBuf>,
    /// Its base branch.
    pub base: Option<String>,
    /// Its gates.
    pub gates: Vec<String>,
    /// How the first agent is run.
    pub runtime: String,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            homeserver: String::new(),
            user: String::new(),
            password: Password::Env(String::new()),
            allow: vec![],
            // What is not answered yet must not stand in the way of a trial of the rest.
            provider: "ollama".to_owned(),
            model: "none".to_owned(),
            base_url: None,
            api_key_env: None,
            api_key_file: None,
            project: None,
            base: None,
            gates: vec![],
            runtime: "api".to_owned(),
        }
    }
}

/// What a provider's users usually take.
pub struct Usual {
    /// The model.
    pub model: &'static str,
    /// The variable with the key; empty: none is needed.
    pub variable: &'static str,
}

/// The usual answers for a provider.
pub fn usual(provider: &str) -> Usual {
    match provider {
        "anthropic" => Usual { model: "claude-sonnet-4-5", variable: "ANTHROPIC_API_KEY" },
        "openai" => Usual { model: "gpt-5", variable: "OPENAI_API_KEY" },
        "gemini" => Usual { model: "gemini-2.5-pro", variable: "GEMINI_API_KEY" },
        "ollama" => Usual { model: "qwen3-coder", variable: "" },
        _ => Usual { model: "", variable: "" },
    }
}

/// A path as it is meant here and now.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A configuration in a directory of its own, for trials; gone when dropped.
pub struct Scratch {
    /// What was read back.
    pub config: Config,
    dir: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only our own two files are in it.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Answers {
    /// The answers so far as a configuration to try.
    pub fn scratch(&self) -> Result<Scratch, Failure> {
        let dir = std::env::temp_dir().join(format!("musher-init-{}", uuid::Uuid::new_v4()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&dir)
            .map_err(|error| cannot("create", &dir, &error))?;
        let made = put(&dir.join("musher.toml"), self);
        match made {
            Ok(config) => Ok(Scratch { config, dir }),
            Err(failure) => {
                let _ = std::fs::remove_dir_all(&dir);
                Err(failure)
            }
        }
    }

    fn toml(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let list = |texts: &[String]| {
            let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}]", quoted.join(", "))
        };
        let mut out = String::from(
            "# Written by `musher init`. config/musher.example.toml shows every key.\n\
             data_dir = \".musher\"\n",
        );
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        if !self.homeserver.is_empty() {
            line("\n[matrix]".to_owned());
            line(format!("homeserver = {}", quoted(&self.homeserver)));
            line(format!("user_id = {}", quoted(&self.user)));
            line(match &self.password {
                Password::Env(name) => format!("password_env = {}", quoted(name)),
                Password::File(path) => {
                    format!("password_file = {}", quoted(&path.to_string_lossy()))
                }
                Password::Typed(_) => format!("password_file = {}", quoted(PASSWORD_FILE)),
            });
            line(format!("allowed_users = {}", list(&self.allow)));
            line("allowed_rooms = [\"*\"]".to_owned());
            line(format!("admin_users = {}", list(&self.allow)));
        }
        line("\n[llm]".to_owned());
        line(format!("provider = {}", quoted(&self.provider)));
        line(format!("model = {}", quoted(&self.model)));
        let file = self.api_key_file.as_ref().map(|file| file.to_string_lossy().into_owned());
        for (key, value) in [
            ("api_key_env", self.api_key_env.as_ref()),
            ("api_key_file", file.as_ref()),
            ("base_url", self.base_url.as_ref()),
        ] {
            if let Some(value) = value {
                line(format!("{key} = {}", quoted(value)));
            }
        }
        if let Some(path) = &self.project {
            line("\n[[projects]]".to_owned());
            line(format!(
                "name = {}",
                quoted(ProjectConfig::of_directory(path.clone()).name.as_str())
            ));
            line(format!("path = {}", quoted(&path.to_string_lossy())));
            line(format!("base = {}", quoted(self.base.as_deref().unwrap_or("main"))));
            line(format!("gates = {}", list(&self.gates)));
        }
        line("\n[[agents]]".to_owned());
        line("name = \"coder-1\"".to_owned());
        line("role = \"coder\"".to_owned());
        line(format!("runtime = {}", quoted(&self.runtime)));
        if let Some(name) = self.api_key_env.as_ref().filter(|_| self.runtime == "claude-code") {
            line(format!("env = {}", list(std::slice::from_ref(name))));
        }
        let allow = self.allow();
        if !allow.is_empty() {
            line(
                "# What it may run without asking, beside what looks and commits: the gates."
                    .into(),
            );
            line(format!("allow = {}", list(&allow)));
        }
        out
    }

    /// The rules under which an agent can run the gates of its project: one for each command in
    /// them, with or without further arguments.
    fn allow(&self) -> Vec<String> {
        let tool = if self.runtime == "claude-code" { "Bash" } else { "shell" };
        let parts = self.gates.iter().filter_map(|gate| permission::commands(gate)).flatten();
        let mut rules: Vec<String> = vec![];
        for part in parts {
            let rule = format!("{tool}({part} *)");
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    }
}

/// Writes the configuration and what belongs to it, and reads it back.
pub fn write(path: &Path, answers: &Answers) -> Result<Config, Failure> {
    put(path, answers)
}

/// Writes beside, reads back, then moves into place: a bad answer replaces nothing.
fn put(path: &Path, answers: &Answers) -> Result<Config, Failure> {
    let dir = absolute(path).parent().map(Path::to_owned).unwrap_or_default();
    if let Password::Typed(password) = &answers.password
        && !answers.homeserver.is_empty()
    {
        write_private(&dir.join(PASSWORD_FILE), &format!("{password}\n"))?;
    }
    let trial = path.with_extension("toml.new");
    write_private(&trial, &answers.toml())?;
    if let Err(errors) = config::load(&trial) {
        let _ = std::fs::remove_file(&trial);
        return Err(Failure::new(
            Code::Usage,
            format!("the answers make no good configuration:\n{errors}"),
        ));
    }
    std::fs::rename(&trial, path).map_err(|error| cannot("write", path, &error))?;
    Ok(config::load(path)?)
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    // A file that is there already would keep its own permissions.
    let _ = std::fs::remove_file(path);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot {what} {}: {error}", path.display()))
}
