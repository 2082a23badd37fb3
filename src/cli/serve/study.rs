//! A study as it is served: its page, how it stands, its metrics, where its artifacts are, and the request to stop.
//!
//! The store is opened for each look.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use piton::model::StudyId;
use piton::program::sys::clock::unix_ms;
use piton::views::logs::Watch;
use piton::views::report::{Options, Report};
use piton::views::status::Status;
use piton::{Error, Look, Stop, Store};

use super::metrics::{self, Scraped};
use super::page::{self, Html, Page};
use super::source::{Source, in_words};

/// Largest page, bytes.
const PAGE_MAX: usize = 64 << 20;

/// A study that is shown.
#[derive(Debug)]
pub struct Study {
    store: PathBuf,
    page: Arc<Page>,
    /// Held while a page is made: of many studies one at a time.
    making: Arc<Mutex<()>>,
    /// Address of the page of all, where it is one of many.
    of_all: Option<&'static str>,
}

impl Study {
    pub fn alone(store: &Path) -> Self {
        Self { store: store.into(), page: Arc::default(), making: Arc::default(), of_all: None }
    }

    /// One of many, whose page lies at that address.
    pub fn of_many(store: &Path, making: &Arc<Mutex<()>>, of_all: &'static str) -> Self {
        Self { making: Arc::clone(making), of_all: Some(of_all), ..Self::alone(store) }
    }

    pub fn page(&self, nonce: &str) -> Option<Html> {
        let (store, making, nonce) = (self.store.clone(), Arc::clone(&self.making), nonce.to_owned());
        let studies_link = self.of_all.map(str::to_owned);
        self.page.get(page::PATIENCE, move || {
            let _one = making.lock().unwrap_or_else(PoisonError::into_inner);
            let artifacts_link = Some("artifacts".into());
            make_page(&store, &Options { artifacts_link, nonce, now_ms: unix_ms(), live: true, studies_link })
        })
    }

    pub fn metrics(&self) -> Result<String, Error> {
        let (_reader, look) = Look::at_store(&self.store)?;
        metrics::of_one(&Scraped::of(&look)?)
    }

    pub fn artifacts(&self) -> Result<(PathBuf, StudyId), Error> {
        let (_reader, look) = Look::at_store(&self.store)?;
        Ok((look.view.study_artifacts_dir(), look.view.study.study_id))
    }

    pub fn stop(&self) -> Result<(u16, String), Error> {
        Ok(match Store::at(&self.store).ask_to_stop(Stop::Drain)? {
            Some(asked) => (202, format!("asked {} to stop", asked.words())),
            None => (409, "no engine runs the study".into()),
        })
    }

    /// How it stands.
    pub fn source(&self) -> impl Source {
        Standing { store: self.store.clone(), commits: Watch::file(&self.store), said: String::new() }
    }
}

struct Standing {
    store: PathBuf,
    commits: Watch,
    said: String,
}

impl Source for Standing {
    fn next(&mut self, due: bool) -> Option<(&'static str, String)> {
        let (event, data) = match status_json(&self.store) {
            Ok(json) => ("status", json),
            Err(error) => {
                // Another file may come in its place.
                self.commits = Watch::file(&self.store);
                ("trouble", in_words(&error))
            }
        };
        (due || data != self.said).then(|| {
            self.said.clone_from(&data);
            (event, data)
        })
    }

    fn wait(&mut self) -> io::Result<()> {
        self.commits.changed().map(drop)
    }
}

fn status_json(store: &Path) -> Result<String, Error> {
    let (_reader, look) = Look::at_store(store)?;
    let mut json = Vec::new();
    Status::load(&look.view, &look.snapshot, unix_ms())?.write_json(&mut json)?;
    Ok(String::from_utf8_lossy(&json).trim_end().to_owned())
}

fn make_page(store: &Path, options: &Options) -> Html {
    let html = Look::at_store(store).and_then(|(_reader, look)| {
        let mut html = Vec::new();
        Report::load(&look.view, &look.snapshot)?.write_html(options, &mut html)?;
        Ok(html)
    });
    match html.map_err(|error| in_words(&error))? {
        html if html.len() > PAGE_MAX => Err("the page would be too large; `piton dump` has all of it".to_owned()),
        html => Ok(Arc::new(html)),
    }
}
