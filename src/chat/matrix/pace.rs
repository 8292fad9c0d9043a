//! How soon the next sync may follow.
//!
//! A sync costs several milliseconds of CPU however little it brings, so in a burst most of the
//! work would be syncs with one message each. What comes one by one is fetched at once; while
//! events come faster than any conversation, syncs are held apart, and each brings many.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// So many events of one side within [`WINDOW`] are a burst. Two clients that answer each other
/// as fast as a homeserver on loopback allows stay below.
const BURST: usize = 4;

/// What counts as the same moment.
const WINDOW: Duration = Duration::from_millis(100);

/// How long a sync waits in a burst.
const PAUSE: Duration = Duration::from_millis(250);

/// The events of the last moment; ours and other people's apart, because each message that is
/// answered brings one of both.
#[derive(Debug, Default)]
pub struct Pace {
    own: VecDeque<Instant>,
    others: VecDeque<Instant>,
}

impl Pace {
    /// Notes what a sync brought.
    pub fn note(&mut self, now: Instant, own: usize, others: usize) {
        for (seen, count) in [(&mut self.own, own), (&mut self.others, others)] {
            seen.extend(std::iter::repeat_n(now, count.min(BURST)));
            let surplus = seen.len().saturating_sub(BURST);
            seen.drain(..surplus);
        }
    }

    /// How long to wait before the next sync.
    pub fn pause(&self, now: Instant) -> Duration {
        let is_burst = |seen: &VecDeque<Instant>| {
            seen.len() == BURST && seen.front().is_some_and(|first| now - *first < WINDOW)
        };
        if is_burst(&self.own) || is_burst(&self.others) { PAUSE } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_heard_at_once_however_fast_it_is() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..100 {
            pace.note(now, 0, 1);
            assert_eq!(pace.pause(now), Duration::ZERO);
            now += Duration::from_millis(18);
            pace.note(now, 1, 0);
            assert_eq!(pace.pause(now), Duration::ZERO);
            now += Duration::from_millis(18);
        }
    }

    #[test]
    fn in_a_burst_syncs_are_held_apart_until_it_is_over() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..3 {
            pace.note(now, 0, 1);
            assert_eq!(pace.pause(now), Duration::ZERO);
            now += Duration::from_millis(15);
        }
        pace.note(now, 0, 1);
        assert_eq!(pace.pause(now), PAUSE);
        now += PAUSE;
        pace.note(now, 2, 17);
        assert_eq!(pace.pause(now), PAUSE, "it goes on");
        now += PAUSE;
        pace.note(now, 1, 0);
        assert_eq!(pace.pause(now), Duration::ZERO, "it is over");
    }

    #[test]
    fn our_own_answers_coming_back_in_a_burst_are_one_too() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.note(now, 4, 0);
        assert_eq!(pace.pause(now), PAUSE);
    }
}
