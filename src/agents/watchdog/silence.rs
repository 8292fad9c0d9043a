//! How long a turn may be silent: one action for each level that is reached. Pure.

use crate::config::WatchdogConfig;
use std::time::Duration;
use tokio::time::Instant;

/// What silence has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agents) enum Step {
    /// The room is told.
    Warn,
    /// The agent is asked whether it is there.
    Nudge,
    /// It has been silent for as long as is borne.
    End,
}

/// The levels, in the order in which they are reached.
const STEPS: [Step; 3] = [Step::Warn, Step::Nudge, Step::End];

/// The silence of one turn.
#[derive(Debug, Clone)]
pub(in crate::agents) struct Silence {
    /// How long it is borne.
    patience: Duration,
    /// The shares of that after which it is warned about and the agent is nudged; `None`: never.
    shares: [Option<f64>; 2],
    since: Instant,
    /// How many of the steps were taken.
    taken: usize,
    /// How often it was borne longer.
    extended: u32,
    /// Somebody is asked what to do: nothing follows until they have answered.
    asking: bool,
}

impl Silence {
    /// Silence that begins now and is borne for `patience`; the other levels lie as the
    /// configuration's do between the beginning and its `stall_timeout_s`.
    pub(in crate::agents) fn new(
        config: &WatchdogConfig,
        patience: Duration,
        now: Instant,
    ) -> Self {
        let whole = config.stall_timeout_s.max(1) as f64;
        let share = |after: u64| (after > 0).then_some((after as f64 / whole).min(1.0));
        Self {
            patience,
            shares: [share(config.warn_after_s), share(config.nudge_after_s)],
            since: now,
            taken: 0,
            extended: 0,
            asking: false,
        }
    }

    /// Something was heard; says whether it had been warned about.
    pub(in crate::agents) fn heard(&mut self, now: Instant) -> bool {
        let warned = self.taken > 0;
        (self.since, self.taken, self.extended, self.asking) = (now, 0, 0, false);
        warned
    }

    /// How long it has been.
    pub(in crate::agents) fn lasts(&self, now: Instant) -> Duration {
        now - self.since
    }

    /// The next step and when it is due; `factor`: how much longer than usual it is borne now.
    pub(in crate::agents) fn next(&self, factor: u32) -> Option<(Instant, Step)> {
        if self.asking {
            return None;
        }
        let whole = self.patience * factor;
        STEPS.iter().enumerate().skip(self.taken).find_map(|(level, step)| {
            let share = self.shares.get(level).copied().unwrap_or(Some(1.0))?;
            Some((self.since + whole.mul_f64(share), *step))
        })
    }

    /// Notes that a step is taken.
    pub(in crate::agents) fn take(&mut self, step: Step) {
        self.taken = STEPS.iter().position(|known| *known == step).unwrap_or(0) + 1;
        self.asking = step == Step::End;
    }

    /// Bears it once more for as long; only its end comes again. Says how often that was so.
    pub(in crate::agents) fn extend(&mut self, now: Instant) -> u32 {
        self.extended += 1;
        (self.since, self.taken, self.asking) = (now, STEPS.len() - 1, false);
        self.extended
    }

    /// How often it was borne longer.
    pub(in crate::agents) fn extended(&self) -> u32 {
        self.extended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn config(warn_after_s: u64, nudge_after_s: u64) -> WatchdogConfig {
        WatchdogConfig { stall_timeout_s: 600, warn_after_s, nudge_after_s, ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn each_level_is_reached_once_and_being_heard_begins_anew() {
        let now = Instant::now();
        let mut silence = Silence::new(&config(240, 420), seconds(60), now);
        assert_eq!(silence.next(1), Some((now + seconds(24), Step::Warn)));
        silence.take(Step::Warn);
        assert_eq!(silence.next(1), Some((now + seconds(42), Step::Nudge)));
        assert_eq!(silence.next(3), Some((now + seconds(126), Step::Nudge)), "while a tool runs");
        silence.take(Step::Nudge);
        assert_eq!(silence.next(1), Some((now + seconds(60), Step::End)));
        silence.take(Step::End);
        assert_eq!(silence.next(1), None, "somebody is asked");
        let later = now + seconds(61);
        assert_eq!(silence.extend(later), 1);
        assert_eq!(silence.next(1), Some((later + seconds(60), Step::End)));
        assert!(silence.heard(later));
        assert!(!silence.heard(later));
        assert_eq!(silence.next(1), Some((later + seconds(24), Step::Warn)));
        assert_eq!(silence.extended(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn levels_that_are_switched_off_are_passed_over() {
        let now = Instant::now();
        let silence = Silence::new(&config(0, 0), seconds(60), now);
        assert_eq!(silence.next(1), Some((now + seconds(60), Step::End)));
    }
}
