//! The node of the bed: pods made from images of the bed, and what they reach.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use headwater_testbed::{
    Node, Result,
    image::{self, Image},
};
use support::{eventually, kubectl, try_kubectl};

/// The image's program: a shell, since it is on every machine, needs shared libraries, and opens connections by itself.
const SHELL: &str = "/bin/bash";

/// A folder that goes on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("testbed-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A node that has the image `name`.
fn node_with(name: &str) -> Result<Node> {
    let folder = Folder::new(name);
    let tar = folder.0.join("image.tar");
    let image = Image {
        temporary_folder: true,
        ..Image::new(format!("{name}:test"), SHELL)
    };
    image::write(&image, &tar)?;
    let node = headwater_testbed::node()?;
    node.import_image(&tar)?;
    Ok(node)
}

/// Runs `script` in a pod to its end; returns the pod's phase and its log.
fn run_pod(node: &Node, name: &str, script: &str) -> (String, String) {
    let pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": { "runAsNonRoot": true },
            "containers": [{
                "name": "shell",
                "image": format!("{name}:test"),
                "imagePullPolicy": "Never",
                "args": ["-c", script],
                "securityContext": { "readOnlyRootFilesystem": true },
            }],
        },
    });
    let phase = || {
        kubectl(
            node.kubectl(),
            &format!("get pod {name} -o jsonpath={{.status.phase}}"),
            "",
        )
    };
    remove_pod(node, name);
    kubectl(node.kubectl(), "create -f -", &pod.to_string());
    eventually("the pod ends", || {
        matches!(phase().as_str(), "Succeeded" | "Failed")
    });
    let log = kubectl(node.kubectl(), &format!("logs {name}"), "");
    (phase(), log)
}

fn remove_pod(node: &Node, name: &str) {
    let line = format!("delete pod {name} --ignore-not-found --force");
    kubectl(node.kubectl(), &line, "");
}

#[test]
fn pod_runs_an_image_of_the_bed_and_its_log_is_read() -> Result<()> {
    let name = "testbed-pod";
    let node = node_with(name)?;
    let (phase, log) = run_pod(&node, name, "echo \"user $UID at $PWD\"; exit 0");
    assert_eq!(
        (phase.as_str(), log.as_str()),
        ("Succeeded", "user 65532 at /\n")
    );
    let (phase, log) = run_pod(&node, name, "echo going wrong; exit 3");
    assert_eq!((phase.as_str(), log.as_str()), ("Failed", "going wrong\n"));
    remove_pod(&node, name);
    Ok(())
}

#[test]
fn pod_reaches_services_by_name_and_the_brokers() -> Result<()> {
    let name = "testbed-reach";
    let node = node_with(name)?;
    let kafka = headwater_testbed::kafka()?;
    let (host, port) = kafka.bootstrap().split_once(':').unwrap();
    // The API server and the DNS server itself are Services, one of a program on the machine, one of a pod.
    let targets = [
        ("kubernetes.default.svc.cluster.local", "443"),
        ("kubernetes", "443"),
        ("kube-dns.kube-system", "53"),
        (host, port),
        ("no-such-service.default", "443"),
    ];
    // A name server that has just started does not know every service yet. The image has a shell and nothing else.
    let mut tries = "reach() {
            local until=$((SECONDS + $3))
            while :; do
                if (exec 3<>/dev/tcp/$1/$2) 2>/dev/null; then echo $1 answers; return; fi
                ((SECONDS < until)) || break
            done
            echo $1 fails
        }\n"
    .to_owned();
    for (host, port) in targets {
        let seconds = if host.starts_with("no-such") { 0 } else { 30 };
        tries.push_str(&format!("reach {host} {port} {seconds}\n"));
    }
    // Kafka must speak too: its answer to ApiVersions repeats the request's correlation id.
    let request = r"\0\0\0\x0a\0\x12\0\0HWTB\xff\xff";
    let speak = format!(
        "exec 3<>/dev/tcp/{host}/{port}; printf '{request}' >&3; LC_ALL=C; IFS= read -r -t 10 -d B answer <&3
         [[ $answer == *HWT ]] && echo Kafka speaks\n"
    );
    let (phase, log) = run_pod(&node, name, &format!("{tries}{speak}"));
    assert_eq!(phase, "Succeeded", "{log}");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(
        &lines[..4],
        [
            "kubernetes.default.svc.cluster.local answers",
            "kubernetes answers",
            "kube-dns.kube-system answers",
            &format!("{host} answers"),
        ],
        "{log}"
    );
    assert_eq!(lines[4], "no-such-service.default fails");
    assert_eq!(lines[5..], ["Kafka speaks"]);
    remove_pod(&node, name);
    Ok(())
}

#[test]
fn image_is_the_same_bytes_each_time() -> Result<()> {
    let folder = Folder::new("same");
    let write = |file: &str, image: &Image| image::write(image, &folder.0.join(file));
    let image = Image {
        certificates: true,
        ..Image::new("same:test", SHELL)
    };
    let first = write("first.tar", &image)?;
    let second = write("second.tar", &image)?;
    assert_eq!(first, second);
    let read = |file: &str| fs::read(folder.0.join(file)).unwrap();
    assert!(read("first.tar") == read("second.tar"));
    let other = Image { user: 1, ..image };
    assert_ne!(write("other.tar", &other)?, first);

    let absent = Image::new("absent:test", folder.0.join("absent"));
    let error = write("absent.tar", &absent).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert!(!Path::exists(&folder.0.join("absent.tar")));
    Ok(())
}

#[test]
fn file_that_is_no_image_is_refused() -> Result<()> {
    let node = headwater_testbed::node()?;
    let error = node.import_image(Path::new("/etc/hostname")).unwrap_err();
    assert!(error.to_string().contains("/etc/hostname"), "{error}");
    let line = "get pod -n default no-such-pod";
    assert!(!try_kubectl(node.kubectl(), line, "").status.success());
    Ok(())
}
