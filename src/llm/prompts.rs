//! The prompts: one Markdown page a role, embedded, as templates.
//!
//! A file of the same name in the user's own configuration directory (`prompts/NAME.md`) wins,
//! and is read anew each time, so that it can be tried without a restart. A placeholder that
//! nothing fills is an error, not an empty place.

use include_dir::{Dir, include_dir};
use minijinja::{Environment, UndefinedBehavior, Value};
use std::path::PathBuf;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/prompts");

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// There is no page of that name.
    #[error("there is no prompt named {0}")]
    Unknown(String),
    /// The page cannot be read or filled.
    #[error(
        "the prompt {name} cannot be used: {reason}; put it right, or remove the file to use the built-in one"
    )]
    Bad {
        /// The page, or the file that replaces it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where prompts come from. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Prompts {
    user_dir: Option<PathBuf>,
}

impl Prompts {
    /// Prompts with those in `config_dir/prompts` preferred to the embedded ones.
    pub fn new(config_dir: Option<PathBuf>) -> Self {
        Self { user_dir: config_dir.map(|dir| dir.join("prompts")) }
    }

    /// Fills the page `name` (a role's name, or `coordinator`) with `values`, as
    /// `minijinja::context!` makes them.
    pub fn render(&self, name: &str, values: Value) -> Result<String, PromptError> {
        let (source, shown) = self.source(name)?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment
            .render_str(&source, values)
            .map_err(|error| PromptError::Bad { name: shown, reason: format!("{error:#}") })
    }

    fn source(&self, name: &str) -> Result<(String, String), PromptError> {
        let file = format!("{name}.md");
        if let Some(path) = self.user_dir.as_ref().map(|dir| dir.join(&file)) {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Ok((text, path.display().to_string())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let name = path.display().to_string();
                    return Err(PromptError::Bad { name, reason: error.to_string() });
                }
            }
        }
        EMBEDDED
            .get_file(&file)
            .and_then(|file| file.contents_utf8())
            .map(|text| (text.to_owned(), file))
            .ok_or_else(|| PromptError::Unknown(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::Role;

    #[test]
    fn every_role_has_a_prompt_that_needs_no_values() {
        let prompts = Prompts::default();
        for role in Role::ALL {
            let text = prompts.render(role.as_str(), minijinja::context! {}).unwrap();
            assert!(text.contains("Musher"), "{role:?}");
        }
        assert!(matches!(
            prompts.render("cook", minijinja::context! {}),
            Err(PromptError::Unknown(_))
        ));
    }

    #[test]
    fn a_file_of_ones_own_wins_and_an_unfilled_place_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("prompts")).unwrap();
        std::fs::write(dir.path().join("prompts/coder.md"), "Mine: {{ nobody }}").unwrap();
        let prompts = Prompts::new(Some(dir.path().to_owned()));
        let error = prompts.render("coder", minijinja::context! {}).unwrap_err().to_string();
        assert!(error.contains("coder.md"), "{error}");
        let values = minijinja::context! { nobody => "x" };
        assert_eq!(prompts.render("coder", values).unwrap(), "Mine: x");
        assert!(prompts.render("qa", minijinja::context! {}).is_ok());
    }
}
