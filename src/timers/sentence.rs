//! The sentence `remind me in 2h to check the deploy`: who, when, what.

use super::when::{self, When, WhenError};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

/// Whom a reminder is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// Who typed it.
    Me,
    /// Somebody else, as typed, with the `@`.
    Person(String),
    /// Everybody in the room; nobody is mentioned.
    Room,
}

/// A reminder as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remind {
    /// Whom it is for.
    pub whom: Whom,
    /// When.
    pub when: When,
    /// Of what; never blank.
    pub text: String,
}

/// Why a sentence is no reminder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemindError {
    /// It does not say whom.
    #[error("say whom: `remind me …`, `remind @name …` or `remind room …`")]
    NoPerson,
    /// It says no time, or one that is not understood.
    #[error(transparent)]
    When(#[from] WhenError),
    /// It does not say of what.
    #[error("say what to remind of: `remind me in 2h to check the deploy`")]
    NoText,
}

/// Reads what stands behind `remind` (the word itself may stand there, too).
///
/// The time is the longest run of words, right behind the person or right at the end, that is one.
pub fn parse_remind(text: &str, now: DateTime<Utc>, zone: Tz) -> Result<Remind, RemindError> {
    let (mut word, mut rest) = next_word(text);
    if word.eq_ignore_ascii_case("remind") {
        (word, rest) = next_word(rest);
    }
    let whom = match word {
        word if word.eq_ignore_ascii_case("me") => Whom::Me,
        word if ["room", "us", "everyone"].iter().any(|own| word.eq_ignore_ascii_case(own)) => {
            Whom::Room
        }
        word if word.len() > 1 && word.starts_with('@') => Whom::Person(word.to_owned()),
        _ => return Err(RemindError::NoPerson),
    };
    let spans = words(rest);
    if spans.is_empty() {
        return Err(WhenError::NotUnderstood(String::new()).into());
    }
    let lower: Vec<String> =
        spans.iter().map(|(_, word)| word.trim_end_matches([':', ',']).to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let mut refusal = None;
    // Behind the person.
    for end in (1..=spans.len().min(when::MAX_WORDS)).rev() {
        match when::read(&lower[..end], now, zone) {
            Ok(Some(when)) => {
                let text = spans.get(end).map_or("", |(start, _)| &rest[*start..]);
                let text = strip_to(text);
                if next_word(text).0 == "ago" {
                    return Err(WhenError::Past(format!("{} ago", lower[..end].join(" "))).into());
                }
                if !text.is_empty() {
                    return Ok(Remind { whom, when, text: text.to_owned() });
                }
                refusal.get_or_insert(RemindError::NoText);
            }
            Ok(None) => {}
            Err(error) => {
                refusal.get_or_insert(error.into());
            }
        }
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    // At the end.
    for start in spans.len().saturating_sub(when::MAX_WORDS).max(1)..spans.len() {
        match when::read(&lower[start..], now, zone) {
            Ok(Some(when)) => {
                let text = strip_to(rest[..spans[start].0].trim_end());
                if !text.is_empty() {
                    return Ok(Remind { whom, when, text: text.to_owned() });
                }
            }
            Ok(None) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let shown: Vec<&str> = spans.iter().take(4).map(|(_, word)| *word).collect();
    Err(WhenError::NotUnderstood(shown.join(" ")).into())
}

fn next_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

/// The words with their places.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut place = 0;
    for word in text.split_whitespace() {
        let start = place + text[place..].find(word).unwrap_or(0);
        found.push((start, word));
        place = start + word.len();
    }
    found
}

/// Takes off what joins a time and a text.
fn strip_to(text: &str) -> &str {
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == ',').trim();
    let text = text.trim_start_matches([':', '-', ',']).trim_start();
    let (word, rest) = next_word(text);
    let joins = ["to", "that", "about", "of"].iter().any(|join| word.eq_ignore_ascii_case(join));
    if joins { rest.trim() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    /// Friday, 20 November 2026, 17:10 in Berlin.
    fn read(text: &str) -> Result<(Whom, String, String), String> {
        let now = Utc.with_ymd_and_hms(2026, 11, 20, 16, 10, 0).unwrap();
        let zone = chrono_tz::Europe::Berlin;
        let remind = parse_remind(text, now, zone).map_err(|error| error.to_string())?;
        let first = remind.when.first().with_timezone(&zone).format("%m-%d %H:%M").to_string();
        Ok((remind.whom, first, remind.text))
    }

    #[test]
    fn a_sentence_is_read_whole() {
        let sam = || Whom::Person("@sam:example.org".to_owned());
        for (text, whom, at, what) in [
            ("remind me in 2h to check the deploy", Whom::Me, "11-20 19:10", "check the deploy"),
            ("me in 2h to check the deploy", Whom::Me, "11-20 19:10", "check the deploy"),
            ("remind me at 9 standup", Whom::Me, "11-21 09:00", "standup"),
            ("remind me at 9 5 things to do", Whom::Me, "11-21 09:00", "5 things to do"),
            ("me in 2 hours to look at item 12", Whom::Me, "11-20 19:10", "look at item 12"),
            ("me to check the deploy in 2h", Whom::Me, "11-20 19:10", "check the deploy"),
            ("me To Call Bob tomorrow at 9am", Whom::Me, "11-21 09:00", "Call Bob"),
            ("@sam:example.org tomorrow 9:00 to call", sam(), "11-21 09:00", "call"),
            (
                "room every weekday at 09:00 to say what is next",
                Whom::Room,
                "11-23 09:00",
                "say what is next",
            ),
            ("me friday: pay\nthe rent", Whom::Me, "11-27 09:00", "pay\nthe rent"),
            ("me in half an hour, that tea is ready", Whom::Me, "11-20 17:40", "tea is ready"),
            ("me in 1h30m stretch", Whom::Me, "11-20 18:40", "stretch"),
            ("me 24 december at 18:00 to be home", Whom::Me, "12-24 18:00", "be home"),
        ] {
            assert_eq!(read(text), Ok((whom, at.to_owned(), what.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        for (text, reason) in [
            ("remind yourself in 2h", "say whom"),
            ("remind me", "can't read"),
            ("remind me soon to check", "can't read `soon to check`"),
            ("remind me in 2h", "say what"),
            ("remind me yesterday 9:00 to check", "can't read"),
            ("remind me today at 9:00 to check", "in the past"),
            ("remind me 2020-01-01 09:00 to check", "in the past"),
            ("remind me in 99 months to check", "five years"),
            ("remind me in 1 second ago to travel", "in the past"),
            ("remind me every 7 minutes to check", "divisor of 60"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
