//! A read has got something: is there more?
//!
//! A read that filled its buffer says nothing about that, nor does a short one where those are not
//! trusted. To ask the system costs a system call, which says no wherever messages have one size
//! and the buffer fits. To believe that there is nothing may be wrong, and no edge would say so. So
//! a source of which such reads have got the whole several times over is *in doubt* after the next:
//! who then waits for it is answered by an event, as usual, or, if none comes while the kernel has
//! something else to do, by being told to try.

use std::{cell::Cell, rc::Rc};

use crate::kernel::reactor::Source;

/// Reads that got all there was, in a row, before the next one is believed to have done so.
const ENOUGH: u8 = 8;

/// What is known of one source since its last read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Since {
    /// Nothing that would leave it open.
    #[default]
    Other,
    /// It got something; the next try will tell whether there was more.
    Open,
    /// As before, and there is usually not.
    InDoubt,
}

/// What was learnt of one source.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    since: Cell<Since>,
    /// Reads that got the whole, in a row.
    whole: Cell<u8>,
    /// Its place in the list of those that are waited for, if it is there.
    place: Cell<Option<u32>>,
}

impl Doubt {
    pub(crate) fn is_open(&self) -> bool {
        self.since.get() == Since::InDoubt
    }

    /// A read got something, and leaves open whether it was all.
    pub(crate) fn begin(&self) {
        self.found_more();
        self.since.set(match self.whole.get() {
            ENOUGH => Since::InDoubt,
            _ => Since::Open,
        });
    }

    /// A read got something, and it was all: but the one before had left that.
    pub(crate) fn found_more(&self) {
        if self.since.take() != Since::Other {
            self.whole.set(0);
        }
    }

    /// A read found nothing.
    pub(crate) fn found_nothing(&self) {
        if self.since.take() == Since::Open {
            self.whole.set(self.whole.get() + 1);
        }
    }

    /// The next read is to try: the system spoke of the source, or who waited has given up, and would
    /// wait in vain for ever if that happened at each attempt.
    pub(crate) fn end(&self) {
        self.since.set(Since::Other);
    }

    /// No word came while it was waited for: the doubt has gained nothing.
    pub(crate) fn was_in_vain(&self) {
        self.since.set(Since::Other);
        self.whole.set(0);
    }
}

/// The sources in doubt that are waited for. Who is answered, or gives up, leaves at once.
#[derive(Default)]
pub(crate) struct Doubted(Vec<Waiting>);

struct Waiting {
    source: Rc<Source>,
    /// There was a look for I/O since, and other things to do.
    looked: bool,
}

impl Doubted {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, source: &Rc<Source>) {
        source.doubt.place.set(Some(self.0.len() as u32));
        self.0.push(Waiting {
            source: source.clone(),
            looked: false,
        });
    }

    /// Takes it out, if it is there.
    #[inline]
    pub(crate) fn remove(&mut self, source: &Source) {
        if let Some(place) = source.doubt.place.get() {
            self.take(place as usize);
        }
    }

    fn take(&mut self, place: usize) -> Rc<Source> {
        let taken = self.0.swap_remove(place);
        taken.source.doubt.place.set(None);
        if let Some(moved) = self.0.get(place) {
            moved.source.doubt.place.set(Some(place as u32));
        }
        taken.source
    }

    /// After a look for I/O: tells those that were there at the one before already, or all.
    #[inline]
    pub(crate) fn settle(&mut self, all: bool, mut tell: impl FnMut(&Source)) {
        let mut place = 0;
        while let Some(waiting) = self.0.get_mut(place) {
            if waiting.looked || all {
                tell(&self.take_in_vain(place));
            } else {
                waiting.looked = true;
                place += 1;
            }
        }
    }

    #[inline(never)]
    fn take_in_vain(&mut self, place: usize) -> Rc<Source> {
        let source = self.take(place);
        source.doubt.was_in_vain();
        source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So often that the next read is believed to have got the whole.
    fn learnt() -> Doubt {
        let doubt = Doubt::default();
        for _ in 0..ENOUGH {
            doubt.begin();
            assert!(!doubt.is_open());
            doubt.found_nothing();
        }
        doubt
    }

    #[test]
    fn it_doubts_after_enough_and_goes_on_as_long_as_it_is_right() {
        let doubt = learnt();
        for _ in 0..100 {
            doubt.begin();
            assert!(doubt.is_open());
            doubt.end();
            assert!(!doubt.is_open());
        }
        // Tried all the same, and there was nothing: right again.
        doubt.begin();
        doubt.found_nothing();
        doubt.begin();
        assert!(doubt.is_open());
    }

    #[test]
    fn one_error_and_it_has_to_learn_anew() {
        let errors: [fn(&Doubt); 3] = [Doubt::found_more, Doubt::begin, Doubt::was_in_vain];
        for error in errors {
            let doubt = learnt();
            doubt.begin();
            error(&doubt);
            doubt.found_nothing();
            doubt.begin();
            assert!(!doubt.is_open());
        }
    }

    #[test]
    fn heads_and_bodies_that_come_together_are_never_doubted() {
        let doubt = Doubt::default();
        for _ in 0..100 {
            doubt.begin(); // the head
            doubt.begin(); // the body, there already
            assert!(!doubt.is_open());
            doubt.found_nothing();
            doubt.end();
        }
    }
}
