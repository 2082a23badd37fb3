//! What keeps a study on a cluster from going on as it should, and passes. Its beginning and its end are reported once
//! each, however often it comes and goes in between.

use super::{ClusterError, ExecutorEvent, Watcher};

/// What keeps the study from going on as it should, and passes.
#[derive(Default)]
pub(super) struct Outages {
    /// Why it cannot be asked.
    pub(super) list: Option<String>,
    /// Why it takes no jobs.
    pub(super) submit: Option<String>,
    /// Why its list is not believed.
    pub(super) doubt: Option<String>,
    /// Whether the engine knows of any.
    told: bool,
}

impl Watcher {
    /// Why there is no list: it is waited for, or it ends the run.
    pub(super) fn not_listed(&mut self, trouble: ClusterError) {
        let now = self.now();
        let since = *self.asked_since.get_or_insert(now);
        let why = match trouble {
            ClusterError::Refused(why) => {
                self.broken(format!("{} refuses to be asked: {why}", self.kind.name()));
                why
            }
            ClusterError::Stranger(why, patience)
                if !self.known && now.saturating_duration_since(since) >= patience =>
            {
                self.broken(format!("no {} answers: {why}", self.kind.name()));
                why
            }
            other => other.words(),
        };
        self.troubles.list = Some(why);
        self.tell_troubles();
    }

    /// Says that there is a trouble, or none any more: once each.
    pub(super) fn tell_troubles(&mut self) {
        let Outages { list, submit, doubt, told } = &self.troubles;
        let words = match (list, submit, doubt) {
            (Some(why), ..) => Some(format!("it does not answer, trials there go on: {why}")),
            (None, Some(why), _) => Some(format!("it takes no jobs now: {why}")),
            (None, None, Some(why)) => Some(format!("it may not tell all: {why}")),
            (None, None, None) => None,
        };
        if words.is_some() != *told && !self.told_broken {
            if let Some(words) = &words {
                log::info!("{}: {words}", self.kind.name());
            }
            self.troubles.told = words.is_some();
            let _ = self.events.send(ExecutorEvent::Cluster { trouble: words });
        }
    }
}
