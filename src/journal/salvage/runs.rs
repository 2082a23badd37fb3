//! Which run of events is the one that was: where there are several pasts, hash chains decide, or nothing does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::super::codec::chain_after;
use super::found::{Found, Spot};
use crate::model::{Event, Seq};

/// Versions of the past that are followed side by side.
const VERSIONS_MAX: usize = 64;

impl Found<'_> {
    /// The longest run of events from the first on that nothing speaks against.
    pub(super) fn longest_run(&mut self) -> io::Result<Vec<Spot>> {
        let mut versions = vec![Version::default()];
        let mut run: Vec<Spot> = Vec::new();
        let mut confirmed = 0;
        while let Some(choices) = self.choices(run.len() as Seq + 1) {
            let seq = run.len() as Seq + 1;
            let mut next = Vec::new();
            for spot in &choices {
                let Some(bytes) = self.pages.bytes(spot.offset, spot.len.into())? else { continue };
                next.extend(versions.iter().map(|version| version.with(&bytes, *spot, seq, choices.len() > 1)));
            }
            let Some(first) = choices.first().filter(|_| !next.is_empty()) else { break };
            run.push(*first);
            if let Some(chains) = self.records.chains.get(&seq) {
                let fits = |version: &Version| chains.contains(&version.chain);
                if next.iter().any(fits) {
                    next.retain(fits);
                    confirmed = seq;
                } else if self.records.committed.is_some_and(|progress| progress.last_seq == seq) {
                    self.why = Some("the hash chain does not fit the events".into());
                    cut(&mut run, confirmed, |_, spot| spot.certain);
                    break;
                }
            }
            next.truncate(VERSIONS_MAX);
            versions = next;
        }
        self.confirmed = confirmed;
        for (seq, spot) in versions.first().map(|version| version.picks.clone()).unwrap_or_default() {
            if let Some(place) = usize::try_from(seq - 1).ok().and_then(|at| run.get_mut(at)) {
                *place = spot;
            }
        }
        let agreed = |seq: Seq| {
            let picks: BTreeSet<_> = versions.iter().map(|v| v.picks.get(&seq).map(|spot| spot.hash)).collect();
            picks.len() < 2
        };
        let before = run.len();
        cut(&mut run, 0, |seq, _| agreed(seq));
        if run.len() < before {
            self.why = Some(format!("there are several versions of event {}", run.len() + 1));
        }
        Ok(run)
    }

    /// Without rows to rebuild from: cuts a run of events off where trials begin that a later amendment discarded. Their
    /// numbers, and so the names of their directories, are other trials' by now.
    pub(super) fn refuse_replaced(&mut self, run: &mut Vec<Spot>) -> io::Result<()> {
        let mut discarded: Option<u32> = None;
        let later: Vec<(Seq, Vec<Spot>)> =
            self.records.events.range(run.len() as Seq + 1..).map(|(s, v)| (*s, v.clone())).collect();
        for (seq, spots) in later {
            for spot in spots {
                let from = match self.record(seq, spot)?.map(|record| record.event) {
                    Some(Event::SpecAmended(amended)) => amended.discard_from,
                    Some(Event::StagesDiscarded { from }) => Some(from),
                    Some(Event::StageReplanned(replanned)) => Some(replanned.stage),
                    _ => None,
                };
                discarded = [discarded, from].into_iter().flatten().min();
            }
        }
        let Some(from) = discarded else { return Ok(()) };
        for at in 0..run.len() {
            let Some(spot) = run.get(at).copied() else { break };
            let event = self.record(at as Seq + 1, spot)?.map(|record| record.event);
            if matches!(event, Some(Event::StageOpened { stage, .. }) if stage >= from) {
                run.truncate(at);
                self.why = Some(format!("the results of stage {from} and after were discarded later"));
                break;
            }
        }
        Ok(())
    }
}

/// Cuts a run off before the first event after `kept` that is not `fine`.
fn cut(run: &mut Vec<Spot>, kept: Seq, fine: impl Fn(Seq, &Spot) -> bool) {
    let odd = run.iter().enumerate().find(|(at, spot)| *at as Seq >= kept && !fine(*at as Seq + 1, spot));
    if let Some(end) = odd.map(|(at, _)| at) {
        run.truncate(end);
    }
}

/// One possible past: its hash chain, and what was chosen where there was a choice.
#[derive(Clone, Debug, Default)]
struct Version {
    chain: [u8; 32],
    picks: BTreeMap<Seq, Spot>,
}

impl Version {
    fn with(&self, bytes: &[u8], spot: Spot, seq: Seq, is_choice: bool) -> Self {
        let mut version = Self { chain: chain_after(&self.chain, bytes), picks: self.picks.clone() };
        if is_choice {
            version.picks.insert(seq, spot);
        }
        version
    }
}
