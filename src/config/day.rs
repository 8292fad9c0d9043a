//! The day that limits are counted by: from midnight to midnight in the installation's time zone.

use super::{Config, parse_zone};
use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// A day in a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Which.
    pub date: NaiveDate,
    /// Its first moment.
    pub begin: DateTime<Utc>,
    /// The first moment of the next one.
    pub end: DateTime<Utc>,
    /// Where.
    pub zone: Tz,
}

impl Day {
    /// The day in `zone` that `now` is part of.
    pub fn of(now: DateTime<Utc>, zone: Tz) -> Self {
        let date = now.with_timezone(&zone).date_naive();
        let next = date.checked_add_days(Days::new(1)).unwrap_or(date);
        Self { date, begin: midnight(date, zone), end: midnight(next, zone), zone }
    }

    /// The day that is `days` before this one.
    pub fn before(&self, days: u64) -> Self {
        let date = self.date.checked_sub_days(Days::new(days)).unwrap_or(self.date);
        // Noon is part of the day in every zone.
        Self::of(midnight(date, self.zone) + TimeDelta::hours(12), self.zone)
    }

    /// When it ends, in words.
    pub fn end_in_words(&self) -> String {
        let end = self.end.with_timezone(&self.zone);
        format!("{} ({})", end.format("%a %-d %b, %H:%M"), self.zone)
    }
}

/// The first moment of a date: where a change of the clocks takes midnight away, the next that is.
fn midnight(date: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let local = date.and_time(NaiveTime::MIN);
    let found = (0..4).find_map(|quarter| {
        zone.from_local_datetime(&(local + TimeDelta::minutes(30 * quarter))).earliest()
    });
    found.map_or_else(|| local.and_utc(), |at| at.with_timezone(&Utc))
}

impl Config {
    /// The installation's time zone.
    pub fn zone(&self) -> Tz {
        // Checked when the file was read.
        parse_zone(&self.time_zone).unwrap_or(Tz::UTC)
    }

    /// The day that limits are counted by now.
    pub fn day(&self, now: DateTime<Utc>) -> Day {
        Day::of(now, self.zone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_day_begins_and_ends_at_midnight_of_its_zone_also_when_clocks_change() {
        for (now, zone, begin, end) in [
            ("2026-11-21T18:00:00Z", "UTC", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            (
                "2026-11-21T23:30:00Z",
                "Europe/Berlin",
                "2026-11-21T23:00:00Z",
                "2026-11-22T23:00:00Z",
            ),
            // 23 hours long.
            (
                "2026-03-29T12:00:00Z",
                "Europe/Berlin",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            // There midnight itself is left out.
            (
                "2018-11-04T12:00:00Z",
                "America/Sao_Paulo",
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
        ] {
            let day = Day::of(at(now), zone.parse().unwrap());
            assert_eq!((day.begin, day.end), (at(begin), at(end)), "{now} in {zone}");
        }
        let day = Day::of(at("2026-03-30T12:00:00Z"), "Europe/Berlin".parse().unwrap());
        assert_eq!(day.before(1).begin, at("2026-03-28T23:00:00Z"));
        assert_eq!(day.end_in_words(), "Tue 31 Mar, 00:00 (Europe/Berlin)");
    }
}
