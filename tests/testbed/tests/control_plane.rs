//! The control plane of the bed: an API server that stores, validates and collects garbage.

mod support;

use headwater_testbed::Result;
use support::{eventually, kubectl, run, try_kubectl};

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

#[test]
fn api_server_is_ready_and_holds_resources_to_their_definition() -> Result<()> {
    let control_plane = headwater_testbed::control_plane()?;
    let kubectl = |line: &str, input: &str| kubectl(control_plane.kubectl(), line, input);
    assert_eq!(kubectl("get --raw /readyz", ""), "ok");

    kubectl("apply -f -", KIND);
    let definition = "crd/probes.testbed.headwater.dev";
    kubectl(
        &format!("wait --for=condition=Established --timeout=30s {definition}"),
        "",
    );
    kubectl("apply -f -", &probe("good", 1));
    let colour = kubectl("get probe good -o jsonpath={.spec.colour}", "");
    assert_eq!(colour, "blue");

    let refused = try_kubectl(control_plane.kubectl(), "apply -f -", &probe("bad", 0));
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(complaint.contains("spec.size"), "{complaint}");

    kubectl(&format!("delete {definition}"), "");
    Ok(())
}

#[test]
fn controllers_create_and_collect() -> Result<()> {
    let control_plane = headwater_testbed::control_plane()?;
    let kubectl = |line: &str| kubectl(control_plane.kubectl(), line, "");
    kubectl("create namespace testbed-controllers");
    eventually("a service account for the namespace", || {
        let line = "get serviceaccount default -n testbed-controllers";
        try_kubectl(control_plane.kubectl(), line, "")
            .status
            .success()
    });
    let sets = || kubectl("get replicasets -n testbed-controllers -o name");
    kubectl("create deployment nothing --image=nothing:none --replicas=0 -n testbed-controllers");
    eventually("a replica set for the deployment", || !sets().is_empty());
    kubectl("delete deployment nothing -n testbed-controllers");
    eventually("the replica set goes with its deployment", || {
        sets().is_empty()
    });
    kubectl("delete namespace testbed-controllers --wait=false");
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
