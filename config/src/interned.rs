//! Values that thousands of apps have in common, kept once.
//!
//! Most apps say nothing about their deadlines, their environment or their readiness, and whole groups
//! of them are run by the same command. Each process of Doorbell knows every app, most of which sleep:
//! what is equal is one allocation there, whether it was read from a file or came from another process.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::AppId;
use crate::spec::{
    AppLimits, AppPages, AppTimeouts, AwakeSpec, BackOffSpec, EnclosureSpec, GivenSpec, OutputSpec,
    ProcessSpec, ReadySpec, ResourceSpec, SharedSpec, StopSpec, TcpSpec, Template, UpgradeSpec,
    UpstreamSpec, UserSpec, WakeSpec,
};

/// Entries of a pool that are looked through at once for values that nobody has any more.
const ROOM: usize = 64;

/// A value that is kept once among all that are equal. Reading costs a pointer; changing makes it a
/// value of its own.
pub struct Interned<T>(Arc<T>);

/// A type whose values are kept once.
pub trait Internable: Clone + Eq + Hash + Sized + 'static {
    /// Where they are kept.
    fn pool() -> &'static Pool<Self>;
}

/// The values of one type that somebody has.
#[derive(Debug)]
pub struct Pool<T>(Mutex<Values<T>>);

/// By their hashes; of two different ones with one hash, only the later is kept once.
#[derive(Debug)]
struct Values<T> {
    by_hash: HashMap<u64, Weak<T>>,
    hasher: RandomState,
    /// From this many on it is looked for those that nobody has.
    full: usize,
}

impl<T> Pool<T> {
    fn new() -> Self {
        let (by_hash, hasher) = (HashMap::new(), RandomState::new());
        Self(Mutex::new(Values { by_hash, hasher, full: ROOM }))
    }
}

impl<T: Eq + Hash> Pool<T> {
    fn keep(&self, value: T) -> Arc<T> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = values.hasher.hash_one(&value);
        let known = values.by_hash.get(&hash).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| **known == value) {
            return known;
        }
        if values.by_hash.len() >= values.full {
            values.by_hash.retain(|_, value| value.strong_count() > 0);
            values.full = (2 * values.by_hash.len()).max(ROOM);
        }
        let value = Arc::new(value);
        values.by_hash.insert(hash, Arc::downgrade(&value));
        value
    }
}

/// Makes types whose values are kept once.
macro_rules! internable {
    ($($type:ty),+ $(,)?) => {$(
        impl Internable for $type {
            fn pool() -> &'static Pool<Self> {
                static POOL: LazyLock<Pool<$type>> = LazyLock::new(Pool::new);
                &POOL
            }
        }
    )+};
}

internable!(
    AppLimits,
    AppPages,
    AppTimeouts,
    AwakeSpec,
    BackOffSpec,
    EnclosureSpec,
    GivenSpec,
    OutputSpec,
    ProcessSpec,
    ReadySpec,
    ResourceSpec,
    SharedSpec,
    StopSpec,
    TcpSpec,
    UpgradeSpec,
    UpstreamSpec,
    UserSpec,
    WakeSpec,
    String,
    Vec<AppId>,
    Vec<Template>,
    BTreeMap<String, Template>,
);

impl<T: Internable> From<T> for Interned<T> {
    fn from(value: T) -> Self {
        Self(T::pool().keep(value))
    }
}

impl<T: Internable + Default> Default for Interned<T> {
    fn default() -> Self {
        T::default().into()
    }
}

impl<T> Clone for Interned<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Interned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Interned<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for Interned<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: Eq> Eq for Interned<T> {}

impl<T: Hash> Hash for Interned<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T: fmt::Debug> fmt::Debug for Interned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize> Serialize for Interned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Internable + Deserialize<'de>> Deserialize<'de> for Interned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    struct Word {
        text: String,
    }
    internable!(Word);

    fn word(text: &str) -> Interned<Word> {
        Word { text: text.to_owned() }.into()
    }

    #[test]
    fn what_is_equal_is_kept_once_however_it_comes() {
        let one = word("one");
        let other: Interned<Word> = serde_json::from_str(r#"{"text":"one"}"#).unwrap();
        assert!(Arc::ptr_eq(&one.0, &other.0));
        assert_ne!(one, word("two"));
        let mut changed = other;
        changed.text.push('!');
        assert_eq!((one.text.as_str(), changed.text.as_str()), ("one", "one!"));
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let pool = Pool::new();
        let kept = pool.keep(0);
        for number in 1..10_000 {
            pool.keep(number);
        }
        assert!(pool.0.lock().unwrap().by_hash.len() <= 2 * ROOM);
        assert!(Arc::ptr_eq(&kept, &pool.keep(0)));
    }
}
