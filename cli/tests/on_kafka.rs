//! The commands that look into a pipeline, with `--kafka`: nothing of it runs, and everything is read from its topics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use headwater_testbed::kafka::Topics;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use support::*;

/// A namespace of its own on the shared broker, and the resources in it.
struct Place {
    user: User,
    namespace: String,
    servers: String,
    resources: Vec<String>,
}

impl Place {
    /// With its topics, which go when they are dropped.
    fn new(name: &str, folder: &str) -> (Self, Topics) {
        let kafka = headwater_testbed::kafka().unwrap();
        let namespace = format!("{name}-{}", std::process::id());
        let topics = kafka.topics(format!("{namespace}."));
        let place = Self {
            user: User::new(),
            servers: kafka.bootstrap().to_owned(),
            resources: files(folder),
            namespace,
        };
        (place, topics)
    }

    fn to(&self) -> Vec<&str> {
        let mut all = vec!["--kafka", &self.servers, "--namespace", &self.namespace];
        for file in &self.resources {
            all.extend(["--resources", file]);
        }
        all
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.user.run(&[arguments, &self.to()].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let done = self.run(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(done.ok()).unwrap()
    }

    /// Runs it until there is nothing left to do. Events beside the resources are fed if a folder is given.
    fn until_idle(&self, paths: &[&str]) {
        let more = [
            "--until-idle",
            "--kafka",
            &self.servers,
            "--namespace",
            &self.namespace,
        ];
        self.user.run(&[&["up"], paths, &more].concat()).ok();
    }
}

fn files(folder: &str) -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    files.sort();
    files
}

/// One JSON value a line.
fn lines(done: &Done) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap();
    done.ok().lines().map(parse).collect()
}

#[test]
fn runs_are_read_replayed_and_compared_where_nothing_runs() {
    let (place, _topics) = Place::new("runs", "examples/triage");
    place.until_idle(&["examples/triage"]);

    // Every run, the newest last, with what it read and from where, and how long it took.
    let runs = lines(&place.run(&["prompts", "reviewer", "--limit", "100", "--output", "json"]));
    assert_eq!(runs.len(), 6);
    assert!(runs.is_sorted_by_key(|run| run["finishedAt"].as_i64().unwrap()));
    let objection = runs
        .iter()
        .find(|run| {
            run["model"]["answer"]
                .as_str()
                .unwrap()
                .starts_with("Objection")
        })
        .unwrap();
    let id = objection["run"].as_str().unwrap();
    let plan = &objection["slots"][1];
    assert_eq!(
        (&plan["slot"], &plan["keys"]),
        (&json!("plan"), &json!(["Solo"]))
    );
    let from = plan["rows"][0]["position"].as_str().unwrap();
    assert!(
        from.starts_with(&format!("{}.plans-", place.namespace)),
        "{plan}"
    );
    assert!(
        plan["ageSeconds"].is_i64() && plan["covered"].is_array(),
        "{plan}"
    );
    assert_eq!(plan["staleSeconds"], 0);
    for number in ["waitedMs", "assembledAt", "finishedAt"] {
        assert!(objection[number].is_i64(), "{number}: {objection}");
    }
    assert!(
        objection["model"]["calls"][0]["milliseconds"].is_u64(),
        "{objection}"
    );
    let newest = lines(&place.run(&["prompts", "reviewer", "--limit", "2", "--output", "json"]));
    assert_eq!(newest, runs[4..]);

    let shown = place.run(&["prompts", "reviewer", "--run", &id[..8], "--show", "full"]);
    for part in [
        &format!(
            "{id}, hop 3 of the chain that began at {}.tickets-",
            place.namespace
        ),
        from,
        "generation",
        "Refund: 18 EUR",
        "for the views, assembled at ",
        "at the model, ended ",
    ] {
        assert!(shown.ok().contains(part), "{part}: {}", shown.stdout);
    }

    // Every prompt again, byte for byte.
    for agent in ["dispatcher", "specialist", "reviewer"] {
        let replayed = place.json(&["replay", agent, "--all"]);
        assert_eq!(
            (&replayed["changed"], &replayed["refused"]),
            (&json!(0), &json!(0))
        );
        assert!(replayed["same"].as_u64().unwrap() >= 6, "{replayed}");
        // The one that had passed too many agents.
        let refused = usize::from(agent == "dispatcher");
        assert_eq!(replayed["withoutPrompt"], refused, "{replayed}");
    }
    let same = place.run(&["replay", "reviewer", "--run", id]);
    assert!(
        same.ok().contains("the same prompt, byte for byte"),
        "{same:?}"
    );
    let again = place.json(&["replay", "reviewer", "--run", id]);
    let again = &again["runs"][0];
    assert_eq!(
        again["rendered"]["messages"],
        objection["prompt"]["messages"]
    );
    assert_eq!(again["rendered"]["hash"], objection["prompt"]["hash"]);

    // Other templates: compared when they are given, refused when the agent has them now.
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("reviewer.yaml");
    let manifest = std::fs::read_to_string(root().join("examples/triage/reviewer.yaml")).unwrap();
    let manifest = manifest.replace("may be refunded in a reply", "may be refunded in one reply");
    std::fs::write(&changed, manifest).unwrap();
    let changed = changed.to_str().unwrap().to_owned();
    let compared = place.run(&["replay", "reviewer", "--run", id, "--with", &changed]);
    let text = compared.ok();
    assert!(
        text.contains("-1. On the plan Solo up to 10 EUR may be refunded in a reply."),
        "{text}"
    );
    assert!(
        text.contains("+1. On the plan Solo up to 10 EUR may be refunded in one reply."),
        "{text}"
    );
    let unchanged = place.run(&[
        "replay",
        "reviewer",
        "--run",
        id,
        "--with",
        "examples/triage/reviewer.yaml",
    ]);
    assert!(
        unchanged
            .ok()
            .contains("byte for byte with examples/triage/reviewer.yaml"),
        "{unchanged:?}"
    );
    let others = place.json(&["replay", "reviewer", "--all", "--with", &changed]);
    assert_eq!(
        (&others["changed"], &others["same"]),
        (&json!(6), &json!(0))
    );

    let now = Place {
        user: User::new(),
        namespace: place.namespace.clone(),
        servers: place.servers.clone(),
        resources: place
            .resources
            .iter()
            .map(|file| {
                if file.ends_with("reviewer.yaml") {
                    changed.clone()
                } else {
                    file.clone()
                }
            })
            .collect(),
    };
    let refused = now.run(&["replay", "reviewer", "--run", id]);
    assert!(
        refused
            .refused(1)
            .contains("the agent's templates are others than those of the run"),
        "{refused:?}"
    );
    assert_eq!(refused.stdout, "");
    let proven = now.run(&[
        "replay",
        "reviewer",
        "--run",
        id,
        "--with",
        "examples/triage/reviewer.yaml",
    ]);
    assert!(
        proven.ok().contains("the same prompt, byte for byte"),
        "{proven:?}"
    );
    let all = now.run(&["replay", "reviewer", "--all"]);
    assert!(
        all.refused(1).ends_with("6 runs could not be replayed"),
        "{all:?}"
    );

    let jinja = folder.path().join("rules.jinja");
    std::fs::write(&jinja, "Be kind. {{ context.plan.limit }}").unwrap();
    let fails = place.run(&[
        "replay",
        "reviewer",
        "--run",
        id,
        "--with",
        jinja.to_str().unwrap(),
    ]);
    assert!(
        fails
            .refused(1)
            .contains("TemplateFailed: system: line 1, column 13, at `context.plan.limit`"),
        "{fails:?}"
    );
    std::fs::write(&jinja, "{{ context.plans }}").unwrap();
    let fails = place.run(&[
        "replay",
        "reviewer",
        "--run",
        id,
        "--with",
        jinja.to_str().unwrap(),
        "--part",
        "user",
    ]);
    assert!(
        fails
            .refused(1)
            .contains("spec.prompt.user: line 1, column 4"),
        "{fails:?}"
    );

    // What there is not is named with what to do.
    let none = place.run(&["replay", "reviewer", "--run", "aaaaaaaa"]);
    assert!(
        none.refused(1)
            .contains("headwater prompts reviewer --show brief"),
        "{none:?}"
    );
    let short = place.run(&["prompts", "reviewer", "--run", "abc"]);
    assert!(short.refused(1).contains("'abc' is too short"), "{short:?}");
    let neither = place.run(&["replay", "reviewer"]);
    assert!(
        neither.refused(2).contains("--run <ID>|--all"),
        "{neither:?}"
    );
    let wrong = place.run(&[
        "replay",
        "reviewer",
        "--run",
        id,
        "--with",
        "examples/triage/models.yaml",
    ]);
    assert!(
        wrong.refused(2).contains("models.yaml holds no Agent"),
        "{wrong:?}"
    );
}

#[test]
fn views_and_letters_are_read_and_fed_again_where_nothing_runs() {
    let (place, _topics) = Place::new("letters", "examples/triage");
    place.until_idle(&["examples/triage"]);
    let paths: Vec<&str> = place.resources.iter().map(String::as_str).collect();

    let views = place.json(&["views"]);
    let names: BTreeSet<&str> = views
        .as_array()
        .unwrap()
        .iter()
        .map(|view| view["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(["customers", "incidents", "invoices", "plans"])
    );
    let row = |key: &str| place.json(&["views", "incidents", key])["rows"][0].clone();
    assert_eq!(row("inc-7")["value"]["state"], "Open");
    // What is sent while nothing runs is what is read next: the log is what counts.
    let resolved = r#"{"component": "uploads", "state": "Resolved", "text": "Back."}"#;
    let sent = place.run(&["send", "incidents", "--key", "inc-7", resolved]);
    assert_eq!(row("inc-7")["position"], sent.ok());
    assert_eq!(row("inc-7")["value"]["state"], "Resolved");

    // The ticket that nobody wanted, again: it has still passed as many agents.
    let letters = place.json(&["dead-letters", "agent/dispatcher"]);
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    assert_eq!(letters[0]["reason"], "TooManyHops");
    let position = letters[0]["position"].as_str().unwrap();
    let fed = place.json(&["dead-letters", "agent/dispatcher", position, "--retry"]);
    let to = fed[0]["fedTo"].as_str().unwrap();
    let once = place.run(&["dead-letters", "agent/dispatcher", position, "--retry"]);
    assert!(
        once.refused(1).contains("with --again it is fed once more"),
        "{once:?}"
    );
    place.until_idle(&paths);
    let letters = place.json(&["dead-letters", "agent/dispatcher"]);
    assert_eq!(letters[0]["fedAgainTo"], to);
    assert_eq!(
        (&letters[1]["position"], &letters[1]["fedAgainFrom"]),
        (&json!(to), &json!(position))
    );
    let none = place.run(&["dead-letters", "agent/reviewer"]);
    assert_eq!(none.ok(), "agent/reviewer refused nothing");

    // An agent begins where somebody says, and a run of the same trigger is the same run.
    let before = lines(&place.run(&[
        "prompts",
        "dispatcher",
        "--limit",
        "100",
        "--output",
        "json",
    ]));
    let first = before
        .iter()
        .find(|run| run["trigger"]["key"] == "t-2")
        .unwrap();
    let at = first["trigger"]["position"].as_str().unwrap();
    let from = place.run(&["resume", "agent/dispatcher", "--from", at]);
    let offset = at.rsplit('-').next().unwrap();
    assert!(
        from.ok().contains(&format!("goes on at offset {offset}")),
        "{from:?}"
    );
    place.until_idle(&paths);
    let after = lines(&place.run(&[
        "prompts",
        "dispatcher",
        "--limit",
        "100",
        "--output",
        "json",
    ]));
    let same = after.iter().filter(|run| run["run"] == first["run"]);
    assert_eq!(same.count(), 2, "it was asked to run again");
}

#[test]
fn what_stands_still_is_led_on_while_its_stage_is_stopped() {
    let (place, _topics) = Place::new("resume", "cli/tests/folders/orders");
    let paths: Vec<&str> = place.resources.iter().map(String::as_str).collect();
    place.until_idle(&["cli/tests/folders/orders"]);
    let keys = || {
        place.json(&["views", "orders"])["rows"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(keys(), 1, "it stands still at the second order");

    let unsaid = place.run(&["resume", "view/orders", "--skip"]);
    assert!(
        unsaid
            .refused(1)
            .contains("say which record of view/orders to go past"),
        "{unsaid:?}"
    );
    let record = format!("{}.orders-0-1", place.namespace);
    let running = place.user.up(
        &root().join(&place.resources[0]),
        &["--kafka", &place.servers, "--namespace", &place.namespace],
    );
    let used = place.run(&["resume", "view/orders", "--skip", &record]);
    assert!(
        used.refused(1)
            .contains("view/orders is running, and nobody decides behind its back"),
        "{used:?}"
    );
    assert_eq!(running.interrupt(), 0);

    let passed = place.run(&["resume", "view/orders", "--skip", &record]);
    assert!(
        passed
            .ok()
            .contains("goes past offset 1, which goes to the dead letters"),
        "{passed:?}"
    );
    place.until_idle(&paths);
    assert_eq!(keys(), 2);
    let letters = place.json(&["dead-letters", "view/orders"]);
    assert_eq!(
        (&letters[0]["position"], &letters[0]["reason"]),
        (&json!(record), &json!("SchemaMismatch"))
    );
}
