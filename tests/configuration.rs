//! A configuration that is wrong in any way is refused: where, which key, why, and what to do.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::model_server::ModelServer;
use crate::support::musher::{Called, Musher};

const GOOD: &str = r#"data_dir = "data"
time_zone = "Europe/Berlin"

[matrix]
homeserver = "https://matrix.example.org"
user_id = "@musher:example.org"
password_env = "MUSHER_MATRIX_PASSWORD"
allowed_users = ["@ann:example.org"]
allowed_rooms = ["*"]
admin_users = ["@ann:example.org"]

[llm]
provider = "anthropic"
model = "claude-sonnet-4-5"
api_key_env = "ANTHROPIC_API_KEY"

[chat]
coalesce_ms = 1500

[[projects]]
name = "shop"
path = "shop"
gates = ["cargo test"]

[[agents]]
name = "coder-1"
role = "coder"
runtime = "claude-code"
"#;

/// What stands there, what is put in its place, the line and key that must be named, and words of
/// the reason or the remedy.
const WRONG: &[(&str, &str, usize, &str, &[&str])] = &[
    ("homeserver =", "homeservr =", 5, "homeservr", &["homeserver"]),
    ("[chat]", "[chatt]", 17, "chatt", &["chat"]),
    ("coalesce_ms = 1500", "coalesce_ms = \"long\"", 18, "coalesce_ms", &["long"]),
    ("coalesce_ms = 1500", "coalesce_ms = -1", 18, "coalesce_ms", &["-1"]),
    ("coalesce_ms = 1500", "coalesce_ms = 9000", 18, "chat.coalesce_ms", &["coalesce_max_ms"]),
    ("coalesce_ms = 1500", "coalesce_ms = 15 00", 18, "", &[]),
    ("coalesce_ms = 1500", "prefix = \"\"", 18, "chat.prefix", &["!"]),
    ("coalesce_ms = 1500", "queue_mode = \"drop\"", 18, "queue_mode", &["collect"]),
    ("https://matrix", "matrix", 5, "matrix.homeserver", &["https://"]),
    ("@musher:example.org\"", "musher\"", 6, "matrix.user_id", &["@name:server"]),
    ("password_env = \"MUSHER", "password = \"MUSHER", 7, "password", &["password_env"]),
    (
        "[\"@ann:example.org\"]\nallowed",
        "[\"ann\"]\nallowed",
        8,
        "allowed_users",
        &["@name:server"],
    ),
    ("[\"*\"]", "[\"office\"]", 9, "allowed_rooms", &["#alias:server"]),
    ("admin_users = [\"@ann", "admin_users = [\"@eve", 10, "admin_users", &["allowed_users"]),
    ("\"anthropic\"", "\"antropic\"", 13, "llm.provider", &["antropic", "anthropic"]),
    ("model = \"claude-sonnet-4-5\"\n", "\n", 0, "llm.model", &["missing"]),
    ("api_key_env = \"ANTHROPIC_API_KEY\"", "\n", 0, "llm.api_key_env", &["key"]),
    ("Europe/Berlin", "Berlin", 2, "time_zone", &["Europe/Berlin"]),
    ("\"shop\"\npath", "\"My Shop\"\npath", 21, "projects[0].name", &["My Shop"]),
    ("path = \"shop\"\n", "", 0, "path", &["missing"]),
    ("[\"cargo test\"]", "\"cargo test\"", 23, "gates", &["[\"cargo test\"]"]),
    (
        "gates = [\"cargo test\"]",
        "mode = \"pr\"",
        0,
        "projects[0].pr_command",
        &["mode = \"pr\"", "gh pr create"],
    ),
    ("coalesce_ms = 1500", "stream_edit_ms = 0", 18, "chat.stream_edit_ms", &["at least 1"]),
    ("[chat]", "[log]\nfilter = \"musher=loud\"\n[chat]", 18, "log.filter", &["musher=info"]),
    ("\"anthropic\"", "\"claude-code\"", 13, "llm.provider", &["anthropic, openai"]),
    (
        "provider = \"anthropic\"",
        "provider = \"replay\"\nreplay_file = \"gone.json\"",
        14,
        "llm.replay_file",
        &["gone.json", "cannot read", "name a recording"],
    ),
    (
        "runtime = \"claude-code\"",
        "runtime = \"replay\"\nreplay_file = \"gone.jsonl\"",
        29,
        "agents[0].replay_file",
        &["gone.jsonl", "cannot be read", "name a recording"],
    ),
    (
        "model = \"claude-sonnet-4-5\"\napi_key_env = \"ANTHROPIC_API_KEY\"\n",
        "model = \"home-grown\"\napi_key_env = \"ANTHROPIC_API_KEY\"\n[limits]\nusd_per_day = 5.0\n",
        17,
        "limits.usd_per_day",
        &["home-grown", "usd_per_million_input", "tokens"],
    ),
    (
        "\"claude-code\"",
        "\"api\"\nmodel = \"home-grown\"\nmax_usd = 2.0",
        30,
        "agents[0].max_usd",
        &["coder-1", "home-grown", "usd_per_million_input"],
    ),
    ("role = \"coder\"", "role = \"codr\"", 27, "agents[0].role", &["codr", "coder"]),
    ("\"claude-code\"", "\"claude\"", 28, "agents[0].runtime", &["claude-code"]),
    ("gates =", "usd_per_day = -1.0\ngates =", 23, "projects[0].usd_per_day", &["from 0"]),
    ("[chat]", "[limits]\nusd_per_item = -1.0\n\n[chat]", 18, "limits.usd_per_item", &["from 0"]),
    ("\"coder-1\"", "\"coordinator\"", 26, "agents[0].name", &["coordinator"]),
];

/// Checks a configuration by this text.
async fn check(musher: &Musher, text: &str, more: &[&str]) -> Called {
    let path = musher.directory().join("wrong.toml");
    std::fs::write(&path, text).unwrap();
    musher.call_exactly(&[&["check", "-c", &path.display().to_string()], more].concat()).await
}

#[tokio::test]
async fn every_mistake_is_named_with_file_line_key_and_remedy() {
    let model = ModelServer::start().await;
    let musher = Musher::offline(&model);
    let repository = musher.directory().join("shop");
    // `check` looks for the base branch, too, so there must be a commit on it.
    let init = ["init", "-q", "-b", "main"];
    let made = std::process::Command::new("git").args(init).arg(&repository).status();
    assert!(made.unwrap().success());
    let identity = ["-c", "user.name=Ann", "-c", "user.email=ann@test.local"];
    let made = std::process::Command::new("git")
        .args(identity)
        .args(["commit", "-q", "--allow-empty", "-m", "First"])
        .current_dir(&repository)
        .status();
    assert!(made.unwrap().success());
    let good = check(&musher, GOOD, &[]).await;
    assert_eq!(good.code, 0, "{good:?}");

    for (there, instead, line, key, words) in WRONG {
        let wrong = GOOD.replacen(there, instead, 1);
        assert_ne!(wrong, GOOD, "{there} stands there");
        let called = check(&musher, &wrong, &[]).await;
        assert_eq!(called.code, 2, "{instead}: {called:?}");
        let place = if *line == 0 { "wrong.toml".to_owned() } else { format!("wrong.toml:{line}") };
        for part in [&place as &str, key].iter().chain(*words) {
            assert!(called.stderr.contains(part), "{instead}: no {part:?} in {called:?}");
        }
        assert!(!called.stderr.contains("panicked") && called.stdout.is_empty(), "{called:?}");
        // The server says the same, and leaves before it has touched anything.
        let path = musher.directory().join("wrong.toml").display().to_string();
        let server = musher.call_exactly(&["run", "-c", &path]).await;
        assert_eq!((server.code, &server.stderr), (2, &called.stderr), "{instead}");
    }
    assert!(!musher.data().exists(), "nothing was made");
}

#[tokio::test]
async fn all_mistakes_are_named_at_once_and_also_as_json() {
    let model = ModelServer::start().await;
    let musher = Musher::offline(&model);
    let wrong = GOOD.replace("Europe/Berlin", "Berlin").replace("\"*\"", "\"office\"");
    let called = check(&musher, &wrong, &[]).await;
    for part in ["wrong.toml:2", "time_zone", "wrong.toml:9", "allowed_rooms"] {
        assert!(called.stderr.contains(part), "{part} in {called:?}");
    }
    let called = check(&musher, &wrong, &["--json"]).await;
    assert_eq!(called.code, 2, "{called:?}");
    let text = format!("{}{}", called.stdout, called.stderr);
    let answer: Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(answer["error"]["message"].as_str().is_some(), "{answer}");
}

#[tokio::test]
async fn secrets_are_not_in_the_file_and_not_in_the_open() {
    let model = ModelServer::start().await;
    let mut musher = Musher::offline(&model);
    std::fs::create_dir(musher.directory().join("shop")).unwrap();
    let written =
        GOOD.replace("password_env = \"MUSHER_MATRIX_PASSWORD\"", "password = \"hunter2\"");
    let called = check(&musher, &written, &[]).await;
    assert_eq!(called.code, 2);
    assert!(!called.stderr.contains("hunter2"), "{called:?}");

    musher.without_env("MUSHER_MATRIX_PASSWORD");
    let called = check(&musher, GOOD, &[]).await;
    assert_eq!(called.code, 2, "{called:?}");
    assert!(called.stderr.contains("MUSHER_MATRIX_PASSWORD"), "{called:?}");

    let secret = musher.directory().join("password");
    std::fs::write(&secret, "hunter2\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let named = format!("password_file = \"{}\"", secret.display());
    let text = GOOD.replace("password_env = \"MUSHER_MATRIX_PASSWORD\"", &named);
    let called = check(&musher, &text, &[]).await;
    assert_eq!(called.code, 2, "{called:?}");
    assert!(
        called.stderr.contains("password_file") && called.stderr.contains("chmod"),
        "{called:?}"
    );
    assert!(!called.stderr.contains("hunter2"), "{called:?}");
}

#[tokio::test]
async fn a_file_that_is_missing_or_no_toml() {
    let model = ModelServer::start().await;
    let musher = Musher::offline(&model);
    let called = musher.call_exactly(&["check", "-c", "/nowhere/musher.toml"]).await;
    assert_eq!(called.code, 2, "{called:?}");
    assert!(
        called.stderr.contains("/nowhere/musher.toml") && called.stderr.contains("musher init")
    );
    let called = check(&musher, "this is = = no TOML\n", &[]).await;
    assert_eq!(called.code, 2, "{called:?}");
    assert!(called.stderr.contains("wrong.toml:1"), "{called:?}");
}

/// A key that nobody reads would be a promise that nobody keeps.
#[tokio::test]
async fn each_key_of_the_example_has_a_reader_or_a_warning() {
    let mut keys = vec![];
    let mut tables = vec![toml::Value::Table(musher::config::full_example())];
    while let Some(next) = tables.pop() {
        match next {
            toml::Value::Table(table) => {
                keys.extend(table.keys().cloned());
                tables.extend(table.into_iter().map(|(_, value)| value));
            }
            toml::Value::Array(list) => tables.extend(list),
            _ => {}
        }
    }
    assert!(keys.len() > 70, "the example was not read: {keys:?}");
    // Types, defaults and checks are no readers.
    let code: Vec<String> = crate::architecture::sources()
        .into_iter()
        .filter(|(path, _)| {
            let path = path.to_string_lossy();
            !path.starts_with("config") && !path.contains("tests")
        })
        .map(|(_, text)| {
            text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
        })
        .collect();
    let read = |key: &str| {
        let field = regex::Regex::new(&format!(r"(\.|\b){key}\b(?:[^:(\w]|$)")).unwrap();
        code.iter().any(|text| {
            text.lines().any(|line| !line.trim_start().starts_with("//") && field.is_match(line))
        })
    };
    let full: musher::config::Config =
        toml::Value::Table(musher::config::full_example()).try_into().unwrap();
    let warned = musher::config::warnings(&full);
    let warned =
        |key: &str| warned.iter().any(|text| text.contains(&format!(".{key} is set, but")));
    let unread: Vec<&String> = keys.iter().filter(|key| !read(key) && !warned(key)).collect();
    assert!(unread.is_empty(), "nobody reads these, and nobody says so: {unread:?}");
    assert!(warned("listen"), "the warning is given");
}

/// What the example offers is what works.
#[tokio::test]
async fn each_provider_that_the_example_names_is_taken() {
    let model = ModelServer::start().await;
    let musher = Musher::offline(&model);
    let recording = musher.directory().join("recording.json");
    std::fs::write(&recording, r#"{"exchanges": [{"steps": [{"text": "x"}]}]}"#).unwrap();
    let example = include_str!("../config/musher.example.toml");
    let (before, _) = example.split_once("provider = ").unwrap();
    let names = before.rsplit_once("# Required: ").unwrap().1.replace("# ", " ");
    // What stands in brackets is said about one of them.
    let mut plain = String::new();
    let mut depth = 0;
    for letter in names.chars() {
        depth += i32::from(letter == '(');
        if depth == 0 {
            plain.push(letter);
        }
        depth -= i32::from(letter == ')');
    }
    let named: Vec<&str> =
        plain.split('|').map(|name| name.trim_matches(['.', ' ', '\n'])).collect();
    assert!(named.len() >= 5 && named.contains(&"ollama"), "{named:?}");
    for provider in named {
        let text = format!(
            "[llm]\nprovider = \"{provider}\"\nmodel = \"x\"\napi_key_env = \"ANTHROPIC_API_KEY\"\n\
             replay_file = \"{}\"\n",
            recording.display()
        );
        let called = check(&musher, &text, &[]).await;
        assert_eq!(called.code, 0, "{provider}: {called:?}");
    }
}
