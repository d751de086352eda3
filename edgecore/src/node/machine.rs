//! What the machine is and has, from /proc, /etc and the kernel.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What does not change while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// /etc/machine-id.
    pub machine_id: String,
    /// DMI's product UUID, or the machine id.
    pub system_uuid: String,
    /// Id of this boot.
    pub boot_id: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// As Go names it: `amd64`, `arm64`, `arm`.
    pub architecture: &'static str,
    /// Processors.
    pub cpus: usize,
    /// Memory, in bytes.
    pub memory: u64,
}

/// What is in use now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// When, in nanoseconds of Unix time.
    pub time: i64,
    /// CPU time of all processors so far, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory, in bytes.
    pub memory_total: u64,
    /// Memory that nothing uses, in bytes.
    pub memory_free: u64,
    /// Memory that could be had without swapping, in bytes.
    pub memory_available: u64,
}

/// A file system's size and what is left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub total: u64,
    /// Bytes that may still be written.
    pub available: u64,
}

impl Disk {
    /// What is short of `percent` of the disk or of `bytes`, whichever is less: on a large disk a share that is
    /// small still holds a lot. 0 where there is enough.
    pub fn lacks(&self, percent: u64, bytes: u64) -> u64 {
        (self.total / 100 * percent).min(bytes).saturating_sub(self.available)
    }
}

impl Machine {
    /// Reads all of it. What cannot be read is empty: none of it is vital.
    pub fn read() -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let machine_id = line("/etc/machine-id");
        let uuid = line("/sys/class/dmi/id/product_uuid");
        Self {
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            architecture: architecture(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: usage().memory_total,
        }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "riscv64" => "riscv64",
        other => other,
    }
}

fn os_image(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map_or_else(|| "Linux".to_owned(), |value| value.trim_matches('"').to_owned())
}

/// What is in use now.
pub fn usage() -> Usage {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Usage {
        time: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        cpu_nanos: cpu_nanos(&stat),
        memory_total: kilobytes(&meminfo, "MemTotal"),
        memory_free: kilobytes(&meminfo, "MemFree"),
        memory_available: kilobytes(&meminfo, "MemAvailable"),
    }
}

fn kilobytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// All but idle and waiting, from the first line of /proc/stat, whose unit is a hundredth of a second.
fn cpu_nanos(stat: &str) -> u64 {
    let Some(line) = stat.lines().next() else { return 0 };
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal; guest time is part of user's.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| ticks.get(*index)).sum();
    busy * 10_000_000
}

/// The file system that holds `path`.
pub fn disk(path: &Path) -> Disk {
    let Ok(stat) = nix::sys::statvfs::statvfs(path) else { return Disk::default() };
    let block = stat.fragment_size();
    Disk { total: stat.blocks() * block, available: stat.blocks_available() * block }
}

/// Processes and how many there may be.
pub fn processes() -> Option<(u64, u64)> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let running = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let limit = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    Some((running, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_share_of_a_large_disk_is_enough() {
        let gib = 1 << 30;
        let disk = |total, available| Disk { total, available };
        assert_eq!(disk(1000 * gib, 20 * gib).lacks(10, 2 * gib), 0);
        assert_eq!(disk(1000 * gib, gib).lacks(10, 2 * gib), gib);
        assert_eq!(disk(1000, 99).lacks(10, 2 * gib), 1);
        assert_eq!(disk(1000, 100).lacks(10, 2 * gib), 0);
    }

    #[test]
    fn files_of_the_kernel() {
        assert_eq!(kilobytes("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal"), 16384 * 1024);
        assert_eq!(kilobytes("", "MemTotal"), 0);
        assert_eq!(cpu_nanos("cpu  10 1 5 1000 7 2 3 4 100 0\ncpu0 1"), 25 * 10_000_000);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert!(Machine::read().memory > 0);
    }
}
