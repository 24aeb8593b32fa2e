//! The shared libraries of a program, as the dynamic linker of this machine finds them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::{Error, Result};

/// Paths of the libraries, the dynamic linker among them; none for a static program.
pub(super) fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| Error::Spawn {
            program: "ldd".to_owned(),
            source,
        })?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return parse(program, &printed);
    }
    if complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    Err(Error::Command {
        command: format!("ldd {}", program.display()),
        status: output.status.to_string(),
        output: printed + &complaint,
    })
}

/// Lines are `name => /path (address)`, or `/path (address)` for the linker; the kernel's own `linux-vdso.so.1` has no path.
fn parse(program: &Path, printed: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in printed.lines().map(str::trim) {
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        if place == "not found" {
            return Err(Error::Unexpected {
                what: program.display().to_string(),
                detail: format!("it needs a shared library that is not here: {line}"),
            });
        }
        if let Some((path, _)) = place.split_once(" (")
            && path.starts_with('/')
        {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_libraries_and_linker_are_taken() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f12)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f34)\n";
        assert_eq!(
            parse(Path::new("a"), printed).unwrap(),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libz.so.1"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(
            parse(Path::new("a"), "\tstatically linked\n").unwrap(),
            [] as [PathBuf; 0]
        );
    }

    #[test]
    fn missing_library_is_named() {
        let error = parse(Path::new("a"), "\tlibx.so.9 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libx.so.9"), "{error}");
    }
}
