//! Processes of this machine, those in pods included.

use std::fs;

/// Resident memory of the process whose program is called `program` and whose first argument is `argument`.
pub fn resident_bytes(program: &str, argument: &str) -> u64 {
    let found = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let folder = entry.ok()?.path();
            let line = fs::read_to_string(folder.join("cmdline")).ok()?;
            let mut words = line.split('\0');
            let is_program = words.next()?.rsplit('/').next()? == program;
            (is_program && words.next()? == argument).then_some(folder)
        })
        .next()
        .unwrap_or_else(|| panic!("no process '{program} {argument}'"));
    let status = fs::read_to_string(found.join("status")).unwrap();
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap()
        .parse()
        .unwrap();
    kibibytes * 1_024
}
