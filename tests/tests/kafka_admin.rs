//! Administration against a real Kafka: ids, results per topic, changes that change nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_kafka::admin::{Admin, ConfigChange, Created, Deleted, NewTopic};
use headwater_kafka::settings::{Sasl, SaslMechanism, Tls};
use headwater_kafka::{Error, Settings};
use headwater_testbed::kafka::Topics;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TIMEOUT: Duration = Duration::from_secs(20);

fn settings() -> Settings {
    Settings {
        bootstrap_servers: vec![headwater_testbed::kafka().unwrap().bootstrap().to_owned()],
        client_id: "admin-test".to_owned(),
        ..Settings::default()
    }
}

fn admin() -> Admin {
    Admin::new(&settings(), TIMEOUT).unwrap()
}

/// Names of topics that one test makes; the topics go with it.
struct Names {
    prefix: String,
    _topics: Topics,
}

impl Names {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let prefix = format!("admin.{:x}.", since.as_nanos());
        Self {
            _topics: headwater_testbed::kafka().unwrap().topics(&prefix),
            prefix,
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

fn config(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    pairs.collect()
}

fn topic(name: &str, partitions: i32, pairs: &[(&str, &str)]) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        replication_factor: None,
        config: config(pairs),
    }
}

/// A change is known to the controller before every broker tells of it.
fn until<T: PartialEq + std::fmt::Debug>(expected: &T, mut ask: impl FnMut() -> T) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = ask();
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?}, not {expected:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_topic_from_its_creation_to_its_end() {
    let admin = admin();
    let names = Names::new();
    let (one, missing) = (names.name("one"), names.name("missing"));
    let created = admin
        .create(&[topic(&one, 2, &[("retention.ms", "60000")])])
        .unwrap();
    assert_eq!(created, [Ok(Created::New)]);
    let again = admin.create(&[topic(&one, 5, &[])]).unwrap();
    assert_eq!(again, [Ok(Created::Existed)]);

    let found = admin.describe(&[&missing, &one]).unwrap();
    assert_eq!(found[0], Ok(None));
    let first = found[1].clone().unwrap().unwrap();
    assert_eq!(
        (
            first.name.as_str(),
            first.partitions,
            first.replication_factor
        ),
        (one.as_str(), 2, 1)
    );
    // 128 bits in base64, as Kafka's own tools print them.
    assert_eq!(first.id.len(), 22, "{}", first.id);

    admin.grow(&one, 3).unwrap();
    until(&3, || {
        admin.describe(&[&one]).unwrap()[0]
            .clone()
            .unwrap()
            .unwrap()
            .partitions
    });
    for total in [3, 1] {
        let refused = admin.grow(&one, total);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert_eq!(
        admin.grow(&missing, 3),
        Err(Error::UnknownTopic(missing.clone()))
    );

    let other = admin.delete(&one, "AAAAAAAAAAAAAAAAAAAAAA");
    assert!(matches!(other, Err(Error::OtherTopic { .. })), "{other:?}");
    assert_eq!(admin.delete(&one, &first.id), Ok(Deleted::Gone));
    until(&Ok(None), || admin.describe(&[&one]).unwrap()[0].clone());
    assert_eq!(admin.delete(&one, &first.id), Ok(Deleted::Missing));

    assert_eq!(
        admin.create(&[topic(&one, 1, &[])]).unwrap(),
        [Ok(Created::New)]
    );
    until(&true, || admin.describe(&[&one]).unwrap()[0] != Ok(None));
    let second = admin.describe(&[&one]).unwrap()[0]
        .clone()
        .unwrap()
        .unwrap();
    assert_ne!(second.id, first.id);
    let other = admin.delete(&one, &first.id);
    assert!(matches!(other, Err(Error::OtherTopic { .. })), "{other:?}");
}

#[test]
fn a_bad_topic_does_not_hide_the_good_ones() {
    let admin = admin();
    let names = Names::new();
    let (good, bad) = (names.name("good"), names.name("bad"));
    let mut replicas = topic(&names.name("replicas"), 1, &[]);
    replicas.replication_factor = Some(99);
    let created = admin
        .create(&[
            topic(&bad, 1, &[("retention.ms", "soon")]),
            topic(&good, 1, &[]),
            topic("no/such name", 1, &[]),
            replicas,
        ])
        .unwrap();
    assert_eq!(created[1], Ok(Created::New));
    for (index, tells) in [(0, "retention.ms"), (2, "no/such name"), (3, "eplication")] {
        let error = created[index].clone().unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains(tells), "{error}");
        assert!(!error.is_temporary());
    }
    // The broker hears of a new topic a little later than the controller.
    until(
        &vec![Err(Error::UnknownTopic(bad.clone())), Ok(BTreeMap::new())],
        || admin.describe_configs(&[&bad, &good]).unwrap(),
    );
    assert_eq!(admin.create(&[]).unwrap(), []);
    assert_eq!(admin.describe(&[]).unwrap(), []);
}

#[test]
fn a_change_of_configuration_leaves_alone_what_it_does_not_name() {
    let admin = admin();
    let names = Names::new();
    let name = names.name("configured");
    let own = |pairs: &[(&str, &str)]| vec![Ok(config(pairs))];
    let ask = || admin.describe_configs(&[&name]).unwrap();
    let given = [("cleanup.policy", "compact"), ("retention.ms", "60000")];
    admin.create(&[topic(&name, 1, &given)]).unwrap()[0]
        .clone()
        .unwrap();
    until(&own(&given), ask);

    let set = config(&[("segment.ms", "600000")]);
    admin
        .alter_config(&name, &ConfigChange { set, reset: vec![] })
        .unwrap();
    until(&own(&[given[0], given[1], ("segment.ms", "600000")]), ask);

    let set = config(&[("retention.ms", "70000")]);
    let reset = vec!["segment.ms".to_owned()];
    admin
        .alter_config(&name, &ConfigChange { set, reset })
        .unwrap();
    until(&own(&[given[0], ("retention.ms", "70000")]), ask);

    let set = config(&[("retention.ms", "soon")]);
    let refused = admin.alter_config(&name, &ConfigChange { set, reset: vec![] });
    assert!(
        matches!(&refused, Err(Error::Invalid { reason, .. }) if reason.contains("retention.ms")),
        "{refused:?}"
    );
    admin.alter_config(&name, &ConfigChange::default()).unwrap();
    until(&own(&[given[0], ("retention.ms", "70000")]), ask);
}

#[test]
fn a_broker_that_is_away_is_named_with_the_reason() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let away = Settings {
        bootstrap_servers: vec![format!("127.0.0.1:{port}")],
        ..Settings::default()
    };
    let admin = Admin::new(&away, Duration::from_secs(2)).unwrap();
    let began = Instant::now();
    let error = admin.describe(&["x"]).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let told = error.to_string();
    assert!(
        told.contains(&format!("127.0.0.1:{port}")) && told.contains("refused"),
        "{told}"
    );
    assert!(error.is_temporary());
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
}

#[test]
fn a_login_that_the_broker_does_not_know_fails_soon() {
    let sasl = Settings {
        sasl: Some(Sasl {
            mechanism: SaslMechanism::ScramSha512,
            username: "nobody".to_owned(),
            password: "hunter2".to_owned(),
        }),
        ..settings()
    };
    let tls = Settings {
        tls: Some(Tls::default()),
        ..settings()
    };
    for settings in [sasl, tls] {
        let admin = Admin::new(&settings, Duration::from_secs(3)).unwrap();
        let error = admin.describe(&["x"]).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Authentication { .. } | Error::Unreachable { .. }
            ),
            "{error:?}"
        );
        assert!(!error.to_string().contains("hunter2"));
    }
    let ca = Some("no certificate".to_owned());
    let settings = Settings {
        tls: Some(Tls {
            ca,
            certificate: None,
        }),
        ..settings()
    };
    let bad = Admin::new(&settings, TIMEOUT).err().unwrap();
    assert!(matches!(bad, Error::Configuration { .. }), "{bad:?}");
}
