//! How much memory the process holds, and how much it once asked for.

use anyhow::{Context as _, Result};

/// Size of a page: Linux on x86-64 and arm64 with 4 KiB pages; others only make the figure smaller.
const PAGE: u64 = 4096;

/// Resident memory in bytes, of it what belongs to no file (proc(5), `statm`: resident less shared).
pub(crate) fn anonymous() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let mut fields = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (fields.next().context("statm")??, fields.next().context("statm")??);
    Ok(resident.saturating_sub(shared) * PAGE)
}

/// Most address space in bytes that the process ever had (proc(5), `status`: `VmPeak`): what was asked for counts, used
/// or not, and given back or not.
pub(crate) fn peak() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmPeak:")).context("no VmPeak")?;
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().context("VmPeak")?;
    Ok(kib << 10)
}
