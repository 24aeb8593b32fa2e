//! CPU time and memory of a process, all threads, from the kernel's own account; and the middle of figures.

use crate::Result;
use std::time::Duration;

/// User and system time of all threads that some work took; the kernel counts in steps of 10 ms.
pub fn cpu_of<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let before = cpu()?;
    let value = work()?;
    Ok((value, cpu()?.saturating_sub(before)))
}

fn cpu() -> Result<Duration> {
    cpu_of_process("self")
}

/// User and system time of a process so far; `process` is its id or `self`.
pub fn cpu_of_process(process: &str) -> Result<Duration> {
    /// `USER_HZ`, which Linux fixes for all that reads `/proc`.
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field, the program's name in brackets, may hold blanks: count from its end.
    let (_, rest) = stat
        .rsplit_once(") ")
        .ok_or("/proc/.../stat is not as expected")?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().ok_or("too few fields")?.parse()?) };
    let ticks = next()? + next()?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND))
}

/// Resident memory of this process, bytes.
pub fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS in /proc/self/status")?;
    let kibibytes: usize = line.trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1_024)
}

/// The machine's load over the last minute, as the kernel says it.
pub fn load() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The middle of figures, and what one in a hundred exceeds.
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
}

pub fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| {
        let place = (values.len() * share / 100).min(values.len().saturating_sub(1));
        values.get(place).copied().unwrap_or(f64::NAN)
    };
    Spread {
        p50: at(50),
        p99: at(99),
    }
}

/// Bytes in millions.
pub fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
