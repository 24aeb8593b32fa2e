//! What intakes share: a stage that has a log of its own reads others into it, in the order that counts from then on.
//!
//! A view's is [`crate::view::intake`], an agent's [`crate::agent::intake`]. Whoever drives one hands over the records of
//! the sources in offset order, asks what may go, and writes it in one transaction with the sources' offsets.

use crate::fault::Fault;
use crate::lookup::{NoViews, Views};
use crate::record::{NewRecord, OwnedRecord, Record};
use std::collections::BTreeMap;

/// An entry of what reads the sources, and a partition of its source.
pub(crate) type Place = (u32, i32);

/// What had been read of every source partition at one moment: nothing later goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(Option<BTreeMap<Place, i64>>);

impl Fence {
    /// One that keeps nothing back.
    pub fn open() -> Self {
        Self(None)
    }

    pub(crate) fn new(read: impl Iterator<Item = (Place, i64)>) -> Self {
        Self(Some(read.collect()))
    }

    pub(crate) fn lets_go(&self, place: Place, offset: i64) -> bool {
        self.0
            .as_ref()
            .is_none_or(|read| read.get(&place).is_some_and(|next| offset < *next))
    }
}

/// Under which terms events go.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Says of a source's topic and partition whether its log holds more than was read: while it does, and nothing of it waits here, no
    /// event goes, as that partition's next one may be older.
    pub behind: &'a dyn Fn(&str, i32) -> bool,
    pub fence: &'a Fence,
    /// The views that are read as an event goes, holding all that was in their sources' logs after the fence was drawn.
    pub views: &'a dyn Views,
    /// Says of a topic, partition and offset whether the partition stands still there if the record is refused.
    pub stops: &'a dyn Fn(&str, i32, i64) -> bool,
}

/// What went, and what showed while it did.
#[derive(Debug, Default)]
pub struct Drained {
    /// Of the log that is written.
    pub records: Vec<NewRecord>,
    /// How many of them are events of the sources.
    pub events: usize,
    /// Refused as views were read, in the order of their turns; a record once.
    pub refused: Vec<(OwnedRecord, Fault)>,
    /// Refused in the same way, where the partition stands still: nothing of it goes from here on, and what was read of it is forgotten.
    pub stopped: Vec<(OwnedRecord, Fault)>,
    /// The fence kept something back: it has to be drawn anew.
    pub fenced: bool,
}

/// Takes events in.
pub trait TakeIn: Send {
    /// Starts a source partition at its committed offset.
    fn start(&mut self, source_topic: &str, partition: i32, next: i64);

    /// Forgets a source partition that is another's now, with what waits from it.
    fn stop(&mut self, source_topic: &str, partition: i32);

    /// Why a record would be refused, without taking it: for sources that stop at a bad record.
    fn check(&self, record: &Record<'_>) -> Option<Fault>;

    /// Takes a record of a source, in offset order. Gives the faults for which it is to be a dead letter.
    fn take(&mut self, record: &Record<'_>) -> Vec<Fault>;

    /// Takes note that a source partition was read up to `next`, past records that are no data.
    fn advance(&mut self, source_topic: &str, partition: i32, next: i64);

    /// The next offset of each source partition that is to be committed, as (topic, partition, next): all below it went.
    fn positions(&self) -> Vec<(&str, i32, i64)>;

    /// Events that were read from a source partition and did not go yet.
    fn waiting(&self, source_topic: &str, partition: i32) -> usize;

    /// What has been read until now. Draw it before asking where the sources of views end.
    fn fence(&self) -> Fence;

    /// What may go now, in the order that counts from now on.
    fn drain_under(&mut self, terms: &Terms<'_>) -> Drained;

    /// The same where no views are read: what is refused, [`TakeIn::take`] refused.
    fn drain(&mut self, behind: &dyn Fn(&str, i32) -> bool) -> Vec<NewRecord> {
        self.drain_under(&Terms {
            behind,
            fence: &Fence::open(),
            views: &NoViews,
            stops: &|_, _, _| false,
        })
        .records
    }
}
