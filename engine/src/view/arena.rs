//! Memory for the rows of a partition: slots of bytes in large chunks, named by 32-bit addresses.
//!
//! A slot that is given back is used again for one of its size. Where too much of the memory is free and in pieces, a chunk is
//! emptied by moving what is left of it: the owner of the slots does that, since it knows who names them.
//!
//! Invariants: a chunk is slots from its beginning to its end, so that it can be walked; what is free is at most a twelfth of all,
//! or [`SMALL`], as long as the owner empties the chunks that [`Arena::sparse`] names.

use std::collections::BTreeMap;

/// Bytes of a chunk; a larger slot has one for itself.
const CHUNK: usize = 1 << 20;
/// An address counts units of so many bytes.
const UNIT: usize = 4;
const UNITS_PER_CHUNK: usize = CHUNK / UNIT;
/// Chunks that addresses can name.
const CHUNKS_MAX: usize = 1 << (32 - UNITS_PER_CHUNK.trailing_zeros());
/// Bytes before a slot's content: its units, its flags and what its owner keeps there.
pub(super) const HEAD: usize = 8;
/// So much may be free without anything being moved, in units.
const SMALL: usize = UNITS_PER_CHUNK / 4;

/// Bits of the head that say how many units the slot has; the others are its owner's.
const UNITS_BITS: u32 = 20;
/// The owner's part of a head that is free.
const FREE: u64 = u64::MAX >> UNITS_BITS;

/// Where a slot begins: chunk and unit.
pub(super) type Address = u32;

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Free units among them.
    free: usize,
}

#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    /// The chunk that grows.
    open: usize,
    /// Chunks without a slot.
    empty: Vec<usize>,
    /// Free slots by their units.
    free: BTreeMap<u32, Vec<Address>>,
    /// Units in all of them.
    free_units: usize,
    units: usize,
}

fn chunk_of(at: Address) -> usize {
    at as usize / UNITS_PER_CHUNK
}

fn offset_of(at: Address) -> usize {
    at as usize % UNITS_PER_CHUNK * UNIT
}

fn units_of(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

impl Arena {
    /// Bytes that it holds, whether used or free; what a chunk was never grown to is not resident yet.
    pub(super) fn held(&self) -> usize {
        let kept = self
            .empty
            .iter()
            .filter_map(|place| self.chunks.get(*place))
            .map(|chunk| chunk.bytes.capacity());
        self.chunks
            .iter()
            .map(|chunk| chunk.bytes.len())
            .chain(kept)
            .sum::<usize>()
            + self
                .free
                .values()
                .map(|list| list.capacity() * size_of::<Address>() + 64)
                .sum::<usize>()
    }

    /// Whether a slot of any size can still be had.
    pub(super) fn has_room(&self) -> bool {
        // One to grow, one for a large slot, one to move slots to.
        self.chunks.len() + 3 < CHUNKS_MAX || self.empty.len() > 2
    }

    /// A slot for so many bytes, head included. Its content is undefined, its head is to be set.
    pub(super) fn allocate(&mut self, bytes: usize) -> Address {
        let units = units_of(bytes);
        let most = units + units / 16;
        let found = self
            .free
            .range(units as u32..=most as u32)
            .next()
            .map(|(size, _)| *size);
        if let Some(size) = found
            && let Some(list) = self.free.get_mut(&size)
            && let Some(at) = list.pop()
        {
            if list.is_empty() {
                self.free.remove(&size);
            }
            self.free_units -= size as usize;
            if let Some(chunk) = self.chunks.get_mut(chunk_of(at)) {
                chunk.free -= size as usize;
            }
            return at;
        }
        self.append(units)
    }

    fn append(&mut self, units: usize) -> Address {
        let bytes = units * UNIT;
        let fits = |chunk: &Chunk| chunk.bytes.len() + bytes <= CHUNK;
        let place = if bytes > CHUNK {
            self.add_chunk(bytes)
        } else if self.chunks.get(self.open).is_some_and(fits) {
            self.open
        } else {
            self.close();
            self.open = match self.empty.pop() {
                Some(place) => place,
                None => self.add_chunk(if self.chunks.is_empty() { 0 } else { CHUNK }),
            };
            self.open
        };
        let Some(chunk) = self.chunks.get_mut(place) else {
            return 0;
        };
        let offset = chunk.bytes.len();
        chunk.bytes.resize(offset + bytes, 0);
        self.units += units;
        let at = (place * UNITS_PER_CHUNK + offset / UNIT) as Address;
        self.set_head(at, units as u64 | (FREE << UNITS_BITS));
        at
    }

    fn add_chunk(&mut self, bytes: usize) -> usize {
        self.chunks.push(Chunk {
            bytes: Vec::with_capacity(bytes),
            free: 0,
        });
        self.chunks.len() - 1
    }

    /// What is left of the chunk that grew is a free slot.
    fn close(&mut self) {
        let Some(chunk) = self.chunks.get_mut(self.open) else {
            return;
        };
        let offset = chunk.bytes.len();
        let left = CHUNK.saturating_sub(offset);
        if left < HEAD || offset == 0 {
            return;
        }
        chunk.bytes.resize(CHUNK, 0);
        let units = left / UNIT;
        self.units += units;
        let at = (self.open * UNITS_PER_CHUNK + offset / UNIT) as Address;
        self.set_head(at, units as u64);
        self.release(at);
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self, at: Address) {
        let units = self.units(at);
        self.set_owned(at, FREE);
        self.free.entry(units as u32).or_default().push(at);
        self.free_units += units;
        if let Some(chunk) = self.chunks.get_mut(chunk_of(at)) {
            chunk.free += units;
        }
    }

    /// Whether a slot is right for so many bytes: they fit, and not much of it is unused.
    pub(super) fn suits(&self, at: Address, bytes: usize) -> bool {
        let (units, has) = (units_of(bytes), self.units(at));
        units <= has && has - units <= has / 16 + 1
    }

    fn head(&self, at: Address) -> u64 {
        self.bytes(at, 0, HEAD)
            .first_chunk()
            .map_or(0, |head| u64::from_le_bytes(*head))
    }

    fn set_head(&mut self, at: Address, head: u64) {
        self.write(at, 0, &head.to_le_bytes());
    }

    fn units(&self, at: Address) -> usize {
        (self.head(at) & ((1 << UNITS_BITS) - 1)) as usize
    }

    /// What the owner keeps in a slot's head: 44 bits, not all of them set.
    #[inline]
    pub(super) fn owned(&self, at: Address) -> u64 {
        self.head(at) >> UNITS_BITS
    }

    pub(super) fn set_owned(&mut self, at: Address, owned: u64) {
        let units = self.head(at) & ((1 << UNITS_BITS) - 1);
        self.set_head(at, units | owned << UNITS_BITS);
    }

    /// Bytes of a slot, counted from its beginning.
    #[inline]
    pub(super) fn bytes(&self, at: Address, from: usize, length: usize) -> &[u8] {
        let offset = offset_of(at) + from;
        self.chunks
            .get(chunk_of(at))
            .and_then(|chunk| chunk.bytes.get(offset..offset + length))
            .unwrap_or_default()
    }

    /// All bytes of a slot from there on.
    pub(super) fn rest(&self, at: Address, from: usize) -> &[u8] {
        self.bytes(at, from, (self.units(at) * UNIT).saturating_sub(from))
    }

    #[inline]
    pub(super) fn write(&mut self, at: Address, from: usize, bytes: &[u8]) {
        let offset = offset_of(at) + from;
        if let Some(chunk) = self.chunks.get_mut(chunk_of(at))
            && let Some(place) = chunk.bytes.get_mut(offset..offset + bytes.len())
        {
            place.copy_from_slice(bytes);
        }
    }

    /// A chunk that should be emptied, as too much is free: its slots in use. They are to be moved and released, and then
    /// [`Arena::emptied`] to be told.
    pub(super) fn sparse(&mut self) -> Option<(usize, Vec<Address>)> {
        if self.free_units <= SMALL || self.free_units <= self.units / 12 {
            return None;
        }
        let (place, _) = self
            .chunks
            .iter()
            .enumerate()
            .filter(|(place, chunk)| *place != self.open && chunk.free > 0)
            .max_by_key(|(_, chunk)| chunk.free)?;
        // Nothing is to be moved to where it came from.
        self.free.retain(|_, list| {
            list.retain(|at| chunk_of(*at) != place);
            !list.is_empty()
        });
        let units = self.chunks.get(place)?.bytes.len() / UNIT;
        let mut used = Vec::new();
        let mut unit = 0;
        while unit < units {
            let at = (place * UNITS_PER_CHUNK + unit) as Address;
            if self.owned(at) != FREE {
                used.push(at);
            }
            unit += self.units(at).max(1);
        }
        let chunk = self.chunks.get_mut(place)?;
        self.free_units -= chunk.free;
        chunk.free = 0;
        Some((place, used))
    }

    /// All slots of the chunk were moved.
    pub(super) fn emptied(&mut self, place: usize) {
        let Some(chunk) = self.chunks.get_mut(place) else {
            return;
        };
        self.units -= chunk.bytes.len() / UNIT;
        chunk.bytes.clear();
        // One is kept for what comes next; a chunk of a large slot is of no use to others.
        if !self.empty.is_empty() || chunk.bytes.capacity() > CHUNK {
            chunk.bytes = Vec::new();
        }
        self.empty.push(place);
    }

    /// Makes a slot's content that of another, which stays.
    pub(super) fn copy(&mut self, from: Address) -> Address {
        let bytes = self.bytes(from, 0, self.units(from) * UNIT).to_vec();
        let at = self.allocate(bytes.len());
        self.set_owned(at, self.owned(from));
        self.write(at, HEAD, bytes.get(HEAD..).unwrap_or_default());
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_bytes_and_are_used_again() {
        let mut arena = Arena::default();
        let slots: Vec<(Address, u8)> = (0..100u8)
            .map(|n| {
                let at = arena.allocate(HEAD + usize::from(n));
                arena.set_owned(at, u64::from(n));
                arena.write(at, HEAD, &vec![n; usize::from(n)]);
                (at, n)
            })
            .collect();
        for (at, n) in &slots {
            assert_eq!(arena.owned(*at), u64::from(*n));
            assert_eq!(
                arena.bytes(*at, HEAD, usize::from(*n)),
                vec![*n; usize::from(*n)]
            );
        }
        let (at, _) = slots[50];
        arena.release(at);
        assert_eq!(arena.allocate(HEAD + 50), at);
    }

    #[test]
    fn a_slot_larger_than_a_chunk_has_one_for_itself() {
        let mut arena = Arena::default();
        let small = arena.allocate(100);
        arena.set_owned(small, 1);
        let large = arena.allocate(3 * CHUNK);
        arena.set_owned(large, 2);
        arena.write(large, 3 * CHUNK - 1, &[7]);
        assert_eq!(arena.bytes(large, 3 * CHUNK - 1, 1), [7]);
        assert_eq!(arena.owned(small), 1);
        let other = arena.allocate(100);
        assert_eq!(chunk_of(other), chunk_of(small));
    }

    #[test]
    fn what_is_free_is_bounded_by_moving_what_is_left() {
        let mut arena = Arena::default();
        let mut slots: Vec<Address> = (0..40_000)
            .map(|n| {
                let at = arena.allocate(HEAD + 200);
                arena.set_owned(at, 1);
                arena.write(at, HEAD, &u32::to_le_bytes(n));
                at
            })
            .collect();
        for at in slots.iter().step_by(3) {
            arena.release(*at);
        }
        let mut place = 0;
        slots.retain(|_| {
            place += 1;
            (place - 1) % 3 != 0
        });
        while let Some((chunk, used)) = arena.sparse() {
            for at in used {
                let to = arena.copy(at);
                let slot = slots.iter_mut().find(|slot| **slot == at).unwrap();
                *slot = to;
            }
            arena.emptied(chunk);
        }
        assert!(arena.held() < slots.len() * 208 * 5 / 4, "{}", arena.held());
        let found: Vec<u8> = slots
            .iter()
            .map(|at| arena.bytes(*at, HEAD, 1)[0])
            .collect();
        let wanted: Vec<u8> = (0..40_000u32)
            .filter(|n| n % 3 != 0)
            .map(|n| n as u8)
            .collect();
        assert_eq!(found, wanted);
    }
}
