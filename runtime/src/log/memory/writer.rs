//! Producers: the plain one, the transactional one, and a transaction that stays open as long as wanted.

use super::Shared;
use super::batch::Builder;
use super::topic::Meta;
use crate::log::{
    Committed, Error, GroupMetadata, GroupMetadataInner, Result, Scope, Transactional, Writer,
};
use headwater_engine::key::partition_of;
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A batch is closed beyond this, so that its spans stay within 32 bits.
const BATCH_BYTES: usize = 64 << 20;

/// Records by partition, and for each record where it went.
#[derive(Default)]
struct Packed {
    batches: Vec<(Arc<Meta>, i32, Builder)>,
    /// Batch and place in it, in the order given.
    places: Vec<(usize, usize)>,
}

/// Chooses partitions and checks every record before any is written.
struct Packer {
    shared: Arc<Shared>,
    /// For records without a key.
    turn: u32,
}

impl Packer {
    fn pack(&mut self, records: &[NewRecord]) -> Result<Packed> {
        let now = self.shared.now();
        let mut metas: BTreeMap<&str, Arc<Meta>> = BTreeMap::new();
        {
            let state = self.shared.lock();
            for (index, record) in records.iter().enumerate() {
                if metas.contains_key(record.topic.as_str()) {
                    continue;
                }
                let topic = state
                    .topics
                    .get(record.topic.as_str())
                    .ok_or_else(|| refused(index, record, "the topic does not exist".to_owned()))?;
                metas.insert(&record.topic, Arc::clone(&topic.meta));
            }
        }
        let mut packed = Packed::default();
        let mut current: BTreeMap<(&str, i32), usize> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let Some(meta) = metas.get(record.topic.as_str()) else {
                continue;
            };
            let size = Builder::size_of(record);
            let timestamp = record.timestamp.unwrap_or(now);
            if let Some(reason) = meta.refusal(record, size, timestamp, now) {
                return Err(refused(index, record, reason));
            }
            let partition = self.partition(record, meta);
            let slot = current
                .entry((&record.topic, partition))
                .or_insert(usize::MAX);
            if packed
                .batches
                .get(*slot)
                .is_none_or(|(_, _, builder)| builder.bytes() + size > BATCH_BYTES)
            {
                *slot = packed.batches.len();
                packed
                    .batches
                    .push((Arc::clone(meta), partition, Builder::default()));
            }
            let builder = &mut packed.batches[*slot].2;
            packed.places.push((*slot, builder.len()));
            builder.add(record, timestamp);
        }
        Ok(packed)
    }

    fn partition(&mut self, record: &NewRecord, meta: &Meta) -> i32 {
        match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, meta.partitions),
            (None, None) => {
                self.turn = self.turn.wrapping_add(1);
                (self.turn & 0x7fff_ffff).cast_signed() % meta.partitions
            }
        }
    }
}

fn refused(index: usize, record: &NewRecord, reason: String) -> Error {
    Error::Refused {
        index,
        topic: record.topic.clone(),
        reason,
    }
}

pub(super) struct MemoryWriter(Packer);

impl MemoryWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(Packer { shared, turn: 0 })
    }
}

impl Writer for MemoryWriter {
    fn write(&mut self, records: &[NewRecord]) -> Result<Vec<(TopicPartition, i64)>> {
        let packed = self.0.pack(records)?;
        let now = self.0.shared.now();
        let mut bases = Vec::with_capacity(packed.batches.len());
        {
            let mut state = self.0.shared.lock_ticked();
            for (meta, partition, builder) in packed.batches {
                let at = TopicPartition::new(Arc::clone(&meta.name), partition);
                let base = state.partition_mut(&at)?.append(
                    builder,
                    meta.append_time.then_some(now),
                    None,
                );
                bases.push((at, base));
            }
        }
        #[allow(
            clippy::cast_possible_wrap,
            reason = "places are below the batch's length"
        )]
        let place = |(slot, place): (usize, usize)| {
            let (at, base): &(TopicPartition, i64) = &bases[slot];
            (at.clone(), base + place as i64)
        };
        Ok(packed.places.into_iter().map(place).collect())
    }
}

/// A producer under a transactional id, as long as nobody else opens the id.
pub struct Producer {
    packer: Packer,
    id: String,
    epoch: u64,
}

impl Producer {
    pub(super) fn open(shared: Arc<Shared>, id: &str) -> Self {
        let now = shared.now();
        let epoch = shared.lock().open_producer(id, now);
        Self {
            packer: Packer { shared, turn: 0 },
            id: id.to_owned(),
            epoch,
        }
    }

    /// Begins a transaction and leaves it to the caller to end it; dropped, it stays open until it
    /// times out (10 s) or the id is opened anew.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub fn begin(&mut self) -> Result<Open<'_>> {
        let now = self.packer.shared.now();
        self.packer
            .shared
            .lock_ticked()
            .begin(&self.id, self.epoch, now)?;
        Ok(Open { producer: self })
    }
}

/// A transaction under way.
pub struct Open<'a> {
    producer: &'a mut Producer,
}

impl Open<'_> {
    /// # Errors
    /// [`Error::Refused`], and then nothing was written; [`Error::Fenced`]; [`Error::Abort`] after the timeout.
    pub fn write(&mut self, records: &[NewRecord]) -> Result<()> {
        let Producer { packer, id, epoch } = &mut *self.producer;
        let packed = packer.pack(records)?;
        let now = packer.shared.now();
        let mut state = packer.shared.lock_ticked();
        for (meta, partition, builder) in packed.batches {
            state.append_open((id, *epoch), &meta, partition, builder, now)?;
        }
        Ok(())
    }

    /// # Errors
    /// As [`Transactional::transact`].
    pub fn send_offsets(
        &mut self,
        metadata: &GroupMetadata,
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<()> {
        let GroupMetadataInner::Memory(membership) = &metadata.0 else {
            return Err(Error::Fatal {
                what: "send offsets to the transaction".to_owned(),
                reason: "the group is of another log".to_owned(),
            });
        };
        let Producer { packer, id, epoch } = &*self.producer;
        packer
            .shared
            .lock_ticked()
            .send_offsets((id, *epoch), membership, offsets)
    }

    /// # Errors
    /// [`Error::Fenced`]; [`Error::Abort`] after the timeout.
    pub fn commit(self) -> Result<()> {
        let Producer { packer, id, epoch } = &*self.producer;
        let now = packer.shared.now();
        packer.shared.lock_ticked().commit(id, *epoch, now)
    }

    pub fn abort(self) {
        let Producer { packer, id, epoch } = &*self.producer;
        let now = packer.shared.now();
        packer.shared.lock_ticked().abort(id, *epoch, now);
    }
}

impl Transactional for Producer {
    fn transact(
        &mut self,
        records: &[NewRecord],
        offsets: Option<(&GroupMetadata, &[(TopicPartition, Committed)])>,
    ) -> Result<()> {
        let mut open = self.begin()?;
        let sent = open.write(records).and_then(|()| match offsets {
            Some((metadata, offsets)) => open.send_offsets(metadata, offsets),
            None => Ok(()),
        });
        match sent {
            Ok(()) => open.commit(),
            Err(error) => {
                open.abort();
                Err(error)
            }
        }
    }

    fn sweep(&mut self, _group: &GroupMetadata, _scope: &Scope) -> Result<()> {
        // Opening ended what there was.
        Ok(())
    }
}
