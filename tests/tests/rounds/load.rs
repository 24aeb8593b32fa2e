//! Applications that go on writing to the sources, whatever happens to the broker: one idempotent producer, its records numbered.

use super::draw::Draw;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// So many records are sent so often.
const EVERY: Duration = Duration::from_millis(20);
/// A broker that was killed is back by then.
const FLUSH: Duration = Duration::from_secs(120);

/// One record of an application.
pub struct Sent {
    pub source: &'static str,
    pub key: Option<String>,
    pub value: Option<String>,
}

/// What is known when a record is made.
#[derive(Clone, Copy)]
pub struct Place {
    /// Its number, from 1.
    pub number: u64,
    /// Every record up to this number has been acknowledged.
    pub acknowledged: u64,
}

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
    /// Sends `pace` records each 20 ms, until it is paused or dropped.
    pub fn start(
        bootstrap: &str,
        namespace: &str,
        seed: u64,
        pace: usize,
        next: impl Fn(&mut Draw, Place) -> Sent + Send + 'static,
    ) -> Self {
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
        let thread = std::thread::spawn(move || {
            let mut draw = Draw::new(seed);
            let next = |place| next(&mut draw, place);
            run(&producer, &namespace, pace, next, &received);
        });
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

fn run(
    producer: &BaseProducer,
    namespace: &str,
    pace: usize,
    mut next: impl FnMut(Place) -> Sent,
    commands: &Receiver<Command>,
) {
    let mut place = Place {
        number: 0,
        acknowledged: 0,
    };
    loop {
        match commands.try_recv() {
            Ok(Command::Pause(answer)) => {
                producer.flush(FLUSH).unwrap();
                answer.send(place.number).unwrap();
                match commands.recv() {
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
            Ok(Command::Resume) | Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        if producer.in_flight_count() == 0 {
            place.acknowledged = place.number;
        }
        for _ in 0..pace {
            place.number += 1;
            let Sent { source, key, value } = next(place);
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
