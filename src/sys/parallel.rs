//! A few threads for things that mostly wait, as long as the call lasts. Nothing outlives it, and nothing is left out in silence.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Does the work on each item, in this thread and in up to `helpers` more, called `name`; what came of each, in their order.
/// `None`: a thread failed unexpectedly that may or may not have done it.
pub(crate) fn each<T: Sync, R: Send>(
    items: &[T],
    helpers: usize,
    name: &str,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<Option<R>> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        while let (n, Some(item)) = next_of(items, &next) {
            done.push((n, work(item)));
        }
        done
    };
    let mut all: Vec<Option<R>> = items.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        // Threads that cannot be had only make it slower.
        let start = |_| std::thread::Builder::new().name(name.into()).spawn_scoped(scope, some).ok();
        let helpers: Vec<_> = (0..helpers).filter_map(start).collect();
        let mut done = some();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_default());
        }
        for (n, result) in done {
            if let Some(place) = all.get_mut(n) {
                *place = Some(result);
            }
        }
    });
    all
}

fn next_of<'a, T>(items: &'a [T], next: &AtomicUsize) -> (usize, Option<&'a T>) {
    let n = next.fetch_add(1, Ordering::Relaxed);
    (n, items.get(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_what_is_lost_is_told() {
        let numbers: Vec<u32> = (0..100).collect();
        let doubled = |helpers| each(&numbers, helpers, "test", |n| n * 2);
        let expected: Vec<_> = numbers.iter().map(|n| Some(n * 2)).collect();
        assert_eq!((doubled(0), doubled(7)), (expected.clone(), expected));
        assert!(each(&[0_u32; 0], 7, "test", |n| *n).is_empty());
        let caller = std::thread::current().id();
        // Whoever helps fails, at once or never: all that the caller did itself is there.
        let results = each(&numbers, 3, "test", |n| {
            assert_eq!(std::thread::current().id(), caller);
            *n
        });
        assert!(results.iter().flatten().count() >= numbers.len() - 3);
    }
}
