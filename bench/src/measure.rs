//! CPU time of this process, all threads, from the kernel's own account.

use crate::Result;
use std::time::Duration;

/// User and system time of all threads that some work took; the kernel counts in steps of 10 ms.
pub fn cpu_of<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let before = cpu()?;
    let value = work()?;
    Ok((value, cpu()?.saturating_sub(before)))
}

fn cpu() -> Result<Duration> {
    /// `USER_HZ`, which Linux fixes for all that reads `/proc`.
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, the program's name in brackets, may hold blanks: count from its end.
    let (_, rest) = stat
        .rsplit_once(") ")
        .ok_or("/proc/self/stat is not as expected")?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().ok_or("too few fields")?.parse()?) };
    let ticks = next()? + next()?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND))
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
