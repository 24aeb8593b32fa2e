//! kubectl and helm on the test bed's node.

use headwater_testbed::Node;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const KINDS: [&str; 6] = [
    "agents",
    "contextviews",
    "eventsources",
    "kafkaclusters",
    "models",
    "toolservers",
];

pub struct Cluster {
    node: Node,
}

/// Waits for a condition, with a deadline.
pub fn eventually(what: &str, patience: Duration, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Cluster {
    pub fn start() -> Self {
        Self {
            node: headwater_testbed::node().unwrap(),
        }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.node.kubectl();
        command.args(arguments);
        succeed(command, "")
    }

    pub fn helm(&self, arguments: &[&str]) -> String {
        let mut command = self.node.helm().unwrap();
        command.args(arguments);
        succeed(command, "")
    }

    pub fn apply(&self, manifests: &str) {
        let mut command = self.node.kubectl();
        command.args(["apply", "-f", "-"]);
        succeed(command, manifests);
    }

    /// One manifest, put into a namespace.
    pub fn in_namespace(&self, namespace: &str, manifest: &str) -> String {
        manifest.replace(
            "metadata: {",
            &format!("metadata: {{namespace: {namespace}, "),
        )
    }

    /// A condition of a resource; `None` where it has none of that type yet.
    pub fn condition(&self, kind: &str, name: &str, namespace: &str, of: &str) -> Option<Value> {
        let object = self.kubectl(&["get", kind, name, "-n", namespace, "-o", "json"]);
        let object: Value = serde_json::from_str(&object).unwrap();
        let conditions = object["status"]["conditions"].as_array()?;
        conditions
            .iter()
            .find(|condition| condition["type"] == of)
            .cloned()
    }

    /// Takes away what an earlier, broken off run left, so that the charts meet a clean cluster.
    pub fn remove_former_installation(&self) {
        for (release, namespace) in [
            ("headwater", "headwater-system"),
            ("headwater-crds", "default"),
        ] {
            let mut command = self.node.helm().unwrap();
            command.args([
                "uninstall",
                release,
                "--namespace",
                namespace,
                "--ignore-not-found",
                "--wait",
            ]);
            succeed(command, "");
        }
        for kind in KINDS {
            let plural = format!("{kind}.headwater.dev");
            let mut get = self.node.kubectl();
            get.args(["get", &plural, "-A", "-o", "json"]);
            let output = get.output().unwrap();
            // Without the definition there is nothing to take away.
            if !output.status.success() {
                continue;
            }
            let list: Value = serde_json::from_slice(&output.stdout).unwrap();
            for object in list["items"].as_array().unwrap() {
                let metadata = &object["metadata"];
                let mut patch = self.node.kubectl();
                patch.args([
                    "patch",
                    &plural,
                    metadata["name"].as_str().unwrap(),
                    "-n",
                    metadata["namespace"].as_str().unwrap(),
                    "--type=merge",
                    "-p",
                    r#"{"metadata":{"finalizers":null}}"#,
                ]);
                let output = patch.output().unwrap();
                let complaint = String::from_utf8_lossy(&output.stderr);
                // Its namespace may be on its way out, and take it along.
                let gone = complaint.contains("(NotFound)");
                assert!(output.status.success() || gone, "{patch:?}: {complaint}");
            }
            self.kubectl(&[
                "delete",
                "crd",
                &plural,
                "--ignore-not-found",
                "--timeout=60s",
            ]);
        }
    }

    /// What is written in `span`, by whomever, to our resources and to what they own: `kind/name` for each write.
    pub fn written_within(&self, span: Duration, namespace: &str) -> Vec<String> {
        let mut watches: Vec<_> = KINDS
            .into_iter()
            .chain([
                "statefulsets",
                "configmaps",
                "services",
                "serviceaccounts",
                "networkpolicies",
                "events",
            ])
            .map(|kind| {
                let mut command = self.node.kubectl();
                command
                    .args(["get", kind, "-n", namespace, "--watch-only", "-o", "name"])
                    .arg(format!("--request-timeout={}s", span.as_secs()))
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null());
                command.spawn().unwrap()
            })
            .collect();
        let mut written = Vec::new();
        for watch in watches.drain(..) {
            let output = watch.wait_with_output().unwrap();
            written.extend(
                String::from_utf8(output.stdout)
                    .unwrap()
                    .lines()
                    .map(str::to_owned),
            );
        }
        written
    }
}

fn succeed(mut command: Command, input: &str) -> String {
    let mut child = command
        .current_dir(super::image::root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
