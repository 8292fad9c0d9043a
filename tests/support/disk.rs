//! A disk that can be filled to the last byte, and emptied.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::musher::Musher;

/// Large enough for what the merge queue wants to be free, small enough to be filled at once.
const SIZE: &str = "160m";

/// What a process may write when it may write nothing: less than any file of ours has.
const NOTHING: &str = "--fsize=512:unlimited";

/// The disk that a Musher's data directory is on.
///
/// A file system of its own, where one may be mounted; or the kernel is told that this process may
/// make no file longer than it is, which looks to it like a quota.
#[derive(Debug)]
pub enum Disk {
    /// Mounted here.
    Own(PathBuf),
    /// Limited by the kernel.
    Limited,
}

impl Disk {
    /// Mounts one for a Musher that was not started yet; `None` where nobody may mount.
    pub fn mounted(musher: &mut Musher) -> Option<Self> {
        let place = musher.data();
        std::fs::create_dir_all(&place).unwrap();
        let size = format!("size={SIZE},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "musher-test"])
            .arg(&place)
            .output();
        mounted.is_ok_and(|ran| ran.status.success()).then_some(Self::Own(place))
    }

    /// Has the kernel limit a Musher that was not started yet; that goes everywhere.
    pub fn limited(musher: &mut Musher) -> Self {
        // The kernel's signal for a file that is too long would end a process that does not
        // ignore it.
        musher.wrap(&["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
        Self::Limited
    }

    /// Leaves not a byte.
    pub fn fill(&self, musher: &Musher) {
        match self {
            Self::Own(place) => {
                let mut ballast = File::create(place.join("ballast")).unwrap();
                for size in [1 << 20, 4096, 1] {
                    let block = vec![0_u8; size];
                    while ballast.write_all(&block).is_ok() {}
                }
            }
            Self::Limited => limit(musher, NOTHING),
        }
    }

    /// There is room again.
    pub fn free(&self, musher: &Musher) {
        match self {
            Self::Own(place) => std::fs::remove_file(place.join("ballast")).unwrap(),
            Self::Limited => limit(musher, "--fsize=unlimited:unlimited"),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Own(place) = self {
            unmount(place);
        }
    }
}

fn limit(musher: &Musher, how: &str) {
    let pid = musher.pid().to_string();
    let ran = Command::new("prlimit").args(["--pid", &pid, how]).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

/// Lazily: a process may still have files open there.
fn unmount(place: &Path) {
    let ran = Command::new("umount").arg("--lazy").arg(place).output();
    assert!(ran.is_ok_and(|ran| ran.status.success()) || std::thread::panicking());
}
