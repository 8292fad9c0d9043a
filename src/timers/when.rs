//! Words to a time: "in 2h", "tomorrow 9:00", "at 9", "every weekday at 09:00".
//!
//! A grammar of our own, because the libraries for this either drop words that they do not know
//! ("tomorrow 9am" became tomorrow at this hour) or refuse what people type ("in 2 hours"). Here
//! every word must be understood, or the phrase is refused and nothing is set.
//!
//! Clock times are those of a time zone. One that does not exist that day (the clock goes forward)
//! is taken as the first moment after the gap; one that exists twice as the first of the two.

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc, Weekday,
};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::CronParser;
use std::str::FromStr;

/// Nothing is set further ahead than this: it is a typing error.
const MAX_AHEAD_DAYS: u64 = 5 * 366;
/// The time of a day that was named without one.
const MORNING: (u32, u32) = (9, 0);
/// Words in the longest phrase: "next monday the 30th of november 2026 at 10:00 pm".
pub(super) const MAX_WORDS: usize = 10;

/// A time as people mean it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Once.
    Once(DateTime<Utc>),
    /// Again and again.
    Every {
        /// The pattern, in the zone that the words were read in.
        cron: String,
        /// The first time.
        first: DateTime<Utc>,
    },
}

impl When {
    /// The first or only time.
    pub fn first(&self) -> DateTime<Utc> {
        match self {
            When::Once(at) => *at,
            When::Every { first, .. } => *first,
        }
    }
}

/// Why words are no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    /// They are not understood.
    #[error(
        "I can't read `{0}` as a time; try `in 2h`, `at 18:00`, `tomorrow 9:00`, `friday at 14:30`, `2026-12-24 08:00` or `every weekday at 09:00`"
    )]
    NotUnderstood(String),
    /// The time is over.
    #[error("{0} is in the past; give a time to come")]
    Past(String),
    /// Too far away.
    #[error("`{0}` is more than five years away; give a nearer time")]
    TooFar(String),
    /// A repetition that the pattern cannot express.
    #[error("{0}")]
    Repetition(String),
}

/// Reads a whole phrase.
pub fn parse_when(text: &str, now: DateTime<Utc>, zone: Tz) -> Result<When, WhenError> {
    let lower = text.trim().to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    read(&words, now, zone)?.ok_or_else(|| WhenError::NotUnderstood(text.trim().to_owned()))
}

/// Reads words; `None` when they are no time at all, an error when they are a wrong one.
pub(super) fn read(
    words: &[&str],
    now: DateTime<Utc>,
    zone: Tz,
) -> Result<Option<When>, WhenError> {
    if words.is_empty() || words.len() > MAX_WORDS {
        return Ok(None);
    }
    if words[0] == "every" || matches!(words, ["daily" | "hourly" | "weekly", ..]) {
        return every(words, now, zone);
    }
    let Some(at) = once(words, now, zone) else { return Ok(None) };
    if at <= now {
        return Err(WhenError::Past(super::absolute(at, zone)));
    }
    if at > now + Days::new(MAX_AHEAD_DAYS) {
        return Err(WhenError::TooFar(words.join(" ")));
    }
    Ok(Some(When::Once(at)))
}

/// The first moment of `zone` at or after a local date and time.
fn resolve(date: NaiveDate, time: NaiveTime, zone: Tz) -> Option<DateTime<Utc>> {
    let mut local = date.and_time(time);
    // The longest gap on record is a day (a zone that changed sides of the date line).
    for _quarter in 0..=96 {
        if let Some(found) = zone.from_local_datetime(&local).earliest() {
            let moved = local != date.and_time(time);
            return Some(if moved { gap_end(found) } else { found }.with_timezone(&Utc));
        }
        local += TimeDelta::minutes(15);
    }
    None
}

/// The first moment after the gap in which `after` was looked for.
fn gap_end(after: DateTime<Tz>) -> DateTime<Tz> {
    let offset = |at: &DateTime<Tz>| at.naive_local() - at.naive_utc();
    let mut first = after;
    loop {
        let before = first - TimeDelta::minutes(1);
        if offset(&before) != offset(&after) {
            return first;
        }
        first = before;
    }
}

/// A single time.
fn once(words: &[&str], now: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    if let [text] = words
        && let Ok(at) = DateTime::parse_from_rfc3339(&text.to_uppercase())
    {
        return Some(at.with_timezone(&Utc));
    }
    if let Some(at) = duration(words, now, zone) {
        return Some(at);
    }
    let today = now.with_timezone(&zone).date_naive();
    // A time alone: today, or tomorrow when it is over.
    if let Some(time) = clock(words, true) {
        let at = resolve(today, time, zone)?;
        return if at > now { Some(at) } else { resolve(today.succ_opt()?, time, zone) };
    }
    // A date, then perhaps a time; or the other way round. The longest date that fits.
    for split in (1..=words.len()).rev() {
        let (head, tail) = words.split_at(split);
        for (day, hour) in [(head, tail), (tail, head)] {
            let Some(day) = Day::read(day, today) else { continue };
            let time = match hour {
                [] => NaiveTime::from_hms_opt(MORNING.0, MORNING.1, 0),
                // After a date a bare number is an hour, too.
                words => clock(words, true).or_else(|| clock(words, false)),
            };
            let Some(time) = time else { continue };
            let at = resolve(day.date, time, zone)?;
            if at <= now
                && let Some(next) = day.next
            {
                return resolve(next, time, zone);
            }
            return Some(at);
        }
    }
    None
}

/// `in 2h`, `2 hours`, `in 1h30m`, `in half an hour`, `in 3 days`. Days and longer keep the
/// clock's time.
fn duration(words: &[&str], now: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    let words = words.strip_prefix(&["in"]).unwrap_or(words);
    let words = words.strip_suffix(&["from", "now"]).unwrap_or(words);
    if words == ["half", "an", "hour"] {
        return Some(now + TimeDelta::minutes(30));
    }
    let spaced: String = words.iter().filter(|word| **word != "and").copied().collect();
    let mut rest = match spaced.strip_prefix("an").or_else(|| spaced.strip_prefix('a')) {
        Some(unit) => format!("1{unit}"),
        None => spaced,
    };
    let mut at = now;
    let mut last_rank = usize::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let count: u32 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|letter: char| letter.is_ascii_digit())
            .map_or(rest.len(), |end| digits + end);
        // Largest unit first, each once: anything else is a typing error.
        let (rank, moved) = add(at, count, &rest[digits..unit_end], zone)?;
        if rank >= last_rank {
            return None;
        }
        (at, last_rank) = (moved, rank);
        rest.drain(..unit_end);
    }
    (last_rank != usize::MAX).then_some(at)
}

/// Adds a number of units; returns the unit's rank with the sum.
fn add(at: DateTime<Utc>, count: u32, unit: &str, zone: Tz) -> Option<(usize, DateTime<Utc>)> {
    let local = at.with_timezone(&zone).naive_local();
    let calendar = |date: Option<NaiveDate>| resolve(date?, local.time(), zone);
    let days = |number: u64| calendar(local.date().checked_add_days(Days::new(number)));
    let count64 = u64::from(count);
    let seconds =
        |unit: i64| at.checked_add_signed(TimeDelta::try_seconds(i64::from(count) * unit)?);
    Some(match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => (0, seconds(1)?),
        "m" | "min" | "mins" | "minute" | "minutes" => (1, seconds(60)?),
        "h" | "hr" | "hrs" | "hour" | "hours" => (2, seconds(3600)?),
        "d" | "day" | "days" => (3, days(count64)?),
        "w" | "week" | "weeks" => (4, days(count64 * 7)?),
        "month" | "months" => (5, calendar(local.date().checked_add_months(Months::new(count)))?),
        _ => return None,
    })
}

/// `at 9`, `9:00`, `9am`, `at 9:30 pm`, `noon`; a bare number only with `at` unless `bare`.
fn clock(words: &[&str], needs_at: bool) -> Option<NaiveTime> {
    let (words, with_at) = match words.strip_prefix(&["at"]) {
        Some(words) => (words, true),
        None => (words, false),
    };
    let text = words.concat();
    match text.as_str() {
        "noon" | "midday" => return NaiveTime::from_hms_opt(12, 0, 0),
        "midnight" => return NaiveTime::from_hms_opt(0, 0, 0),
        _ => {}
    }
    let text = text.strip_suffix("o'clock").unwrap_or(&text);
    let (digits, half) = if let Some(digits) = text.strip_suffix("am") {
        (digits, Some(0))
    } else if let Some(digits) = text.strip_suffix("pm") {
        (digits, Some(12))
    } else {
        (text.strip_suffix('h').filter(|_| with_at).unwrap_or(text), None)
    };
    let (hour, minute) = match digits.split_once([':', '.']) {
        Some((hour, minute)) if minute.len() == 2 => (hour, minute.parse().ok()?),
        Some(_) => return None,
        None if needs_at && !with_at && half.is_none() => return None,
        None => (digits, 0),
    };
    if hour.is_empty() || hour.len() > 2 || !hour.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hour: u32 = hour.parse().ok()?;
    let hour = match half {
        Some(half) if (1..=12).contains(&hour) => hour % 12 + half,
        Some(_) => return None,
        None => hour,
    };
    NaiveTime::from_hms_opt(hour, minute, 0)
}

/// A day that was named.
struct Day {
    date: NaiveDate,
    /// Where to look when the time is over on `date`: the next such weekday, or year.
    next: Option<NaiveDate>,
}

impl Day {
    fn read(words: &[&str], today: NaiveDate) -> Option<Self> {
        let words = match words {
            ["on" | "this", rest @ ..] if !rest.is_empty() => rest,
            other => other,
        };
        let fixed = |date| Some(Self { date, next: None });
        match words {
            ["today"] => fixed(today),
            ["tomorrow"] => fixed(today.succ_opt()?),
            ["day", "after", "tomorrow"] | ["the", "day", "after", "tomorrow"] => {
                fixed(today.checked_add_days(Days::new(2))?)
            }
            // "in 3 days at 8": the days alone are a duration.
            ["in", count, "day" | "days"] => {
                fixed(today.checked_add_days(Days::new(count.parse().ok()?))?)
            }
            ["in", count, "week" | "weeks"] => fixed(
                today.checked_add_days(Days::new(count.parse::<u64>().ok()?.checked_mul(7)?))?,
            ),
            ["next", "week"] => fixed(today.checked_add_days(Days::new(7))?),
            ["next", name] => fixed(following(weekday(name)?, today.succ_opt()?)?),
            [name] if weekday(name).is_some() => {
                let date = following(weekday(name)?, today)?;
                Some(Self { date, next: date.checked_add_days(Days::new(7)) })
            }
            [iso] => fixed(NaiveDate::parse_from_str(iso, "%Y-%m-%d").ok()?),
            _ => calendar(words, today),
        }
    }
}

/// `24 december`, `dec 24 2026`, `24th of december`.
fn calendar(words: &[&str], today: NaiveDate) -> Option<Day> {
    let words: Vec<&str> =
        words.iter().copied().filter(|word| !matches!(*word, "the" | "of")).collect();
    let (day, name, year) = match words[..] {
        [day, name] if month(name).is_some() => (day, name, None),
        [name, day] => (day, name, None),
        [day, name, year] if month(name).is_some() => (day, name, Some(year)),
        [name, day, year] => (day, name, Some(year)),
        _ => return None,
    };
    let digits = day.trim_end_matches(',');
    let digits = ["st", "nd", "rd", "th"]
        .iter()
        .find_map(|suffix| digits.strip_suffix(suffix))
        .unwrap_or(digits);
    let (day, month): (u32, u32) = (digits.parse().ok()?, month(name)?);
    match year {
        Some(year) if year.len() == 4 => {
            Some(Day { date: NaiveDate::from_ymd_opt(year.parse().ok()?, month, day)?, next: None })
        }
        Some(_) => None,
        None => {
            let date = NaiveDate::from_ymd_opt(today.year(), month, day)?;
            Some(Day { date, next: date.checked_add_months(Months::new(12)) })
        }
    }
}

fn month(name: &str) -> Option<u32> {
    let known = name.len() >= 3;
    known.then(|| chrono::Month::from_str(name).ok().map(|month| month.number_from_month()))?
}

fn weekday(name: &str) -> Option<Weekday> {
    // "mo" and "sat's" are nobody's weekday; the parser takes the usual short and long forms.
    Weekday::from_str(name.strip_suffix("s").filter(|_| name.ends_with("days")).unwrap_or(name))
        .ok()
}

/// The first `wanted` at or after `from`.
fn following(wanted: Weekday, from: NaiveDate) -> Option<NaiveDate> {
    let ahead = wanted.days_since(from.weekday());
    from.checked_add_days(Days::new(u64::from(ahead)))
}

/// `every day at 9`, `every monday and thursday at 10:00`, `every 15 minutes`, `daily at 9`.
fn every(words: &[&str], now: DateTime<Utc>, zone: Tz) -> Result<Option<When>, WhenError> {
    let words: Vec<&str> = match words {
        ["every", rest @ ..] => rest.to_vec(),
        ["daily", rest @ ..] => [&["day"], rest].concat(),
        ["hourly", rest @ ..] => [&["hour"], rest].concat(),
        ["weekly", rest @ ..] => [&["week"], rest].concat(),
        _ => return Ok(None),
    };
    let Some(cron) = pattern(&words, now.with_timezone(&zone).weekday())? else {
        return Ok(None);
    };
    let first = next_of(&cron, now, zone)?;
    Ok(Some(When::Every { cron, first }))
}

/// The cron pattern of what stands behind "every".
fn pattern(words: &[&str], today: Weekday) -> Result<Option<String>, WhenError> {
    match words {
        ["hour"] => return Ok(Some("0 * * * *".to_owned())),
        [count, unit] if count.parse::<u32>().is_ok() => {
            let count: u32 = count.parse().unwrap_or(0);
            return match *unit {
                "minutes" | "minute" | "min" => step(count, 60, 5, "*/N * * * *"),
                "hours" | "hour" => step(count, 24, 1, "0 */N * * *"),
                _ => Ok(None),
            };
        }
        _ => {}
    }
    // The days end where a time begins.
    for split in (1..=words.len()).rev() {
        let (days, time) = words.split_at(split);
        let Some(days) = days_field(days, today) else { continue };
        let time = match time {
            [] => NaiveTime::from_hms_opt(MORNING.0, MORNING.1, 0),
            words => clock(words, false),
        };
        let Some(time) = time else { continue };
        return Ok(Some(format!("{} * * {days}", time.format("%-M %-H"))));
    }
    Ok(None)
}

/// `*/N`, where N divides the whole: otherwise the last step of the hour or day is a short one.
fn step(count: u32, whole: u32, least: u32, form: &str) -> Result<Option<String>, WhenError> {
    if count < least || count >= whole || !whole.is_multiple_of(count) {
        return Err(WhenError::Repetition(format!(
            "`every {count}` does not come out even; take a divisor of {whole}, at least {least}"
        )));
    }
    Ok(Some(form.replace('N', &count.to_string())))
}

/// The weekday field of a cron pattern.
fn days_field(words: &[&str], today: Weekday) -> Option<String> {
    match words {
        ["day"] | ["morning"] => return Some("*".to_owned()),
        ["weekday"] | ["weekdays"] | ["working", "day"] | ["workday"] => {
            return Some("MON-FRI".to_owned());
        }
        ["weekend"] => return Some("SAT,SUN".to_owned()),
        ["week"] => return Some(today.to_string().to_uppercase()),
        _ => {}
    }
    let names = words
        .iter()
        .flat_map(|word| word.split(','))
        .filter(|word| !word.is_empty() && *word != "and" && *word != "&");
    let days: Option<Vec<String>> =
        names.map(|name| Some(weekday(name)?.to_string().to_uppercase())).collect();
    days.filter(|days| !days.is_empty()).map(|days| days.join(","))
}

fn compile(cron: &str) -> Result<Cron, WhenError> {
    CronParser::new().parse(cron).map_err(|error| {
        WhenError::Repetition(format!(
            "`{cron}` is no cron pattern ({error}); it has five fields, such as `0 9 * * MON-FRI`"
        ))
    })
}

/// The first time of a cron pattern after `after`, by the clocks of `zone`.
pub fn next_of(cron: &str, after: DateTime<Utc>, zone: Tz) -> Result<DateTime<Utc>, WhenError> {
    let next = compile(cron)?.find_next_occurrence(&after.with_timezone(&zone), false);
    let next = next.map_err(|error| {
        WhenError::Repetition(format!("`{cron}` never comes to pass again ({error})"))
    })?;
    Ok(next.with_timezone(&Utc))
}

/// Reads a cron pattern as a model gives it.
pub fn parse_cron(cron: &str, now: DateTime<Utc>, zone: Tz) -> Result<When, WhenError> {
    if cron.split_whitespace().count() != 5 {
        return Err(WhenError::Repetition(format!(
            "`{cron}` must have five fields, such as `0 9 * * MON-FRI`"
        )));
    }
    Ok(When::Every { cron: cron.to_owned(), first: next_of(cron, now, zone)? })
}

/// What a cron pattern means, in words.
pub(super) fn describe(cron: &str) -> String {
    compile(cron).map_or_else(|_| cron.to_owned(), |cron| cron.describe())
}

#[cfg(test)]
mod tests;
