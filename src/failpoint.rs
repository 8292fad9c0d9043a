//! Ends the process as a power cut would, at a place that a test names.
//!
//! `MUSHER_FAILPOINT=NAME` in the environment of a debug build, or `NAME@2` for the second time that
//! the place is passed, and `MUSHER_FAILPOINT_ARMED=FILE` when it is to wait until that file is
//! there; a release build has nothing of it. A place stands between two writes of which the first
//! must not be lost and the second must not be doubled. `tests/kill_walk.rs` has a table of all of
//! them, and fails when a place is missing there.

/// Ends the process here and now, if a test asks for it.
#[inline]
pub fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var("MUSHER_FAILPOINT").is_ok_and(|wanted| is_due(&wanted, name)) {
        eprintln!("failpoint {name}");
        // No handler, no destructor, no flush: SIGKILL is as near to a power cut as it gets.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Whether this is the time at which `name` is wanted.
#[cfg(debug_assertions)]
fn is_due(wanted: &str, name: &str) -> bool {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let (place, time) = wanted.split_once('@').unwrap_or((wanted, "1"));
    let armed = std::env::var_os("MUSHER_FAILPOINT_ARMED");
    place == name
        && armed.is_none_or(|file| std::path::Path::new(&file).exists())
        && time.parse() == Ok(PASSED.fetch_add(1, Ordering::SeqCst) + 1)
}
