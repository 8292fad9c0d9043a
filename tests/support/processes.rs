//! Which processes live, by what they carry: for showing that none was left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::until;

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub command: String,
}

/// Processes, this one left out, that work in `directory` or below, or whose command line or
/// environment names it. An environment is inherited by children and their children, also by
/// those in a session of their own.
pub fn processes_of(directory: &Path) -> Vec<Process> {
    let own = std::process::id().cast_signed();
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        entry.ok()?.file_name().to_str()?.parse::<i32>().ok().filter(|pid| *pid != own)
    });
    let needle = directory.as_os_str().as_encoded_bytes();
    let belongs = |pid: &i32| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let place = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        place.starts_with(directory)
            || contains(&read("environ"), needle)
            || contains(&read("cmdline"), needle)
    };
    pids.filter(belongs).map(|pid| Process { pid, command: command_of(pid) }).collect()
}

/// Waits until no process belongs to `directory`; panics with those that do.
pub async fn assert_none_left(directory: &Path) {
    let mut left = vec![];
    let ended = tokio::time::timeout(super::PATIENCE, async {
        loop {
            left = processes_of(directory);
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    if ended.await.is_err() {
        panic!("processes are left: {left:#?}");
    }
}

/// Waits until a process belongs to `directory` whose command line contains `part`.
pub async fn wait_for_process(directory: &Path, part: &str) -> Process {
    until(&format!("a process: {part}"), || {
        processes_of(directory).into_iter().find(|process| process.command.contains(part))
    })
    .await
}

/// Ends every process that belongs to `directory`.
pub fn kill_all_of(directory: &Path) {
    for process in processes_of(directory) {
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).ok();
    }
}

fn command_of(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The resident memory of a process, in bytes.
pub fn resident_memory(pid: i32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The CPU time that a process has spent so far, its own only, in steps of 10 ms.
pub fn cpu_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the name in parentheses and may hold anything.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
