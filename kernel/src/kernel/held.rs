//! `RefCell` without the price: the kernel's tables.
//!
//! A task's step goes through half a dozen tables, and the borrow flags of as many `RefCell`s are a
//! third of what a step costs. The kernel keeps one rule that makes them needless: *no guard is
//! held while foreign code runs* (a poll, a drop of a future, a waker, a user's closure). Builds
//! with debug assertions check each borrow, as `RefCell` does, and all tests run in such builds.

use std::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

#[cfg(debug_assertions)]
type Flag = std::cell::Cell<isize>;

/// A table of the kernel. `!Sync`, like any cell.
pub(crate) struct Held<T> {
    #[cfg(debug_assertions)]
    flag: Flag,
    value: UnsafeCell<T>,
}

impl<T> Held<T> {
    pub(crate) fn new(value: T) -> Held<T> {
        Held {
            #[cfg(debug_assertions)]
            flag: Flag::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Shared access, for less than a statement of foreign code.
    #[inline]
    #[track_caller]
    pub(crate) fn borrow(&self) -> Shared<'_, T> {
        #[cfg(debug_assertions)]
        {
            assert!(self.flag.get() >= 0, "a table is read while it is changed");
            self.flag.set(self.flag.get() + 1);
        }
        Shared { held: self }
    }

    /// Exclusive access, for less than a statement of foreign code.
    #[inline]
    #[track_caller]
    pub(crate) fn borrow_mut(&self) -> Exclusive<'_, T> {
        #[cfg(debug_assertions)]
        {
            assert!(
                self.flag.get() == 0,
                "a table is changed while it is in use"
            );
            self.flag.set(-1);
        }
        Exclusive { held: self }
    }

    #[inline]
    pub(crate) fn replace(&self, value: T) -> T {
        std::mem::replace(&mut *self.borrow_mut(), value)
    }

    #[inline]
    pub(crate) fn take(&self) -> T
    where
        T: Default,
    {
        self.replace(T::default())
    }
}

impl<T: Default> Default for Held<T> {
    fn default() -> Held<T> {
        Held::new(T::default())
    }
}

/// What [`Held::borrow`] gives.
pub(crate) struct Shared<'a, T> {
    held: &'a Held<T>,
}

/// What [`Held::borrow_mut`] gives.
pub(crate) struct Exclusive<'a, T> {
    held: &'a Held<T>,
}

impl<T> Deref for Shared<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `Held` is `!Sync`, so all guards are on this thread. No `Exclusive` is alive:
        // the rule at the head of this file, which debug builds assert in `borrow`.
        unsafe { &*self.held.value.get() }
    }
}

impl<T> Deref for Exclusive<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as for `deref_mut`.
        unsafe { &*self.held.value.get() }
    }
}

impl<T> DerefMut for Exclusive<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `Held` is `!Sync`, and this is the only guard alive: the rule at the head of
        // this file, which debug builds assert in `borrow_mut`.
        unsafe { &mut *self.held.value.get() }
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for Shared<'_, T> {
    fn drop(&mut self) {
        self.held.flag.set(self.held.flag.get() - 1);
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for Exclusive<'_, T> {
    fn drop(&mut self) {
        self.held.flag.set(0);
    }
}
