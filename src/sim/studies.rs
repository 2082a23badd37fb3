//! The studies that are simulated: a small one for each feature, and larger ones made up by chance.

use crate::{Range, Stage, Study};
use std::path::PathBuf;
use std::time::Duration;

use super::random::Random;
use super::trials::{CARDS, Nature, Request, Requests};
use super::world::INPUT;
use crate::model::{Keep, Kept, LaterStages, Metric, Metrics, Params, StageIndex, Value};
use crate::study_file::{
    Aggregate, Backoff, ExecutorSpec, Goal, MetricRule, Retries, Sampling, SlurmSpec, Spec, StopIf,
};
use crate::sys::opened::Below;

/// A study, how its trials fare, and what its user does.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) spec: Spec,
    pub(super) workers: u32,
    pub(super) nature: Nature,
    /// Requests to stop in the first runs, each list for one.
    pub(super) requests: Vec<Requests>,
    /// What it is amended to once it is completed.
    pub(super) amended: Option<(Spec, Option<StageIndex>)>,
    /// Whether failed trials are reset once it is aborted.
    pub(super) retry: bool,
    /// What becomes of later stages once failed trials of the first one are reset: at the first chance after that has closed, or, where
    /// they are kept, when the study is completed.
    pub(super) mended: Option<LaterStages>,
    /// Whether another study was there before: then its artifacts directory is, too.
    pub(super) neighbour: bool,
    /// How often its clock is set, back or forward, when a run begins: of a hundred.
    pub(super) clock_percent: u64,
    /// How the exports fare.
    pub(super) exports: Exports,
    /// What is changed behind the study's back.
    pub(super) meddled: Meddled,
    /// Its input is changed once it is completed, and its user takes it for what it was.
    pub(super) accepts: bool,
    /// What its user has discarded by hand once it is completed.
    pub(super) gc: Option<Keep>,
    /// Results that its user imports before its first run.
    pub(super) imported: Vec<(Params, Metrics, Option<Below>)>,
}

/// What somebody else changes while the study runs; when it is refused, the user puts that back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meddled {
    Nothing,
    /// Its input, at any moment.
    Input,
    /// An output of a parent, just before a child is to start.
    Parents,
    /// An output of a result, just before it is taken over.
    Taken,
}

/// How the thread for the exports fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exports {
    /// They are written at once, later, or at the end of the run only, as chance will have it.
    Slow,
    /// They cannot be written, ever.
    Never,
}

fn scenario(name: &str, workers: u32, spec: Spec) -> Scenario {
    Scenario {
        name: name.into(),
        spec,
        workers,
        nature: Nature::default(),
        requests: Vec::new(),
        amended: None,
        retry: false,
        mended: None,
        neighbour: false,
        clock_percent: 0,
        exports: Exports::Slow,
        meddled: Meddled::Nothing,
        accepts: false,
        gc: None,
        imported: Vec::new(),
    }
}

fn stage(name: &str, budget: u64, survivors: u64) -> Stage {
    Stage::unbound(name).budget(budget).survivors(survivors).minimize("m")
}

fn study(stages: impl IntoIterator<Item = Stage>) -> Spec {
    stages.into_iter().fold(Study::builder("s").seed(7), |spec, stage| spec.stage(stage)).spec().unwrap()
}

fn retries(count: u32) -> Retries {
    Retries { count, backoff: Backoff::Exponential, delay_ms: 100, max_delay_ms: 1_000, jitter: true }
}

/// The small ones: as few trials as show the feature.
pub(super) fn all() -> Vec<Scenario> {
    vec![
        two_stages(),
        outputs(),
        staged_outputs(),
        retried(),
        rails(),
        rate(),
        catastrophes(),
        amended(),
        discarded(),
        drained(),
        timed(),
        gated(),
        based(),
        reset(),
        mended(),
        mended_reusing(),
        mended_keeping(),
        mended_remotely(),
        remote(),
        inputs(),
        inherited(),
        reused(),
        taken(),
        reused_remotely(),
        doubted(),
        doubted_remotely(),
        reread(),
        reread_reusing(),
        imported(),
        based_again(),
        accepted(),
        scratched(),
        aside(),
        halved(),
        halved_remotely(),
        halved_inputs(),
        halved_heirs(),
        stopped(),
        kept(),
        swept(),
        kept_mended(),
        repeated(),
        explored(),
        ended(),
        raced(),
        shared(),
        shared_remotely(),
    ]
}

fn two_stages() -> Scenario {
    let first = stage("a", 5, 2).range("x", Range::int(1..=5));
    scenario("two_stages", 2, study([first, stage("b", 2, 1)]))
}

fn outputs() -> Scenario {
    let first = stage("a", 3, 1).range("x", Range::int(1..=3)).output("result.bin").output("sub/more.txt");
    scenario("outputs", 2, study([first]))
}

/// Outputs in every stage, and nobody but the executor who would make them durable by the way.
fn staged_outputs() -> Scenario {
    let first = stage("a", 2, 1).range("x", Range::int(1..=2)).output("result.bin");
    let (second, third) = (stage("b", 1, 1).output("result.bin"), stage("c", 1, 1).output("sub/more.txt"));
    Scenario { exports: Exports::Never, ..scenario("staged_outputs", 2, study([first, second, third])) }
}

fn retried() -> Scenario {
    let nature = Nature { bad_percent: 20, flaky_percent: 60, flaky: 2, late_reports: true, ..Nature::default() };
    let first = stage("a", 6, 1).range("x", Range::int(1..=6)).retry_policy(&retries(2));
    Scenario { nature, ..scenario("retries", 2, study([first])) }
}

/// Trials that a rail aborts in the midst of others: some of a higher number end first, some below run again.
fn rails() -> Scenario {
    let nature = Nature { flaky_percent: 40, flaky: 1, late_reports: true, ..Nature::default() };
    let first = stage("a", 9, 1).range("x", Range::int(1..=9)).abort_above("m", 400.0).retry_policy(&retries(1));
    Scenario { nature, ..scenario("rails", 3, study([first])) }
}

/// Too many fail; some are drained meanwhile.
fn rate() -> Scenario {
    let nature = Nature { bad_percent: 60, flaky_percent: 20, flaky: 1, ..Nature::default() };
    let requests = vec![vec![(30, Request::Drain)], vec![(25, Request::DrainFor(5))]];
    let first = stage("a", 12, 1).range("x", Range::int(1..=12)).max_failure_rate(0.4).retry_policy(&retries(1));
    Scenario { nature, requests, ..scenario("rate", 4, study([first])) }
}

/// Catastrophes of two stages, among trials that do not listen.
fn catastrophes() -> Scenario {
    let nature = Nature { bad_percent: 35, catastrophic: true, stubborn: true, ..Nature::default() };
    let first = stage("a", 4, 2).range("x", Range::int(1..=4)).retry_policy(&retries(0));
    let mut spec = study([first, stage("b", 8, 1).range("y", Range::int(1..=4)).retry_policy(&retries(0))]);
    spec.rails.catastrophic_failures = Some(3);
    Scenario { nature, ..scenario("catastrophes", 3, spec) }
}

fn amended() -> Scenario {
    let of = |budget: u64| study([stage("a", budget, 1).range("x", Range::int(1..=6)), stage("b", 1, 1)]);
    let more =
        study([stage("a", 4, 1).range("x", Range::int(1..=6)), stage("b", 2, 1).range("y", Range::int(1..=2))]);
    Scenario { amended: Some((more, Some(1))), ..scenario("amended", 2, of(4)) }
}

/// Replicas of cases in rounds, some of which fail at first, and a child of the one that stands for its case; then there are more of each.
fn repeated() -> Scenario {
    let of = |repeats: u32, budget: u64| {
        let first = stage("a", budget, 1).range("x", Range::int(1..=2)).repeats(repeats);
        let first = first.aggregate(Aggregate::Midmean).output("result.bin").retry_policy(&retries(1));
        study([first, stage("b", 1, 1)])
    };
    let nature = Nature { flaky_percent: 40, flaky: 1, ..Nature::default() };
    Scenario { nature, amended: Some((of(3, 6), Some(1))), ..scenario("repeated", 2, of(2, 4)) }
}

/// A case goes on that did not survive.
fn explored() -> Scenario {
    let first = stage("a", 3, 1).explore(1).range("x", Range::int(1..=3));
    scenario("explored", 2, study([first, stage("b", 2, 1)]))
}

/// The first stage ends once one brought nothing better, among others of higher number that have ended or still run.
fn ended() -> Scenario {
    let first = stage("a", 6, 2).range("x", Range::int(1..=6)).improve_within(1);
    scenario("ended", 4, study([first, stage("b", 1, 1)]))
}

/// A race: who leaves after which round, among replicas some of which fail at first, and a child of the winner.
fn raced() -> Scenario {
    let first = stage("a", 6, 1).range("x", Range::int(1..=2)).race(1, 3).race_confidence(0.5);
    let spec = study([first.retry_policy(&retries(1)), stage("b", 1, 1)]);
    let nature = Nature { flaky_percent: 40, flaky: 1, ..Nature::default() };
    Scenario { nature, ..scenario("raced", 2, spec) }
}

fn discarded() -> Scenario {
    let of = |budget: u64| study([stage("a", budget, 1).range("x", Range::int(1..=8))]);
    Scenario { amended: Some((of(5), None)), ..scenario("extended", 2, of(3)) }
}

fn drained() -> Scenario {
    let requests = vec![
        vec![(20, Request::Drain)],
        vec![(25, Request::DrainFor(10))],
        vec![(15, Request::Drain), (18, Request::Terminate)],
    ];
    let nature = Nature { stubborn: true, ..Nature::default() };
    let spec = study([stage("a", 7, 1).range("x", Range::int(1..=7))]);
    Scenario { requests, nature, ..scenario("drained", 2, spec) }
}

fn timed() -> Scenario {
    let nature = Nature { hanging_percent: 40, ..Nature::default() };
    let first =
        stage("a", 5, 1).range("x", Range::int(1..=5)).timeout(Duration::from_secs(2)).retry_policy(&retries(1));
    Scenario { nature, ..scenario("timeouts", 2, study([first])) }
}

fn gated() -> Scenario {
    let spec = study([
        stage("a", 2, 1).range("x", Range::int(1..=2)),
        stage("b", 2, 1).range("y", Range::int(1..=2)).approve(),
    ]);
    Scenario { neighbour: true, ..scenario("gated", 2, spec) }
}

fn based() -> Scenario {
    let first = Stage::argv("a", ["true"]).budget(2).survivors(1).minimize("m").range("x", Range::int(1..=2));
    let spec = Study::builder("s").base_argv(["true"]).stage(first).spec().unwrap();
    scenario("based", 1, spec)
}

/// Trials outlive the engine; see what a simulated pool makes of adoption.
fn remote() -> Scenario {
    let first = stage("a", 3, 1).range("x", Range::int(1..=3)).output("out.bin").retry_policy(&retries(1));
    let mut spec = study([first, stage("b", 1, 1).retry_policy(&retries(1))]);
    spec.run.executor = on_cluster();
    let nature = Nature { flaky_percent: 40, flaky: 1, stubborn: true, ..Nature::default() };
    let requests = vec![Vec::new(), vec![(15, Request::Drain), (18, Request::Terminate)]];
    Scenario { nature, requests, ..scenario("remote", 3, spec) }
}

/// Trials that need cards and licences, of which there are too few for all workers; some fail and run again.
fn shared() -> Scenario {
    let first = stage("a", 4, 2).range("x", Range::int(1..=4)).needs(CARDS, 1).needs("licence", 1);
    let second = stage("b", 2, 1).needs(CARDS, 2).workers(1);
    let stages = [first.retry_policy(&retries(1)), second.retry_policy(&retries(1))];
    let study = Study::builder("s").seed(7).items(CARDS, ["0", "1", "2"]).resource("licence", 2);
    let spec = stages.into_iter().fold(study, |study, stage| study.stage(stage)).spec().unwrap();
    let nature = Nature { flaky_percent: 40, flaky: 1, ..Nature::default() };
    Scenario { nature, ..scenario("shared", 4, spec) }
}

/// The same on a cluster, where attempts have their cards for longer than an engine lives.
fn shared_remotely() -> Scenario {
    let mut scenario = Scenario { name: "shared_remotely".into(), ..shared() };
    scenario.spec.run.executor = on_cluster();
    Scenario { requests: vec![Vec::new(), vec![(15, Request::Drain), (18, Request::Terminate)]], ..scenario }
}

/// An input that somebody changes while trials read it.
fn inputs() -> Scenario {
    let nature = Nature { flaky_percent: 30, flaky: 1, ..Nature::default() };
    let first = stage("a", 3, 1).range("x", Range::int(1..=3)).retry_policy(&retries(1));
    let second = stage("b", 1, 1).retry_policy(&retries(1));
    let spec = Study::builder("s").seed(7).input(INPUT).stage(first).stage(second).spec().unwrap();
    Scenario { nature, meddled: Meddled::Input, ..scenario("inputs", 2, spec) }
}

/// Outputs of parents that somebody changes.
fn inherited() -> Scenario {
    let first = stage("a", 2, 2).range("x", Range::int(1..=2)).output("result.bin").output("sub/more.txt");
    let second = stage("b", 4, 1).range("y", Range::int(1..=2)).retry_policy(&retries(1));
    Scenario { meddled: Meddled::Parents, ..scenario("inherited", 2, study([first, second])) }
}

/// Trials that are alike, some of which fail; then a grid that has grown, whose old results are discarded, and taken again.
fn reused() -> Scenario {
    let of = |x: [i64; 2], last: i64| {
        let first = stage("a", 2 * last as u64, 1).reuse("1").uses(["x"]).choices("y", 1..=last);
        let first = first.choices("x", x).output("result.bin").retry_policy(&retries(1));
        let second = stage("b", 1, 1).reuse("1").output("sub/more.txt");
        study([first, second.retry_policy(&retries(1))])
    };
    let nature = Nature { flaky_percent: 50, flaky: 1, late_reports: true, ..Nature::default() };
    Scenario { nature, amended: Some((of([5, 2], 2), None)), ..scenario("reused", 2, of([1, 2], 1)) }
}

/// Numbers in the output that trials of a simulated pool leave; of some only where they are even.
const ALL_NUMBERS: &str = r"result.bin ([0-9]{1,6})[0-9]*\n";
const EVEN_NUMBERS: &str = r"result.bin ([0-9]{1,6})[0-9]*[02468]\n";

/// A number that trials leave in their output is read by another rule: some failed for want of it, and succeed now. With one more metric.
fn reread_with(name: &str, reuse: bool) -> Scenario {
    let rule = |regex: &str, scale| MetricRule { file: "result.bin".into(), regex: regex.into(), scale };
    let of = |regex: &str, more: bool| {
        let mut first =
            Stage::argv("a", ["true"]).budget(3).survivors(1).minimize("m").range("x", Range::int(1..=3));
        first = first.output("result.bin").metric("m", &rule(regex, 1.0)).retry_policy(&retries(0));
        if more {
            first = first.metric("size", &rule(ALL_NUMBERS, 2.0));
        }
        if reuse {
            first = first.reuse(true);
        }
        study([first, stage("b", 1, 1)])
    };
    Scenario { amended: Some((of(ALL_NUMBERS, true), Some(1))), ..scenario(name, 2, of(EVEN_NUMBERS, false)) }
}

fn reread() -> Scenario {
    reread_with("reread", false)
}

fn reread_reusing() -> Scenario {
    reread_with("reread_reusing", true)
}

/// A base command, before a stage that is planned anew and loses nothing.
fn based_again() -> Scenario {
    let of = |x: [i64; 2]| {
        let first = stage("a", 2, 1).reuse("1").choices("x", x);
        Study::builder("s").seed(7).base_argv(["true"]).stage(first).spec().unwrap()
    };
    Scenario { amended: Some((of([3, 1]), None)), ..scenario("based_again", 2, of([1, 2])) }
}

/// Its input changes, is taken for what it was, and more trials run with it.
fn accepted() -> Scenario {
    let of = |budget: u64| {
        let first = stage("a", budget, 1).reuse("1").choices("x", [1, 2, 3]).retry_policy(&retries(1));
        Study::builder("s").seed(7).input(INPUT).stage(first.output("result.bin")).spec().unwrap()
    };
    Scenario { accepts: true, amended: Some((of(3), None)), ..scenario("accepted", 2, of(2)) }
}

/// Trials that go on from what they find in their scratch directories; then the same places are those of other trials.
fn scratched() -> Scenario {
    let of = |x: [i64; 3]| study([stage("a", 3, 1).choices("x", x).retry_policy(&retries(1))]);
    let nature = Nature { scratch: true, flaky_percent: 30, flaky: 1, ..Nature::default() };
    Scenario { nature, amended: Some((of([3, 1, 2]), Some(0))), ..scenario("scratched", 2, of([1, 2, 3])) }
}

/// A grid whose old results are discarded, and whose places others take that cannot have them.
fn aside() -> Scenario {
    let of = |x: [i64; 2]| study([stage("a", 2, 1).reuse("1").choices("x", x).output("result.bin")]);
    Scenario { amended: Some((of([3, 1]), Some(0))), ..scenario("aside", 2, of([1, 2])) }
}

/// A stage whose trials are compared at rungs.
fn halving(name: &str, budget: u64, keep: u64) -> Stage {
    let at_once = Retries { delay_ms: 0, ..retries(1) };
    let stage = stage(name, budget, 1).range("x", Range::int(1..=budget as i64)).retry_policy(&at_once);
    stage.halving([2, 4, 6]).halving_eta(2).halving_keep(keep)
}

/// Trials that others are better than end at rungs, in the midst of failures, retries and drains.
fn halved() -> Scenario {
    let nature = Nature {
        reports: 7,
        bad_percent: 15,
        flaky_percent: 30,
        flaky: 1,
        late_reports: true,
        ..Nature::default()
    };
    let requests = vec![vec![(60, Request::Drain)], vec![(15, Request::Drain), (18, Request::Terminate)]];
    let spec = study([halving("a", 6, 1), stage("b", 1, 1)]);
    Scenario { nature, requests, ..scenario("halved", 3, spec) }
}

/// The same on a cluster, where trials outlive the engine.
fn halved_remotely() -> Scenario {
    let nature = Nature { reports: 7, flaky_percent: 30, flaky: 1, stubborn: true, ..Nature::default() };
    let requests = vec![Vec::new(), vec![(15, Request::Drain), (18, Request::Terminate)]];
    let mut spec = study([halving("a", 6, 1)]);
    spec.run.executor = on_cluster();
    Scenario { nature, requests, ..scenario("halved_remotely", 3, spec) }
}

/// An input that somebody changes while trials report what they make of it, and keep it.
fn halved_inputs() -> Scenario {
    let nature = Nature { reports: 7, scratch: true, flaky_percent: 30, flaky: 1, ..Nature::default() };
    let first = halving("a", 3, 1);
    let spec = Study::builder("s").seed(7).input(INPUT).stage(first).spec().unwrap();
    Scenario { nature, meddled: Meddled::Input, ..scenario("halved_inputs", 2, spec) }
}

/// A later stage whose trials are compared, and outputs of parents that somebody changes meanwhile.
fn halved_heirs() -> Scenario {
    let nature = Nature { reports: 4, scratch: true, ..Nature::default() };
    let first = stage("a", 2, 2).range("x", Range::int(1..=2)).output("result.bin");
    let second = stage("b", 4, 1).range("y", Range::int(1..=2));
    let second = second.halving([2, 4]).halving_eta(2).halving_keep(1);
    Scenario { nature, meddled: Meddled::Parents, ..scenario("halved_heirs", 2, study([first, second])) }
}

/// Trials that end by what they report themselves, some of them where rungs have still to decide.
fn stopped() -> Scenario {
    let nature = Nature { reports: 7, flaky_percent: 40, flaky: 1, stubborn: true, ..Nature::default() };
    let plateau = StopIf::no_better("m", Goal::Minimize, 2, 5.0);
    let first = halving("a", 6, 2).stop_if(&StopIf::above("m", 450.0).after(3)).stop_if(&plateau.after(3));
    Scenario { nature, ..scenario("stopped", 2, study([first])) }
}

/// Directories that are discarded when their stages have closed.
fn kept() -> Scenario {
    let nature = Nature { bad_percent: 30, scratch: true, ..Nature::default() };
    let keep = Keep { survivors: Kept::Logs, others: Kept::Outputs, failed: Kept::Nothing };
    let first = stage("a", 3, 1).range("x", Range::int(1..=3)).output("result.bin").output("sub/more.txt");
    let second = stage("b", 2, 1).range("y", Range::int(1..=2));
    let spec = study([first.keep(keep), second.keep(keep)]);
    Scenario { nature, ..scenario("kept", 2, spec) }
}

/// The same by hand, when everything is over.
fn swept() -> Scenario {
    let nature = Nature { bad_percent: 30, scratch: true, ..Nature::default() };
    let first = stage("a", 3, 1).range("x", Range::int(1..=3)).output("result.bin");
    let gc = Some(Keep { survivors: Kept::Logs, others: Kept::Nothing, failed: Kept::Nothing });
    Scenario { nature, gc, ..scenario("swept", 2, study([first, stage("b", 1, 1).output("result.bin")])) }
}

/// The first stage is mended when some of its trials' directories are gone: who survives then, or survived before, has what was recorded.
fn kept_mended() -> Scenario {
    let nature =
        Nature { flaky_percent: 40, flaky: u32::MAX, first_only: true, scratch: true, ..Nature::default() };
    let keep = Keep { failed: Kept::Nothing, ..Keep::default() };
    let first = stage("a", 3, 1).range("x", Range::int(1..=3)).output("result.bin").keep(keep);
    let spec = study([first, stage("b", 1, 1)]);
    Scenario { mended: Some(LaterStages::Discard), nature, ..scenario("kept_mended", 2, spec) }
}

/// Results that somebody changes just before they are taken.
fn taken() -> Scenario {
    let of = |budget: u64| {
        study([stage("a", budget, 1)
            .reuse("1")
            .uses(["x"])
            .choices("y", [1, 2])
            .choices("x", [1, 2])
            .output("result.bin")])
    };
    Scenario { meddled: Meddled::Taken, amended: Some((of(4), Some(0))), ..scenario("taken", 2, of(3)) }
}

/// Without outputs, on a cluster, while runs are stopped.
fn reused_remotely() -> Scenario {
    let first = stage("a", 4, 1).reuse("1").uses(["x"]).choices("y", [1, 2]).choices("x", [1, 2]);
    let mut spec = study([first.retry_policy(&retries(1)), stage("b", 1, 1).retry_policy(&retries(1))]);
    spec.run.executor = on_cluster();
    let nature = Nature { flaky_percent: 60, flaky: 1, stubborn: true, ..Nature::default() };
    let requests = vec![vec![(10, Request::Drain)], vec![(15, Request::Drain), (18, Request::Terminate)]];
    Scenario { nature, requests, ..scenario("reused_remotely", 3, spec) }
}

/// Trials that are not what they promise. A part of those that could take a result runs all the same; once one of them was found to differ
/// none takes any, also after everything was discarded.
fn doubted() -> Scenario {
    let of = |budget: u64| {
        let first = stage("a", budget, 1).reuse("1").uses(["x"]).choices("y", [1, 2, 3, 4]).choices("x", [1, 2]);
        let first = first.output("result.bin").retry_policy(&retries(1));
        Study::builder("s").seed(7).reuse_check(0.4).stage(first).spec().unwrap()
    };
    let nature = Nature { unequal: true, flaky_percent: 30, flaky: 1, ..Nature::default() };
    Scenario { nature, amended: Some((of(8), Some(0))), ..scenario("doubted", 2, of(6)) }
}

/// The same on a cluster, where trials are taken over by the next engine, and their checks with them.
fn doubted_remotely() -> Scenario {
    let first = stage("a", 6, 1).reuse("1").uses(["x"]).choices("y", [1, 2, 3]).choices("x", [1, 2]);
    let first = first.retry_policy(&retries(1));
    let mut spec = Study::builder("s").seed(7).reuse_check(0.6).stage(first).spec().unwrap();
    spec.run.executor = on_cluster();
    let nature = Nature { unequal: true, stubborn: true, ..Nature::default() };
    let requests = vec![vec![(20, Request::Drain)], vec![(15, Request::Drain), (18, Request::Terminate)]];
    Scenario { nature, requests, ..scenario("doubted_remotely", 3, spec) }
}

/// Where the outputs lie of results that are imported.
pub(super) const THEIRS: &str = "/home/ada/study/theirs";

/// The best and the worst result come from elsewhere, with outputs that children derive from. They are not what trials would give.
fn imported() -> Scenario {
    let first = stage("a", 3, 1).range("x", Range::int(1..=3)).output("result.bin");
    let row = |x: i64, m: f64| {
        let params = Params::from([("x".into(), Value::Int(x))]);
        let metrics = Metrics::from([("m".into(), Metric::Number(m))]);
        (params, metrics, Some(Below::root(PathBuf::from(THEIRS)).join(x.to_string())))
    };
    Scenario {
        imported: vec![row(3, -2.0e6), row(2, 2.0e6)],
        ..scenario("imported", 2, study([first, stage("b", 1, 1)]))
    }
}

fn on_cluster() -> ExecutorSpec {
    ExecutorSpec::Slurm(SlurmSpec { lost_after_ms: 100, ..SlurmSpec::default() })
}

/// Three stages, of which the first is mended once all have closed.
fn mended() -> Scenario {
    // What failed fails until it is mended, whenever that comes.
    let nature =
        Nature { flaky_percent: 20, flaky: u32::MAX, first_only: true, scratch: true, ..Nature::default() };
    let first = stage("a", 4, 2).range("x", Range::int(1..=4)).output("result.bin");
    let second = stage("b", 4, 2).range("y", Range::int(1..=2)).output("result.bin");
    let spec = study([first, second, stage("c", 2, 1)]);
    Scenario { mended: Some(LaterStages::Discard), nature, ..scenario("mended", 2, spec) }
}

/// Two stages, whose first is mended once both have closed.
fn mended_with(name: &str, later: LaterStages, second: Stage) -> Scenario {
    let nature = Nature { flaky_percent: 20, flaky: u32::MAX, first_only: true, ..Nature::default() };
    let first = stage("a", 4, 2).range("x", Range::int(1..=4)).output("result.bin");
    Scenario { mended: Some(later), nature, ..scenario(name, 2, study([first, second])) }
}

/// The second stage takes all that is equal.
fn mended_reusing() -> Scenario {
    let second = stage("b", 4, 1).range("y", Range::int(1..=2)).reuse("1");
    mended_with("mended_reusing", LaterStages::Discard, second)
}

/// The second stage stays as it is.
fn mended_keeping() -> Scenario {
    mended_with("mended_keeping", LaterStages::Keep, stage("b", 4, 1).range("y", Range::int(1..=2)))
}

/// Trials of the second stage outlive the engine, and wait or end while the first is open again.
fn mended_remotely() -> Scenario {
    let second = stage("b", 4, 1).range("y", Range::int(1..=2)).output("result.bin");
    let mut of = mended_with("mended_remotely", LaterStages::Discard, second);
    of.spec.run.executor = on_cluster();
    of.requests = vec![vec![(100, Request::Terminate)]];
    of
}

fn reset() -> Scenario {
    // Its one trial fails at first, and for good.
    let nature = Nature { flaky_percent: 100, flaky: 1, ..Nature::default() };
    Scenario { retry: true, nature, ..scenario("reset", 1, study([stage("a", 1, 1)])) }
}

/// A study made up by chance whose stages reuse, and that is amended once it is over, with all or the last of its results discarded.
pub(super) fn random_reusing(seed: u64) -> Scenario {
    let base = random(seed);
    let mut random = Random::of(&[seed, 23]);
    let mut made = |budget: u64| {
        let (mut stages, mut parents) = (Vec::new(), 1);
        for (name, outputs) in [("a", random.percent(70)), ("b", random.percent(50))] {
            let survivors = 1 + random.below(2);
            let values: Vec<i64> = (0..=random.below(4) as i64).collect();
            let mut stage = stage(name, (budget + random.below(6)).max(parents), survivors)
                .reuse("1")
                .choices(&format!("x{name}"), values)
                .choices(&format!("y{name}"), [1, 2, 3])
                .retry_policy(&retries(1))
                .timeout(Duration::from_secs(3));
            if random.percent(70) {
                stage = stage.uses([format!("x{name}")]);
            }
            if outputs {
                stage = stage.output("out.bin");
            }
            stages.push(stage);
            parents = survivors;
        }
        study(stages)
    };
    let mut spec = made(2);
    let mut amended = made(4);
    spec.run = base.spec.run.clone();
    amended.run = base.spec.run.clone();
    let meddled = if random.percent(30) { Meddled::Taken } else { Meddled::Nothing };
    // Whoever keeps the promise does not see that some are checked.
    amended.run.reuse_check = if random.percent(50) { 0.3 } else { 0.0 };
    // A trial that fails by chance of its attempt, and another that is equal, are one and the same to a study that reuses.
    let nature = Nature { flaky: 1, ..base.nature };
    let name = format!("reusing_{seed}");
    Scenario { name, spec, amended: Some((amended, Some(0))), meddled, nature, ..base }
}

/// A study made up by chance.
pub(super) fn random(seed: u64) -> Scenario {
    let mut random = Random::of(&[seed, 1]);
    let mut stages = Vec::new();
    let mut parents = 1;
    for name in ["a", "b", "c"].iter().take(1 + random.below(3) as usize) {
        let budget = 2 + random.below(16);
        let survivors = 1 + random.below(budget.min(4));
        let mut made = stage(name, budget.max(parents), survivors)
            .range(&format!("x{name}"), Range::float(0.0..=1.0))
            .sampling(if random.percent(50) { Sampling::Random } else { Sampling::Sobol })
            .retry_policy(&retries(1 + random.below(2) as u32));
        if random.percent(40) {
            made = made.output("out.bin");
        }
        if random.percent(40) {
            made = made.timeout(Duration::from_secs(3));
        }
        if random.percent(20) {
            made = made.approve();
        }
        let mut watched = Random::of(&[seed, 31, stages.len() as u64]);
        if watched.percent(40) {
            let (eta, keep) = (2 + watched.below(2), 1 + watched.below(3));
            let rungs = [vec![2, 4, 6], vec![1, 7], vec![5]][watched.below(3) as usize].clone();
            made = made.halving(rungs).halving_eta(eta).halving_keep(keep);
        }
        if watched.percent(20) {
            let most = 100.0 + watched.below(400) as f64;
            made = made.stop_if(&StopIf::above("m", most).after(watched.below(6)));
        }
        stages.push(made);
        parents = survivors;
    }
    let nature = Nature {
        bad_percent: random.below(20),
        flaky_percent: random.below(50),
        flaky: 1,
        hanging_percent: random.below(10),
        stubborn: random.percent(30),
        late_reports: random.percent(50),
        first_only: false,
        catastrophic: false,
        unequal: false,
        scratch: false,
        reports: 7,
    };
    let mut requests = Vec::new();
    while random.percent(40) {
        let request = match random.below(3) {
            0 => Request::Drain,
            1 => Request::DrainFor(random.below(100)),
            _ => Request::Terminate,
        };
        requests.push(vec![(random.below(300) as i64, request)]);
    }
    let workers = 1 + random.below(5) as u32;
    let clock_percent = random.below(2) * 40;
    let mut spec = study(stages);
    spec.run.sync_interval_ms = [0, 0, 20, 500][random.below(4) as usize];
    if random.percent(30) {
        spec.run.executor = on_cluster();
    }
    let neighbour = random.percent(30);
    let meddled = if random.percent(30) { Meddled::Parents } else { Meddled::Nothing };
    Scenario {
        meddled,
        nature,
        requests,
        clock_percent,
        neighbour,
        ..scenario(&format!("random_{seed}"), workers, spec)
    }
}
