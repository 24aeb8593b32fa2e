//! Kubeconfig files: how each program of the cluster, and a user, reaches the API server.

use std::path::{Path, PathBuf};

use crate::{
    cluster::pki::{Client, Pki},
    error::Result,
    layout, machine,
};

/// Writes `<client>.kubeconfig` into `folder`.
pub(crate) fn write(folder: &Path, pki: &Pki, client: Client) -> Result<PathBuf> {
    let path = path(folder, client);
    layout::write(&path, text(pki, client))?;
    Ok(path)
}

pub(crate) fn path(folder: &Path, client: Client) -> PathBuf {
    folder.join(format!("{}.kubeconfig", client.name))
}

/// JSON, which is YAML too: paths need no quoting rules of our own.
fn text(pki: &Pki, client: Client) -> String {
    let name = layout::NODE_NAME;
    let server = format!("https://{}:{}", machine::server_address(), layout::API_PORT);
    format!(
        "{:#}\n",
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{
                "name": name,
                "cluster": { "server": server, "certificate-authority": pki.authority() },
            }],
            "users": [{
                "name": client.name,
                "user": {
                    "client-certificate": pki.certificate(client.name),
                    "client-key": pki.key(client.name),
                },
            }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": client.name } }],
        })
    )
}
