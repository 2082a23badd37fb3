//! What there may be only so many of at once: answers, and pages that are kept up to date.
//!
//! Nothing here waits: who comes when there are enough is turned away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One of a bounded number.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// `None`: there are so many already.
    pub fn below(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let one = Self(Arc::clone(count));
        // Counted down again by the drop if it was one too many.
        (count.fetch_add(1, Ordering::SeqCst) < most).then_some(one)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
