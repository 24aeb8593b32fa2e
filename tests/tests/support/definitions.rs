//! The resource types on the test bed's API server.

use headwater_testbed::ControlPlane;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const ESTABLISHED: Duration = Duration::from_secs(60);

/// Installs the chart once for all tests of this process, and waits until the server knows the kinds.
pub fn definitions() -> &'static ControlPlane {
    static INSTALLED: OnceLock<ControlPlane> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let control_plane = headwater_testbed::control_plane().unwrap();
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/headwater-crds");
        let mut install = control_plane.helm().unwrap();
        install.args(["upgrade", "--install", "headwater-crds"]);
        install.args(["--namespace", "default", chart]);
        let output = install.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{install:?}: {said}");
        wait(&control_plane);
        control_plane
    })
}

fn wait(control_plane: &ControlPlane) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml");
    let deadline = Instant::now() + ESTABLISHED;
    loop {
        let mut wait = control_plane.kubectl();
        wait.args(["wait", "--for=condition=Established", "--timeout=60s"]);
        let output = wait.args(["-f", folder]).output().unwrap();
        if output.status.success() {
            return;
        }
        // It gives up at a resource that has no status at all yet.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(Instant::now() < deadline, "{wait:?}: {said}");
    }
}
