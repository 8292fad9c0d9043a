//! From a file to a configuration, or to everything that is wrong with it.

use super::Config;
use super::diagnose::diagnose;
use super::error::{ConfigError, ConfigErrors};
use super::source::Source;
use super::validate::validate;
use std::path::{Path, PathBuf};

/// The variable that names the configuration.
const VARIABLE: &str = "MUSHER_CONFIG";
/// The file's usual name.
const NAME: &str = "musher.toml";

/// Reads a configuration; paths in it come back absolute.
///
/// Looks at nothing but the file: what it names is tried by [`super::check_secrets`] and by
/// `musher doctor`. All errors are reported at once, those of syntax before those of form, and
/// those of form before those of meaning.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let source = Source::read(path).map_err(|error| ConfigErrors(vec![*error]))?;
    let mut config = match toml::from_str::<Config>(&source.text) {
        Ok(config) => config,
        Err(error) => {
            let mut errors = diagnose(&source);
            if errors.is_empty() {
                errors.push(unplaced(&source, &error));
            }
            return Err(ConfigErrors(errors));
        }
    };
    let errors = validate(&config, &source);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    config.file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    make_absolute(&mut config);
    Ok(config)
}

/// What serde says, for an error that the diagnosis did not find a place for.
fn unplaced(source: &Source, error: &toml::de::Error) -> ConfigError {
    ConfigError {
        file: source.path.clone(),
        line: error.span().map(|span| source.line_of(span.start)),
        key: String::new(),
        value: None,
        reason: error.message().replace('\n', " "),
        remedy: "compare it with config/musher.example.toml".to_owned(),
    }
}

/// Makes paths absolute: `~` is the home directory, and what is relative is so to the file.
fn make_absolute(config: &mut Config) {
    let base = config.file.parent().map(Path::to_owned).unwrap_or_default();
    let fix = |path: &mut PathBuf| *path = base.join(expand(path));
    fix(&mut config.data_dir);
    let optional = [
        config.projects_dir.as_mut(),
        config.llm.api_key_file.as_mut(),
        config.llm.replay_file.as_mut(),
    ];
    optional.into_iter().flatten().for_each(fix);
    if let Some(matrix) = &mut config.matrix {
        let files = [matrix.password_file.as_mut(), matrix.store_passphrase_file.as_mut()];
        files.into_iter().flatten().for_each(fix);
    }
    config.projects.iter_mut().for_each(|project| fix(&mut project.path));
    config.agents.iter_mut().filter_map(|agent| agent.replay_file.as_mut()).for_each(fix);
}

fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        (Ok(_), None) | (Err(_), _) => path.to_owned(),
    }
}

/// Finds the configuration: the one given, else `$MUSHER_CONFIG`, else `./musher.toml`, else the
/// one in the user's configuration directory.
pub fn find(given: Option<&Path>) -> Result<PathBuf, ConfigErrors> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let mut tried = vec![PathBuf::from(NAME)];
    tried.extend(user_dir().map(|dir| dir.join(NAME)));
    if let Some(found) = tried.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let names: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    Err(ConfigErrors(vec![ConfigError {
        file: PathBuf::from(NAME),
        line: None,
        key: String::new(),
        value: None,
        reason: format!("there is no configuration; looked at ${VARIABLE}, {}", names.join(", ")),
        remedy: "write one with `musher init`, or name one with `-c FILE`".to_owned(),
    }]))
}

/// The user's configuration directory: `$XDG_CONFIG_HOME/musher`, else `~/.config/musher`.
pub fn user_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(base.join("musher"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[matrix]
homeserver = "https://matrix.example.org"
user_id = "@musher:example.org"
password_env = "P"
allowed_users = ["@you:example.org"]
allowed_rooms = ["*"]
[llm]
provider = "anthropic"
model = "claude-sonnet-4-5"
api_key_env = "K"
[[projects]]
name = "shop"
path = "shop"
[[agents]]
name = "coder-1"
role = "coder"
runtime = "claude-code"
"#;

    fn read(text: &str) -> Result<Config, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("musher.toml");
        std::fs::write(&file, text).unwrap();
        load(&file).map_err(|errors| errors.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = read(GOOD).unwrap();
        let base = config.file.parent().unwrap();
        assert_eq!(config.data_dir, base.join(".musher"));
        assert_eq!(config.projects[0].path, base.join("shop"));
    }

    #[test]
    fn the_example_is_a_good_configuration() {
        read(super::super::EXAMPLE).unwrap();
    }

    #[test]
    fn each_mistake_is_told_with_line_key_value_reason_and_remedy() {
        let mut wrong = vec![];
        for (from, to, expected) in [
            ("provider =", "provdier =", &["9: llm.provdier", "no such key", "`provider`"][..]),
            (
                "\"anthropic\"",
                "\"antropic\"",
                &[
                    ":9: llm.provider = \"antropic\"",
                    "unknown variant",
                    "did you mean \"anthropic\"?",
                ],
            ),
            ("\"coder\"", "7", &[":17: agents[0].role = 7", "invalid type", "a text in quotes"]),
            (
                "name = \"shop\"\n",
                "",
                &[
                    ": projects[0].name: this key is missing",
                    "add it to projects[0], for example: name = \"shop\"",
                ],
            ),
            ("[llm]", "[lmm]", &["no such key", "did you mean `llm`?"]),
            ("[matrix]", "[matrix", &[":2", "not TOML"]),
            ("[matrix]", "matrix = 3\n[x]", &["matrix = 3", "it must be a table"]),
            (
                "password_env = \"P\"",
                "password = \"hunter2\"",
                &[
                    ":5: matrix.password: there is no such key",
                    "set password_env to the name of a variable",
                ],
            ),
            ("password_env = \"P\"", "", &["matrix.password_env", "named nowhere"]),
            ("\"P\"", "\"correct horse\"", &["matrix.password_env: it is not the name"]),
            ("https://matrix", "matrix", &["matrix.homeserver = ", "does not begin with https"]),
            ("https://matrix", "https://a:b@matrix", &["holds credentials"]),
            ("\"@musher:example.org\"", "\"musher\"", &["matrix.user_id = \"musher\""]),
            (
                "[\"@you:example.org\"]",
                "[\"@you:example.org\", \"you\"]",
                &[":6: matrix.allowed_users[1] = \"you\""],
            ),
            ("[\"*\"]", "[\"lobby\"]", &["matrix.allowed_rooms[0] = \"lobby\""]),
            (
                "[\"*\"]",
                "[\"*\"]\nadmin_users = [\"@me:example.org\"]",
                &["matrix.admin_users[0] = \"@me:example.org\"", "is not heard"],
            ),
            ("model = \"claude-sonnet-4-5\"", "", &["llm.model: the model is missing"]),
            ("api_key_env = \"K\"", "", &["llm.api_key_env", "named nowhere"]),
            ("[[projects]]", "[limits]\nwarn_at = 80\n[[projects]]", &["limits.warn_at = 80"]),
            (
                "[[projects]]",
                "[limits]\nmax_agents = -1\n[[projects]]",
                &["limits.max_agents = -1", "write a whole number, such as 4"],
            ),
            (
                "[[projects]]",
                "[[projects]]\nname = \"shop\"\npath = \"x\"\n[[projects]]",
                &["projects[1].name = \"shop\": another project has this name"],
            ),
            ("\"shop\"\npath", "\"My Shop\"\npath", &["projects[0].name = \"My Shop\""]),
            ("\"coder-1\"", "\"coordinator\"", &["agents[0].name", "has a meaning already"]),
            ("\"claude-code\"", "\"replay\"", &["agents[0].replay_file", "needs a recording"]),
            (
                "[matrix]",
                "time_zone = \"Europe/Berln\"\n[matrix]",
                &[":2: time_zone = \"Europe/Berln\"", "did you mean `Europe/Berlin`?"],
            ),
            ("[matrix]", "data_dir = \"\"\n[matrix]", &["data_dir", "empty"]),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let errors = match read(&GOOD.replacen(from, to, 1)) {
                Ok(_) => "nothing is wrong".to_owned(),
                Err(errors) => errors.join("\n"),
            };
            let missing = expected.iter().filter(|part| !errors.contains(**part));
            wrong.extend(missing.map(|part| format!("`{to}` lacks `{part}`:\n{errors}\n")));
            assert!(!errors.contains("hunter2") && !errors.contains("correct horse"), "{errors}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn several_mistakes_are_told_at_once() {
        let text = GOOD.replace("homeserver", "home_server").replace("\"coder\"", "\"coda\"");
        let errors = read(&text).unwrap_err();
        // The unknown key, the missing one, and the role.
        assert_eq!(errors.len(), 3, "{errors:#?}");
        let text = GOOD.replace("https://", "ftp://").replace("\"coder-1\"", "\"a b\"");
        assert_eq!(read(&text).unwrap_err().len(), 2);
    }
}
