//! The file system of an image: a tar with its entries in order, owned by root, without times.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::error::{FileContext, Result};

enum Entry {
    Folder,
    File(Vec<u8>),
}

/// Paths are kept relative to the image's root. Folders on the way to a file are made by themselves.
#[derive(Default)]
pub(super) struct Layer {
    entries: BTreeMap<PathBuf, (u32, Entry)>,
}

impl Layer {
    /// Copies the file `outside`, through links, with whether it is executable.
    pub(super) fn file(&mut self, inside: &Path, outside: &Path) -> Result<()> {
        let bytes = fs::read(outside).at("read", outside)?;
        let mode = fs::metadata(outside)
            .at("read", outside)?
            .permissions()
            .mode();
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        self.put(inside, mode, Entry::File(bytes));
        Ok(())
    }

    pub(super) fn text(&mut self, inside: &str, text: &str) {
        self.put(Path::new(inside), 0o644, Entry::File(text.into()));
    }

    pub(super) fn folder(&mut self, inside: &str, mode: u32) {
        self.put(Path::new(inside), mode, Entry::Folder);
    }

    fn put(&mut self, inside: &Path, mode: u32, entry: Entry) {
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        let parents = inside.ancestors().skip(1);
        for parent in parents.filter(|path| !path.as_os_str().is_empty()) {
            self.entries
                .entry(parent.to_owned())
                .or_insert((0o755, Entry::Folder));
        }
        self.entries.insert(inside.to_owned(), (mode, entry));
    }

    pub(super) fn into_bytes(self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, (mode, entry)) in self.entries {
            match entry {
                Entry::File(bytes) => append(&mut tar, path, &bytes, mode)?,
                Entry::Folder => {
                    let mut header = header(mode, 0);
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, path, io::empty())?;
                }
            }
        }
        tar.into_inner()
    }
}

/// Adds a regular file.
pub(super) fn append(
    tar: &mut tar::Builder<impl Write>,
    path: impl AsRef<Path>,
    bytes: &[u8],
    mode: u32,
) -> io::Result<()> {
    tar.append_data(&mut header(mode, bytes.len() as u64), path, bytes)
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
