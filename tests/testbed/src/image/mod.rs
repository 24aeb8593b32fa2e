//! Container images without Docker: one program, what it needs to run, and nothing else, as an OCI layout in a tar file.
//!
//! The same contents give the same bytes, and so the same digest, on every machine: no times, no owner names, entries in order.
//! There is one uncompressed layer, which is what a node unpacks fastest.

mod layer;
mod libraries;
mod reference;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, FileContext, Result};

use layer::Layer;

use reference::full_name;

/// The user that an image's program runs as unless said otherwise: numeric, since Kubernetes cannot tell of a name whether it is root.
pub const USER: u32 = 65532;

const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Where distributions keep the bundle of certificate authorities.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// As a pod names it: `headwater:dev`.
    pub name: String,
    /// The program, of this machine's architecture. It becomes `/usr/local/bin/<file name>`, and the entry point; the shared libraries
    /// that it needs come along, each to the path where the program looks for it.
    pub program: PathBuf,
    /// More files: where in the image (absolute), and from where. A program among them gets no libraries.
    pub files: BTreeMap<PathBuf, PathBuf>,
    /// The machine's bundle of certificate authorities comes along, and `SSL_CERT_FILE` says where it is.
    pub certificates: bool,
    /// There is a `/tmp` that everyone may write to.
    pub temporary_folder: bool,
    /// User and group id of the program.
    pub user: u32,
}

impl Image {
    /// An image of `program` alone: no certificates, no `/tmp`, user [`USER`].
    #[must_use]
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            files: BTreeMap::new(),
            certificates: false,
            temporary_folder: false,
            user: USER,
        }
    }
}

/// Writes `image` to the tar file `out`, which is replaced only by a whole one, and returns the digest of its manifest
/// (`sha256:<hex>`).
///
/// # Errors
/// When a file cannot be read, a shared library is missing, or the tar file cannot be written.
pub fn write(image: &Image, out: &Path) -> Result<String> {
    let partial = out.with_extension("partial");
    let failed = |source| Error::Image {
        name: image.name.clone(),
        source,
    };
    let file = File::create(&partial).at("write", &partial)?;
    let mut out_tar = BufWriter::new(file);
    let layer = layer(image)?.into_bytes().map_err(failed)?;
    let digest = archive(image, &layer, &mut out_tar).map_err(failed)?;
    out_tar.flush().at("write", &partial)?;
    std::fs::rename(&partial, out).at("rename to", out)?;
    Ok(digest)
}

/// The name of the image in a tar file that [`write()`] made, written out as a node stores it.
pub(crate) fn name_in(tar: &Path) -> Result<String> {
    let file = File::open(tar).at("read", tar)?;
    let mut archive = tar::Archive::new(file);
    let mut text = String::new();
    for entry in archive.entries().at("read", tar)? {
        let mut entry = entry.at("read", tar)?;
        if entry.path().at("read", tar)?.as_ref() == Path::new("index.json") {
            entry.read_to_string(&mut text).at("read", tar)?;
        }
    }
    serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|index| {
            let name = index.pointer("/manifests/0/annotations/io.containerd.image.name")?;
            Some(name.as_str()?.to_owned())
        })
        .ok_or_else(|| Error::Unexpected {
            what: tar.display().to_string(),
            detail: "it is no OCI layout whose index names an image".to_owned(),
        })
}

fn layer(image: &Image) -> Result<Layer> {
    let mut layer = Layer::default();
    let entry_point = entry_point(image)?;
    layer.file(&entry_point, &image.program)?;
    for library in libraries::of(&image.program)? {
        layer.file(&library, &library)?;
    }
    for (inside, outside) in &image.files {
        layer.file(inside, outside)?;
    }
    if image.certificates {
        let bundle = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
        let bundle = bundle.ok_or_else(|| Error::Unexpected {
            what: "bundle of certificate authorities".to_owned(),
            detail: format!(
                "there is none at {}. Install the package 'ca-certificates'",
                BUNDLES.join(", ")
            ),
        })?;
        layer.file(Path::new(BUNDLE), bundle)?;
    }
    let user = image.user;
    let (mut users, mut groups) = (
        "root:x:0:0:root:/:/sbin/nologin\n".to_owned(),
        "root:x:0:\n".to_owned(),
    );
    if user != 0 {
        users += &format!("app:x:{user}:{user}:app:/:/sbin/nologin\n");
        groups += &format!("app:x:{user}:\n");
    }
    layer.text("etc/passwd", &users);
    layer.text("etc/group", &groups);
    // Without it the C library may ask DNS before the hosts file that Kubernetes writes.
    layer.text("etc/nsswitch.conf", "hosts: files dns\n");
    if image.temporary_folder {
        layer.folder("tmp", 0o1777);
    }
    Ok(layer)
}

fn entry_point(image: &Image) -> Result<PathBuf> {
    let name = image.program.file_name().ok_or_else(|| Error::Unexpected {
        what: image.program.display().to_string(),
        detail: "it is no file".to_owned(),
    })?;
    Ok(Path::new("/usr/local/bin").join(name))
}

/// Writes the OCI layout around the layer.
fn archive(image: &Image, layer: &[u8], out: impl Write) -> io::Result<String> {
    let mut tar = tar::Builder::new(out);
    let mut blob = |media_type: &str, bytes: &[u8]| {
        let digest = hex(bytes);
        layer::append(&mut tar, format!("blobs/sha256/{digest}"), bytes, 0o644)?;
        Ok::<_, io::Error>(serde_json::json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        }))
    };
    let layer = blob("application/vnd.oci.image.layer.v1.tar", layer)?;
    let configuration = configuration(image, &layer["digest"])?;
    let configuration = blob(
        "application/vnd.oci.image.config.v1+json",
        configuration.to_string().as_bytes(),
    )?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": configuration,
        "layers": [layer],
    });
    let mut descriptor = blob(manifest_type, manifest.to_string().as_bytes())?;
    let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
    let full_name = full_name(&image.name);
    let tag = full_name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    descriptor["annotations"] = serde_json::json!({
        "io.containerd.image.name": full_name,
        "org.opencontainers.image.ref.name": tag,
    });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    layer::append(&mut tar, "index.json", index.to_string().as_bytes(), 0o644)?;
    let version = serde_json::json!({ "imageLayoutVersion": "1.0.0" });
    layer::append(
        &mut tar,
        "oci-layout",
        version.to_string().as_bytes(),
        0o644,
    )?;
    tar.finish()?;
    Ok(digest)
}

/// `layer` is the digest of its bytes as they are unpacked, which is how they are kept here anyway.
fn configuration(image: &Image, layer: &serde_json::Value) -> io::Result<serde_json::Value> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let entry_point = entry_point(image).map_err(io::Error::other)?;
    let mut environment = vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()];
    if image.certificates {
        environment.push(format!("SSL_CERT_FILE=/{BUNDLE}"));
    }
    Ok(serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{0}:{0}", image.user),
            "Entrypoint": [entry_point],
            "Env": environment,
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    }))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
