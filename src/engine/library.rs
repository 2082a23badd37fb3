//! Where results are looked for that were made before: in the study's own store, then in those that `reuse_from` names.
//!
//! The tables of results give hints; what is taken is what the events say, each held against its checksum. A store of another
//! study is only read, also if a crash left it in need of repair, and one that cannot be read is a miss, never a reason to stop. Nothing here decides what is taken.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::step::Hit;
use crate::journal::{JournalError, Reader, Snapshot};
use crate::model::{
    Event, IdentityHash, IndexedResult, Kept, Metric, Metrics, Origin, OutputHash, StudyRow, TrialId, Verdict,
    artifacts,
};
use crate::paths::{StudyPaths, clean};
use crate::plan::KnownBy;
use crate::study_file::{Spec, StageSpec};
use crate::sys::opened::Below;

/// Another study's store.
#[derive(Debug)]
struct Other {
    path: PathBuf,
    reader: Reader,
    /// The file's size and change time when that was opened, if it is a view of what a crash left.
    left: Option<(u64, i64, i64)>,
    of: OfStudy,
}

/// A study whose results may be taken.
#[derive(Debug)]
struct OfStudy {
    study: StudyRow,
    /// `artifacts/<study>`, absolute.
    artifacts: PathBuf,
}

/// What another store has at a moment.
#[derive(Debug)]
struct View {
    snapshot: Snapshot,
    /// What its study has found to differ between trials that should be equal.
    doubted: Vec<IdentityHash>,
}

#[derive(Debug, Default)]
pub(crate) struct Library {
    own: Option<OfStudy>,
    others: Vec<Other>,
    /// Views of the others, until the next commit of this study.
    views: Vec<View>,
    /// What others have found to differ, and was told of.
    doubted: BTreeSet<IdentityHash>,
}

impl Library {
    /// For a study with stages that reuse; of any other there is nothing to look for. A store that cannot be opened is told of, and passed
    /// over: the study runs without it.
    pub(crate) fn open(spec: &Spec, paths: &StudyPaths, study: &StudyRow) -> Self {
        if spec.stages.iter().all(|stage| stage.reuse.is_no()) {
            return Self::default();
        }
        let own = OfStudy { study: study.clone(), artifacts: paths.study_artifacts(&study.name) };
        let mut others: Vec<Other> = Vec::new();
        for named in &spec.run.reuse_from {
            let path = clean(&paths.study_dir.join(named));
            if is_same_file(&path, &paths.store) || others.iter().any(|other| is_same_file(&other.path, &path)) {
                continue;
            }
            match Other::open(&path) {
                Ok(other) => others.push(other),
                Err(why) => log::warn!("no result is taken from `{}`: {why}", path.display()),
            }
        }
        Self { own: Some(own), others, ..Self::default() }
    }

    /// The study has gone on: what others have recorded meanwhile is seen from now on.
    pub(super) fn look_anew(&mut self) {
        self.views.clear();
    }

    /// The results that are known by any of these and could be taken, in the order in which they are to be tried: of each the study's own,
    /// then those of the other stores as they are named, each by their trials' numbers. A store that has found results of one of these to
    /// differ has none of it; where that is the study's own there is none of any, since they count as equal.
    ///
    /// # Errors
    /// [`JournalError`] from reading the study's own store.
    pub(crate) fn find(
        &mut self,
        own: &Snapshot,
        known_by: &[KnownBy],
        stage: &StageSpec,
    ) -> Result<Vec<Hit>, JournalError> {
        let mut own_doubts = self.own.iter().flat_map(|own| &own.study.doubts);
        if own_doubts.any(|doubt| known_by.iter().any(|known_by| known_by.shared == doubt.shared)) {
            return Ok(Vec::new());
        }
        if self.views.len() != self.others.len() {
            self.views.clear();
            let mut views = Vec::new();
            self.others.retain_mut(|other| match other.view() {
                Ok(view) => {
                    views.push(view);
                    true
                }
                Err(error) => {
                    other.give_up(&error);
                    false
                }
            });
            self.views = views;
        }
        let mut hits = Vec::new();
        for KnownBy { identity, shared } in known_by {
            if let Some(of) = &self.own {
                hits.extend(of.hits(own, identity, stage)?);
            }
            hits.extend(self.others_hits(identity, shared, stage));
        }
        Ok(hits)
    }

    /// The same of the other stores, by one of them.
    fn others_hits(&mut self, identity: &IdentityHash, shared: &IdentityHash, stage: &StageSpec) -> Vec<Hit> {
        let (mut hits, mut given_up) = (Vec::new(), Vec::new());
        for (at, (other, view)) in self.others.iter().zip(&self.views).enumerate() {
            if view.doubted.contains(shared) {
                if self.doubted.insert(*shared) {
                    let path = other.path.display();
                    log::warn!(
                        "no result of stage `{}` is taken from `{path}`: there, equal trials came to different ones",
                        stage.name
                    );
                }
                continue;
            }
            match other.of.hits(&view.snapshot, identity, stage) {
                Ok(found) => hits.extend(found),
                Err(error) => {
                    other.give_up(&error);
                    given_up.push(at);
                }
            }
        }
        for at in given_up.into_iter().rev() {
            self.others.remove(at);
            self.views.remove(at);
        }
        hits
    }
}

/// Whether both lead to one file.
fn is_same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    real(a) == real(b)
}

/// Size and change time of a file, if it is there.
fn state_of(path: &Path) -> Option<(u64, i64, i64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.len(), meta.ctime(), meta.ctime_nsec()))
}

impl Other {
    fn open(path: &Path) -> Result<Self, String> {
        let words = |error: &dyn std::error::Error| {
            let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
            format!("{error}{cause}")
        };
        let left = state_of(path);
        let reader = Reader::open_untouched(path).map_err(|error| words(&error))?;
        let left = left.filter(|_| reader.is_private());
        let study = reader.snapshot().and_then(|snapshot| snapshot.study()).map_err(|error| words(&error))?;
        let paths = StudyPaths::of(path, &study).map_err(|error| words(&error))?;
        let artifacts = paths.study_artifacts(&study.name);
        Ok(Self { path: path.into(), reader, left, of: OfStudy { study, artifacts } })
    }

    /// What it has now. What a crash left is looked at anew once somebody has gone on with it.
    fn view(&mut self) -> Result<View, JournalError> {
        if self.left.is_some() && self.left != state_of(&self.path) {
            let anew = Self::open(&self.path).map_err(JournalError::Corrupted)?;
            *self = anew;
        }
        let snapshot = self.reader.snapshot()?;
        let doubted = snapshot.study()?.doubts.iter().map(|doubt| doubt.shared).collect();
        Ok(View { snapshot, doubted })
    }

    /// Says that the store is not asked any more.
    fn give_up(&self, error: &JournalError) {
        log::warn!("no further result is taken from `{}`: {error}", self.path.display());
    }
}

/// What the events say of a result: whose it is, what it reported, and what it left.
type Told = (Origin, Metrics, Vec<OutputHash>);

impl OfStudy {
    fn hits(
        &self,
        snapshot: &Snapshot,
        identity: &IdentityHash,
        stage: &StageSpec,
    ) -> Result<Vec<Hit>, JournalError> {
        let mut results = snapshot.results(identity)?;
        results.sort_by_key(|result| (result.stage, result.index, result.attempt));
        let mut hits = Vec::new();
        for result in &results {
            let Some((trial, (origin, metrics, outputs))) = self.borne_out(snapshot, result)? else { continue };
            if fits(stage, &metrics, &outputs) {
                let from = self.place_of(result);
                let identity = result.identity;
                // Another trial may have its number by now.
                let row = match outputs.is_empty() {
                    true => None,
                    false => snapshot.trial(trial)?.filter(|row| row.identity == Some(identity)),
                };
                let discarded = row.is_some_and(|row| row.kept_of(result.attempt) > Kept::Outputs);
                hits.push(Hit { identity, origin, metrics, outputs, from, discarded });
            }
        }
        Ok(hits)
    }

    /// What the events say of a result; `None`: it is not the one that is hinted at.
    fn borne_out(
        &self,
        snapshot: &Snapshot,
        result: &IndexedResult,
    ) -> Result<Option<(TrialId, Told)>, JournalError> {
        let event = |seq| Ok::<_, JournalError>(snapshot.event(seq)?.map(|record| record.event));
        match event(result.seq)? {
            Some(Event::TrialReused(reused)) if reused.identity == result.identity => {
                Ok(Some((reused.trial, (reused.origin, reused.metrics, reused.outputs))))
            }
            Some(Event::ResultIdentified { trial, attempt, identity }) if identity == result.identity => {
                let (told, verdict) = match event(result.seq.saturating_sub(1))? {
                    Some(Event::AttemptEnded(end)) => ((end.trial, end.attempt), end.verdict),
                    Some(Event::ResultReread(reread)) => ((reread.trial, reread.attempt), reread.verdict),
                    _ => return Ok(None),
                };
                match verdict {
                    Verdict::Succeeded { metrics, outputs } if told == (trial, attempt) => {
                        let case = format!("{}_{}_{}", self.study.base_case, result.stage, result.index);
                        let (study, study_id) = (self.study.name.clone(), self.study.study_id);
                        Ok(Some((trial, (Origin { study, study_id, case, attempt }, metrics, outputs))))
                    }
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn place_of(&self, result: &IndexedResult) -> Below {
        let case = format!("{}_{}_{}", self.study.base_case, result.stage, result.index);
        Below::root(self.artifacts.clone())
            .join(artifacts::stage_name(result.stage, &result.stage_name))
            .join(case)
            .join(artifacts::attempt_name(result.attempt))
    }
}

/// Whether a trial of the stage could have left this. Equal identities demand it; a store that was forged may say anything.
fn fits(stage: &StageSpec, metrics: &Metrics, outputs: &[OutputHash]) -> bool {
    let finite = |metric: &Metric| metric.number().is_none_or(f64::is_finite);
    outputs.iter().map(|output| &output.path).eq(&stage.outputs)
        && metrics.values().all(finite)
        && stage.is_met_by(metrics)
}
