//! How long after its acknowledgement an event is in the view that a reader holds, over how long after it a bare
//! consumer of the same topic has it: both in one run, at half of the load that the slower of producer and
//! reader takes.
//!
//! Every event changes a value, so that the reader's count of changes tells which event it holds.

use crate::Result;
use crate::bed::Bed;
use crate::data::active;
use crate::measure::load;
use crate::stages::{Place, services, until, views_are_there};
use headwater_runtime::observe::Happening;
use headwater_runtime::stage::Services;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const KEYS: usize = 100_000;
/// How long events come at full speed, and then at half of it.
const PROBE: usize = 300_000;
const SECONDS: usize = 20;
/// The first of them are not counted.
const WARM_UP_SECONDS: usize = 5;
/// A producer sends so often.
const TICK: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run() -> Result<()> {
    for own in [false, true] {
        measure(own)?;
    }
    Ok(())
}

fn measure(own: bool) -> Result<()> {
    let mut bed = Bed::new()?;
    let source = bed.topic("source", 1, &[])?;
    let place = Place::new(&mut bed, "latency", &source, 1, own)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let services = services(&bed);
    let mut stages = Vec::new();
    if own {
        stages.push(place.start_view(&bed, &services)?);
        until(&stages[0], "the view's stage is not ready", || {
            stages[0].is_ready()
        })?;
    }
    let times = Arc::new(Times::new());
    let watcher = watch(&services, &times);
    let agent = place.start_agent(&bed, &services)?;
    until(&agent, "the view is not there", || views_are_there(&agent))?;
    let stop = Arc::new(AtomicBool::new(false));
    let consumer = consume(&bed.bootstrap, &source, &times, &stop)?;

    let producer = producer(&bed.bootstrap, &times)?;
    let begun = Instant::now();
    for number in 0..PROBE {
        send(&producer, &source, number)?;
    }
    producer.flush(PATIENCE)?;
    until(&agent, "not every event was folded", || {
        times.seen.load(Ordering::Relaxed) >= PROBE
    })?;
    let most = PROBE as f64 / begun.elapsed().as_secs_f64();
    // A load that the ticks carry evenly.
    let a_tick = ((most / 2.0 * TICK.as_secs_f64()) as usize).max(1);
    let rate = a_tick as f64 / TICK.as_secs_f64();
    let count = (rate as usize * SECONDS).min(EVENTS_MAX - PROBE);
    let begun = Instant::now();
    for (tick, first) in (PROBE..PROBE + count).step_by(a_tick).enumerate() {
        let due = begun + TICK * u32::try_from(tick).unwrap_or(u32::MAX);
        while Instant::now() < due {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        for number in first..(first + a_tick).min(PROBE + count) {
            send(&producer, &source, number)?;
        }
    }
    producer.flush(PATIENCE)?;
    until(&agent, "not every event was folded", || {
        times.seen.load(Ordering::Relaxed) >= PROBE + count
            && times.consumed.load(Ordering::Relaxed) >= PROBE + count
    })?;
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    consumer.join().map_err(|_| "the consumer panicked")?;
    services.shutdown.cancel();
    stages.push(agent);
    for stage in stages {
        runtime.block_on(stage.join());
    }
    drop(services);
    runtime.block_on(watcher)?;

    let from = PROBE + rate as usize * WARM_UP_SECONDS;
    let range = from..PROBE + count;
    println!(
        "{}: {rate:.0} events per second sent, {:.0} taken (the most was {most:.0}); load {}",
        if own {
            "through one intake"
        } else {
            "the source is the input log"
        },
        count as f64 / took.as_secs_f64(),
        load()
    );
    let (ours, bare) = (
        times.after_acknowledgement(&times.visible, range.clone()),
        times.after_acknowledgement(&times.received, range),
    );
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let at = |sorted: &[i64]| sorted[((sorted.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        println!(
            "  {name}: view {:>7.0} us, bare consumer {:>7.0} us, more by {:>7.0} us",
            at(&ours),
            at(&bare),
            at(&ours) - at(&bare)
        );
    }
    Ok(())
}

const EVENTS_MAX: usize = 8_000_000;

/// Nanoseconds since the start at which each event was acknowledged, in the view, and received by the bare consumer.
struct Times {
    begun: Instant,
    acknowledged: Vec<AtomicI64>,
    visible: Vec<AtomicI64>,
    received: Vec<AtomicI64>,
    seen: AtomicUsize,
    consumed: AtomicUsize,
}

impl Times {
    fn new() -> Self {
        let none = || (0..EVENTS_MAX).map(|_| AtomicI64::new(0)).collect();
        Self {
            begun: Instant::now(),
            acknowledged: none(),
            visible: none(),
            received: none(),
            seen: AtomicUsize::new(0),
            consumed: AtomicUsize::new(0),
        }
    }

    fn note(&self, times: &[AtomicI64], number: usize) {
        let now = i64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(i64::MAX);
        if let Some(time) = times.get(number) {
            time.store(now, Ordering::Relaxed);
        }
    }

    /// Sorted; an event may be seen before its acknowledgement is.
    fn after_acknowledgement(
        &self,
        times: &[AtomicI64],
        range: std::ops::Range<usize>,
    ) -> Vec<i64> {
        let of = |times: &[AtomicI64], number: usize| times[number].load(Ordering::Relaxed);
        let mut all: Vec<i64> = range
            .map(|number| of(times, number) - of(&self.acknowledged, number))
            .collect();
        all.sort_unstable();
        all
    }
}

/// Notes of every event when the reader's view held it.
fn watch(services: &Services, times: &Arc<Times>) -> tokio::task::JoinHandle<()> {
    let (times, mut happenings) = (Arc::clone(times), services.observer.watch());
    tokio::task::spawn_blocking(move || {
        let mut seen = 0;
        while let Ok(happening) = happenings.blocking_recv() {
            if let Happening::Folded { stage, changes, .. } = &*happening
                && stage == "reader"
            {
                for number in seen..seen + changes {
                    times.note(&times.visible, number);
                }
                seen += changes;
                times.seen.store(seen, Ordering::Relaxed);
            }
        }
    })
}

fn consume(
    bootstrap: &str,
    topic: &str,
    times: &Arc<Times>,
    stop: &Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<()>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "never-used")
        .set("enable.auto.commit", "false")
        // As our readers have it.
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let (times, stop) = (Arc::clone(times), Arc::clone(stop));
    Ok(std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100))
                && let Ok(number) = usize::try_from(message.offset())
            {
                times.note(&times.received, number);
                times.consumed.store(number + 1, Ordering::Relaxed);
            }
        }
    }))
}

struct Acknowledged(Arc<Times>, Mutex<Option<String>>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                let number = usize::try_from(message.offset()).unwrap_or(usize::MAX);
                self.0.note(&self.0.acknowledged, number);
            }
            Err((error, _)) => {
                let mut failed = self.1.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error.to_string());
            }
        }
    }
}

fn producer(bootstrap: &str, times: &Arc<Times>) -> Result<ThreadedProducer<Acknowledged>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("queue.buffering.max.messages", "500000")
        .create_with_context(Acknowledged(Arc::clone(times), Mutex::new(None)))?)
}

fn send(producer: &ThreadedProducer<Acknowledged>, topic: &str, number: usize) -> Result<()> {
    let (key, value) = active(number, KEYS);
    loop {
        match producer.send(BaseRecord::to(topic).key(&key).payload(&value)) {
            Ok(()) => return Ok(()),
            Err((error, _))
                if error.rdkafka_error_code()
                    == Some(rdkafka::types::RDKafkaErrorCode::QueueFull) =>
            {
                producer.flush(Duration::from_millis(10)).ok();
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}
