//! The control plane of the bed: an API server that stores, validates and collects garbage.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use headwater_testbed::{ControlPlane, Result};

const KIND: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: probes.testbed.headwater.dev
spec:
  group: testbed.headwater.dev
  names: { kind: Probe, plural: probes, singular: probe }
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                size: { type: integer, minimum: 1 }
                colour: { type: string, default: blue }
"#;

fn probe(name: &str, size: i32) -> String {
    serde_json::json!({
        "apiVersion": "testbed.headwater.dev/v1",
        "kind": "Probe",
        "metadata": { "name": name },
        "spec": { "size": size },
    })
    .to_string()
}

fn run(mut command: Command, input: &str) -> Output {
    let mut child = command
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
    child.wait_with_output().unwrap()
}

fn kubectl(control_plane: &ControlPlane, arguments: &[&str], input: &str) -> Output {
    let mut command = control_plane.kubectl();
    command.args(arguments);
    run(command, input)
}

fn succeeds(control_plane: &ControlPlane, arguments: &[&str], input: &str) -> String {
    let output = kubectl(control_plane, arguments, input);
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn api_server_is_ready_and_holds_resources_to_their_definition() -> Result<()> {
    let control_plane = headwater_testbed::control_plane()?;
    let ready = succeeds(&control_plane, &["get", "--raw", "/readyz"], "");
    assert_eq!(ready, "ok");

    succeeds(&control_plane, &["apply", "-f", "-"], KIND);
    let established = ["wait", "--for=condition=Established", "--timeout=30s"];
    let name = "crd/probes.testbed.headwater.dev";
    succeeds(&control_plane, &[&established[..], &[name]].concat(), "");

    succeeds(&control_plane, &["apply", "-f", "-"], &probe("good", 1));
    let colour = ["get", "probe", "good", "-o", "jsonpath={.spec.colour}"];
    assert_eq!(succeeds(&control_plane, &colour, ""), "blue");

    let refused = kubectl(&control_plane, &["apply", "-f", "-"], &probe("bad", 0));
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(complaint.contains("spec.size"), "{complaint}");

    succeeds(&control_plane, &["delete", name], "");
    Ok(())
}

#[test]
fn controllers_create_and_collect() -> Result<()> {
    let control_plane = headwater_testbed::control_plane()?;
    let space = "testbed-controllers";
    succeeds(&control_plane, &["create", "namespace", space], "");
    let get = |arguments: &[&str]| kubectl(&control_plane, arguments, "").status.success();

    eventually("a service account for the namespace", || {
        get(&["get", "serviceaccount", "default", "-n", space])
    });
    let deploy = ["create", "deployment", "nothing", "--image=nothing:none"];
    succeeds(&control_plane, &[&deploy[..], &["-n", space]].concat(), "");
    let sets = || {
        succeeds(
            &control_plane,
            &["get", "replicasets", "-n", space, "-o", "name"],
            "",
        )
    };
    eventually("a replica set for the deployment", || !sets().is_empty());
    succeeds(
        &control_plane,
        &["delete", "deployment", "nothing", "-n", space],
        "",
    );
    eventually("the replica set goes with its deployment", || {
        sets().is_empty()
    });
    succeeds(
        &control_plane,
        &["delete", "namespace", space, "--wait=false"],
        "",
    );
    Ok(())
}

#[test]
fn helm_reaches_the_cluster() -> Result<()> {
    let control_plane = headwater_testbed::control_plane()?;
    let mut helm = control_plane.helm()?;
    helm.args(["list", "--all-namespaces", "--output", "json"]);
    let output = run(helm, "");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let releases: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(releases.is_array(), "{releases}");
    Ok(())
}
