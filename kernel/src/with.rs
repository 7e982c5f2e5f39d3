//! A future with something beside it: the crate's pin projection, written once.
//!
//! Why not `async { let d = data; future.await }`? Such a block keeps the future twice, as what
//! it captured and as what it awaits; ten timeouts around each other would need a thousand times
//! the space of the innermost future.

use std::pin::Pin;

/// A pinned future and data that is not pinned. The future is dropped first.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct With<F, D> {
    future: F,
    data: D,
}

/// Pinning says nothing about the data.
impl<F: Unpin, D> Unpin for With<F, D> {}

impl<F, D> With<F, D> {
    pub(crate) fn new(future: F, data: D) -> With<F, D> {
        With { future, data }
    }

    /// Both parts, the future pinned.
    pub(crate) fn split(self: Pin<&mut Self>) -> (Pin<&mut F>, &mut D) {
        // SAFETY: the four rules of pin projection hold. `future` is never moved out of `self`
        // and nobody gets a plain `&mut` to it; `With` has no `Drop` of its own; it is `Unpin`
        // only if `F` is; it is not `repr(packed)`. `data` is never treated as pinned.
        unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.future), &mut this.data)
        }
    }
}
