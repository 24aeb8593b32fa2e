//! What a resource says about its pods: an allow-list, never a whole pod template.

use super::{Settings, findings::Findings};
use crate::reason::Reason;
use headwater_crds::pod::Pod;
use std::collections::BTreeMap;

pub(super) fn check(findings: &mut Findings, settings: &Settings, pod: Option<&Pod>) -> Pod {
    let Some(pod) = pod else {
        return Pod::default();
    };
    keys(
        findings,
        "spec.pod.annotations",
        "pods.allowedAnnotations",
        &pod.annotations,
        settings.pod_annotations.as_deref(),
    );
    keys(
        findings,
        "spec.pod.labels",
        "pods.allowedLabels",
        &pod.labels,
        settings.pod_labels.as_deref(),
    );
    if let Some(class) = pod
        .priority_class_name
        .as_ref()
        .filter(|class| class.starts_with("system-"))
    {
        findings.problem(
            Reason::NotAllowed,
            "spec.pod.priorityClassName",
            format!("'{class}' is for Kubernetes itself; name a PriorityClass of your own"),
        );
    }
    if let Some(resources) = &pod.resources {
        for (field, quantities) in [
            ("requests", &resources.requests),
            ("limits", &resources.limits),
        ] {
            for name in quantities.keys() {
                if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                    findings.problem(
                        Reason::NotAllowed,
                        format!("spec.pod.resources.{field}[{name}]"),
                        format!("the resource '{name}' may not be set; a stage uses cpu, memory and ephemeral-storage"),
                    );
                }
            }
        }
    }
    pod.clone()
}

fn keys(
    findings: &mut Findings,
    path: &str,
    value: &str,
    given: &BTreeMap<String, String>,
    allowed: Option<&[String]>,
) {
    for key in given.keys() {
        let ours = key.contains("headwater.dev/") || key.starts_with("app.kubernetes.io/");
        if ours {
            findings.problem(
                Reason::NotAllowed,
                format!("{path}[{key}]"),
                format!("'{key}' is Headwater's own; use a prefix of yours, e.g. example.com/team"),
            );
        } else if allowed.is_some_and(|allowed| !allowed.contains(key)) {
            findings.problem(
                Reason::NotAllowed,
                format!("{path}[{key}]"),
                format!("'{key}' is not allowed; ask whoever runs the operator to add it to {value} of its chart, or leave it out"),
            );
        }
    }
}
