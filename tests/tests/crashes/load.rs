//! Applications that go on writing to the sources, whatever happens to the broker: one idempotent producer, its records numbered.

use crate::draw::Draw;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pace: so many records, so often.
const RECORDS: usize = 8;
const EVERY: Duration = Duration::from_millis(20);
/// A broker that was killed is back by then.
const FLUSH: Duration = Duration::from_secs(120);
const ACCOUNTS: usize = 300;
const ORDERS: usize = 400;
const CUSTOMERS: usize = 60;

enum Command {
    /// Answers once all that was sent is acknowledged, with how many records that was in all.
    Pause(Sender<u64>),
    Resume,
}

pub struct Load {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub fn start(bootstrap: &str, namespace: &str, seed: u64) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "2")
            .set("partitioner", "murmur2_random")
            .create()
            .unwrap();
        let (commands, received) = channel();
        let namespace = namespace.to_owned();
        let thread =
            std::thread::spawn(move || run(&producer, &namespace, Draw::new(seed), &received));
        Self {
            commands: Some(commands),
            thread: Some(thread),
        }
    }

    fn send(&self, command: Command) {
        self.commands.as_ref().unwrap().send(command).unwrap();
    }

    pub fn pause(&self) -> u64 {
        let (sender, receiver) = channel();
        self.send(Command::Pause(sender));
        receiver.recv_timeout(FLUSH + EVERY).unwrap()
    }

    pub fn resume(&self) {
        self.send(Command::Resume);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // Its failure is reported where it is waited for.
            let _ = thread.join();
        }
    }
}

fn run(producer: &BaseProducer, namespace: &str, mut draw: Draw, commands: &Receiver<Command>) {
    let mut sent = 0;
    loop {
        match commands.try_recv() {
            Ok(Command::Pause(answer)) => {
                producer.flush(FLUSH).unwrap();
                answer.send(sent).unwrap();
                match commands.recv() {
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
            Ok(Command::Resume) | Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        for _ in 0..RECORDS {
            sent += 1;
            let (source, key, value) = event(&mut draw, sent);
            let topic = format!("{namespace}.{source}");
            send(producer, &topic, key.as_deref(), value.as_deref());
        }
        producer.poll(EVERY);
    }
}

fn send(producer: &BaseProducer, topic: &str, key: Option<&str>, value: Option<&str>) {
    let mut record = BaseRecord::<str, str>::to(topic);
    record.key = key;
    record.payload = value;
    while let Err((error, back)) = producer.send(record) {
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        assert_eq!(error, full, "cannot send to {topic}");
        record = back;
        producer.poll(EVERY);
    }
}

/// Updates, deletes, re-keys, what a filter drops, and bad records.
fn event(draw: &mut Draw, n: u64) -> (&'static str, Option<String>, Option<String>) {
    let text = |value: Value| Some(value.to_string());
    if draw.percent(1) {
        let source = ["accounts", "orders", "shipments"][draw.below(3)];
        return match draw.below(3) {
            0 => (source, Some("bad".to_owned()), Some(format!("{{{n}"))),
            1 => (source, Some("bad".to_owned()), text(json!({"other": n}))),
            _ => (source, None, text(json!({"n": n, "kind": "user"}))),
        };
    }
    match draw.below(3) {
        0 => {
            let key = Some(format!("a-{}", draw.below(ACCOUNTS)));
            if draw.percent(8) {
                return ("accounts", key, None);
            }
            let kind = if draw.percent(15) { "noise" } else { "user" };
            ("accounts", key, text(json!({"n": n, "kind": kind})))
        }
        1 => {
            let key = Some(format!("o-{}", draw.below(ORDERS)));
            let value = json!({
                "order": key, "customer": format!("c-{}", draw.below(CUSTOMERS)),
                "amount": draw.below(1_000), "gone": draw.percent(6), "n": n,
            });
            ("orders", key, text(value))
        }
        _ => {
            let key = Some(format!("s-{}", draw.below(ORDERS)));
            let value = json!({
                "order": format!("o-{}", draw.below(ORDERS)), "stage": format!("at {n}"),
                "gone": draw.percent(6), "n": n,
            });
            ("shipments", key, text(value))
        }
    }
}
