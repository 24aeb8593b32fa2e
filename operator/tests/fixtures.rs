//! Resources in YAML through the real validation and plan, against what users are told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_engine::config;
use headwater_operator::plan::{self, plan};
use headwater_operator::resources::{Object, Resources, Secret};
use headwater_operator::validate::{Settings, Validation, validate};
use serde::Deserialize;
use std::fmt::Write as _;
use std::sync::Arc;

const NAMESPACE: &str = "shop";

fn resources(files: &[&str]) -> Resources {
    let mut resources = Resources::new(NAMESPACE);
    for file in files {
        let path = format!("{}/tests/fixtures/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect(&path);
        for document in serde_yaml::Deserializer::from_str(&text) {
            add(
                &mut resources,
                serde_yaml::Value::deserialize(document).expect(&path),
            );
        }
    }
    resources
}

fn add(resources: &mut Resources, document: serde_yaml::Value) {
    fn of<T: for<'d> Deserialize<'d>>(document: serde_yaml::Value) -> Arc<T> {
        let name = document["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Arc::new(serde_yaml::from_value(document).unwrap_or_else(|error| panic!("{name}: {error}")))
    }
    let kind = document["kind"].as_str().expect("kind").to_owned();
    let object = match kind.as_str() {
        "KafkaCluster" => Object::KafkaCluster(of(document)),
        "Model" => Object::Model(of(document)),
        "EventSource" => Object::EventSource(of(document)),
        "ContextView" => Object::ContextView(of(document)),
        "ToolServer" => Object::ToolServer(of(document)),
        "Agent" => Object::Agent(of(document)),
        "Secret" => {
            let keys = document["stringData"]
                .as_mapping()
                .expect("stringData")
                .keys();
            let secret = Secret::Found {
                kind: document["type"].as_str().unwrap_or("Opaque").to_owned(),
                keys: keys
                    .map(|key| key.as_str().expect("key").to_owned())
                    .collect(),
            };
            resources.secrets.insert(
                document["metadata"]["name"]
                    .as_str()
                    .expect("name")
                    .to_owned(),
                secret,
            );
            return;
        }
        other => panic!("kind {other}"),
    };
    let doubled = resources.add(object);
    assert_eq!(doubled, None, "a name is given twice");
}

fn settings() -> Settings {
    Settings {
        pod_annotations: Some(vec!["example.com/team".into()]),
        pod_labels: Some(Vec::new()),
    }
}

/// Every finding, a line each: resource, reason, place, message.
fn report(validation: &Validation) -> String {
    let mut report = String::new();
    for (id, finding) in validation.findings() {
        for problem in finding.problems {
            writeln!(
                report,
                "{id}\n  {} at {}\n    {}",
                problem.reason, problem.path, problem.message
            )
            .unwrap();
        }
        for warning in finding.warnings {
            writeln!(
                report,
                "{id}\n  warning {} at {}\n    {}",
                warning.reason, warning.path, warning.message
            )
            .unwrap();
        }
    }
    report
}

/// Validates a file of broken resources beside the good ones, none of which may be harmed.
fn bad(file: &str, at_least: usize) -> String {
    let mut resources = resources(&["base.yaml", file]);
    resources.secrets.insert("nowhere".into(), Secret::Missing);
    let validation = validate(&resources, &settings());
    let good = validate(&self::resources(&["base.yaml"]), &settings());
    let findings = validation.findings();
    for id in good.findings().keys() {
        assert!(
            findings[id].problems.is_empty(),
            "{id} was harmed: {:?}",
            findings[id].problems
        );
    }
    let problems: usize = findings
        .values()
        .map(|finding| finding.problems.len())
        .sum();
    assert!(problems >= at_least, "{problems} problems");
    report(&validation)
}

#[test]
fn good_resources_have_no_problems() {
    let validation = validate(&resources(&["base.yaml"]), &settings());
    insta::assert_snapshot!(report(&validation));
    assert!(validation.is_ok());
}

#[test]
fn broken_connections() {
    insta::assert_snapshot!(bad("bad-connections.yaml", 30));
}

#[test]
fn broken_sources_and_views() {
    insta::assert_snapshot!(bad("bad-sources-and-views.yaml", 35));
}

#[test]
fn broken_agents() {
    insta::assert_snapshot!(bad("bad-agents.yaml", 25));
}

#[test]
fn a_plan_of_the_good_resources() {
    let validation = validate(&resources(&["base.yaml"]), &settings());
    let plan = plan(&validation, &plan::Options::default());
    let mut text = String::new();
    for topic in &plan.topics {
        writeln!(
            text,
            "topic {} of {} on {}",
            topic.name, topic.owner, topic.cluster
        )
        .unwrap();
        writeln!(
            text,
            "  {:?} x {:?}, {:?}: {}",
            topic.partitions, topic.replication_factor, topic.management, topic.why
        )
        .unwrap();
        writeln!(text, "  {:?}", topic.config).unwrap();
    }
    for stage in &plan.stages {
        writeln!(
            text,
            "stage {} x {}, secrets {:?}",
            stage.workload(),
            stage.replicas,
            stage.secrets
        )
        .unwrap();
    }
    for (id, lines) in &plan.why {
        writeln!(text, "{id}").unwrap();
        for line in lines {
            writeln!(text, "  {line}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn configuration_of_an_agents_stage() {
    let validation = validate(&resources(&["base.yaml"]), &settings());
    let plan = plan(
        &validation,
        &plan::Options {
            secrets_root: "/secrets".into(),
        },
    );
    let stage = plan
        .stages
        .iter()
        .find(|stage| stage.name == "assistant")
        .unwrap();
    insta::assert_json_snapshot!(stage.config);
}

#[test]
fn an_agent_whose_runs_have_another_key_has_a_log_of_its_own() {
    let mut resources = resources(&["base.yaml"]);
    let agent = r"
        kind: Agent
        metadata: {name: per-booking}
        spec:
          trigger:
            sourceRef: {name: questions}
            forEach: {viewRef: {name: bookings}, index: byCustomer, key: event.customer_id, where: value.seat != null}
            key: match.customer_id
            once: {key: match.flight_id, withinSeconds: 60}
            coalesceMilliseconds: 50
          prompt: {user: '{{ match.flight_id }}'}
          modelRef: {name: chat}
    ";
    add(&mut resources, serde_yaml::from_str(agent).unwrap());
    let validation = validate(&resources, &settings());
    assert_eq!(report(&validation), "");
    let plan = plan(&validation, &plan::Options::default());
    let stage = plan
        .stages
        .iter()
        .find(|stage| stage.name == "per-booking")
        .unwrap();
    let config::Role::Agent(agent) = &stage.config.role else {
        panic!("{:?}", stage.config.role)
    };
    let input = "shop.agent.per-booking.in";
    assert_eq!(agent.trigger.input.as_deref(), Some(input));
    assert!(stage.config.views.contains_key("bookings"));
    let place = |name: &str| {
        let found = plan.topics.iter().position(|topic| topic.name == name);
        found.unwrap_or_else(|| panic!("no topic {name}"))
    };
    let runs = place("shop.agent.per-booking.runs");
    assert!(place(input) < runs);
    assert_eq!(
        plan.topics[runs].partitions,
        plan::Partitions::SameAs(input.into())
    );
    assert_eq!(
        plan.topics[place(input)].partitions,
        plan::Partitions::Largest {
            of: vec!["shop.questions".into()],
            at_most: 64
        }
    );
    insta::assert_snapshot!(stage.why.join("\n"));
}

#[test]
fn changes_of_a_view_are_written_while_an_agent_asks_for_them() {
    let mut resources = resources(&["base.yaml"]);
    let changes = |resources: &Resources| {
        let validation = validate(resources, &settings());
        let plan = plan(&validation, &plan::Options::default());
        let written = |view: &str| {
            let mut stages = plan.stages.iter();
            let stage = stages.find(|stage| stage.name == view).unwrap();
            stage.config.views[view].changes_topic.clone()
        };
        let written = (written("status"), written("bookings"));
        (validation, plan, written)
    };
    let (_, quiet, written) = changes(&resources);
    assert_eq!(written, (None, None));

    let agent = r"
        kind: Agent
        metadata: {name: gates}
        spec:
          trigger:
            viewRef: {name: status}
            filter: previous == null || event.status != previous.status
            key: event.gate
          prompt: {user: 'was {{ previous.status }}, is {{ event.status }}'}
          modelRef: {name: chat}
    ";
    add(&mut resources, serde_yaml::from_str(agent).unwrap());
    let (validation, plan, (status, bookings)) = changes(&resources);
    assert_eq!(report(&validation), "");
    assert_eq!(bookings, None);
    let generation = |plan: &plan::Plan| {
        let mut stages = plan.stages.iter();
        let stage = stages.find(|stage| stage.name == "status").unwrap();
        stage.generation.clone().unwrap()
    };
    // Who asks does not change what is folded.
    assert_eq!(generation(&plan), generation(&quiet));
    let topic = format!("shop.view.status.{}.changes", generation(&plan));
    assert_eq!(status, Some(topic.clone()));
    let found = plan.topics.iter().find(|it| it.name == topic).unwrap();
    assert_eq!(found.owner.to_string(), "ContextView 'status'");
    assert_eq!(
        found.partitions,
        plan::Partitions::InitiallySameAs(topic.replace(".changes", "-in"))
    );
    let input = plan
        .topics
        .iter()
        .find(|it| it.name == "shop.agent.gates.in");
    assert_eq!(
        input.unwrap().partitions,
        plan::Partitions::Largest {
            of: vec![topic],
            at_most: 64
        }
    );
    let stage = plan.stages.iter().find(|stage| stage.name == "gates");
    let stage = stage.unwrap();
    assert_eq!(stage.config.views["status"].changes_topic, status);
    assert_eq!(
        stage.reads().get("status").copied(),
        Some(&*generation(&plan))
    );
    insta::assert_snapshot!(stage.why.join("\n"));
    // Others that read the view do not start anew for it.
    let others = |plan: &plan::Plan| -> Vec<plan::Stage> {
        let stages = plan.stages.iter();
        let others = stages.filter(|stage| !["status", "gates"].contains(&stage.name.as_str()));
        others.cloned().collect()
    };
    let reads = |stage: &plan::Stage| stage.reads().contains_key("status");
    assert!(others(&plan).iter().any(reads));
    assert_eq!(others(&plan), others(&quiet));

    // One that cannot run for the moment misses none.
    let broken = agent.replace("chat", "caht").replace("gates", "late");
    resources.agents.clear();
    add(&mut resources, serde_yaml::from_str(&broken).unwrap());
    let (validation, _, written) = changes(&resources);
    assert!(!validation.is_ok());
    assert_eq!(written.0, status);
}

#[test]
fn equal_resources_give_equal_bytes() {
    let once = plan(
        &validate(&resources(&["base.yaml"]), &settings()),
        &plan::Options::default(),
    );
    let again = plan(
        &validate(&resources(&["base.yaml"]), &settings()),
        &plan::Options::default(),
    );
    assert_eq!(once, again);
    for (a, b) in once.stages.iter().zip(&again.stages) {
        assert_eq!(
            serde_json::to_string(&a.config).unwrap(),
            serde_json::to_string(&b.config).unwrap()
        );
    }
}

#[test]
fn a_generation_follows_the_fold_and_nothing_else() {
    let generation = |change: &dyn Fn(&mut headwater_crds::ContextView)| {
        let mut resources = resources(&["base.yaml"]);
        change(Arc::make_mut(resources.views.get_mut("status").unwrap()));
        let validation = validate(&resources, &settings());
        validation.views["status"]
            .ok()
            .unwrap()
            .config
            .generation
            .clone()
    };
    let base = generation(&|_| {});
    assert_eq!(base.len(), 6);
    let unchanged: [&dyn Fn(&mut headwater_crds::ContextView); 3] = [
        &|view| view.spec.from.reverse(),
        &|view| view.spec.replicas = Some(5),
        &|view| view.spec.pod = None,
    ];
    for change in unchanged {
        assert_eq!(generation(change), base);
    }
    let changed: [&dyn Fn(&mut headwater_crds::ContextView); 3] = [
        &|view| view.spec.from[1].filter = Some("event.status != 'x'".into()),
        &|view| view.spec.from[0].required = false,
        &|view| view.spec.from[1].value = None,
    ];
    for change in changed {
        assert_ne!(generation(change), base);
    }
}

#[test]
fn an_aggregate_that_expires_is_planned_as_it_stands() {
    let config = |change: &dyn Fn(&mut serde_yaml::Value)| {
        let mut view: serde_yaml::Value = serde_yaml::from_str(
            "
            apiVersion: headwater.dev/v1alpha1
            kind: ContextView
            metadata: {name: usage}
            spec:
              from: [{name: flights, sourceRef: {name: flights}}]
              aggregate:
                fields:
                  - {name: top, compute: TopK, of: value.status, withinSeconds: 60, limit: 3}
                  - {name: first, compute: TopK, of: value.status, where: value.status != ''}
              expireAfterSeconds: 3600
            ",
        )
        .unwrap();
        change(&mut view["spec"]);
        let mut resources = resources(&["base.yaml"]);
        add(&mut resources, view);
        let validation = validate(&resources, &settings());
        validation.views["usage"].ok().unwrap().config.clone()
    };
    let base = config(&|_| {});
    assert_eq!(base.expire_after_ms, Some(3_600_000));
    assert_eq!(
        serde_json::to_value(&base.fold).unwrap(),
        serde_json::json!({"aggregate": {"fields": [
            {"name": "first", "compute": "TopK", "of": "value.status", "where": "value.status != ''", "withinMs": null, "limit": 5},
            {"name": "top", "compute": "TopK", "of": "value.status", "where": null, "withinMs": 60_000, "limit": 3},
        ]}})
    );
    let fields = |spec: &mut serde_yaml::Value| {
        spec["aggregate"]["fields"]
            .as_sequence_mut()
            .unwrap()
            .reverse();
    };
    assert_eq!(config(&fields).generation, base.generation);
    let changes: [&dyn Fn(&mut serde_yaml::Value); 3] = [
        &|spec| spec["expireAfterSeconds"] = 60.into(),
        &|spec| spec["aggregate"]["fields"][0]["withinSeconds"] = 61.into(),
        &|spec| spec["aggregate"]["fields"][0]["limit"] = 4.into(),
    ];
    for change in changes {
        assert_ne!(config(change).generation, base.generation);
    }
}

#[test]
fn the_limits_of_a_model_are_divided_by_all_who_ask_it() {
    let shares = |change: &dyn Fn(&mut Resources)| {
        let mut resources = resources(&["base.yaml"]);
        for (name, requests, at_once) in [("chat", 600, 32), ("rules", 90, 2)] {
            let model = Arc::make_mut(resources.models.get_mut(name).unwrap());
            model.spec.limits = Some(headwater_crds::model::Limits {
                requests_per_minute: Some(requests),
                tokens_per_minute: None,
                concurrent_requests: Some(at_once),
            });
        }
        change(&mut resources);
        let validation = validate(&resources, &settings());
        let plan = plan(&validation, &plan::Options::default());
        let share = |agent: &str| {
            let stage = plan.stages.iter().find(|stage| stage.name == agent);
            let config::Role::Agent(agent) = &stage.unwrap().config.role else {
                panic!("{agent} is no agent")
            };
            let chain = agent.model.iter().flat_map(|model| model.chain());
            chain
                .map(|model| {
                    let limits = model.limits;
                    (
                        limits.requests_per_minute.unwrap(),
                        limits.concurrent_requests.unwrap(),
                    )
                })
                .collect::<Vec<_>>()
        };
        [share("quoter"), share("rebooker")]
    };
    let agent = |resources: &mut Resources, name: &str, replicas: u32, suspend: bool| {
        let agent = Arc::make_mut(resources.agents.get_mut(name).unwrap());
        agent.spec.replicas = Some(replicas);
        agent.spec.suspend = suspend;
    };
    // Of one model, and of the one that answers in its place.
    let [quoter, rebooker] = shares(&|_| {});
    assert_eq!(quoter, rebooker);
    let each = quoter[0];
    let users = (600.0 / each.0).round();
    assert!(users >= 2.0, "{each:?}");
    let more = shares(&|resources| agent(resources, "quoter", 4, false));
    let expected = 600.0 / (users + 3.0);
    for [chat, rules] in more.map(|share| [share[0], share[1]]) {
        assert!((chat.0 - expected).abs() < 1e-9, "{chat:?}");
        assert!((rules.0 - 90.0 / (users + 3.0)).abs() < 1e-9, "{rules:?}");
        // One at least.
        assert_eq!(rules.1, 1);
    }
    let fewer = shares(&|resources| agent(resources, "rebooker", 1, true));
    assert!(
        (fewer[0][0].0 - 600.0 / (users - 1.0)).abs() < 1e-9,
        "{fewer:?}"
    );
}

#[test]
fn a_generation_follows_those_of_the_views_that_are_joined() {
    let generation = |of: &str, change: &dyn Fn(&mut headwater_crds::ContextView)| {
        let mut resources = resources(&["base.yaml"]);
        change(Arc::make_mut(resources.views.get_mut("customers").unwrap()));
        let validation = validate(&resources, &settings());
        let view = validation.views[of].ok().unwrap();
        view.config.generation.clone()
    };
    let filter = |view: &mut headwater_crds::ContextView| {
        view.spec.from[0].filter = Some("event.active".into());
    };
    // `complaints` joins `tickets`, which joins `customers`.
    for view in ["customers", "tickets", "complaints"] {
        let base = generation(view, &|_| {});
        assert_ne!(generation(view, &filter), base, "{view}");
        assert_eq!(generation(view, &|view| view.spec.replicas = Some(3)), base);
    }
    assert_eq!(
        generation("bookings", &filter),
        generation("bookings", &|_| {})
    );
}

#[test]
fn a_views_stage_has_the_views_that_it_joins_and_their_sources() {
    let validation = validate(&resources(&["base.yaml"]), &settings());
    let plan = plan(&validation, &plan::Options::default());
    let names = |of: &str| {
        let stage = plan.stages.iter().find(|stage| stage.name == of).unwrap();
        let views: Vec<String> = stage.config.views.keys().cloned().collect();
        let sources: Vec<String> = stage.config.sources.keys().cloned().collect();
        (views.join(" "), sources.join(" "))
    };
    assert_eq!(
        names("tickets"),
        (
            "customers flights tickets".to_owned(),
            "bookings customers flights".to_owned()
        )
    );
    // What `tickets` joins is in its input log already.
    assert_eq!(
        names("complaints"),
        (
            "complaints tickets".to_owned(),
            "bookings questions".to_owned()
        )
    );
    assert_eq!(
        names("customers"),
        ("customers".to_owned(), "customers".to_owned())
    );
}

#[test]
fn the_older_of_two_sources_keeps_the_topic() {
    use headwater_operator::Reason;
    let mut resources = resources(&["base.yaml"]);
    let mut newer = resources.sources["flights"].as_ref().clone();
    newer.metadata.name = Some("a-newer".into());
    newer.spec.topic.name = Some("shop.flights".into());
    newer.metadata.creation_timestamp = Some(at("2026-02-01T00:00:00Z"));
    Arc::make_mut(resources.sources.get_mut("flights").unwrap())
        .metadata
        .creation_timestamp = Some(at("2026-01-01T00:00:00Z"));
    resources.add(Object::EventSource(Arc::new(newer)));
    let validation = validate(&resources, &settings());
    assert!(validation.sources["flights"].ok().is_some());
    assert_eq!(
        validation.sources["a-newer"].problems()[0].reason,
        Reason::DuplicateTopic
    );
}

fn at(text: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(text.parse().unwrap())
}
