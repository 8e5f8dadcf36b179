//! A map that is cheap to clone and to change by one entry: shards, copied on write.
//!
//! With n entries in about √n shards, a change copies one list of √n pointers and one shard of
//! √n pointers. Look-ups hash once and touch the shard's control bytes, one slot and the entry.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Entries per shard, on average, at which the number of shards is doubled: about the square root
/// of the largest table that the budgets speak of.
const FULL: usize = 128;

/// An entry that carries its key.
pub(super) trait Keyed {
    fn key(&self) -> &str;
}

/// Entries by key. Clones share everything until one is changed.
#[derive(Debug)]
pub(super) struct ShardMap<V> {
    /// A power of two of them.
    shards: Arc<Vec<Shard<V>>>,
    len: usize,
    /// Seeded anew for each map, so that nobody can choose names that collide.
    hasher: DefaultHashBuilder,
}

type Shard<V> = Arc<HashTable<Slot<V>>>;

/// The whole hash beside the entry: rehashing and almost every miss leave the entry alone.
#[derive(Debug)]
struct Slot<V> {
    hash: u64,
    entry: Arc<V>,
}

impl<V> Clone for Slot<V> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, entry: Arc::clone(&self.entry) }
    }
}

impl<V> Clone for ShardMap<V> {
    fn clone(&self) -> Self {
        Self { shards: Arc::clone(&self.shards), len: self.len, hasher: self.hasher.clone() }
    }
}

impl<V: Keyed> ShardMap<V> {
    pub(super) fn new() -> Self {
        Self {
            shards: Arc::new(vec![Arc::default()]),
            len: 0,
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|slot| &*slot.entry)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn find(&self, key: &str) -> Option<&V> {
        if self.len == 0 {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        self.shards
            .get(shard_of(hash, self.shards.len()))?
            .find(hash, |slot| slot.hash == hash && slot.entry.key() == key)
            .map(|slot| &*slot.entry)
    }

    /// Adds an entry, in place of one with the same key.
    pub(super) fn insert(&mut self, entry: V) {
        self.remove(entry.key());
        if self.len >= self.shards.len() * FULL {
            self.double();
        }
        let hash = self.hasher.hash_one(entry.key());
        self.len += 1;
        self.shard_mut(hash).insert_unique(hash, Slot { hash, entry: entry.into() }, |s| s.hash);
    }

    /// Takes an entry out; says whether it was there.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        if self.find(key).is_none() {
            return false;
        }
        let hash = self.hasher.hash_one(key);
        let found = self
            .shard_mut(hash)
            .find_entry(hash, |slot| slot.hash == hash && slot.entry.key() == key)
            .map(|slot| slot.remove())
            .is_ok();
        self.len -= usize::from(found);
        found
    }

    fn shard_mut(&mut self, hash: u64) -> &mut HashTable<Slot<V>> {
        let shards = Arc::make_mut(&mut self.shards);
        let at = shard_of(hash, shards.len());
        Arc::make_mut(&mut shards[at])
    }

    /// Rare: each doubling pays for as many insertions as there are entries.
    fn double(&mut self) {
        let count = self.shards.len() * 2;
        let mut shards: Vec<HashTable<Slot<V>>> = Vec::new();
        shards.resize_with(count, HashTable::new);
        for slot in self.shards.iter().flat_map(|shard| shard.iter()) {
            shards[shard_of(slot.hash, count)].insert_unique(slot.hash, slot.clone(), |s| s.hash);
        }
        self.shards = Arc::new(shards.into_iter().map(Arc::new).collect());
    }
}

/// From bits in the middle: a table takes its slot from the lowest and its tag from the highest.
fn shard_of(hash: u64, shards: usize) -> usize {
    usize::try_from(hash >> 32 & 0xff_ffff).unwrap_or_default() & (shards - 1)
}
