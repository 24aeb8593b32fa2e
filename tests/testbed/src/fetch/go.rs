//! Go programs, built once from the sources that the Go module proxy has.
//!
//! Each module gets a folder of its own in the cache, with a `go.mod` that requires just it; Go checks every download against its
//! checksum database. One program is built at a time, by whatever process: Go uses all cores for one already.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Error, FileContext, Result},
    fetch::step,
    layout, run,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    name: &'static str,
    path: &'static str,
    version: &'static str,
}

/// A program of a module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    package: &'static str,
    module: Module,
}

const KUBERNETES_MODULE: Module = Module {
    name: "kubernetes",
    path: "k8s.io/kubernetes",
    version: layout::KUBERNETES,
};

const fn kubernetes(name: &'static str, package: &'static str) -> Program {
    Program {
        name,
        package,
        module: KUBERNETES_MODULE,
    }
}

pub(crate) const KUBE_APISERVER: Program =
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");
pub(crate) const KUBE_CONTROLLER_MANAGER: Program = kubernetes(
    "kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
);
pub(crate) const KUBE_SCHEDULER: Program =
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler");
pub(crate) const KUBE_PROXY: Program = kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy");
pub(crate) const KUBELET: Program = kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet");
pub(crate) const KUBECTL: Program = kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl");
pub(crate) const ETCD: Program = Program {
    name: "etcd",
    package: "go.etcd.io/etcd/server/v3",
    module: Module {
        name: "etcd",
        path: "go.etcd.io/etcd/server/v3",
        version: layout::ETCD,
    },
};
pub(crate) const COREDNS: Program = Program {
    name: "coredns",
    package: "github.com/coredns/coredns",
    module: Module {
        name: "coredns",
        path: "github.com/coredns/coredns",
        version: layout::COREDNS,
    },
};
pub(crate) const HELM: Program = Program {
    name: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    module: Module {
        name: "helm",
        path: "helm.sh/helm/v4",
        version: layout::HELM,
    },
};

impl Program {
    /// Where the program is once it is built.
    pub(crate) fn path(&self) -> PathBuf {
        self.module.folder().join("bin").join(self.name)
    }

    /// The program, built on first use.
    pub(crate) fn built(&self) -> Result<PathBuf> {
        let path = self.path();
        if path.is_file() {
            return Ok(path);
        }
        let _lock = layout::Lock::on(&layout::cache().join("go"))?;
        if !path.is_file() {
            let what = format!("building {} {}", self.name, self.module.version);
            step(&what, || self.build(&path))?;
        }
        Ok(path)
    }

    fn build(&self, path: &Path) -> Result<()> {
        let folder = self.module.folder();
        self.module.require()?;
        let version = self.module.version;
        let mut parts = version.split('.');
        let (major, minor) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        // Kubernetes' programs tell their version from these; in others the linker finds no such variable, and goes on.
        let variable = "-X k8s.io/component-base/version";
        let flags = format!(
            "-s -w {variable}.gitVersion=v{version} {variable}.gitMajor={major} {variable}.gitMinor={minor}"
        );
        compile(
            &folder,
            path,
            &["-mod=mod", "-ldflags", &flags, self.package],
        )
    }
}

impl Module {
    fn folder(&self) -> PathBuf {
        layout::cache().join(format!("{}-{}", self.name, self.version))
    }

    /// Makes the folder's `go.mod`, unless it is there.
    fn require(&self) -> Result<()> {
        let folder = self.folder();
        let ours = folder.join("go.mod");
        if ours.is_file() {
            return Ok(());
        }
        layout::make_folder(&folder)?;
        let theirs = self.download(&folder)?;
        let partial = folder.join("go.mod.partial");
        layout::write(&partial, self.manifest(&theirs))?;
        fs::rename(&partial, &ours).at("rename to", &ours)
    }

    /// The module's own `go.mod`.
    fn download(&self, folder: &Path) -> Result<String> {
        let module = format!("{}@v{}", self.path, self.version);
        let answer = run::run(
            Command::new("go")
                .current_dir(folder)
                .args(["mod", "download", "-json", &module]),
        )?;
        let manifest = serde_json::from_str::<serde_json::Value>(&answer)
            .ok()
            .and_then(|answer| Some(PathBuf::from(answer.get("GoMod")?.as_str()?)))
            .ok_or_else(|| Error::Unexpected {
                what: format!("answer of 'go mod download -json {module}'"),
                detail: answer,
            })?;
        fs::read_to_string(&manifest).at("read", manifest)
    }

    fn manifest(&self, theirs: &str) -> String {
        let Self {
            name,
            path,
            version,
        } = self;
        // The language version, and the behaviour of the standard library, are those that the module was made for.
        let settings = theirs
            .lines()
            .filter(|line| line.starts_with("go ") || line.starts_with("godebug default="));
        let mut manifest = format!("module headwater.dev/testbed/{name}\n\n");
        for setting in settings {
            manifest += setting;
            manifest.push('\n');
        }
        manifest += &format!("\nrequire {path} v{version}\n\n");
        for staged in theirs.lines().filter_map(staged_module) {
            let minor_and_patch = version.split_once('.').map_or("", |(_, rest)| rest);
            manifest += &format!("replace {staged} => {staged} v0.{minor_and_patch}\n");
        }
        manifest
    }
}

/// The module of a line `k8s.io/api => ./staging/src/k8s.io/api`: Kubernetes takes these from its own tree, and publishes each as
/// `v0.<minor>.<patch>`.
fn staged_module(line: &str) -> Option<&str> {
    let (module, target) = line.split_once("=>")?;
    let module = module.trim();
    target
        .trim_start()
        .starts_with("./staging/")
        .then(|| module.strip_prefix("replace ").unwrap_or(module))
}

/// Runs `go build` in `folder` for a static program at `path`.
pub(crate) fn compile(folder: &Path, path: &Path, arguments: &[&str]) -> Result<()> {
    let partial = path.with_extension("partial");
    run::run(
        Command::new("go")
            .current_dir(folder)
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-o"])
            .arg(&partial)
            .args(arguments),
    )?;
    fs::rename(&partial, path).at("rename to", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_keeps_settings_and_replaces_what_is_staged() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire k8s.io/klog/v2 v2.130.1\n\n\
                      replace k8s.io/api => ./staging/src/k8s.io/api\nreplace (\n\tk8s.io/kubelet => ./staging/src/k8s.io/kubelet\n\
                      \tgithub.com/a/b => github.com/c/d v1.0.0\n)\n";
        let module = Module {
            version: "1.34.4",
            ..KUBERNETES_MODULE
        };
        assert_eq!(
            module.manifest(theirs),
            "module headwater.dev/testbed/kubernetes\n\ngo 1.24.0\ngodebug default=go1.24\n\nrequire k8s.io/kubernetes v1.34.4\n\n\
             replace k8s.io/api => k8s.io/api v0.34.4\nreplace k8s.io/kubelet => k8s.io/kubelet v0.34.4\n"
        );
    }
}
