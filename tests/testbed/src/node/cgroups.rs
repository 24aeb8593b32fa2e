//! The control groups under which all pods of the node are: the surest list of their processes, whoever started them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, FileContext, Result},
    layout, process,
};

/// Relative to the root of each hierarchy.
pub(super) const ROOT: &str = "/headwater-testbed";
const END_LIMIT: Duration = Duration::from_secs(20);

/// Makes the group in every hierarchy: the kubelet wants it to be there.
pub(super) fn make() -> Result<()> {
    for hierarchy in hierarchies()? {
        // In version 2 a child has the controllers that its parent hands down. Those that a machine lacks are no loss.
        for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
            let _ = fs::write(
                hierarchy.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        layout::make_folder(&group(&hierarchy))?;
    }
    Ok(())
}

/// Kills every process in the groups, and removes them.
pub(super) fn remove() -> Result<()> {
    let groups: Vec<PathBuf> = hierarchies()?
        .iter()
        .map(|hierarchy| group(hierarchy))
        .collect();
    let deadline = Instant::now() + END_LIMIT;
    loop {
        for group in &groups {
            for process in processes(group) {
                process::stop(process, Duration::ZERO)?;
            }
        }
        match groups.iter().try_for_each(|group| remove_tree(group)) {
            Ok(()) => return Ok(()),
            // The kernel needs a moment to let go of a process that has ended.
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            Err(source) => {
                return Err(Error::File {
                    action: "remove the control groups",
                    path: ROOT.into(),
                    source,
                });
            }
        }
    }
}

fn group(hierarchy: &Path) -> PathBuf {
    hierarchy.join(ROOT.trim_start_matches('/'))
}

/// Where control groups are mounted: one place in version 2, one for each controller in version 1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts").at("read", "/proc/mounts")?;
    let hierarchy = |line: &str| {
        let mut fields = line.split(' ');
        let place = fields.nth(1)?;
        matches!(fields.next()?, "cgroup" | "cgroup2").then(|| PathBuf::from(place))
    };
    Ok(mounts.lines().filter_map(hierarchy).collect())
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn processes(group: &Path) -> Vec<u32> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = own.lines().filter_map(|line| line.parse().ok());
    let of_children = children(group)
        .into_iter()
        .flat_map(|child| processes(&child));
    own.chain(of_children).collect()
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for child in children(group) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
