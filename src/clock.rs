//! The time, as a value that tests can set.

use chrono::{DateTime, TimeZone, Utc};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Tells the time. Cloning shares the clock.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Milliseconds since the epoch when set by a test; `None` is the system's clock.
    fixed: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `at` until [`Clock::set`] moves it.
    pub fn fixed(at: DateTime<Utc>) -> Self {
        Self { fixed: Some(Arc::new(AtomicI64::new(at.timestamp_millis()))) }
    }

    /// Moves a fixed clock; does nothing to the system's.
    pub fn set(&self, at: DateTime<Utc>) {
        if let Some(fixed) = &self.fixed {
            fixed.store(at.timestamp_millis(), Ordering::SeqCst);
        }
    }

    /// The time now, in whole milliseconds, as it survives the database.
    pub fn now(&self) -> DateTime<Utc> {
        let millis = match &self.fixed {
            Some(fixed) => fixed.load(Ordering::SeqCst),
            None => Utc::now().timestamp_millis(),
        };
        from_millis(millis)
    }

    /// The time now, as stored: milliseconds since the epoch.
    pub fn millis(&self) -> i64 {
        self.now().timestamp_millis()
    }
}

/// Reads a stored time.
pub fn from_millis(millis: i64) -> DateTime<Utc> {
    Utc.timestamp_millis_opt(millis).single().unwrap_or_default()
}
