//! What was granted in a run, but not asked for before the run's end: a future that outlives its
//! run may own a permit, which it uses in the next or gives back.

use crate::{across, kernel::wait::WaitId};

across::local!(UNCLAIMED: Vec<(u32, WaitId)> = Vec::new());

/// Keeps a grant of a run that ends now.
pub(crate) fn keep(run: u32, wait: WaitId) {
    look(|all| all.push((run, wait)));
}

/// True if this wait was granted in this run, which is over.
pub(super) fn is_kept(run: u32, wait: WaitId) -> bool {
    look(|all| all.contains(&(run, wait))).unwrap_or(false)
}

/// Takes the grant of this wait; false if there was none.
pub(super) fn claim(run: u32, wait: WaitId) -> bool {
    look(|all| {
        let place = all.iter().position(|kept| *kept == (run, wait));
        place.map(|place| all.swap_remove(place)).is_some()
    })
    .unwrap_or(false)
}

/// Nothing is found while the thread ends.
fn look<R>(f: impl FnOnce(&mut Vec<(u32, WaitId)>) -> R) -> Option<R> {
    let looked = UNCLAIMED.try_with(|cell| {
        let mut all = cell.take();
        let found = f(&mut all);
        cell.set(all);
        found
    });
    looked.ok()
}
