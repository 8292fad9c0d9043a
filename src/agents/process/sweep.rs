//! Finding and killing everything that carries a marker in its environment.
//!
//! Tools of the CLIs run in sessions of their own, so no signal to a process group reaches them
//! all; but they inherit the environment. Nothing is ever matched against command lines.
//!
//! Known races: a process between `fork` and `exec` is found under its parent's environment, and
//! one that forks while it is swept leaves a child that the present pass did not see. So
//! [`kill_marked`] goes round until two looks in a row find nothing.

use crate::store::start_time;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// The variable that marks an agent's processes.
pub const MARKER: &str = "MUSHER_AGENT_ID";

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A process, told from a later one with the same number by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ident {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// The marker of one process tree, or the beginning that all of an installation's share.
#[derive(Debug, Clone, Copy)]
pub enum Marked<'a> {
    /// Exactly this marker.
    Exactly(&'a str),
    /// Every marker that begins so.
    Prefix(&'a str),
}

impl Marked<'_> {
    fn fits(self, value: &[u8]) -> bool {
        match self {
            Marked::Exactly(marker) => value == marker.as_bytes(),
            Marked::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
        }
    }
}

/// The living processes that carry the marker; never this one. Blocks (reads /proc).
pub fn find_marked(marked: Marked<'_>) -> Vec<Ident> {
    let me = nix::unistd::getpid().as_raw();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return vec![];
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| *pid != me)
        .filter_map(|pid| {
            // Read before the environment: if the number is reused in between, the start time is
            // the older one's, and the kill is refused.
            let start = start_time(pid)?;
            let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            carries(&environ, marked).then_some(Ident { pid, start })
        })
        .collect()
}

fn carries(environ: &[u8], marked: Marked<'_>) -> bool {
    environ.split(|byte| *byte == 0).any(|variable| {
        variable
            .strip_prefix(MARKER.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|value| marked.fits(value))
    })
}

/// Kills everything with the marker, again until nothing is left; says what is, at the deadline.
///
/// Blocks; call it in a blocking task. Safe to repeat.
pub fn kill_marked(marked: Marked<'_>, deadline: Duration) -> Vec<Ident> {
    let began = Instant::now();
    let mut seen = HashSet::new();
    let mut quiet = 0;
    loop {
        let alive = find_marked(marked);
        for ident in &alive {
            seen.insert(*ident);
            signal(*ident, Signal::SIGKILL);
        }
        reap(&seen);
        quiet = if alive.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return vec![];
        }
        if began.elapsed() > deadline {
            return alive;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Signals a process, unless its number belongs to another one by now.
pub fn signal(ident: Ident, signal: Signal) {
    if ident.pid > 1 && start_time(ident.pid) == Some(ident.start) {
        // It may have ended since: then there is nothing to do.
        let _ = kill(Pid::from_raw(ident.pid), signal);
    }
}

/// Collects those of the killed that became our children when their parents died.
///
/// By number, and only what was not spawned by ourselves: waiting for any child would steal the
/// exit codes of tokio's.
fn reap(killed: &HashSet<Ident>) {
    for ident in killed {
        if let Some(stat) = Stat::of(ident.pid)
            && stat.start == ident.start
            && stat.is_orphan_of_ours()
        {
            let _ = waitpid(Pid::from_raw(ident.pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Zombies that were given to us as the nearest subreaper and that nobody waits for: those that
/// already were so at the `last` look are collected, the others are returned for the next one.
///
/// A child of our own is collected by tokio within milliseconds and runs in our session, an
/// agent's tool does not.
pub fn reap_orphans(last: &HashSet<Ident>) -> HashSet<Ident> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return HashSet::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let orphans = pids.filter_map(|pid: i32| {
        let stat = Stat::of(pid)?;
        stat.is_orphan_of_ours().then_some(Ident { pid, start: stat.start })
    });
    let (old, new): (HashSet<_>, HashSet<_>) = orphans.partition(|ident| last.contains(ident));
    for ident in old {
        let _ = waitpid(Pid::from_raw(ident.pid), Some(WaitPidFlag::WNOHANG));
    }
    new
}

/// Makes orphaned descendants come to this process instead of to PID 1.
pub fn become_subreaper() {
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::warn!(%error, "not a child subreaper: orphans of agents go to PID 1");
    }
}

/// What matters here of `/proc/PID/stat`.
pub(super) struct Stat {
    state: char,
    parent: i32,
    session: i32,
    start: u64,
    /// CPU time in user space and in the kernel, in clock ticks.
    pub(super) cpu_ticks: u64,
}

impl Stat {
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command in parentheses and may hold spaces and parentheses.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            cpu_ticks: fields.get(11)?.parse::<u64>().ok()?
                + fields.get(12)?.parse::<u64>().ok()?,
        })
    }

    fn is_orphan_of_ours(&self) -> bool {
        let me = nix::unistd::getpid();
        let session = nix::unistd::getsid(None).map_or(0, Pid::as_raw);
        self.state == 'Z' && self.parent == me.as_raw() && self.session != session
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_whole_variable_of_the_environment() {
        let environ = b"PATH=/bin\0MUSHER_AGENT_ID=ab12-3-4\0X=MUSHER_AGENT_ID=zz\0";
        assert!(carries(environ, Marked::Exactly("ab12-3-4")));
        assert!(carries(environ, Marked::Prefix("ab12-")));
        assert!(!carries(environ, Marked::Exactly("ab12-3")));
        assert!(!carries(environ, Marked::Prefix("zz")));
    }

    #[test]
    fn a_reused_number_is_not_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = start_time(pid).unwrap();
        signal(Ident { pid, start: start + 1 }, Signal::SIGKILL);
        assert!(child.try_wait().unwrap().is_none());
        signal(Ident { pid, start }, Signal::SIGKILL);
        child.wait().unwrap();
    }
}
