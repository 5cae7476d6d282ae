//! `tributary run` as a child process.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{PATIENCE, signal, wait_for, wait_for_exit};

/// How long the program may take to flush, commit, confirm and exit.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How much of the log a failure shows.
const LOG_SHOWN: usize = 6000;

/// Killed with the value, if nothing ended it before.
pub struct Sidecar {
    child: Child,
    log: PathBuf,
}

impl Sidecar {
    /// Starts `command`; what it says is added to `log`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Sidecar {
            child,
            log: log.to_owned(),
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The greatest resident memory that it had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
    }

    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the program ended with {status}:\n{}", self.log());
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, after which the program must end well and soon.
    pub fn stop(mut self) {
        signal(self.child.id(), "TERM");
        let status = wait_for_exit(&mut self.child, STOP_MAX);
        assert!(
            status.is_some_and(|s| s.success()),
            "SIGTERM ended in {status:?}:\n{}",
            self.log()
        );
    }

    /// SIGHUP: the program reads its configuration again, and looks at the source's catalogue at once.
    pub fn reload(&self) {
        signal(self.child.id(), "HUP");
    }

    /// Waits for the program's own end.
    pub fn wait_for_end(mut self) -> std::process::ExitStatus {
        let status = wait_for_exit(&mut self.child, PATIENCE);
        status.unwrap_or_else(|| panic!("the program goes on:\n{}", self.log()))
    }

    /// The program says `part`.
    pub fn wait_for_log(&self, part: &str) {
        wait_for(&format!("{part:?} in the log"), || {
            self.whole_log().contains(part).then_some(())
        });
    }

    /// The last that the program said.
    pub fn log(&self) -> String {
        let log = self.whole_log();
        let start = (log.len().saturating_sub(LOG_SHOWN)..).find(|i| log.is_char_boundary(*i));
        log[start.unwrap_or(0)..].to_owned()
    }

    /// All that the program said.
    pub fn whole_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
