use super::*;

const BERLIN: Tz = chrono_tz::Europe::Berlin;

fn local(year: i32, month: u32, day: u32, hour: u32, minute: u32) -> DateTime<Utc> {
    BERLIN.with_ymd_and_hms(year, month, day, hour, minute, 0).unwrap().with_timezone(&Utc)
}

fn shown(at: DateTime<Utc>) -> String {
    at.with_timezone(&BERLIN).format("%m-%d %H:%M %Z").to_string()
}

#[test]
fn words_are_a_time_by_the_clocks_of_the_zone() {
    // Friday.
    let now = local(2026, 11, 20, 17, 10);
    for (text, expected) in [
        ("in 2 hours", "11-20 19:10 CET"),
        ("2h", "11-20 19:10 CET"),
        ("in 90 minutes", "11-20 18:40 CET"),
        ("1h 30m", "11-20 18:40 CET"),
        ("in an hour", "11-20 18:10 CET"),
        ("in a week", "11-27 17:10 CET"),
        ("in 3 days at 8am", "11-23 08:00 CET"),
        ("in 2 months", "01-20 17:10 CET"),
        ("tomorrow", "11-21 09:00 CET"),
        ("tomorrow 9am", "11-21 09:00 CET"),
        ("tomorrow at 9", "11-21 09:00 CET"),
        ("tomorrow 9", "11-21 09:00 CET"),
        ("at 9 tomorrow", "11-21 09:00 CET"),
        ("tomorrow noon", "11-21 12:00 CET"),
        ("at 18", "11-20 18:00 CET"),
        ("18:30", "11-20 18:30 CET"),
        ("9am", "11-21 09:00 CET"),
        ("at 12am", "11-21 00:00 CET"),
        ("at 5:11 pm", "11-20 17:11 CET"),
        ("friday 18:00", "11-20 18:00 CET"),
        ("friday 17:00", "11-27 17:00 CET"),
        ("next friday 18:00", "11-27 18:00 CET"),
        ("next monday 10:00", "11-23 10:00 CET"),
        ("on monday", "11-23 09:00 CET"),
        ("2026-12-24 08:00", "12-24 08:00 CET"),
        ("24 dec at 8", "12-24 08:00 CET"),
        ("january 3rd", "01-03 09:00 CET"),
        ("the 3rd of january 2028 at 10:00", "01-03 10:00 CET"),
        ("2026-11-20t18:00:00+01:00", "11-20 18:00 CET"),
        ("every day at 9", "11-21 09:00 CET"),
        ("every weekday at 09:00", "11-23 09:00 CET"),
        ("every monday and thursday at 10:30", "11-23 10:30 CET"),
        ("every week at 9", "11-27 09:00 CET"),
        ("daily at 18:00", "11-20 18:00 CET"),
        ("every 15 minutes", "11-20 17:15 CET"),
        ("every 2 hours", "11-20 18:00 CET"),
    ] {
        let when = parse_when(text, now, BERLIN).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(shown(when.first()), expected, "{text}");
    }
}

#[test]
fn words_that_are_not_all_understood_are_refused() {
    let now = local(2026, 11, 20, 17, 10);
    for text in [
        "",
        "soon",
        "9",
        "in 2",
        "2 fortnights",
        "tomorrow 9amish",
        "tomorrow 25:00",
        "at 9:60",
        "30 february",
        "every blue moon",
        "in 1m 2h",
        "13pm",
        "at noon sharp",
        "in 0x3 days",
        "in 99999999999999999999h",
        "every",
        "every 0 minutes",
        "at",
        "in",
    ] {
        assert!(parse_when(text, now, BERLIN).is_err(), "{text} was understood");
    }
}

#[test]
fn a_clock_time_in_the_gap_is_its_end_and_one_that_comes_twice_is_the_first() {
    // 29 March 2026, 02:00 to 03:00 does not exist; 25 October 2026, 02:00 to 03:00 comes twice.
    for (now, text, expected) in [
        (local(2026, 3, 28, 12, 0), "tomorrow 2:30", "03-29 03:00 CEST"),
        (local(2026, 3, 28, 12, 0), "tomorrow 3:00", "03-29 03:00 CEST"),
        (local(2026, 3, 28, 12, 0), "in 1 day", "03-29 12:00 CEST"),
        (local(2026, 3, 28, 12, 0), "in 24 hours", "03-29 13:00 CEST"),
        (local(2026, 10, 24, 12, 0), "tomorrow 2:30", "10-25 02:30 CEST"),
    ] {
        let when = parse_when(text, now, BERLIN).unwrap();
        assert_eq!(shown(when.first()), expected, "{text}");
    }
}

#[test]
fn a_repetition_neither_skips_nor_doubles_over_both_changes_of_the_clock() {
    for (start, expected) in [
        (local(2026, 3, 27, 12, 0), ["03-28 02:30 CET", "03-29 03:00 CEST", "03-30 02:30 CEST"]),
        (local(2026, 10, 23, 12, 0), ["10-24 02:30 CEST", "10-25 02:30 CEST", "10-26 02:30 CET"]),
    ] {
        let mut at = start;
        for wanted in expected {
            at = next_of("30 2 * * *", at, BERLIN).unwrap();
            assert_eq!(shown(at), wanted);
        }
    }
}
