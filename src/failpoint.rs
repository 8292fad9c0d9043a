//! Ends the process as a power cut would, at a place that a test names.
//!
//! `MUSHER_FAILPOINT=NAME` in the environment of a debug build, and `MUSHER_FAILPOINT_ARMED=FILE`
//! when it is to wait until that file is there; a release build has nothing of it. A place stands
//! between two writes of which the first must not be lost and the second must not be doubled, and
//! `tests/crashes.rs` goes through all of them.

/// Ends the process here and now, if a test asks for it.
#[inline]
pub fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("MUSHER_FAILPOINT").is_some_and(|wanted| wanted == name)
        && std::env::var_os("MUSHER_FAILPOINT_ARMED")
            .is_none_or(|file| std::path::Path::new(&file).exists())
    {
        eprintln!("failpoint {name}");
        // No handler, no destructor, no flush: SIGKILL is as near to a power cut as it gets.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
