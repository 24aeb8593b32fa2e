//! Keys and certificates of the cluster, made by OpenSSL, all signed by one authority of its own.
//!
//! They are made together, once for a cluster's life; a certificate's subject is what RBAC and the node authorizer go by.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{FileContext, Result},
    layout, run,
};

/// Longer than any bed lives.
const DAYS: &str = "3650";

/// Who a client certificate says its bearer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    subject: &'static str,
}

pub(crate) const ADMIN: Client = Client {
    name: "admin",
    subject: "/O=system:masters/CN=headwater-testbed-admin",
};
/// The API server, as a client of the kubelet.
pub(crate) const KUBELET_CLIENT: Client = Client {
    name: "kubelet-client",
    subject: "/O=system:masters/CN=kube-apiserver-kubelet-client",
};
pub(crate) const CONTROLLER_MANAGER: Client = Client {
    name: "kube-controller-manager",
    subject: "/CN=system:kube-controller-manager",
};
pub(crate) const SCHEDULER: Client = Client {
    name: "kube-scheduler",
    subject: "/CN=system:kube-scheduler",
};
pub(crate) const PROXY: Client = Client {
    name: "kube-proxy",
    subject: "/CN=system:kube-proxy",
};
/// The name after `system:node:` is [`layout::NODE_NAME`].
pub(crate) const NODE: Client = Client {
    name: "kubelet",
    subject: "/O=system:nodes/CN=system:node:headwater-testbed",
};

const CLIENTS: [Client; 6] = [
    ADMIN,
    KUBELET_CLIENT,
    CONTROLLER_MANAGER,
    SCHEDULER,
    PROXY,
    NODE,
];

/// The folder with `<name>.crt` and `<name>.key` of every identity.
#[derive(Clone, Debug)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub(crate) fn authority_key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crt"))
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    /// Verifies what the key `service-account` signed.
    pub(crate) fn service_account_verifier(&self) -> PathBuf {
        self.folder.join("service-account.pub")
    }

    /// Makes everything, unless it is there. `addresses` are the API server's.
    pub(crate) fn ensure(&self, addresses: &[&str]) -> Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        let partial = self.folder.with_extension("partial");
        layout::remove_folder(&partial)?;
        layout::make_folder(&partial)?;
        Maker { folder: &partial }.all(addresses)?;
        fs::rename(&partial, &self.folder).at("rename to", &self.folder)
    }
}

struct Maker<'a> {
    folder: &'a Path,
}

impl Maker<'_> {
    fn all(&self, addresses: &[&str]) -> Result<()> {
        // The machine's own configuration of OpenSSL might add extensions that contradict ours.
        layout::write(
            &self.folder.join("openssl.cnf"),
            "[req]\ndistinguished_name = name\n[name]\n",
        )?;
        self.certificate(
            "ca",
            "/CN=headwater-testbed-ca",
            &[
                "basicConstraints=critical,CA:TRUE",
                "keyUsage=critical,keyCertSign,cRLSign",
                "subjectKeyIdentifier=hash",
            ],
            &[],
        )?;
        let server_names = server_names(addresses);
        self.signed(
            "kube-apiserver",
            "/CN=kube-apiserver",
            &["extendedKeyUsage=serverAuth", &server_names],
        )?;
        for Client { name, subject } in CLIENTS {
            self.signed(name, subject, &["extendedKeyUsage=clientAuth"])?;
        }
        self.openssl(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            "service-account.key",
        ])?;
        self.openssl(&[
            "pkey",
            "-in",
            "service-account.key",
            "-pubout",
            "-out",
            "service-account.pub",
        ])
    }

    fn signed(&self, name: &str, subject: &str, extensions: &[&str]) -> Result<()> {
        let extensions: Vec<&str> = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            "authorityKeyIdentifier=keyid",
        ]
        .into_iter()
        .chain(extensions.iter().copied())
        .collect();
        self.certificate(
            name,
            subject,
            &extensions,
            &["-CA", "ca.crt", "-CAkey", "ca.key"],
        )
    }

    fn certificate(
        &self,
        name: &str,
        subject: &str,
        extensions: &[&str],
        issuer: &[&str],
    ) -> Result<()> {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let mut arguments = vec!["req", "-x509", "-config", "openssl.cnf", "-sha256"];
        arguments.extend([
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
        ]);
        arguments.extend(["-days", DAYS, "-subj", subject]);
        arguments.extend(["-keyout", &key, "-out", &certificate]);
        arguments.extend(issuer);
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        self.openssl(&arguments)
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        run::run(
            Command::new("openssl")
                .current_dir(self.folder)
                .args(arguments),
        )
        .map(drop)
    }
}

fn server_names(addresses: &[&str]) -> String {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let names = names.iter().map(|name| format!("DNS:{name}"));
    let addresses = addresses.iter().map(|address| format!("IP:{address}"));
    let all: Vec<String> = names.chain(addresses).collect();
    format!("subjectAltName={}", all.join(","))
}
