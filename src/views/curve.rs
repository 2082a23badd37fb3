//! How a metric that a trial reports went: a curve over steps, thinned while it is read.
//!
//! What is kept is a function of the reports alone, takes bounded memory however many there are, and always has what
//! counts at the rungs.

/// Most points of a curve.
const POINTS_MAX: usize = 200;

/// A curve while it is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve {
    points: Vec<Point>,
    /// Rungs that are still to come, the highest first.
    rungs: Vec<u64>,
    /// Between points there are so many steps at least.
    gap: u64,
    last: Option<(u64, f64)>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    step: u64,
    value: f64,
    /// It counts at a rung.
    rung: bool,
}

impl Curve {
    /// Before the first report; the rungs' steps grow.
    pub(crate) fn new(rungs: &[u64]) -> Self {
        Self { rungs: rungs.iter().rev().copied().collect(), ..Self::default() }
    }

    /// Takes up the next accepted report. What is not finite has no place on a curve.
    pub(crate) fn take(&mut self, step: u64, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        let mut rung = false;
        while let Some(at) = self.rungs.pop_if(|at| *at <= step) {
            match self.last {
                Some(last) if step > at => self.keep(last),
                _ => rung = true,
            }
        }
        let far = |point: &Point| step.saturating_sub(point.step) >= self.gap;
        if rung || self.points.last().is_none_or(far) {
            self.points.push(Point { step, value, rung });
        }
        self.last = Some((step, value));
        if self.points.len() > 2 * POINTS_MAX {
            self.thin();
        }
    }

    fn keep(&mut self, (step, value): (u64, f64)) {
        match self.points.last_mut() {
            Some(point) if point.step == step => point.rung = true,
            _ => self.points.push(Point { step, value, rung: true }),
        }
    }

    fn thin(&mut self) {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else { return };
        let span = last.step.saturating_sub(first.step);
        let rungs = self.points.iter().filter(|point| point.rung).count();
        // The first and the last point come to those.
        let room = POINTS_MAX.saturating_sub(rungs + 2).max(1) as u64;
        let gap = (span / room).saturating_add(1);
        let mut before: Option<u64> = None;
        self.points.retain(|point| {
            let kept = point.rung || before.is_none_or(|before| point.step.saturating_sub(before) >= gap);
            if kept {
                before = Some(point.step);
            }
            kept
        });
        self.gap = gap;
    }

    /// Whether points were left out.
    #[cfg(feature = "report")]
    pub(crate) fn is_thinned(&self) -> bool {
        self.gap > 0 || self.points.len() >= POINTS_MAX
    }

    /// Its points: steps that grow, and values that are finite. The first and the last report are among them.
    pub(crate) fn points(mut self) -> Vec<(u64, f64)> {
        if self.points.len() >= POINTS_MAX {
            self.thin();
        }
        if let Some(last) = self.last {
            self.keep(last);
        }
        self.points.into_iter().map(|point| (point.step, point.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(rungs: &[u64], reports: impl IntoIterator<Item = (u64, f64)>) -> Vec<(u64, f64)> {
        let mut curve = Curve::new(rungs);
        reports.into_iter().for_each(|(step, value)| curve.take(step, Some(value)));
        curve.points()
    }

    #[test]
    fn few_points_stay_as_they_are_and_what_is_not_finite_goes() {
        assert_eq!(of(&[], []), []);
        assert_eq!(of(&[5], [(7, 1.0)]), [(7, 1.0)]);
        let reports = [(1, 3.0), (2, f64::NAN), (4, f64::INFINITY), (9, -1.0)];
        assert_eq!(of(&[2, 5], reports), [(1, 3.0), (9, -1.0)]);
    }

    #[test]
    fn of_a_flood_the_rungs_the_ends_and_an_even_choice_stay() {
        // Step 999 stands for the rung at 1000.
        let reports = (1..1_000_000).filter(|step| *step != 1_000).map(|step| (step, step as f64));
        let points = of(&[3, 9, 1_000, 999_998, 5_000_000], reports);
        assert!((150..=POINTS_MAX).contains(&points.len()), "{}", points.len());
        for step in [1, 3, 9, 999, 999_998, 999_999] {
            assert!(points.contains(&(step, step as f64)), "{step}");
        }
        let widest = points.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
        assert!(widest < 12_000, "{widest}");
    }

    proptest! {
        /// Whatever the steps, a curve is bounded, in order, and has each rung's report.
        #[test]
        fn a_curve_is_bounded_and_keeps_its_rungs(
            steps in prop::collection::btree_set(prop_oneof![0_u64..2_000, any::<u64>()], 0..1_500),
            rungs in prop::collection::btree_set(0_u64..3_000, 1..=16),
        ) {
            let rungs: Vec<u64> = rungs.into_iter().collect();
            let points = of(&rungs, steps.iter().map(|step| (*step, 1.0)));
            prop_assert!(points.len() <= POINTS_MAX && points.is_sorted_by(|a, b| a.0 < b.0));
            let has = |step: Option<&u64>| step.is_none_or(|step| points.contains(&(*step, 1.0)));
            prop_assert!(has(steps.first()) && has(steps.last()));
            for rung in rungs.iter().filter(|rung| steps.last().is_some_and(|last| last >= rung)) {
                prop_assert!(has(steps.range(..=rung).next_back().or(steps.first())));
            }
        }
    }
}
