//! The commands that pods run, without a cluster: configured by the plan, on a real Kafka, watched over
//! HTTP, ended by SIGTERM.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::*;

const DEADLINE: Duration = Duration::from_secs(60);

/// A stage's process, killed if a test leaves it.
struct Stage {
    child: Child,
    address: String,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stage {
    fn start(user: &User, kind: &str, config: &Path) -> Self {
        // Free a moment ago; nothing else on this machine hands out ports so fast.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let child = user
            .headwater()
            .args([
                kind,
                "--config",
                config.to_str().unwrap(),
                "--listen",
                &address,
            ])
            .env("POD_NAME", format!("{kind}-0"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + DEADLINE;
        while !matches!(self.get("/readyz"), Some((200, _))) {
            assert!(
                Instant::now() < deadline,
                "not ready: {:?}",
                self.get("/status")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as Kubernetes does; its exit code and its log.
    fn terminate(mut self) -> (i32, Vec<Value>) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        let mut log = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let lines = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
        (code, lines.collect())
    }
}

/// The plan's configuration of every stage, as files, on this Kafka.
fn configurations(
    user: &User,
    namespace: &str,
    kafka: &str,
    folder: &Path,
) -> Vec<(String, PathBuf)> {
    let plan = user.run(&[
        "explain",
        "examples/flight-assistant",
        "--namespace",
        namespace,
        "--output",
        "json",
    ]);
    let plan: Value = serde_json::from_str(plan.ok()).unwrap();
    let stages = plan["namespaces"][0]["stages"].as_array().unwrap();
    stages
        .iter()
        .map(|stage| {
            let mut config = stage["config"].clone();
            config["kafka"]["bootstrapServers"] = json!([kafka]);
            let file = folder.join(format!("{}.json", stage["workload"].as_str().unwrap()));
            std::fs::write(&file, config.to_string()).unwrap();
            (stage["kind"].as_str().unwrap().to_lowercase(), file)
        })
        .collect()
}

#[test]
fn stages_work_as_pods_run_them_and_end_in_order() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("stages-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let kafka = kafka.bootstrap();
    let user = User::new();
    // Makes the topics and the events, and ends.
    user.run(&[
        "up",
        "examples/flight-assistant",
        "--until-idle",
        "--kafka",
        kafka,
        "--namespace",
        &namespace,
    ])
    .ok();

    let folder = tempfile::tempdir().unwrap();
    let configurations = configurations(&user, &namespace, kafka, folder.path());
    let stages: Vec<Stage> = configurations
        .iter()
        .map(|(kind, file)| Stage::start(&user, kind, file))
        .collect();
    stages.iter().for_each(Stage::wait_until_ready);

    let direct = [
        "--kafka",
        kafka,
        "--namespace",
        &namespace,
        "--resources",
        "examples/flight-assistant",
    ];
    let run = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(direct);
        user.run(&all).ok().to_owned()
    };
    let ask = || run(&["chat", "flight-assistant", "--with", MAYA, IS_IT_ON_TIME]);
    assert_eq!(ask(), DELAYED);
    run(&[
        "send",
        "flight-updates",
        r#"{"flight_id": "LK103-2026-11-24", "status": "OnTime"}"#,
    ]);
    assert_eq!(ask(), ON_TIME);

    for (stage, (kind, _)) in stages.into_iter().zip(&configurations) {
        assert_eq!(stage.get("/healthz").unwrap().0, 200);
        let (code, metrics) = stage.get("/metrics").unwrap();
        assert_eq!(code, 200);
        assert!(
            metrics.contains("headwater_") && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        let status: Value = serde_json::from_str(&stage.get("/status").unwrap().1).unwrap();
        assert_eq!(status["ready"], true, "{status}");
        let (code, log) = stage.terminate();
        assert_eq!(code, 0, "{kind}: {log:?}");
        assert_eq!(log.last().unwrap()["message"], "ended in order", "{log:?}");
    }
}

#[test]
fn a_wrong_configuration_is_named() {
    let user = User::new();
    let folder = tempfile::tempdir().unwrap();
    let configurations = configurations(&user, "wrong", "127.0.0.1:1", folder.path());
    let (_, view) = configurations
        .iter()
        .find(|(kind, _)| kind == "view")
        .unwrap();
    let view = view.to_str().unwrap();
    let other = user.run(&["agent", "--config", view, "--pod-name", "x-0"]);
    assert!(
        other
            .refused(2)
            .contains("configures a view stage, and the command is agent"),
        "{other:?}"
    );
    let unnamed = user.run(&["view", "--config", view, "--pod-name", "x"]);
    assert!(
        unnamed.refused(2).contains("does not end in an ordinal"),
        "{unnamed:?}"
    );
    let missing = user.run(&["view", "--config", "/no/such.json", "--pod-name", "x-0"]);
    assert!(missing.refused(2).contains("/no/such.json"), "{missing:?}");
}
