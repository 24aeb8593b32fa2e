//! Processes of this machine, those in pods included.

use std::fs;

/// Memory of a process, in bytes.
pub struct Resident {
    /// Its own: what the machine cannot take back.
    pub anonymous: u64,
    /// With pages of files, the executable above all, which every process of it shares and which go when memory is short.
    pub all: u64,
}

/// Resident memory of the process whose program is called `program` and whose first argument is `argument`.
pub fn resident(program: &str, argument: &str) -> Resident {
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
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        let kibibytes: u64 = number.unwrap().parse().unwrap();
        kibibytes * 1_024
    };
    Resident {
        anonymous: bytes("RssAnon:") + bytes("RssShmem:"),
        all: bytes("VmRSS:"),
    }
}
