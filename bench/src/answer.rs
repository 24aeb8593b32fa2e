//! From a question's sending until its answer can be read by a consumer of committed records, at an even pace; beside it, in the
//! same run and at the same pace, a loop of bare librdkafka that consumes, produces and commits in transactions.
//!
//! The bare loop writes for each question one record of an answer's size and one of an audit record's, as the agent does. It takes
//! acknowledgements without rdkafka's pauses and is set to the same backoff, as our writers are: it is a loop at its best.

use crate::Result;
use crate::bed::Bed;
use crate::committed;
use crate::measure::{Spread, load, spread};
use crate::stages::{services, until};
use crate::travel::{ALTERNATIVES, data, desk::Desk};
use headwater_kafka::producer::Producer as Transactions;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const A_SECOND: usize = 500;
const SECONDS: usize = 20;
/// The first of them are not counted.
const WARM_UP_SECONDS: usize = 5;
const COUNT: usize = A_SECOND * SECONDS;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run() -> Result<()> {
    let mut bed = Bed::new()?;
    let desk = Desk::open(&mut bed, 1, true, ALTERNATIVES)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let services = services(&bed);
    let agent = desk.start(&bed, &services)?;
    until(&agent, "the agent is not ready", || agent.is_ready())?;
    let (ours, sizes) = paced(&bed, &desk.topics.questions, &desk.topics.answers)?;
    let audit = audited(&bed, &desk.topics.runs)?;
    services.shutdown.cancel();
    runtime.block_on(agent.join());
    committed::each_once(&bed.bootstrap, &desk.topics.answers, COUNT)?;

    let bare = Bare {
        questions: bed.topic("bare.questions", 1, &[])?,
        answers: bed.topic("bare.answers", 1, &[])?,
        audit: bed.topic("bare.audit", 1, &[])?,
        sizes: (sizes, audit),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let looping = bare.start(&bed, &stop)?;
    let (theirs, _) = paced(&bed, &bare.questions, &bare.answers)?;
    stop.store(true, Ordering::Relaxed);
    looping
        .join()
        .map_err(|_| "the bare loop panicked")?
        .map_err(|error| format!("the bare loop: {error}"))?;

    println!(
        "{A_SECOND} questions a second for {SECONDS} s, each answered once; answers of {sizes} B, audit records of {audit} B; load {}",
        load()
    );
    for (label, figures) in [
        ("bare consume, produce, commit", &theirs),
        ("headwater", &ours),
    ] {
        println!(
            "{label:<32} p50 {:>7.2} ms   p99 {:>7.2} ms",
            figures.p50, figures.p99
        );
    }
    println!(
        "{:<32} p50 {:>7.2}      p99 {:>7.2}",
        "headwater over bare",
        ours.p50 / theirs.p50,
        ours.p99 / theirs.p99
    );
    Ok(())
}

/// Sends questions at an even pace and reads what comes of each: milliseconds from the one to the other, and bytes of one answer.
fn paced(bed: &Bed, questions: &str, answers: &str) -> Result<(Spread, usize)> {
    let reader = committed::reader(&bed.bootstrap, answers)?;
    let reading = std::thread::spawn(
        move || -> std::result::Result<(Vec<Instant>, usize), String> {
            let mut received = vec![None; COUNT];
            let (mut count, mut bytes) = (0, 0);
            let deadline = Instant::now() + PATIENCE + Duration::from_secs(SECONDS as u64);
            while count < COUNT {
                if Instant::now() > deadline {
                    return Err(format!("{count} of {COUNT} questions were answered"));
                }
                let Some(message) = reader.poll(Duration::from_millis(100)) else {
                    continue;
                };
                let message = message.map_err(|error| error.to_string())?;
                let now = Instant::now();
                bytes = message.payload().map_or(0, <[u8]>::len);
                let place =
                    committed::trigger(&message).and_then(|(_, offset)| received.get_mut(offset));
                let place = place.ok_or("an answer is of no question")?;
                if place.replace(now).is_none() {
                    count += 1;
                }
            }
            Ok((received.into_iter().flatten().collect(), bytes))
        },
    );
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bed.bootstrap)
        .set("linger.ms", "0")
        .create()?;
    let begun = Instant::now() + Duration::from_millis(500);
    let mut sent = Vec::with_capacity(COUNT);
    for number in 0..COUNT {
        let due = begun + Duration::from_secs_f64(number as f64 / A_SECOND as f64);
        while Instant::now() < due {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            producer.poll(Duration::ZERO);
        }
        let (key, value) = data::question(number);
        sent.push(Instant::now());
        producer
            .send(BaseRecord::to(questions).key(&key).payload(&value))
            .map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE)?;
    let (received, bytes) = reading.join().map_err(|_| "the reader panicked")??;
    let millis = sent
        .iter()
        .zip(received)
        .skip(A_SECOND * WARM_UP_SECONDS)
        .map(|(sent, received)| received.saturating_duration_since(*sent).as_secs_f64() * 1e3);
    Ok((spread(millis.collect()), bytes))
}

/// Bytes of one audit record.
fn audited(bed: &Bed, runs: &str) -> Result<usize> {
    let reader = committed::reader(&bed.bootstrap, runs)?;
    let message = reader.poll(PATIENCE).ok_or("no run was audited")??;
    Ok(message.payload().map_or(0, <[u8]>::len))
}

/// What a loop without an engine does.
struct Bare {
    questions: String,
    answers: String,
    audit: String,
    /// Bytes of an answer and of an audit record.
    sizes: (usize, usize),
}

type Ended = std::result::Result<(), String>;

impl Bare {
    fn start(&self, bed: &Bed, stop: &Arc<AtomicBool>) -> Result<JoinHandle<Ended>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &bed.bootstrap)
            .set("group.id", format!("{}.group", self.questions))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        consumer.subscribe(&[&self.questions])?;
        let producer = Transactions::new(
            ClientConfig::new()
                .set("bootstrap.servers", &bed.bootstrap)
                .set("transactional.id", format!("{}.id", self.questions))
                .set("linger.ms", "0")
                .set("retry.backoff.ms", "1"),
        )?;
        producer.base().init_transactions(PATIENCE)?;
        let (answers, audit) = (self.answers.clone(), self.audit.clone());
        let payloads = (vec![b'x'; self.sizes.0], vec![b'x'; self.sizes.1]);
        let (questions, stop) = (self.questions.clone(), Arc::clone(stop));
        Ok(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Some(first) = consumer.poll(Duration::from_millis(100)) else {
                    continue;
                };
                let mut batch = vec![first.map_err(said)?.detach()];
                while let Some(message) = consumer.poll(Duration::ZERO) {
                    batch.push(message.map_err(said)?.detach());
                }
                producer.base().begin_transaction().map_err(said)?;
                let mut next = 0;
                for message in &batch {
                    next = message.offset() + 1;
                    let trigger = format!("{questions}-0-{}", message.offset());
                    let headers = OwnedHeaders::new().insert(Header {
                        key: "headwater-trigger",
                        value: Some(&trigger),
                    });
                    for (topic, payload) in [(&answers, &payloads.0), (&audit, &payloads.1)] {
                        let record = BaseRecord::with_opaque_to(topic, 0)
                            .key(message.key().unwrap_or_default())
                            .payload(payload.as_slice())
                            .headers(headers.clone());
                        producer.send(record).map_err(said)?;
                    }
                }
                let mut offsets = TopicPartitionList::new();
                offsets
                    .add_partition_offset(&questions, 0, Offset::Offset(next))
                    .map_err(said)?;
                let metadata = consumer.group_metadata().ok_or("no group")?;
                producer
                    .base()
                    .send_offsets_to_transaction(&offsets, &metadata, PATIENCE)
                    .map_err(said)?;
                while producer.in_flight() > 0 {
                    producer.deliveries(Duration::from_millis(100), &mut |_| {});
                }
                producer.base().commit_transaction(PATIENCE).map_err(said)?;
            }
            Ok(())
        }))
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
