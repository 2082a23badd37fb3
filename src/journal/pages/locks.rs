//! The bytes of a file that redb locks, and locks for a storage that nobody else can see.

use std::ops::Bound;

/// redb's bytes of a writer, held exclusively while a file is open for writing: the one that writes, and the one that says
/// that it is the only one.
pub(in crate::journal) const WRITERS_BYTES: (Bound<u64>, Bound<u64>) =
    (Bound::Included(1 << 62), Bound::Excluded((1 << 62) + 2));

/// The locks of a storage that nobody else can see: every one is free.
macro_rules! locks_are_free {
    () => {
        fn try_lock_range(
            &self,
            _: std::ops::Bound<u64>,
            _: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            Ok(true)
        }
        fn try_lock_shared_range(
            &self,
            _: std::ops::Bound<u64>,
            _: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            Ok(true)
        }
        fn lock_range(&self, _: std::ops::Bound<u64>, _: std::ops::Bound<u64>) -> Result<(), redb::BackendError> {
            Ok(())
        }
        fn lock_shared_range(
            &self,
            _: std::ops::Bound<u64>,
            _: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            Ok(())
        }
        fn unlock_range(
            &self,
            _: std::ops::Bound<u64>,
            _: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            Ok(())
        }
        fn query_lock_range(
            &self,
            _: std::ops::Bound<u64>,
            _: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            Ok(false)
        }
    };
}
pub(in crate::journal) use locks_are_free;
