//! Packets as they pass an interface of the lab, taken with tcpdump.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Error, Lab, Result};

/// How long tcpdump may take to open its interface.
const START: Duration = Duration::from_secs(10);
/// KiB between kernel and tcpdump: with the default, batches of datagrams overrun it.
const BUFFER: &str = "65536";
/// A file that has not grown for so long is complete: tcpdump is handed packets once a second.
const SETTLED: Duration = Duration::from_millis(1200);
/// Where packets never cease, the file always grows: what passed before the end was handed over long before this.
const CAUGHT_UP: Duration = Duration::from_secs(6);
/// A pcap file without a packet is its header.
const HEADER: u64 = 24;

/// A running tcpdump, which ends with this value.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Takes what passes `interface` of a host, NAT or segment into `file` (a path of the machine).
    ///
    /// # Errors
    /// Where tcpdump is not installed or cannot open the interface.
    pub fn start(lab: &Lab, name: &str, interface: &str, file: &Path) -> Result<Self> {
        let output = fs::File::create(file).map_err(Error::io("create", file))?;
        let mut command = lab.command(name, "tcpdump")?;
        command.args(["-i", interface, "-U", "-B", BUFFER, "-s", "65535", "-w", "-"]).stdin(Stdio::null());
        let child =
            command.stdout(output).stderr(Stdio::null()).spawn().map_err(Error::io("run", "tcpdump"))?;
        let mut capture = Self { child, file: file.to_owned() };
        let deadline = Instant::now() + START;
        // The header is written once the interface is open.
        while fs::metadata(file).map_or(0, |found| found.len()) < HEADER {
            let ended = capture.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > deadline {
                return Err(Error::Machine(format!("tcpdump cannot capture on {interface} of {name}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(capture)
    }

    /// Ends the capture, once it has written what passed before, and returns the pcap file's bytes.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn stop(mut self) -> Result<Vec<u8>> {
        let length = || fs::metadata(&self.file).map_or(0, |found| found.len());
        let deadline = Instant::now() + CAUGHT_UP;
        let mut before = 0;
        // It says nowhere that it has caught up: it has when its file grows no more.
        while length() != before && Instant::now() < deadline {
            before = length();
            thread::sleep(SETTLED);
        }
        self.end();
        fs::read(&self.file).map_err(Error::io("read", &self.file))
    }

    fn end(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}
