//! A page, or what else takes long to make, made anew by one thread at a time while nobody holds a lock.
//!
//! Whoever asks meanwhile waits for that one, but not for long: then the one before it is shown, or that it is being
//! made.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A page that took so long to make is kept so many times as long before it is made anew.
const KEPT_FOR: u32 = 5;

/// How long a request waits for a new one.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A page, of bytes if nothing else is said, or why there is none.
pub type Html<T = Vec<u8>> = Result<Arc<T>, String>;

#[derive(Debug)]
pub struct Page<T = Vec<u8>> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    last: Option<Made<T>>,
    rounds: u64,
    making: bool,
}

#[derive(Debug)]
struct Made<T> {
    at: Instant,
    took: Duration,
    html: Html<T>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { last: None, rounds: 0, making: false }), changed: Condvar::new() }
    }
}

impl<T: Send + Sync + 'static> Page<T> {
    /// The page; `make` makes one if the last is too old, and `None` is: it takes longer than `patience`.
    pub fn get<M>(self: &Arc<Self>, patience: Duration, make: M) -> Option<Html<T>>
    where
        M: FnOnce() -> Html<T> + Send + 'static,
    {
        let mut state = self.state();
        if let Some(last) = &state.last
            && last.html.is_ok()
            && last.at.elapsed() < last.took.saturating_mul(KEPT_FOR)
        {
            return Some(last.html.clone());
        }
        let before = state.rounds;
        if !state.making {
            state.making = true;
            let making = Making { page: Arc::clone(self), begun: Instant::now(), html: None };
            let thread = move || {
                let mut making = making;
                making.html = Some(make());
            };
            // A thread that does not start drops what it was given, which the other end notices. It must not find the lock taken.
            drop(state);
            if let Err(error) = std::thread::Builder::new().name("page".into()).spawn(thread) {
                log::warn!("cannot make the page: {error}");
            }
            state = self.state();
        }
        let waited = self.changed.wait_timeout_while(state, patience, |state| state.rounds == before);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.last {
            Some(last) if state.rounds != before || last.html.is_ok() => Some(last.html.clone()),
            _ => None,
        }
    }

    /// The last one that could be made, whatever its age.
    pub fn last(&self) -> Option<Arc<T>> {
        self.state().last.as_ref().and_then(|last| last.html.as_ref().ok().cloned())
    }
}

impl<T> Page<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page in the making: however that ends, those who wait hear of it.
struct Making<T> {
    page: Arc<Page<T>>,
    begun: Instant,
    html: Option<Html<T>>,
}

impl<T> Drop for Making<T> {
    fn drop(&mut self) {
        let html = self.html.take().unwrap_or_else(|| Err("the page could not be made".to_owned()));
        let mut state = self.page.state();
        state.last = Some(Made { at: Instant::now(), took: self.begun.elapsed(), html });
        state.rounds += 1;
        state.making = false;
        drop(state);
        self.page.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(300);

    fn text(html: Option<Html>) -> Option<Result<String, String>> {
        html.map(|html| html.map(|html| String::from_utf8_lossy(&html).into_owned()))
    }

    fn made(text: &str) -> Html {
        Ok(Arc::new(text.into()))
    }

    /// What was made in that round, once it was.
    fn of_round(page: &Arc<Page>, round: u64) -> Option<Result<String, String>> {
        let state = page.changed.wait_while(page.state(), |state| state.rounds < round).unwrap();
        text(state.last.as_ref().map(|made| made.html.clone()))
    }

    /// Something that makes a page when it is let.
    fn gated(words: &'static str) -> (mpsc::Sender<()>, impl FnOnce() -> Html + Send) {
        let (go, gate) = mpsc::channel();
        (go, move || {
            gate.recv().unwrap();
            made(words)
        })
    }

    #[test]
    fn a_page_that_takes_long_holds_up_nobody() {
        let page = Arc::new(Page::default());
        let (go, slow) = gated("first");
        assert_eq!(page.get(Duration::ZERO, slow), None);
        // One is being made: nobody begins another, and nobody waits for ever.
        for _ in 0..3 {
            assert_eq!(page.get(Duration::ZERO, || panic!("a second one")), None);
        }
        go.send(()).unwrap();
        assert_eq!(of_round(&page, 1), Some(Ok("first".into())));

        // While a new one is made the old one is shown.
        page.state().last.as_mut().unwrap().took = Duration::ZERO;
        let (go, slow) = gated("second");
        assert_eq!(text(page.get(Duration::ZERO, slow)), Some(Ok("first".into())));
        assert_eq!(text(page.get(Duration::ZERO, || panic!("a third one"))), Some(Ok("first".into())));
        go.send(()).unwrap();
        assert_eq!(of_round(&page, 2), Some(Ok("second".into())));
    }

    #[test]
    fn a_page_that_cannot_be_made_is_tried_again() {
        let page = Arc::new(Page::default());
        assert_eq!(text(page.get(LONG, || Err("no store".into()))), Some(Err("no store".into())));
        let gone = page.get(LONG, || panic!("a mistake in the page, for the test"));
        assert_eq!(text(gone), Some(Err("the page could not be made".into())));
        assert_eq!(text(page.get(LONG, || made("at last"))), Some(Ok("at last".into())));
    }
}
