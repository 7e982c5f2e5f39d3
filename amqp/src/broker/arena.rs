//! Slots with keys that go stale: the broker's tables of peers, queues and consumers.
//!
//! Peers, queues and consumers point at each other in circles, and any of them may vanish at any time. They
//! live in arenas and name each other by [`Key`]; a key of something that is gone finds nothing, even if its slot
//! has been given to another. So nobody has to be told to forget a key.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// The name of one value in an [`Arena<T>`].
pub(crate) struct Key<T> {
    index: u32,
    /// Which tenant of the slot is meant.
    serial: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// Both halves in one number, for names that carry a key over the wire.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.serial)
    }

    /// The reverse of [`Key::to_bits`]. Any number will do: a made-up key finds nothing.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Key {
            index: (bits >> 32) as u32,
            serial: bits as u32,
            of: PhantomData,
        }
    }
}

// Derived, these would ask `T` for the same traits.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.serial) == (other.index, other.serial)
    }
}
impl<T> Eq for Key<T> {}
impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.index, self.serial).cmp(&(other.index, other.serial))
    }
}
impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_bits().hash(state);
    }
}
impl<T> std::fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.serial)
    }
}

struct Slot<T> {
    serial: u32,
    value: Option<T>,
}

/// Values with stable keys.
pub(crate) struct Arena<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Arena<T> {
    /// Takes a value in; its key holds until [`Arena::remove`].
    pub(crate) fn insert(&mut self, value: T) -> Key<T> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                serial: 0,
                value: None,
            });
            u32::try_from(self.slots.len() - 1).expect("four thousand million values do not fit")
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Key {
            index,
            serial: slot.serial,
            of: PhantomData,
        }
    }

    /// Takes a value out. Its key finds nothing from now on.
    pub(crate) fn remove(&mut self, key: Key<T>) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.serial != key.serial {
            return None;
        }
        let value = slot.value.take()?;
        // A slot that has used up its serial numbers is never given away again.
        if let Some(next) = slot.serial.checked_add(1) {
            slot.serial = next;
            self.free.push(key.index);
        }
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, key: Key<T>) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        slot.value.as_ref().filter(|_| slot.serial == key.serial)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        let serial = slot.serial;
        slot.value.as_mut().filter(|_| serial == key.serial)
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let key = Key {
                index: index as u32,
                serial: slot.serial,
                of: PhantomData,
            };
            slot.value.as_ref().map(|value| (key, value))
        })
    }

    pub(crate) fn keys(&self) -> Vec<Key<T>> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_find_the_next_tenant() {
        let mut arena = Arena::default();
        let old = arena.insert("old");
        assert_eq!(arena.remove(old), Some("old"));
        let new = arena.insert("new");
        assert_eq!(arena.get(old), None);
        assert_eq!(arena.remove(old), None);
        assert_eq!(arena.get_mut(new), Some(&mut "new"));
        assert_eq!(arena.len(), 1);
        assert_eq!(Key::from_bits(new.to_bits()), new);
        assert_eq!(arena.get(Key::from_bits(u64::MAX)), None);
    }
}
