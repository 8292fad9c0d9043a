//! A wrong configuration: exit 2, and one sentence with file, line, key, reason and remedy.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const GOOD: &str = r#"
[matrix]
homeserver = "https://matrix.example.org"
user_id = "@musher:example.org"
password_env = "TEST_PASSWORD"
allowed_users = ["@you:example.org"]
allowed_rooms = ["*"]
[llm]
provider = "anthropic"
model = "claude-sonnet-4-5"
api_key_env = "TEST_KEY"
[[agents]]
name = "coder-1"
role = "coder"
runtime = "api"
"#;

/// A directory with `musher.toml` in it.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn with(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("musher.toml"), text).unwrap();
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("musher.toml")
    }

    /// Calls the program in its directory, with both secrets in the environment.
    fn musher(&self, arguments: &[&str]) -> Output {
        self.musher_with(arguments, &[("TEST_PASSWORD", "secret-1"), ("TEST_KEY", "secret-2")])
    }

    fn musher_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let home = self.dir.path().join("home");
        Command::new(env!("CARGO_BIN_EXE_musher"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", home)
            .envs(environment.iter().copied())
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }

    fn check(&self) -> (i32, String) {
        told(&self.musher(&["check", "-c", &self.file().display().to_string()]))
    }
}

fn told(output: &Output) -> (i32, String) {
    assert!(output.stdout.is_empty() || output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn each_malformed_configuration_is_told_with_its_place_and_the_remedy() {
    let mut wrong = vec![];
    for (from, to, expected) in [
        ("provider = ", "provdier = ", &[":9: llm.provdier", "did you mean `provider`?"][..]),
        ("\"anthropic\"", "\"antropic\"", &[":9: llm.provider = \"antropic\"", "did you mean"]),
        ("[llm]", "[llm", &[":8", "not TOML", "put the line right"]),
        ("\"coder\"", "[]", &[":14: agents[0].role = []", "write a text in quotes"]),
        ("name = \"coder-1\"\n", "", &["agents[0].name", "missing", "add it to agents[0]"]),
        (
            "password_env = \"TEST_PASSWORD\"",
            "password = \"hunter22\"",
            &[":5: matrix.password", "no such key", "password_env"],
        ),
        ("https://", "", &[":3: matrix.homeserver", "does not begin with https://", "write it as"]),
        ("@musher:example.org", "musher", &[":4: matrix.user_id = \"musher\"", "@name:server"]),
        (
            "TEST_KEY",
            "NOT_SET_ANYWHERE",
            &[":11: llm.api_key_env", "NOT_SET_ANYWHERE is not set", "export it"],
        ),
        (
            "[[agents]]",
            "[[projects]]\nname = \"shop\"\npath = \"nowhere\"\n[[agents]]",
            &[":14: projects[0].path = \"nowhere\"", "does not exist", "create it"],
        ),
        (
            "[matrix]",
            "time_zone = \"Mars/Olympus\"\n[matrix]",
            &[":2: time_zone = \"Mars/Olympus\"", "no time zone", "Europe/Berlin"],
        ),
    ] {
        let desk = Desk::with(&GOOD.replacen(from, to, 1));
        let (code, text) = desk.check();
        if code != 2 {
            wrong.push(format!("`{to}`: exit {code}\n{text}"));
        }
        let file = desk.file().display().to_string();
        let expected = [expected, &[file.as_str()]].concat();
        let missing = expected.iter().filter(|part| !text.contains(**part));
        wrong.extend(missing.map(|part| format!("`{to}` lacks `{part}`:\n{text}")));
        assert!(!text.contains("hunter22"), "a secret is repeated: {text}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_subcommand_that_needs_it_refuses_a_malformed_configuration_alike() {
    let desk = Desk::with(&GOOD.replace("\"coder\"", "\"coda\""));
    for call in [
        &["run"][..],
        &["console"],
        &["status"],
        &["mail", "list"],
        &["mail", "send", "--to", "coder-1", "--subject", "s", "--body", "b"],
    ] {
        let (code, text) = told(&desk.musher(call));
        assert_eq!(code, 2, "{call:?}: {text}");
        assert!(text.contains("agents[0].role") && text.contains("`coder`"), "{call:?}: {text}");
    }
    assert!(!desk.dir.path().join(".musher").exists(), "nothing was made");
}

#[test]
fn all_mistakes_are_told_at_once_also_as_json() {
    let text = GOOD.replace("homeserver", "home_server").replace("\"api\"", "\"apo\"");
    let desk = Desk::with(&text);
    let output = desk.musher(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = value["error"]["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 3, "{value:#}");
    for error in errors {
        for key in ["file", "key", "reason", "remedy"] {
            assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {error}");
        }
    }
}

#[test]
fn a_good_configuration_is_found_in_each_of_its_places() {
    let desk = Desk::with(GOOD);
    assert_eq!(desk.check().0, 0, "{:?}", desk.check());
    assert!(desk.musher(&["check"]).status.success(), "./musher.toml");
    let here = desk.file();
    let secrets = [("TEST_PASSWORD", "secret-1"), ("TEST_KEY", "secret-2")];

    let elsewhere = desk.dir.path().join("elsewhere.toml");
    std::fs::rename(&here, &elsewhere).unwrap();
    let named = [&secrets[..], &[("MUSHER_CONFIG", elsewhere.to_str().unwrap())]].concat();
    assert!(desk.musher_with(&["check"], &named).status.success(), "$MUSHER_CONFIG");

    let (code, text) = told(&desk.musher(&["check"]));
    assert_eq!(code, 2);
    assert!(text.contains("musher init") && text.contains(".config/musher/musher.toml"), "{text}");

    let user = desk.dir.path().join("home/.config/musher");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::rename(&elsewhere, user.join("musher.toml")).unwrap();
    assert!(desk.musher(&["check"]).status.success(), "the user's directory");
}

#[test]
fn a_secret_file_that_others_can_read_is_refused() {
    let text = GOOD.replace("password_env = \"TEST_PASSWORD\"", "password_file = \"pw\"");
    let desk = Desk::with(&text);
    let file = desk.dir.path().join("pw");
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (code, said) = desk.check();
    assert!(code == 2 && said.contains("cannot be read"), "{said}");
    std::fs::write(&file, "correct horse").unwrap();
    set_mode(&file, 0o644);
    let (code, said) = desk.check();
    assert_eq!(code, 2);
    assert!(said.contains("matrix.password_file") && said.contains("chmod 600"), "{said}");
    assert!(!said.contains("correct"), "{said}");
    set_mode(&file, 0o600);
    assert_eq!(desk.check().0, 0);
}
