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
