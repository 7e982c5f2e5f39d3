//! A line of those who wait for room.
//!
//! They are let in from the front, as many as fit: a thousand in line cost a thousand wake-ups in all, not a thousand
//! each time there is room for one. The room of who was let in is promised until it has used it, or gone, so that
//! nobody who comes later can take it.

use std::collections::VecDeque;
use std::task::Waker;

/// Where somebody is on the way through a [`Line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Step {
    /// Not in line.
    #[default]
    Outside,
    /// In line, at this place.
    Standing(u64),
    /// Let in: its room is promised.
    Inside,
}

/// See the head of this file. `used` and `limit` always mean the room that is taken now, without what is promised, and
/// the room there is; somebody is let in while there is any left, so the last one may go over the limit.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// The place at the front; whoever has one before it was let in.
    first: u64,
    /// `None`: it has gone.
    standing: VecDeque<Option<Standing>>,
    promised: usize,
}

#[derive(Debug)]
struct Standing {
    size: usize,
    waker: Waker,
}

impl Line {
    /// Whether somebody who comes now need not stand in line.
    #[inline]
    pub(crate) fn has_room(&self, used: usize, limit: usize) -> bool {
        self.standing.is_empty() && used.saturating_add(self.promised) < limit
    }

    /// Goes on; true once inside. `size` is the room it will use.
    pub(crate) fn advance(
        &mut self,
        step: &mut Step,
        size: usize,
        (used, limit): (usize, usize),
        waker: &Waker,
    ) -> bool {
        match *step {
            Step::Inside => {}
            Step::Outside if self.has_room(used, limit) => {
                self.promised += size;
                *step = Step::Inside;
            }
            Step::Outside => {
                let waker = waker.clone();
                *step = Step::Standing(self.first + self.standing.len() as u64);
                self.standing.push_back(Some(Standing { size, waker }));
            }
            Step::Standing(place) => match self.at(place) {
                None => *step = Step::Inside,
                Some(Some(standing)) => standing.waker.clone_from(waker),
                Some(None) => unreachable!("who has gone does not come back to its place"),
            },
        }
        *step == Step::Inside
    }

    /// Goes away, having used its room or not. [`Line::let_in`] should follow.
    pub(crate) fn leave(&mut self, step: Step, size: usize) {
        match step {
            Step::Outside => {}
            Step::Inside => self.promised -= size,
            Step::Standing(place) => match self.at(place) {
                None => self.promised -= size, // let in, and did not know it yet
                Some(standing) => *standing = None,
            },
        }
        // Those who gave up must not pile up where nobody is ever let in.
        while let Some(None) = self.standing.front() {
            self.standing.pop_front();
            self.first += 1;
        }
        while let Some(None) = self.standing.back() {
            self.standing.pop_back();
        }
    }

    /// Lets in and wakes as many as fit.
    #[inline]
    pub(crate) fn let_in(&mut self, used: usize, limit: usize) {
        while !self.standing.is_empty() && used.saturating_add(self.promised) < limit {
            self.first += 1;
            if let Some(Standing { size, waker }) = self.standing.pop_front().flatten() {
                self.promised += size;
                waker.wake();
            }
        }
    }

    /// Lets everybody in, to see that there is no room any more and why.
    pub(crate) fn let_all_in(&mut self) {
        self.let_in(0, usize::MAX);
    }

    /// Who stands at a place; `None`: it was let in.
    fn at(&mut self, place: u64) -> Option<&mut Option<Standing>> {
        let index = place.checked_sub(self.first)?;
        self.standing.get_mut(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_thousand_in_line_are_woken_once_each_and_in_order() {
        let (mut line, woken) = (Line::default(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut steps = [Step::Outside; 1000];
        let mut used = 10;
        for step in &mut steps {
            assert!(!line.advance(step, 1, (used, 10), &waker));
        }
        for next in (0..1000).step_by(10) {
            used = 0;
            line.let_in(used, 10);
            assert_eq!(woken.0.load(Ordering::Relaxed), next + 10);
            for (index, step) in steps.iter_mut().enumerate().skip(next) {
                assert_eq!(line.advance(step, 1, (used, 10), &waker), index < next + 10);
            }
            for step in &mut steps[next..next + 10] {
                used += 1;
                line.leave(std::mem::take(step), 1);
                line.let_in(used, 10);
            }
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1000);
        assert_eq!((line.promised, line.standing.len()), (0, 0));
    }

    #[test]
    fn nobody_passes_the_line_and_who_gives_up_passes_its_room_on() {
        let mut line = Line::default();
        let (mut a, mut b, mut c) = Default::default();
        let waker = Waker::noop();
        assert!(line.advance(&mut a, 5, (0, 5), waker));
        assert!(!line.advance(&mut b, 5, (0, 5), waker));
        line.leave(a, 5);
        line.let_in(0, 5);
        assert!(
            !line.advance(&mut c, 5, (0, 5), waker),
            "what is free is promised to b"
        );
        line.leave(b, 5); // it was let in and never ran
        line.let_in(0, 5);
        assert!(line.advance(&mut c, 5, (0, 5), waker));
        line.leave(c, 5);
        assert!(line.has_room(4, 5) && !line.has_room(5, 5));
    }

    /// However they come, go and give up: promises are kept, room is never left while somebody stands, order holds.
    #[test]
    fn any_order_of_coming_and_going() {
        for seed in 0..300 {
            let random = &mut Random(seed);
            let mut line = Line::default();
            let mut people: Vec<(Step, usize)> = Vec::new();
            let (mut used, limit) = (0, 20);
            for _ in 0..300 {
                match random.below(5) {
                    0 | 1 => people.push((Step::Outside, 1 + random.below(7))),
                    2 if !people.is_empty() => {
                        let (step, size) = people.remove(random.below(people.len()));
                        if step == Step::Inside {
                            used += size;
                        }
                        line.leave(step, size);
                    }
                    3 => used -= random.below(used + 1),
                    _ => {}
                }
                line.let_in(used, limit);
                let room = (used, limit);
                for (step, size) in &mut people {
                    line.advance(step, *size, room, Waker::noop());
                }
                let promised = people.iter().filter(|(step, _)| *step == Step::Inside);
                assert_eq!(
                    line.promised,
                    promised.map(|(_, size)| size).sum::<usize>(),
                    "{seed}"
                );
                let first_out = people.iter().position(|(step, _)| *step != Step::Inside);
                if let Some(first_out) = first_out {
                    assert!(used + line.promised >= limit, "{seed}: room for who stands");
                    let behind = &people[first_out..];
                    assert!(
                        behind.iter().all(|(step, _)| *step != Step::Inside),
                        "{seed}"
                    );
                }
            }
            assert!(line.standing.back().is_none_or(Option::is_some), "{seed}");
        }
    }
}
