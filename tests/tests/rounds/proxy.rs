//! In front of a broker: it sees every request of Kafka's protocol go by, and does what a test has set it to do at one of them.
//!
//! The broker tells its clients, and itself, to connect here ([`headwater_testbed::Kafka::private_behind`]). So a process can be killed
//! exactly before or after the broker sees a step of a transaction, an answer can be lost, and the markers of transactions, which the
//! broker sends to itself, can be late.

use super::replica;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Requests of Kafka's protocol, by their number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    Produce = 0,
    OffsetFetch = 9,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    WriteTxnMarkers = 27,
    TxnOffsetCommit = 28,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The broker has not seen it.
    Before,
    /// The broker has answered, and the client has not heard.
    Answered,
}

#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// `kill -9` of this process; nothing of the request, or of its answer, goes on.
    Kill(u32),
    /// The connection breaks there.
    Cut,
    /// It goes on so much later.
    Hold(Duration),
}

/// What is to happen, and where.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Part of the client's id.
    pub client: String,
    pub request: Request,
    pub moment: Moment,
    pub act: Act,
}

struct Armed {
    rule: Rule,
    left: AtomicU32,
    done: AtomicU32,
}

/// A rule that holds until it is dropped, or was obeyed as often as it said.
pub struct Set {
    armed: Arc<Armed>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    target: OnceLock<String>,
    rules: Mutex<Vec<Arc<Armed>>>,
}

pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

impl Set {
    /// How often it was obeyed.
    pub fn count(&self) -> u32 {
        self.armed.done.load(Ordering::SeqCst)
    }

    /// Whether it was obeyed within `patience`.
    pub fn obeyed(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.count() == 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        let mut rules = self.shared.rules.lock().unwrap();
        rules.retain(|rule| !Arc::ptr_eq(rule, &self.armed));
    }
}

impl Proxy {
    /// Listens; until [`Proxy::forward_to`] nobody is served.
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A broker that is down takes no connection: the client's is closed.
                std::thread::spawn(move || serve(client, &shared));
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn forward_to(&self, broker: &str) {
        self.shared.target.set(broker.to_owned()).unwrap();
    }

    /// To be obeyed `times` times.
    pub fn set(&self, rule: Rule, times: u32) -> Set {
        let armed = Arc::new(Armed {
            rule,
            left: AtomicU32::new(times),
            done: AtomicU32::new(0),
        });
        self.shared.rules.lock().unwrap().push(Arc::clone(&armed));
        Set {
            armed,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Shared {
    /// The rule for a request, counted as obeyed from now on.
    fn rule_for(&self, frame: &Frame, moment: Moment) -> Option<Arc<Armed>> {
        let rules = self.rules.lock().unwrap();
        let found = rules.iter().find(|armed| {
            armed.rule.moment == moment
                && armed.rule.request as i16 == frame.request
                && frame.client.contains(&armed.rule.client)
                && armed.left.load(Ordering::SeqCst) > 0
        })?;
        found.left.fetch_sub(1, Ordering::SeqCst);
        Some(Arc::clone(found))
    }
}

/// A request whose answer is waited for: its correlation id, and what happens then.
type Awaited = Arc<Mutex<Vec<(i32, Arc<Armed>)>>>;

fn serve(client: TcpStream, shared: &Arc<Shared>) {
    let Some(Ok(broker)) = shared.target.get().map(TcpStream::connect) else {
        return;
    };
    for stream in [&client, &broker] {
        // Nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
    }
    let (Ok(back_from), Ok(back_to)) = (broker.try_clone(), client.try_clone()) else {
        return;
    };
    let awaited = Awaited::default();
    let waiting = Arc::clone(&awaited);
    let back = std::thread::spawn(move || {
        // Whatever ends one direction ends the other.
        let _ = answers(&back_from, &back_to, &waiting);
        close(&back_from, &back_to);
    });
    let _ = requests(&client, &broker, shared, &awaited);
    close(&client, &broker);
    let _ = back.join();
}

fn close(one: &TcpStream, other: &TcpStream) {
    for stream in [one, other] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn requests(
    mut client: &TcpStream,
    mut broker: &TcpStream,
    shared: &Shared,
    awaited: &Awaited,
) -> io::Result<()> {
    loop {
        let bytes = message(&mut client)?;
        let frame = Frame::of(&bytes);
        if let Some(armed) = shared.rule_for(&frame, Moment::Before)
            && !armed.obey()
        {
            return Ok(());
        }
        if let Some(armed) = shared.rule_for(&frame, Moment::Answered) {
            awaited.lock().unwrap().push((frame.correlation, armed));
        }
        broker.write_all(&bytes)?;
    }
}

fn answers(mut broker: &TcpStream, mut client: &TcpStream, awaited: &Awaited) -> io::Result<()> {
    loop {
        let bytes = message(&mut broker)?;
        let correlation = number(&bytes, 4);
        let armed = {
            let mut awaited = awaited.lock().unwrap();
            let place = awaited.iter().position(|(it, _)| *it == correlation);
            place.map(|place| awaited.remove(place).1)
        };
        if armed.is_some_and(|armed| !armed.obey()) {
            return Ok(());
        }
        client.write_all(&bytes)?;
    }
}

impl Armed {
    /// Whether the message goes on.
    fn obey(&self) -> bool {
        let goes_on = match self.rule.act {
            Act::Kill(process) => {
                replica::send("-KILL", process);
                false
            }
            Act::Cut => false,
            Act::Hold(time) => {
                std::thread::sleep(time);
                true
            }
        };
        self.done.fetch_add(1, Ordering::SeqCst);
        goes_on
    }
}

/// A message with its length in front.
fn message(stream: &mut &TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes)?;
    let length = usize::try_from(number(&bytes, 0)).map_err(io::Error::other)?;
    bytes.resize(4 + length, 0);
    stream.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> i32 {
    let four = bytes.get(at..at + 4).and_then(|it| it.try_into().ok());
    four.map_or(-1, i32::from_be_bytes)
}

/// The beginning of a request.
struct Frame {
    request: i16,
    correlation: i32,
    client: String,
}

impl Frame {
    fn of(bytes: &[u8]) -> Self {
        let short = |at: usize| {
            let two = bytes.get(at..at + 2).and_then(|it| it.try_into().ok());
            two.map_or(-1, i16::from_be_bytes)
        };
        // Length, number, version, correlation, client.
        let length = usize::try_from(short(12)).unwrap_or(0);
        let client = bytes.get(14..14 + length).unwrap_or_default();
        Self {
            request: short(4),
            correlation: number(bytes, 8),
            client: String::from_utf8_lossy(client).into_owned(),
        }
    }
}
