//! Many studies as they are served: the list of `piton list` as a page, each study below an address of its own, and the metrics of all.
//!
//! One thread at a time looks through the directory, for everybody who wants to know, and reads only what has changed. A store is
//! known by its path below that directory, so that its address lasts; none is ever opened by a path that a request names.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use piton::Error;
use piton::program::sys::clock::unix_ms;
use piton::store::{FoundStore, Stores};
use piton::views::logs::Watch;
use piton::views::report::{StudiesPage, study_row, unreadable_dirs};
use piton::views::{Listed, ListedStudy, Listing};
use serde_json::json;

use super::metrics::{self, Scraped};
use super::page::{self, Html, Page};
use super::source::{Source, in_words};
use super::study::Study;

/// Most studies whose pages are kept.
const PAGES_MAX: usize = 8;
/// Most stores that are shown as gone; the oldest go first.
const GONE_MAX: usize = 100;
/// The page of all, from the page of one.
const UP: &str = "../../";

/// What a study is called in its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 16]);

impl Key {
    fn of(below: &Path) -> Self {
        let mut key = [0; 16];
        blake3::Hasher::new().update(below.as_os_str().as_bytes()).finalize_xof().fill(&mut key);
        Self(key)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(|number| Self(number.to_be_bytes()))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The studies below a directory.
#[derive(Debug)]
pub struct Studies {
    dir: Arc<PathBuf>,
    seen: Arc<Mutex<Seen>>,
    list: Arc<Page<List>>,
    scraped: Arc<Mutex<Stores<Arc<Scraped>>>>,
    metrics: Arc<Page>,
    /// Those whose page somebody looks at, the last one first.
    open: Mutex<VecDeque<(Key, Arc<Study>)>>,
    making: Arc<Mutex<()>>,
}

/// What looks so far have found.
#[derive(Debug)]
struct Seen {
    stores: Stores<ListedStudy>,
    /// At the last look, below the directory.
    there: Vec<PathBuf>,
    gone: VecDeque<PathBuf>,
}

/// What a look found, as it is shown.
#[derive(Debug)]
struct List {
    rows: Vec<Row>,
    totals: String,
    unreadable: String,
}

#[derive(Debug)]
struct Row {
    key: Key,
    /// `None`: it is gone.
    store: Option<PathBuf>,
    html: Arc<str>,
}

impl Studies {
    pub fn below(dir: &Path) -> Self {
        let seen = Seen { stores: Stores::below(dir), there: Vec::new(), gone: VecDeque::new() };
        Self {
            dir: Arc::new(dir.into()),
            seen: Arc::new(Mutex::new(seen)),
            list: Arc::default(),
            scraped: Arc::new(Mutex::new(Stores::below(dir))),
            metrics: Arc::default(),
            open: Mutex::default(),
            making: Arc::default(),
        }
    }

    fn list(&self) -> Option<Html<List>> {
        let (dir, seen) = (Arc::clone(&self.dir), Arc::clone(&self.seen));
        self.list.get(page::PATIENCE, move || {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.look(&dir).map(Arc::new).map_err(|error| in_words(&error))
        })
    }

    /// The page of all.
    pub fn page(&self, nonce: &str) -> Option<Html> {
        let dir = self.dir.display().to_string();
        let html = |list: Arc<List>| {
            let List { rows, totals, unreadable } = &*list;
            let rows = rows.iter().map(|row| &*row.html).collect();
            let page = StudiesPage { dir: &dir, totals, rows, unreadable, nonce, now_ms: unix_ms() };
            Arc::new(page.html().into_bytes())
        };
        Some(self.list()?.map(html))
    }

    /// One of them; `None`: there is no such study, or no more.
    pub fn study(&self, key: Key) -> Result<Option<Arc<Study>>, String> {
        let find = |list: &List| list.rows.iter().find(|row| row.key == key).and_then(|row| row.store.clone());
        // Nobody waits for a look because of a study that is known.
        let store = match self.list.last().and_then(|list| find(&list)) {
            Some(store) => Some(store),
            None => match self.list() {
                Some(list) => find(&*list?),
                None => return Err(LOOKING.to_owned()),
            },
        };
        // What has taken its place since is not looked into, as it is not when stores are looked for.
        let is_file = |store: &PathBuf| store.symlink_metadata().is_ok_and(|meta| meta.is_file());
        let Some(store) = store.filter(is_file) else { return Ok(None) };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().position(|(of, _)| *of == key);
        let (_, study) = at
            .and_then(|at| open.remove(at))
            .unwrap_or_else(|| (key, Arc::new(Study::of_many(&store, &self.making, UP))));
        open.push_front((key, Arc::clone(&study)));
        open.truncate(PAGES_MAX);
        Ok(Some(study))
    }

    /// Those of all studies.
    pub fn metrics(&self) -> Html {
        let (dir, scraped) = (Arc::clone(&self.dir), Arc::clone(&self.scraped));
        let made = self.metrics.get(page::PATIENCE, move || {
            let mut scraped = scraped.lock().unwrap_or_else(PoisonError::into_inner);
            let text = all_metrics(&dir, &mut scraped).map_err(|error| in_words(&error))?;
            Ok(Arc::new(text.into_bytes()))
        });
        made.unwrap_or_else(|| Err(LOOKING.to_owned()))
    }

    /// What changes of the page of all.
    pub fn source(&self) -> impl Source + '_ {
        Changes { studies: self, rows: HashMap::new(), order: Vec::new(), rest: String::new() }
    }
}

const LOOKING: &str = "the directory is being looked through";

fn all_metrics(dir: &Path, scraped: &mut Stores<Arc<Scraped>>) -> Result<String, Error> {
    let found = scraped.look(|look| Ok(Arc::new(Scraped::of(look)?)))?;
    let labels: Vec<_> = found.stores.iter().map(|found| label(dir, &found.path)).collect();
    let stores = labels.iter().zip(&found.stores);
    let stores: Vec<_> = stores.map(|(label, found)| (label.as_str(), found.read.as_deref().ok())).collect();
    metrics::of_many(&stores)
}

fn below(dir: &Path, store: &Path) -> PathBuf {
    store.strip_prefix(dir).unwrap_or(store).to_owned()
}

/// What tells a study from all others: where its store lies. What cannot be shown as it is might look like another one.
fn label(dir: &Path, store: &Path) -> String {
    let store = below(dir, store);
    let shown = piton::views::clean(&store.to_string_lossy());
    match store.to_str() {
        Some(text) if text == shown => shown,
        _ => format!("{shown} ({})", Key::of(&store)),
    }
}

impl Seen {
    fn look(&mut self, dir: &Path) -> Result<List, Error> {
        let found = self.stores.look(|look| Ok(ListedStudy::load(&look.view, &look.snapshot, unix_ms())?))?;
        let there: Vec<PathBuf> = found.stores.iter().map(|store| below(dir, &store.path)).collect();
        // Both are sorted.
        self.gone.retain(|path| there.binary_search(path).is_err());
        self.gone.extend(self.there.drain(..).filter(|path| there.binary_search(path).is_err()));
        let too_many = self.gone.len().saturating_sub(GONE_MAX);
        self.gone.drain(..too_many);
        let mut shown: Vec<(PathBuf, Option<PathBuf>, Listed)> = found
            .stores
            .into_iter()
            .zip(&there)
            .map(|(found, below)| (below.clone(), Some(found.path.clone()), listed(below, found)))
            .collect();
        let gone = |below: &PathBuf| Listed::unreadable(below.display().to_string(), "gone".to_owned(), 0);
        shown.extend(self.gone.iter().map(|below| (below.clone(), None, gone(below))));
        shown.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        self.there = there;
        let rows = shown.iter().map(|(below, store, listed)| {
            let key = Key::of(below);
            Row { key, store: store.clone(), html: study_row(listed, &key.to_string()).into() }
        });
        let rows = rows.collect();
        let unreadable: Vec<_> = found.unreadable.iter().map(|path| path.display().to_string()).collect();
        let html = unreadable_dirs(&unreadable);
        let studies = shown.into_iter().map(|(_, _, listed)| listed).collect();
        Ok(List { rows, totals: Listing::of(studies, unreadable).totals(), unreadable: html })
    }
}

fn listed(below: &Path, found: FoundStore<ListedStudy>) -> Listed {
    let store = below.display().to_string();
    match found.read {
        Ok(study) => Listed::readable(store, study, found.bytes),
        Err(reason) => Listed::unreadable(store, reason, found.bytes),
    }
}

/// What a client was told, and what is new to it.
struct Changes<'a> {
    studies: &'a Studies,
    rows: HashMap<Key, Arc<str>>,
    order: Vec<Key>,
    /// What else it was told last.
    rest: String,
}

impl Source for Changes<'_> {
    fn next(&mut self, due: bool) -> Option<(&'static str, String)> {
        let list = match self.studies.list() {
            Some(Ok(list)) => list,
            trouble => {
                let words = trouble.and_then(Result::err).unwrap_or_else(|| LOOKING.to_owned());
                return (due || words != self.rest).then(|| {
                    self.rest.clone_from(&words);
                    ("trouble", words)
                });
            }
        };
        let List { rows, totals, unreadable } = &*list;
        let is_new = |row: &&Row| self.rows.get(&row.key) != Some(&row.html);
        let news: String = rows.iter().filter(is_new).map(|row| &*row.html).collect();
        let order: Vec<_> = rows.iter().map(|row| row.key).collect();
        let rest = format!("{totals}{unreadable}");
        let moved = order != self.order;
        if !due && news.is_empty() && !moved && rest == self.rest {
            return None;
        }
        let keys = moved.then(|| order.iter().map(Key::to_string).collect::<Vec<_>>());
        self.rows = rows.iter().map(|row| (row.key, Arc::clone(&row.html))).collect();
        (self.order, self.rest) = (order, rest);
        let told =
            json!({ "now": unix_ms(), "rows": news, "order": keys, "totals": totals, "unreadable": unreadable });
        Some(("studies", told.to_string()))
    }

    fn wait(&mut self) -> io::Result<()> {
        Watch::nothing().changed().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written_and_nothing_else_is() {
        let key = Key::of(Path::new("a/s.redb"));
        assert_eq!(Key::parse(&key.to_string()), Some(key));
        assert_ne!(Key::of(Path::new("b/s.redb")), key);
        let upper = key.to_string().to_uppercase();
        for bad in ["", "..", "0", "+0000000000000000000000000000000", &format!("{key}0"), &upper] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_looks_alike_has_another_label() {
        let label = |name: &str| label(Path::new("/d"), &Path::new("/d").join(name));
        assert_eq!(label("a/s.redb"), "a/s.redb");
        assert_eq!(label("/elsewhere/s.redb"), "/elsewhere/s.redb");
        let steers = label("a\n.redb");
        assert!(steers.starts_with("a\\n.redb (") && steers != label("a\\n.redb"), "{steers}");
    }
}
