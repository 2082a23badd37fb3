//! The border to redb: a panic inside it is an error here.
//!
//! redb trusts its own structures and panics where they are broken. Pages are checked before redb sees them (see
//! [`super::pages`]), so this is the second line: for what no checksum covers. A panic of piton's own code is a mistake of
//! piton's, never damage, and goes on as it is. Nothing is printed for a panic that becomes an error.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::Once;

use super::error::JournalError;

thread_local! {
    /// How many guards this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Place and words of the last panic inside one.
    static LAST: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Directory of this crate's sources, as panics name it.
fn is_ours(place: &str) -> bool {
    file!().strip_suffix("journal/guard.rs").is_some_and(|root| place.starts_with(root))
}

/// Puts a hook before the one there is, which keeps the panics inside guards from the screen; once in a process.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 || is_ours(&place_of(info)) {
                before(info);
            } else {
                let words = info.payload_as_str().unwrap_or("no message").to_owned();
                LAST.with_borrow_mut(|last| *last = Some((place_of(info), words)));
            }
        }));
    });
}

fn place_of(info: &PanicHookInfo<'_>) -> String {
    info.location().map(ToString::to_string).unwrap_or_default()
}

/// Calls into redb; a panic in there is [`JournalError::Corrupted`].
///
/// # Errors
/// What `body` fails with, and that.
pub(super) fn guarded<T, E: From<JournalError>>(body: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    quieten();
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get().saturating_sub(1));
    result.unwrap_or_else(|payload| Err(told(payload).into()))
}

fn told(payload: Box<dyn Any + Send>) -> JournalError {
    let Some((place, words)) = LAST.with_borrow_mut(Option::take) else { resume_unwind(payload) };
    log::debug!("panic at {place}: {words}");
    JournalError::Corrupted(format!("its structure is broken ({words})"))
}

/// An iterator over redb, each step guarded; it ends with its first error.
pub(super) struct Guarded<I> {
    inner: Option<I>,
}

impl<I> Guarded<I> {
    pub(super) fn new(inner: I) -> Self {
        Self { inner: Some(inner) }
    }
}

impl<T, I: Iterator<Item = Result<T, JournalError>>> Iterator for Guarded<I> {
    type Item = Result<T, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let inner = self.inner.as_mut()?;
        let step = guarded(|| inner.next().transpose()).transpose();
        if !matches!(step, Some(Ok(_))) {
            self.inner = None;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_elsewhere_is_damage_and_one_of_ours_is_not() {
        let far = guarded(|| -> Result<usize, JournalError> {
            // Raised inside `alloc`, as redb's are raised inside redb: not at a place of this crate.
            Ok(Vec::<u64>::with_capacity(std::hint::black_box(usize::MAX)).len())
        });
        match far {
            Err(JournalError::Corrupted(words)) => assert!(words.contains("capacity overflow"), "{words}"),
            other => panic!("{other:?}"),
        }
        let ours = catch_unwind(|| guarded(|| -> Result<u8, JournalError> { panic!("a mistake") }));
        assert_eq!(ours.unwrap_err().downcast_ref(), Some(&"a mistake"));
        assert_eq!(DEPTH.get(), 0);
    }

    #[test]
    fn a_guarded_iterator_ends_with_its_error() {
        let items = [Ok(1), Err(JournalError::Earlier), Ok(2)];
        let seen: Vec<_> = Guarded::new(items.into_iter()).map(|item| item.ok()).collect();
        assert_eq!(seen, [Some(1), None]);
    }
}
