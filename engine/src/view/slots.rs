//! The rows of a partition in an [`Arena`], found by key: each a slot of key, value, provenance and what else its fold needs.
//!
//! A row may own further slots without a key (the events of a history): its value then is a number and their addresses. Everything
//! that names a slot can be found from the key's hash, so that slots can be moved.
//!
//! Invariants: a key has one slot; `dirty` holds the hash of every row that is marked, `gone` every key that is no longer there.

use super::arena::{Address, Arena, HEAD};
use super::origin::{Origin, PROVENANCE_BYTES_MAX, put_provenance, take_provenance, take_varint};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::BTreeSet;
use std::hash::BuildHasher;

/// Bytes before the key: the arena's head and the key's hash.
const FIXED: usize = HEAD + size_of::<u32>();

// A head's own bits: the length of the key, the length of the value, flags.
const KEY_BITS: u32 = 15;
const VALUE_BITS: u32 = 21;
const FLAGS_FROM: u32 = KEY_BITS + VALUE_BITS;

/// The row is not what the state topic holds.
const DIRTY: u64 = 1 << FLAGS_FROM;
/// Not for readers.
const HIDDEN: u64 = 1 << (FLAGS_FROM + 1);
/// Further bytes follow the provenance.
const MORE: u64 = 1 << (FLAGS_FROM + 2);
/// One of a row's own slots.
const PART: u64 = 1 << (FLAGS_FROM + 3);

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Content<'a> {
    pub(super) value: &'a [u8],
    pub(super) time: i64,
    pub(super) origin: Origin,
    pub(super) hidden: bool,
    /// What the fold keeps beside the value; empty for most.
    pub(super) more: &'a [u8],
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    arena: Arena,
    /// With the hash, so that growing looks at no slot.
    rows: HashTable<(Hash, Address)>,
    hasher: DefaultHashBuilder,
    /// Hashes of rows that are marked; some twice, some of rows that went.
    dirty: Vec<u32>,
    marked: usize,
    gone: BTreeSet<Key>,
    /// Bytes of keys and values, which the folds count.
    pub(super) bytes: usize,
}

/// A key's hash, as much as a slot keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(u32);

impl Hash {
    /// The table takes the place from the low bits and a tag from the high ones.
    fn spread(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of memory, whatever they are used for.
    pub(super) fn held(&self) -> usize {
        self.arena.held() + self.rows.allocation_size() + self.dirty.capacity() * size_of::<u32>()
    }

    pub(super) fn hash(&self, key: &str) -> Hash {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the low half is as good as the whole"
        )]
        let low = self.hasher.hash_one(key.as_bytes()) as u32;
        Hash(low)
    }

    pub(super) fn find(&self, hash: Hash, key: &str) -> Option<Address> {
        self.rows
            .find(hash.spread(), |(found, at)| {
                *found == hash && self.key_bytes(*at) == key.as_bytes()
            })
            .map(|(_, at)| *at)
    }

    /// To be called before slots are made, while no address is held: keeps the memory compact.
    ///
    /// # Errors
    /// `TooLarge` where the partition holds all that it can.
    pub(super) fn prepare(&mut self) -> Result<(), Fault> {
        if !self.arena.has_room() {
            return Err(Fault::new(
                Reason::TooLarge,
                "the partition holds 16 GiB, which is the limit. Give the view's input more partitions",
            ));
        }
        if let Some((chunk, used)) = self.arena.sparse() {
            for from in used {
                self.relocate(from);
            }
            self.arena.emptied(chunk);
        }
        Ok(())
    }

    fn relocate(&mut self, from: Address) {
        let to = self.arena.copy(from);
        let hash = self.hash_of(from);
        if self.arena.owned(from) & PART == 0 {
            self.rename(hash, from, to);
            return;
        }
        let mut owner = None;
        for (_, at) in self.rows.iter_hash(hash.spread()) {
            let place = parts(self.value(*at)).position(|part| part == from);
            owner = owner.or(place.map(|place| (*at, place)));
        }
        if let Some((at, place)) = owner {
            let offset = FIXED + self.key_bytes(at).len() + (place + 1) * size_of::<Address>();
            self.arena.write(at, offset, &to.to_le_bytes());
        }
    }

    fn rename(&mut self, hash: Hash, from: Address, to: Address) {
        if let Some((_, at)) = self.rows.find_mut(hash.spread(), |(_, at)| *at == from) {
            *at = to;
        }
    }

    /// Writes a row, marked as changed; `at` is where it was. Gives where it is.
    pub(super) fn put(
        &mut self,
        hash: Hash,
        at: Option<Address>,
        key: &str,
        content: &Content<'_>,
    ) -> Address {
        let was = at.map_or(0, |at| self.arena.owned(at) & DIRTY);
        let to = self.store(hash, at, key.as_bytes(), content, was);
        match at {
            None => {
                self.rows
                    .insert_unique(hash.spread(), (hash, to), |(hash, _)| hash.spread());
                if !self.gone.is_empty() {
                    self.gone.remove(key);
                }
            }
            Some(at) if at != to => self.rename(hash, at, to),
            Some(_) => {}
        }
        to
    }

    /// Writes one of a row's own slots, `at` being one that is no longer needed.
    pub(super) fn put_part(
        &mut self,
        owner: Hash,
        at: Option<Address>,
        content: &Content<'_>,
    ) -> Address {
        self.store(owner, at, &[], content, PART)
    }

    fn store(
        &mut self,
        hash: Hash,
        at: Option<Address>,
        key: &[u8],
        content: &Content<'_>,
        flags: u64,
    ) -> Address {
        let mut tail = [0; PROVENANCE_BYTES_MAX + 10];
        let mut length = put_provenance(&mut tail, content.origin, content.time);
        let mut flags = flags | if content.hidden { HIDDEN } else { 0 };
        if !content.more.is_empty() {
            flags |= MORE;
            length += super::origin::put_varint(&mut tail[length..], content.more.len() as u64);
        }
        let tail = &tail[..length];
        let bytes = FIXED + key.len() + content.value.len() + tail.len() + content.more.len();
        let to = match at {
            Some(at) if self.arena.suits(at, bytes) => at,
            Some(at) => {
                self.arena.release(at);
                self.arena.allocate(bytes)
            }
            None => self.arena.allocate(bytes),
        };
        let owned = flags | (content.value.len() as u64) << KEY_BITS | key.len() as u64;
        self.arena.set_owned(to, owned);
        let mut from = HEAD;
        for part in [
            &hash.0.to_le_bytes(),
            key,
            content.value,
            tail,
            content.more,
        ] {
            self.arena.write(to, from, part);
            from += part.len();
        }
        to
    }

    /// Takes a row out; what it owns is to be released before.
    pub(super) fn remove(&mut self, hash: Hash, at: Address) {
        if self.arena.owned(at) & DIRTY != 0 {
            self.marked -= 1;
        }
        if let Ok(entry) = self
            .rows
            .find_entry(hash.spread(), |(_, found)| *found == at)
        {
            entry.remove();
        }
        self.arena.release(at);
    }

    pub(super) fn release(&mut self, at: Address) {
        self.arena.release(at);
    }

    /// The key is to be deleted in the state topic.
    pub(super) fn mark_gone(&mut self, key: Key) {
        self.gone.insert(key);
    }

    /// The row is to be written to the state topic.
    pub(super) fn mark(&mut self, hash: Hash, at: Address) {
        let owned = self.arena.owned(at);
        if owned & DIRTY == 0 {
            self.arena.set_owned(at, owned | DIRTY);
            self.dirty.push(hash.0);
            self.marked += 1;
        }
    }

    /// How many keys are to be written or deleted.
    pub(super) fn dirty(&self) -> usize {
        self.marked + self.gone.len()
    }

    /// The keys that are to be written, with where they are, and those to be deleted, without; in order.
    pub(super) fn changed(&self) -> Vec<(&str, Option<Address>)> {
        let marked = self.dirty.iter().flat_map(|hash| {
            self.rows
                .iter_hash(Hash(*hash).spread())
                .filter(|(_, at)| self.arena.owned(*at) & DIRTY != 0)
                .map(|(_, at)| (self.key(*at), Some(*at)))
        });
        let gone = self.gone.iter().map(|key| (key.as_str(), None));
        let mut changed: Vec<(&str, Option<Address>)> = marked.chain(gone).collect();
        changed.sort_unstable();
        // A hash may stand twice.
        changed.dedup();
        changed
    }

    /// All of it was written.
    pub(super) fn clean(&mut self) {
        for hash in std::mem::take(&mut self.dirty) {
            for (_, at) in self.rows.iter_hash(Hash(hash).spread()) {
                let owned = self.arena.owned(*at);
                self.arena.set_owned(*at, owned & !DIRTY);
            }
        }
        self.marked = 0;
        self.gone.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Address> {
        self.rows.iter().map(|(_, at)| *at)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|(_, at)| self.key(*at))
    }

    fn hash_of(&self, at: Address) -> Hash {
        let bytes = self.arena.bytes(at, HEAD, size_of::<u32>());
        Hash(
            bytes
                .first_chunk()
                .map_or(0, |hash| u32::from_le_bytes(*hash)),
        )
    }

    #[inline]
    fn key_bytes(&self, at: Address) -> &[u8] {
        self.arena
            .bytes(at, FIXED, key_length(self.arena.owned(at)))
    }

    pub(super) fn key(&self, at: Address) -> &str {
        // Only keys are written there.
        std::str::from_utf8(self.key_bytes(at)).unwrap_or_default()
    }

    #[inline]
    pub(super) fn value(&self, at: Address) -> &[u8] {
        let owned = self.arena.owned(at);
        self.arena
            .bytes(at, FIXED + key_length(owned), value_length(owned))
    }

    pub(super) fn content(&self, at: Address) -> Content<'_> {
        let owned = self.arena.owned(at);
        let value = self.value(at);
        let mut rest = self.arena.rest(at, FIXED + key_length(owned) + value.len());
        let (origin, time) = take_provenance(&mut rest).unwrap_or_default();
        let more = if owned & MORE == 0 {
            &[]
        } else {
            let length = take_varint(&mut rest).unwrap_or_default() as usize;
            rest.get(..length).unwrap_or_default()
        };
        Content {
            value,
            time,
            origin,
            hidden: owned & HIDDEN != 0,
            more,
        }
    }
}

fn key_length(owned: u64) -> usize {
    (owned & ((1 << KEY_BITS) - 1)) as usize
}

fn value_length(owned: u64) -> usize {
    (owned >> KEY_BITS & ((1 << VALUE_BITS) - 1)) as usize
}

/// The number before the addresses of a row's own slots.
pub(super) fn number(value: &[u8]) -> u32 {
    words(value).next().unwrap_or_default()
}

/// The addresses of a row's own slots.
pub(super) fn parts(value: &[u8]) -> impl DoubleEndedIterator<Item = Address> {
    words(value).skip(1)
}

fn words(value: &[u8]) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator {
    let (words, _) = value.as_chunks::<{ size_of::<u32>() }>();
    words.iter().map(|bytes| u32::from_le_bytes(*bytes))
}
