//! What programs cost, as /proc shows it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Ticks of `utime` and `stime` in a second: USER_HZ, the same on every machine that Linux runs on today.
const TICKS: f64 = 100.0;

/// Processor time of these processes, all threads, in user and kernel mode. What the kernel does for them in
/// interrupts is not in it.
pub(crate) fn processor_time(pids: &[i32]) -> Result<Duration> {
    pids.iter().map(|pid| one_processor_time(*pid)).sum()
}

fn one_processor_time(pid: i32) -> Result<Duration> {
    let text = read(pid, "stat")?;
    let ticks = parse_ticks(&text).with_context(|| format!("/proc/{pid}/stat: {text:?}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
}

/// KiB of a process that no file is behind.
pub(crate) fn anonymous_kib(pid: i32) -> Result<f64> {
    let text = read(pid, "status")?;
    parse_anonymous(&text).with_context(|| format!("/proc/{pid}/status has no RssAnon"))
}

/// The value of a variable in the environment that a process was started with.
pub(crate) fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let pairs = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    pairs
        .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .find_map(|(key, value)| (key == name).then_some(value))
}

fn read(pid: i32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the process ended?"))
}

/// The 14th and 15th field; the second is a name that may hold blanks and brackets.
fn parse_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn parse_anonymous(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_an_odd_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 5 0 0 0 250 50 7 8 20 0 4 0 100 1 1";
        assert_eq!(parse_ticks(stat), Some(300));
        assert_eq!(parse_ticks("12 (cut"), None);
    }

    #[test]
    fn anonymous_memory_is_read() {
        assert_eq!(parse_anonymous("VmRSS:\t 9 kB\nRssAnon:\t   4512 kB\n"), Some(4512.0));
        assert_eq!(parse_anonymous("VmRSS:\t 9 kB\n"), None);
    }

    #[test]
    fn this_process_has_both() {
        let own = std::process::id() as i32;
        assert!(processor_time(&[own]).is_ok() && anonymous_kib(own).unwrap() > 0.0);
        assert!(processor_time(&[-1]).is_err());
    }
}
