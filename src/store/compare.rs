//! A study's results beside a baseline: another store, or a file made of one.
//!
//! Both are read as they were when the comparison was made; neither is changed.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Look, Store};
use crate::error::Error;
use crate::model::StageRow;
use crate::views::ViewError;
use crate::views::compare::{
    Baseline, Comparison, Limits, Row, Totals, check_metrics, is_store, save_baseline, stage_of,
};

/// A stage of a study beside the same of a baseline.
#[derive(Debug)]
pub struct Compare {
    look: Look,
    stage: StageRow,
    path: PathBuf,
    other: Other,
    limits: Limits,
}

#[derive(Debug)]
enum Other {
    /// The same study: two values of a param are compared.
    Itself,
    Store(Box<Look>),
    File(Baseline<'static>),
}

/// What a baseline was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaselineWritten {
    /// Trials with a result, which are in it.
    pub trials: u64,
    /// Trials of the same stages that have none yet.
    pub unfinished: u64,
}

impl Store {
    /// Lays a stage (the last one, if none is named) beside that of a baseline: the path of another store, or of a file
    /// that [`Store::write_baseline`] made.
    ///
    /// # Errors
    /// [`Error`] when the stage or a metric of `limits` is in neither, or something cannot be read.
    pub fn compare(&self, baseline: &Path, stage: Option<&str>, limits: Limits) -> Result<Compare, Error> {
        let own = Look::at_store(&self.path)?.1;
        let other = match is_store(baseline)? {
            true => Other::Store(Box::new(Look::at_store(baseline)?.1)),
            false => Other::File(Baseline::of_file(baseline)?),
        };
        Self::beside(own, other, baseline.into(), stage, limits)
    }

    /// Lays the trials of a stage that have one value of a param beside those that have another one, as `limits.between` says.
    ///
    /// # Errors
    /// As [`Store::compare`], and when `limits` name no param.
    pub fn compare_between(&self, stage: Option<&str>, limits: Limits) -> Result<Compare, Error> {
        let Some(between) = &limits.between else {
            return Err(Error::Usage("there is no baseline to compare with".into()));
        };
        let name = format!("{} = {}", between.param, between.base);
        Self::beside(Look::at_store(&self.path)?.1, Other::Itself, name.into(), stage, limits)
    }

    fn beside(
        look: Look,
        other: Other,
        path: PathBuf,
        stage: Option<&str>,
        limits: Limits,
    ) -> Result<Compare, Error> {
        let stage = stage_of(&look.view, stage)?.clone();
        let limits = other.with(&look, |other| {
            let comparison = Comparison::new(&look.view, &look.snapshot, &stage, other, limits)?;
            Ok::<_, Error>(comparison.limits().clone())
        })?;
        Ok(Compare { look, stage, path, other, limits })
    }

    /// Writes the results of a stage, or of all of them, into a file to compare later ones with.
    ///
    /// # Errors
    /// [`Error`] when there is no result yet, a metric of `limits` is in none, or the file is a store or cannot be written.
    pub fn write_baseline(
        &self,
        file: &Path,
        stage: Option<&str>,
        limits: &Limits,
    ) -> Result<BaselineWritten, Error> {
        let (_reader, Look { snapshot, view }) = Look::at_store(&self.path)?;
        let stage = stage.map(|name| stage_of(&view, Some(name))).transpose()?;
        let chosen = |row: &&StageRow| stage.is_none_or(|stage| stage.index == row.index);
        let stages: Vec<_> = view.stages.iter().filter(chosen).collect();
        check_metrics(&view, &snapshot, &stages, None, limits)?;
        let index = stage.map(|stage| stage.index);
        let trials = save_baseline(&view, &snapshot, index, &|metric| limits.includes(metric), file)?;
        let planned: u64 = stages.iter().map(|stage| stage.planned()).sum();
        Ok(BaselineWritten { trials, unfinished: planned.saturating_sub(trials) })
    }
}

impl Other {
    fn with<T>(&self, own: &Look, act: impl FnOnce(&Baseline<'_>) -> T) -> T {
        match self {
            Self::Itself => act(&Baseline::of_store(&own.view, &own.snapshot)),
            Self::Store(look) => act(&Baseline::of_store(&look.view, &look.snapshot)),
            Self::File(baseline) => act(baseline),
        }
    }
}

impl Compare {
    fn with<T>(&self, act: impl FnOnce(&Comparison<'_>) -> T) -> T {
        let Look { view, snapshot } = &self.look;
        self.other
            .with(&self.look, |other| act(&Comparison::of_known(view, snapshot, &self.stage, other, &self.limits)))
    }

    /// Compares; `each` gets every line, those of one case together.
    ///
    /// # Errors
    /// [`Error`] when nothing could be compared, whatever `each` fails with, and when something cannot be read.
    pub fn run(&self, each: &mut dyn FnMut(&Row) -> Result<(), ViewError>) -> Result<Totals, Error> {
        Ok(self.with(|comparison| comparison.run(each))?)
    }

    /// [`Compare::run`] as one JSON document.
    ///
    /// # Errors
    /// As [`Compare::run`], and [`Error::Output`].
    pub fn write_json(&self, out: &mut dyn Write) -> Result<Totals, Error> {
        let baseline = self.path.display().to_string();
        Ok(self.with(|comparison| comparison.write_json(&baseline, out))?)
    }

    /// [`Compare::run`] as a JUnit report, whole or not at all.
    ///
    /// # Errors
    /// As [`Compare::run`], and when the file cannot be written.
    #[cfg(feature = "report")]
    pub fn write_junit(&self, path: &Path) -> Result<(), Error> {
        Ok(self.with(|comparison| crate::views::export::write_junit_of_comparison(comparison, path))?)
    }

    /// The limits, with the directions of the stage's objectives.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The study's name, and the stage's.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        (&self.look.view.study.name, &self.stage.name)
    }

    /// The name of the baseline's study.
    #[must_use]
    pub fn baseline_study(&self) -> String {
        self.other.with(&self.look, |other| other.study_name().to_owned())
    }

    /// The stages before this one in which other cases survived than in the baseline: then its trials have other parents,
    /// and so other params.
    #[must_use]
    pub fn stages_with_other_survivors(&self) -> Vec<&str> {
        let view = &self.look.view;
        let lineage = view.lineage();
        let before = view.stages.iter().take_while(|row| row.index != self.stage.index);
        let differs = |row: &&StageRow| {
            let now: Vec<String> =
                row.survivors.iter().map(|parent| lineage.whole_case_of(parent.trial)).collect();
            self.other.with(&self.look, |other| {
                let then = other.goes_on(&row.name);
                !now.is_empty() && !then.is_empty() && then != now.iter().collect::<Vec<_>>()
            })
        };
        before.filter(differs).map(|row| row.name.as_str()).collect()
    }
}
