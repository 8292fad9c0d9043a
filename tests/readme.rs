//! The README tells the truth: its command table is made from the commands' pages.
//!
//! `UPDATE=1 cargo test --test runner readme` writes it anew.

use musher::commands::Registry;
use std::path::Path;

const BEGIN: &str = "<!-- commands:";
const END: &str = "<!-- /commands -->";

#[test]
fn the_command_table_is_made_from_the_pages() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text.find(BEGIN).expect("the marker of the table");
    let begin = begin + text[begin..].find('\n').unwrap() + 1;
    let end = text.find(END).expect("the marker of the table's end");
    let table = Registry::builtin().table();
    let wanted = format!("{}\n\n{}\n\n{}", text[..begin].trim_end(), table.trim(), &text[end..]);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
        return;
    }
    assert!(text == wanted, "run: UPDATE=1 cargo test --test runner readme");
}

/// Every key that the README's configuration table names stands in the example.
#[test]
fn the_configuration_table_names_keys_that_there_are() {
    let readme = include_str!("../README.md");
    let example = include_str!("../config/musher.example.toml");
    let rows = readme.lines().skip_while(|line| *line != "## Configuration");
    let mut seen = 0;
    for row in rows.filter(|line| line.starts_with("| `")) {
        let cell = row.split('|').nth(1).unwrap();
        for name in cell.split('`').skip(1).step_by(2) {
            let key = name.rsplit([' ', ']']).next().unwrap();
            if key.ends_with('/') {
                continue; // the table of folders
            }
            seen += 1;
            assert!(example.contains(&format!("{key} =")), "{key} is not in the example");
        }
    }
    assert!(seen > 15, "the table was not found: {seen} keys");
}

/// The value at a key of the configuration, by its table and its name.
fn default_of(config: &serde_json::Value, table: &str, key: &str) -> serde_json::Value {
    let of = match table {
        "" => config.clone(),
        "[projects]" | "[agents]" => config[table.trim_matches(['[', ']'])][0].clone(),
        table => config[table].clone(),
    };
    of.get(key).cloned().unwrap_or_else(|| panic!("there is no key {table} {key}"))
}

/// Every default that the README's configuration table names is the one that holds.
#[test]
fn the_configuration_table_names_the_defaults_that_there_are() {
    let bare = r#"
        [matrix]
        homeserver = "https://matrix.example.org"
        user_id = "@musher:example.org"
        allowed_users = []
        allowed_rooms = []
        [llm]
        provider = "ollama"
        [[projects]]
        name = "shop"
        path = "shop"
        [[agents]]
        name = "coder-1"
        role = "coder"
        runtime = "api"
    "#;
    let config: musher::config::Config = toml::from_str(bare).unwrap();
    let config = serde_json::to_value(&config).unwrap();
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "none".to_owned(),
        serde_json::Value::Array(list) if list.is_empty() => "none".to_owned(),
        other => other.to_string(),
    };
    let readme = include_str!("../README.md");
    let rows = readme.lines().skip_while(|line| *line != "## Configuration");
    let (mut seen, mut wrong) = (0, vec![]);
    for row in rows.take_while(|line| *line != "## Folders").filter(|line| line.starts_with("| `"))
    {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let mut table = "";
        let keys: Vec<(&str, &str)> = cells[1]
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|named| match named.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
                Some((name, key)) => {
                    table = name;
                    (table, key)
                }
                None => (table, named),
            })
            .collect();
        // Required, or one of several ways.
        if cells[2].is_empty() {
            continue;
        }
        let told: Vec<&str> = cells[2].split(", ").map(|value| value.trim_matches('`')).collect();
        for (position, (table, key)) in keys.iter().enumerate() {
            let holds = text(&default_of(&config, table, key));
            let named = told.iter().find_map(|told| told.strip_prefix(&format!("{key} = ")));
            let names_others = told.iter().any(|told| told.contains(" = "));
            let told = match named {
                Some(named) => named.trim_matches('"'),
                None if names_others => continue,
                None => told.get(position).copied().unwrap_or("none"),
            };
            seen += 1;
            // Numbers as people write them: 20 is 20.0.
            if told != holds && told.parse::<f64>().ok() != holds.parse::<f64>().ok().or(Some(-1.0))
            {
                wrong.push(format!("{table} {key}: the README says {told}, and it is {holds}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 10, "the table was not found: {seen}");
}

/// Why our own program cannot be called like this; `None`: it can, perhaps with arguments.
fn wrong_call(said: &str) -> Option<String> {
    use clap::Parser;
    use clap::error::ErrorKind;
    let words = said.split_whitespace().filter(|word| *word != "…" && *word != "...");
    let number = |word: &str| word.starts_with('{') || matches!(word, "N" | "ID");
    let words = words.map(|word| if number(word) { "12" } else { word });
    let kind = musher::cli::args::Cli::try_parse_from(words).err()?.kind();
    // A text may name a call without what it takes.
    let may = [
        ErrorKind::MissingRequiredArgument,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
    ];
    (!may.contains(&kind)).then(|| format!("`{said}`: {kind:?}"))
}

/// Every call of the program that a text, a page or a document names is one that it takes.
#[test]
fn the_calls_of_the_program_that_are_named_are_those_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = crate::architecture::sources();
    for folder in ["bot-commands", "prompts", "config"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                texts.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    texts.push(("README.md".into(), include_str!("../README.md").to_owned()));
    let (mut seen, mut wrong) = (0, vec![]);
    for (path, text) in texts {
        if path.to_string_lossy().contains("tests") {
            continue;
        }
        // A literal that goes on in the next line.
        let text = text.split("\\\n").map(str::trim_start).collect::<String>();
        for line in text.lines() {
            for said in line.split('`').skip(1).step_by(2) {
                let plain = !said.contains(['"', '\'', '$', '[', '|', '<', '\\']);
                if said.starts_with("musher ") && plain {
                    seen += 1;
                    wrong.extend(wrong_call(said).map(|why| format!("{}: {why}", path.display())));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 15, "the calls were not found: {seen}");
}
