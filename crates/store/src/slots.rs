//! Directories for drafts, used again and again.
//!
//! Making and above all deleting directories is what a draft costs, so a slot keeps its overlay work directories, and its
//! upper directory if nothing was written to it. Slots wait in a line before they are used again: the kernel may still be
//! taking the last mount apart.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use crate::{DiskError, Inner, disk, disk::on};

/// Slots that wait before the first is used again.
const WAIT: usize = 8;
/// More slots than this are not kept.
const KEEP: usize = 64;

/// The slots that are not in use.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    free: Mutex<VecDeque<Slot>>,
}

/// `drafts/<id>`.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) dir: PathBuf,
    /// How many work directories there are.
    works: u32,
    /// Whether an empty upper directory is there that was never mounted.
    upper: bool,
}

impl Slot {
    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// Work directory `n` of the draft that uses the slot, ready for a mount. If it cannot be made, mounting says so.
    pub(crate) fn work(&self, store: &Inner, n: u32) -> PathBuf {
        let work = self.dir.join("work").join(n.to_string());
        if n < self.works {
            // The mark of a volatile mount, because of which the kernel would refuse another.
            store.trash.take_or_warn(&work.join("work/incompat"));
        } else if let Err(error) = fs::create_dir_all(&work) {
            tracing::debug!(path = %work.display(), %error, "cannot make a work directory");
        }
        work
    }
}

impl Inner {
    /// A slot with an empty upper directory.
    pub(crate) fn take_slot(&self) -> Result<Slot, DiskError> {
        let waiting = {
            let mut free = self
                .slots
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if free.len() > WAIT {
                free.pop_front()
            } else {
                None
            }
        };
        let slot = match waiting {
            Some(slot) => slot,
            None => {
                let dir = self.layout.draft(self.new_id());
                fs::create_dir(&dir).map_err(on("create", &dir))?;
                Slot {
                    dir,
                    works: 0,
                    upper: false,
                }
            }
        };
        if !slot.upper {
            disk::make_dir(&slot.upper(), 0o755)?;
        }
        Ok(slot)
    }

    /// Gives a slot back. `clean` says that its upper directory is empty and was never mounted; another one goes.
    pub(crate) fn give_back(&self, mut slot: Slot, mounts: u32, clean: bool) {
        slot.works = slot.works.max(mounts);
        slot.upper = clean;
        if !clean {
            self.trash.take_or_warn(&slot.upper());
        }
        let mut free = self
            .slots
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEEP && slot.works < 4 {
            free.push_back(slot);
            return;
        }
        drop(free);
        self.trash.take_or_warn(&slot.dir);
    }
}
