//! What can go wrong with a store, in words. redb's errors have no `source`, so the cause is said here.

use std::io;
use std::path::{Path, PathBuf};

use redb::{DatabaseError, StorageError};

use super::codec::CodecError;
use crate::model::FoldError;
use crate::sys::words::{io_words, unlockable};

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such file.
    #[error("there is no store `{}`", path.display())]
    Missing {
        /// Path of the store's file.
        path: PathBuf,
    },
    /// A store is already there.
    #[error("the store `{}` already exists", path.display())]
    Exists {
        /// Path of the store's file.
        path: PathBuf,
    },
    /// Another engine writes it.
    #[error("another engine has the store `{}` open", path.display())]
    Locked {
        /// Path of the store's file.
        path: PathBuf,
    },
    /// Some program has locked all of it, which no engine does.
    #[error("a program that is no engine of piton's has locked the store `{}`, so that it can be neither read nor written", path.display())]
    Withheld {
        /// Path of the store's file.
        path: PathBuf,
    },
    /// Not a store, or not any more.
    #[error("the store `{}` is damaged or no piton store", path.display())]
    Damaged {
        /// Path of the store's file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        cause: JournalError,
    },
    /// Not even the study's first event can be read.
    #[error("nothing of `{}` can be recovered: {why}", path.display())]
    Nothing {
        /// Path of the store's file.
        path: PathBuf,
        /// What lacks.
        why: &'static str,
    },
    /// Written by a newer piton.
    #[error("the store `{}` was written by a newer piton", path.display())]
    Newer {
        /// Path of the store's file.
        path: PathBuf,
        /// Its schema version.
        found: u64,
    },
    /// The disk, or permissions.
    #[error("cannot open the store `{}`", path.display())]
    Io {
        /// Path of the store's file.
        path: PathBuf,
        /// What the system or the store said.
        #[source]
        cause: JournalError,
    },
}

/// A store that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system's answer.
    #[error("{}", io_words(.0))]
    Io(#[source] io::Error),
    /// redb refused for another reason than the disk.
    #[error("{0}")]
    Store(String),
    /// An earlier error of the same handle: it is not trusted again.
    #[error("the store failed before and is not trusted until it is opened again")]
    Earlier,
    /// redb found its own structures wrong.
    #[error("the file is damaged: {0}")]
    Corrupted(String),
    /// A record is not what was written.
    #[error("the record `{table}` {key} is damaged: {cause}")]
    Record {
        /// The table's name in the file.
        table: &'static str,
        /// Its key in that table.
        key: u64,
        /// What does not fit.
        cause: CodecError,
    },
    /// A record that must be there is not.
    #[error("the record `{table}` {key} is missing")]
    Missing {
        /// The table's name in the file.
        table: &'static str,
        /// Its key in that table.
        key: u64,
    },
    /// An event does not fit what came before it.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

impl JournalError {
    /// Whether the disk, or what this user may take of it, is full.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        matches!(self, Self::Io(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)))
    }

    /// Whether the store's bytes are to blame, not the disk or the system.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Io(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
            Self::Store(_) | Self::Earlier => false,
            Self::Corrupted(_) | Self::Record { .. } | Self::Missing { .. } | Self::Fold(_) => true,
        }
    }
}

/// For a store that was open before: what opening it again says of it.
impl From<OpenError> for JournalError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { cause, .. } | OpenError::Io { cause, .. } => cause,
            other => Self::Store(other.to_string()),
        }
    }
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

macro_rules! from_redb {
    ($($type:ty),*) => {$(
        impl From<$type> for JournalError {
            fn from(error: $type) -> Self { redb::Error::from(error).into() }
        }
    )*};
}
from_redb!(
    StorageError,
    redb::TransactionError,
    redb::TableError,
    redb::CommitError,
    DatabaseError,
    redb::SetDurabilityError
);

impl From<redb::CursorError> for JournalError {
    fn from(error: redb::CursorError) -> Self {
        match error {
            redb::CursorError::Storage(error) => error.into(),
            // Something lies behind the end.
            other => Self::Corrupted(other.to_string()),
        }
    }
}

impl From<redb::Error> for JournalError {
    fn from(error: redb::Error) -> Self {
        match error {
            // Besides reading, writing and syncing, redb locks.
            redb::Error::Io(error) => Self::Io(unlockable(error)),
            redb::Error::PreviousIo => Self::Earlier,
            redb::Error::Corrupted(what) => Self::Corrupted(what),
            redb::Error::TableDoesNotExist(name) => Self::Corrupted(format!("it has no table `{name}`")),
            redb::Error::TableTypeMismatch { table, .. } => {
                Self::Corrupted(format!("its table `{table}` has another type"))
            }
            other => Self::Store(other.to_string()),
        }
    }
}

/// What a failed open means.
pub(super) fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::Locked { path: path.into() }
        }
        // A format so old that no piton ever wrote it.
        DatabaseError::UpgradeRequired(version) => OpenError::Damaged {
            path: path.into(),
            cause: JournalError::Corrupted(format!("it names the old file format {version}")),
        },
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            OpenError::Missing { path: path.into() }
        }
        other => damaged_or_io(path, JournalError::from(other)),
    }
}

/// Puts the blame where it belongs.
pub(super) fn damaged_or_io(path: &Path, cause: JournalError) -> OpenError {
    if cause.is_damage() {
        OpenError::Damaged { path: path.into(), cause }
    } else {
        OpenError::Io { path: path.into(), cause }
    }
}
