//! A reply in words to the question whether work is to be merged. Pure.
//!
//! Strict on purpose: what is not plainly a yes or a no is talk, and nobody's work is merged or
//! turned down by a remark.

use crate::model::ids::ItemId;
use crate::work::Verdict;

/// One of these makes a yes.
const YES: [&str; 22] = [
    "approve",
    "approved",
    "yes",
    "yep",
    "yeah",
    "ok",
    "okay",
    "lgtm",
    "ship",
    "merge",
    "ahead",
    "good",
    "great",
    "perfect",
    "fine",
    "ja",
    "oui",
    "genehmigt",
    "👍",
    "✅",
    "✔",
    "+1",
];

/// These may stand beside it.
const BESIDE: [&str; 16] = [
    "it", "this", "that", "please", "go", "looks", "to", "me", "thanks", "thank", "you", "is",
    "all", "very", "now", "item",
];

/// These make a no, whatever follows.
const NO: [&str; 8] = ["reject", "rejected", "decline", "declined", "abgelehnt", "👎", "❌", "✖"];

/// These make a no when nothing or a colon or comma follows.
const PERHAPS_NO: [&str; 6] = ["no", "nope", "nein", "non", "nee", "-1"];

/// The most words of a yes.
const YES_WORDS: usize = 8;

/// The verdict that a reply about `item` is, if it plainly is one.
pub fn read(text: &str, item: ItemId) -> Option<Verdict> {
    let text = text.trim().replace('\u{fe0f}', "");
    if text.contains('?') || text.starts_with('>') {
        return None;
    }
    refusal(&text, item).or_else(|| consent(&text, item).then_some(Verdict::Approve))
}

fn refusal(text: &str, item: ItemId) -> Option<Verdict> {
    let at = text.find(|c: char| c.is_whitespace() || matches!(c, ':' | ',' | '.' | '!' | ';'));
    let (first, rest) = text.split_at(at.unwrap_or(text.len()));
    let first = first.to_lowercase();
    let clear = rest.is_empty() || rest.starts_with([':', ',', '.', '!', ';']);
    let is_no = NO.contains(&first.as_str()) || clear && PERHAPS_NO.contains(&first.as_str());
    if !is_no {
        return None;
    }
    let separators = |c: char| c.is_whitespace() || matches!(c, ':' | ',' | '.' | '!' | ';' | '-');
    let rest = rest.trim_start_matches(separators).trim_end();
    // `reject 12 why`, where 12 is what is asked about.
    let (word, after) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
    let why = if is_number(word, item) { after.trim_start_matches(separators) } else { rest };
    Some(Verdict::Reject(if why.is_empty() {
        "rejected by reply".to_owned()
    } else {
        why.to_owned()
    }))
}

fn consent(text: &str, item: ItemId) -> bool {
    let words: Vec<String> = text
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '.' | '!' | ';' | ':'))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let known = |word: &String| {
        YES.contains(&word.as_str()) || BESIDE.contains(&word.as_str()) || is_number(word, item)
    };
    words.len() <= YES_WORDS
        && words.iter().all(known)
        && words.iter().any(|word| YES.contains(&word.as_str()))
}

fn is_number(word: &str, item: ItemId) -> bool {
    word.strip_prefix('#').unwrap_or(word) == item.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_yes_or_no_is_a_verdict() {
        let no = |why: &str| Some(Verdict::Reject(why.to_owned()));
        for (text, expected) in [
            ("approve", Some(Verdict::Approve)),
            ("Approved!", Some(Verdict::Approve)),
            ("yes, merge it please", Some(Verdict::Approve)),
            ("LGTM, ship it", Some(Verdict::Approve)),
            ("looks good to me", Some(Verdict::Approve)),
            ("approve 12", Some(Verdict::Approve)),
            ("👍", Some(Verdict::Approve)),
            ("approve 13", None),
            ("yes but rename the function", None),
            ("yes?", None),
            ("is it good?", None),
            ("please", None),
            ("what does it do", None),
            ("good question", None),
            ("reject", no("rejected by reply")),
            ("reject: the total is still wrong", no("the total is still wrong")),
            ("Reject 12 the total is wrong", no("the total is wrong")),
            ("reject 2 tests fail", no("2 tests fail")),
            ("no", no("rejected by reply")),
            ("no, the button is blue", no("the button is blue")),
            ("❌", no("rejected by reply")),
            ("no problem, merge it", None),
            ("no idea what this does", None),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(read(text, ItemId(12)), expected, "{text}");
        }
    }
}
