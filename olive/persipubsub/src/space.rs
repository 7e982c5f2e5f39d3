//! Room on the disk and in the map, judged before an insertion, so that deletes always succeed.
//!
//! LMDB copies every page it changes, so even a delete needs free pages. Insertions therefore stop
//! while a reserve is left: of pages in the map, and of pages that the file system has promised to
//! the file (`fallocate` ahead of use, so a full disk is noticed by an insertion and never by a
//! delete).

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use heed::{Env, RoTxn, WithoutTls};

use crate::error::{Error, Resource, Result};
use crate::op::{Backlog, Op, Target};
use crate::record::{Head, INLINE_MAX};
use crate::sys;
use crate::trees::Trees;
use crate::tx::Tx;

pub(crate) struct Space {
    file: File,
    page: u64,
    map_pages: u64,
    /// Bytes of the file known to be allocated.
    allocated: AtomicU64,
}

impl Space {
    pub(crate) fn new(env: &Env<WithoutTls>) -> Result<Self> {
        let page = u64::from(env.stat().page_size);
        let map_pages = env.info().map_size as u64 / page;
        Ok(Space {
            file: env.try_clone_inner_file()?,
            page,
            map_pages,
            allocated: AtomicU64::new(0),
        })
    }

    /// Pages that insertions leave alone.
    pub(crate) fn reserve(&self) -> u64 {
        (self.map_pages / 16).clamp(64, 1024)
    }

    /// The same for a file that is about to take this one's place: the reserve comes after its end.
    pub(crate) fn hold_reserve_in(&self, file: &File) -> Result<()> {
        let len = file.metadata()?.len() + self.reserve() * self.page;
        Ok(sys::allocate(file, len.min(self.map_pages * self.page))?)
    }

    /// Has the disk keep what every store needs to be drained; asked before one is made.
    pub(crate) fn hold_reserve(&self) -> Result<()> {
        match self.allocate(self.reserve())? {
            true => Ok(()),
            false => Err(Error::Full(Resource::Disk)),
        }
    }

    /// A bound for the pages that an operation adds; `None` for those that must always succeed.
    pub(crate) fn need(&self, (trees, tx): (&Trees, &Tx), op: &Op) -> Result<Option<u64>> {
        Ok(match op {
            Op::Publish(publish) => {
                let queues = match &publish.target {
                    Target::All => tx.config().subscribers().count(),
                    Target::Queues(ids) => ids.len(),
                };
                let lens = publish.bodies.iter().map(Vec::len);
                Some(pages(lens, queues as u64, self.page))
            }
            Op::AddQueue {
                name,
                backlog: Backlog::Now,
                ..
            } => Some(pages([name.len()].into_iter(), 0, self.page)),
            Op::AddQueue {
                backlog: Backlog::Oldest,
                ..
            } => {
                // Each message's count of references changes, and each may get an entry.
                let stat = trees.messages.stat(tx.txn())?;
                let entries = pages(std::iter::repeat_n(0, stat.entries), 1, self.page);
                Some((stat.branch_pages + stat.leaf_pages) as u64 + entries)
            }
            Op::PutUser {
                value: Some(value), ..
            } => Some(pages([value.len()].into_iter(), 0, self.page)),
            _ => None,
        })
    }

    /// Refuses what needs so many pages more and cannot have them. `taken` counts the pages promised so far in
    /// this transaction.
    pub(crate) fn admit(
        &self,
        env: &Env<WithoutTls>,
        (trees, txn): (&Trees, &RoTxn),
        need: u64,
        taken: &mut u64,
    ) -> Result<()> {
        let end = env.info().last_page_number as u64 + 1 + *taken + need + self.reserve();
        let (in_map, on_disk) = (
            end <= self.map_pages,
            self.allocate(end.min(self.map_pages))?,
        );
        if !in_map || !on_disk {
            // The file cannot grow so far; perhaps enough pages in it are free again.
            let pages = if on_disk {
                self.map_pages
            } else {
                self.file.metadata()?.len() / self.page
            };
            if used_pages(trees, txn)? + need + self.reserve() > pages {
                return Err(Error::Full(if on_disk {
                    Resource::Map
                } else {
                    Resource::Disk
                }));
            }
        }
        *taken += need;
        Ok(())
    }

    /// Sees to it that the file has `pages`; `false` if the disk has no room for them.
    fn allocate(&self, pages: u64) -> Result<bool> {
        let want = pages * self.page;
        if want <= self.allocated.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let len = self.file.metadata()?.len();
        let ahead = (len / 8).clamp(256 << 10, 64 << 20);
        let most = (want + ahead).next_multiple_of(self.page);
        let most = most.min(self.map_pages * self.page);
        for target in [most, want] {
            match sys::allocate(&self.file, target).map_err(Error::from) {
                Ok(()) => {
                    self.allocated.store(target, Ordering::Relaxed);
                    return Ok(true);
                }
                Err(Error::Full(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// Pages in use, those of LMDB's own free list aside (the reserve covers them).
pub(crate) fn used_pages(trees: &Trees, txn: &RoTxn) -> Result<u64> {
    let mut pages = 2;
    for tree in trees.all() {
        let stat = tree.stat(txn)?;
        pages += (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64;
    }
    Ok(pages)
}

/// A bound for the pages that storing these bodies takes.
fn pages(lens: impl Iterator<Item = usize>, queues: u64, page: u64) -> u64 {
    const NODE: u64 = 10 + 8; // LMDB's node head and slot, and our key
    let (mut records, mut blobs, mut count) = (0, 0, 0);
    for len in lens {
        count += 1;
        match len <= INLINE_MAX {
            true => records += NODE + (Head::LEN + len) as u64,
            false => {
                records += NODE + Head::LEN as u64;
                blobs += 1 + (len as u64 + 16).div_ceil(page);
            }
        }
    }
    let entries = count * queues * (NODE + 8);
    // Half-filled pages at worst, and the paths from the roots of all trees.
    32 + blobs + 2 * records / page + 2 * entries / page + queues
}

#[cfg(test)]
mod tests {
    use super::pages;

    #[test]
    fn the_bound_grows_with_bodies_and_queues() {
        assert!(pages([64].into_iter(), 1, 4096) <= 34);
        assert!(pages([1 << 20].into_iter(), 1, 4096) >= 256 + 32);
        assert!(pages([64; 1000].into_iter(), 4, 4096) > pages([64; 1000].into_iter(), 1, 4096));
    }
}
