//! What the process trees of agents use now: memory and CPU, read from /proc.

use super::sweep::{MARKER, Stat};
use std::collections::HashMap;

/// What a tree of processes uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// How many processes there are.
    pub processes: usize,
    /// Memory that is resident, in bytes; what processes share counts for each.
    pub memory: u64,
    /// CPU time that they have used so far, in milliseconds.
    pub cpu_ms: u64,
}

/// What the trees of an installation's sessions use, by session number. Blocks (reads /proc).
///
/// Markers are `INSTANCE-SESSION-TURN`; the turn is the one that the runtime was started for.
pub fn usage_by_session(instance: &str) -> HashMap<i64, TreeUsage> {
    let mut found: HashMap<i64, TreeUsage> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return found };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids {
        let pid: i32 = pid;
        let Some(session) = session_of(pid, instance) else { continue };
        let Some(stat) = Stat::of(pid) else { continue };
        let tree = found.entry(session).or_default();
        tree.processes += 1;
        tree.memory += resident(pid).unwrap_or(0);
        tree.cpu_ms += stat.cpu_ticks.saturating_mul(1000) / TICKS_PER_SECOND;
    }
    found
}

/// What the kernel counts CPU time in: fixed for all of user space on Linux.
const TICKS_PER_SECOND: u64 = 100;

fn session_of(pid: i32, instance: &str) -> Option<i64> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let marker = environ
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))?;
    let marker = std::str::from_utf8(marker).ok()?;
    let rest = marker.strip_prefix(instance)?.strip_prefix('-')?;
    rest.split('-').next()?.parse().ok()
}

/// Resident memory in bytes, from the line that says it in kB.
fn resident(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_found_by_its_marker_with_memory_and_time() {
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 600 & wait"])
            .env(MARKER, format!("{instance}-7-12"))
            .spawn()
            .unwrap();
        let began = std::time::Instant::now();
        let tree = loop {
            let found = usage_by_session(&instance);
            match found.get(&7) {
                Some(tree) if tree.processes == 2 && tree.cpu_ms > 0 => break *tree,
                _ => assert!(began.elapsed().as_secs() < 30, "{found:?}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        assert!(tree.memory > 100_000, "{tree:?}");
        assert!(usage_by_session("another").is_empty());
        super::super::kill_marked(
            super::super::Marked::Exactly(&format!("{instance}-7-12")),
            std::time::Duration::from_secs(5),
        );
        child.wait().unwrap();
    }
}
