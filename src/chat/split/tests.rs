use super::*;
use proptest::prelude::*;

/// The fence that is open at the end of a text.
fn open_at_end(markdown: &str) -> Option<Fence> {
    markdown.lines().fold(None, after)
}

fn messages(markdown: &str, limit: usize) -> Vec<String> {
    match cut(markdown, limit) {
        Cut::Messages(messages) => messages,
        Cut::File { summary } => panic!("became a file: {summary}"),
    }
}

#[test]
fn what_fits_is_left_as_it_is() {
    assert_eq!(messages("short\n\ntext", 8192), ["short\n\ntext"]);
}

#[test]
fn cuts_fall_between_paragraphs_and_pieces_are_numbered() {
    let text = format!("{}\n\n{}\n\n{}", "a".repeat(150), "b".repeat(150), "c".repeat(20));
    let found = messages(&text, 300);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], format!("{}\n\n(1/2)", "a".repeat(150)));
    assert_eq!(found[1], format!("{}\n\n{}\n\n(2/2)", "b".repeat(150), "c".repeat(20)));
}

#[test]
fn a_fence_is_closed_and_opened_again_with_its_language() {
    let code = (0..30).map(|n| format!("let x{n} = {n};\n")).collect::<String>();
    let found = messages(&format!("Look:\n\n```rust\n{code}```\nDone."), 300);
    assert!(found.len() > 1);
    for piece in &found[..found.len() - 1] {
        assert!(piece.contains("```rust\n"), "{piece}");
    }
    for piece in &found {
        assert_eq!(open_at_end(piece), None, "{piece}");
    }
    let lines: Vec<&str> =
        found.iter().flat_map(|piece| piece.lines()).filter(|l| l.starts_with("let")).collect();
    assert_eq!(lines.join("\n") + "\n", code);
}

#[test]
fn more_than_three_messages_become_a_file_with_a_summary() {
    let text = "A line of the answer.\n\n".repeat(2000);
    let Cut::File { summary } = cut(&text, PART_LIMIT) else { panic!("not a file") };
    assert!(summary.starts_with("A line") && summary.contains("45 KB"), "{summary}");
    assert!(summary.len() < SUMMARY + 200);
}

#[test]
fn one_endless_line_is_cut_at_spaces_and_at_whole_characters() {
    for text in ["word ".repeat(100), "ä".repeat(250), "😀".repeat(120)] {
        let found = pieces(&text, 300);
        assert!(found.len() > 1 && found.iter().all(|piece| piece.len() <= 300));
        let joined: String = found.iter().map(|piece| piece.trim_end_matches('\n')).collect();
        assert_eq!(joined, text);
    }
}

/// A line that means something to the cutter.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("```".to_owned()),
        Just("```rust".to_owned()),
        Just("~~~~ text".to_owned()),
        Just("~~~~".to_owned()),
        Just("   ```".to_owned()),
        Just("```not a fence``` but code".to_owned()),
        "[a-zäö😀 ]{0,120}",
        "x{300,700}",
    ]
}

proptest! {
    #[test]
    fn pieces_fit_have_balanced_fences_and_lose_nothing(
        lines in prop::collection::vec(line(), 0..60),
        limit in 256usize..2000,
    ) {
        let text = lines.join("\n");
        let found = pieces(&text, limit);
        for piece in &found {
            prop_assert!(piece.len() <= limit, "{} > {limit}", piece.len());
            prop_assert_eq!(open_at_end(piece), None, "open fence in {:?}", piece);
        }
        let letters = |text: &str| {
            text.chars().filter(|c| c.is_alphanumeric() || *c == '😀').collect::<String>()
        };
        // Openings that were repeated add their language; nothing else may be added or missing.
        let expected = letters(&text);
        let mut got = letters(&found.concat()).chars().collect::<Vec<_>>().into_iter();
        for wanted in expected.chars() {
            prop_assert!(got.any(|c| c == wanted), "{wanted:?} is missing");
        }
    }
}
