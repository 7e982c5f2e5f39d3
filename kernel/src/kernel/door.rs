//! The kernel's side of the door: what each trap means.

use std::ops::ControlFlow::{self, Break, Continue};

use crate::{
    error::Error,
    kernel::{
        Core, Due,
        outside::bell::find_bell,
        reactor::{READ, Source, WRITE},
        step::Left,
        wait::{Answer, NONE, Stage, WaitId},
    },
    trap::Trap,
};

impl Core {
    /// Reads what was asked for, in the order of asking.
    #[inline]
    pub(crate) fn read_door(&self) {
        if self.left.take(Left::REQUESTS) {
            self.read_requests();
        }
    }

    #[inline(never)]
    fn read_requests(&self) {
        let count = self.door.borrow().len();
        for n in 0..count {
            let wait = self.door.borrow()[n];
            if wait == NONE {
                continue; // it was dropped in the poll in which it was asked for
            }
            if let ControlFlow::Break(answer) = self.handle(wait) {
                self.answer(wait, answer);
            }
        }
        self.door.borrow_mut().clear(); // no trap's meaning puts another in front of the door
    }

    /// The heart: what each trap means. Breaks off with the answer, if it is there at once.
    #[inline]
    fn handle(&self, id: WaitId) -> ControlFlow<Answer> {
        let waits = self.waits.borrow();
        let wait = waits.get(id);
        match &wait.trap {
            Trap::Sleep(until) => {
                wait.set_timer(self.timers.borrow_mut().arm(*until, Due::Wait(id)));
            }
            Trap::Wait(queue) => waits.enqueue(queue.first(), id),
            Trap::Readable(source) => {
                self.wait_for_source(id, &source.0, READ)?;
                if source.is_in_doubt() {
                    self.reactor.wait_in_doubt(&source.0);
                }
            }
            Trap::Writable(source) => self.wait_for_source(id, &source.0, WRITE)?,
            Trap::Join(task) => match self.tasks.borrow().get(*task) {
                None => return Break(Ok(())), // it has ended
                Some(task) if wait.task.as_ref().is_some_and(|own| own.is(task)) => {
                    return Break(Err(Error::OneSelf));
                }
                Some(task) => waits.enqueue(&task.record.joiners, id),
            },
            Trap::Bell(bell) => match find_bell(&self.bells.borrow(), *bell) {
                Some(state) if state.rung.replace(false) => return Break(Ok(())),
                Some(state) if state.waiter.get() == NONE => state.waiter.set(id),
                Some(_) => return Break(Err(Error::Busy)),
                None => return Break(Err(Error::Closed)),
            },
        }
        wait.stage.set(Stage::Suspended);
        Continue(())
    }

    /// Puts a wait to a source; or it is ready, another kernel's, or has another's wait already.
    #[inline]
    fn wait_for_source(
        &self,
        wait: WaitId,
        source: &Source,
        direction: usize,
    ) -> ControlFlow<Answer> {
        let (ready, ours) = (source.is_ready(direction), source.is_of(self));
        if ready && !(ours && source.is_in_doubt(direction)) {
            return Break(Ok(()));
        }
        if !ours {
            return Break(Err(Error::OtherRun));
        }
        if source.waiter[direction].get() != NONE {
            return Break(Err(Error::Busy));
        }
        source.waiter[direction].set(wait);
        Continue(())
    }
}
