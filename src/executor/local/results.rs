//! What a trial that exited 0 has to show: metrics and outputs.
//!
//! All of it was written by the trial and may be anything: a FIFO, a link to `/etc`, a gigabyte of brackets, NaN. Every
//! file is opened without following links or blocking, read up to a limit, and refused in words.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use rustix::fs::FileType;

use super::blame::{AttemptError, failure, shorten};
use super::ended_dir::EndedAttemptDir;
use super::syncer::Unsynced;
use crate::executor::{CompiledRule, Job, StageRuntime};
use crate::model::FailureKind::{BadMetrics, MissingMetric, MissingOutput};
use crate::model::artifacts::METRICS_FILE;
use crate::model::json::without_bom;
use crate::model::plain::plain;
use crate::model::reported::{NAN_OR_INFINITE, Reported, label_of, metrics_fit, read_metrics};
use crate::model::reports::{Extent, Latest, MAX_BYTES};
use crate::model::words;
use crate::model::{Failure, Lost, Metric, Metrics, OutputHash, float_of_integer, float_text, read_measured};
use crate::study_file::progress::{Which, each_report};
use crate::sys::opened::Opened;
use crate::sys::tree_hash::HashWatch;
use crate::sys::words::io_words;

const MAX_METRICS_FILE_BYTES: u64 = 1 << 20;
/// Of a file that rules read, the last so many bytes are searched.
const MAX_RULE_FILE_BYTES: u64 = 64 << 20;
/// A rule's search may take this long.
const RULE_LIMIT: Duration = Duration::from_secs(60);
/// The clock is looked at once in so many matches.
const MATCHES_A_LOOK: u64 = 16;

/// Everything a command attempt reported, complete; or why it counts as failed. What is not durable yet is noted.
pub(super) fn collect(
    job: &Job,
    remains: &EndedAttemptDir,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<(Metrics, Vec<OutputHash>), AttemptError> {
    let mut reported = read_metrics_file(remains)?;
    let outputs = complete(job, remains, &mut reported, unsynced, watch)?;
    Ok((reported.metrics, outputs))
}

/// What a command attempt that exited 0 reported, by the rules of this stage; or why it counts as failed. Of its outputs nothing is asked.
pub(crate) fn reported(job: &Job, remains: &EndedAttemptDir) -> Result<Metrics, AttemptError> {
    let mut reported = read_metrics_file(remains)?;
    let stage = &*job.stage_spec;
    apply_rules(stage, remains, &mut reported)?;
    take_reports(job, remains, &mut reported)?;
    check_metrics(stage, &mut reported)?;
    Ok(reported.metrics)
}

/// Adds what the rules find, checks that nothing is missing, and notes the outputs that are not durable yet.
pub(super) fn complete(
    job: &Job,
    remains: &EndedAttemptDir,
    reported: &mut Reported,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<Vec<OutputHash>, AttemptError> {
    let stage = &*job.stage_spec;
    apply_rules(stage, remains, reported)?;
    take_reports(job, remains, reported)?;
    check_metrics(stage, reported)?;
    let outputs = keep_outputs(stage, remains, unsynced, watch)?;
    tell_left_out(job, &reported.left_out);
    Ok(outputs)
}

/// A metric that is none, and that nothing needs, is missed by nobody; but who looks for it shall know. Once for a stage's
/// metric: thousands of trials report the same.
fn tell_left_out(job: &Job, left_out: &BTreeMap<String, String>) {
    for (name, what) in left_out {
        let name = shorten(name.escape_debug().to_string(), 64);
        if job.stage_spec.told.is_new(&name) {
            log::warn!(
                "stage `{}`: the metric `{name}` is left out where it is no finite number and no text: in `{}` it is {what}; \
                 nothing needs it, and no more is said of it",
                job.stage_spec.name,
                job.case
            );
        }
    }
}

fn bad(reason: impl Into<String>) -> Failure {
    failure(BadMetrics, reason)
}

fn read_metrics_file(remains: &EndedAttemptDir) -> Result<Reported, AttemptError> {
    let file = match remains.open(METRICS_FILE) {
        Ok(file) => file,
        // Whether it had to be there depends on what is needed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reported::default()),
        Err(error) => return Err(AttemptError::of_left(BadMetrics, "cannot open `metrics.json`", &error)),
    };
    // A disk that cannot be read is not the trial's fault.
    let cannot_read = |error: io::Error| AttemptError::of_left(BadMetrics, "cannot read `metrics.json`", &error);
    if file.kind().map_err(cannot_read)? != FileType::RegularFile {
        return Err(bad("`metrics.json` is not a regular file").into());
    }
    let mut text = Vec::new();
    file.contents()
        .map_err(cannot_read)?
        .take(MAX_METRICS_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(cannot_read)?;
    if text.len() as u64 > MAX_METRICS_FILE_BYTES {
        return Err(bad("`metrics.json` is larger than 1 MiB").into());
    }
    Ok(parse_metrics(&text)?)
}

/// `metrics.json` as it is recorded.
pub(super) fn parse_metrics(text: &[u8]) -> Result<Reported, Failure> {
    let mut reported = read_metrics(text).map_err(|why| bad(format!("`metrics.json` {why}")))?;
    for metric in reported.metrics.values_mut() {
        if let Metric::Label(label) = metric {
            *label = label_of(std::mem::take(label));
        }
    }
    let odd = reported.left_out.values_mut();
    odd.for_each(|what| *what = label_of(std::mem::take(what)));
    Ok(reported)
}

/// A rule's number wins over one of the same name in `metrics.json`: the study file says where it comes from. A rule
/// that finds nothing matters only if its metric is needed.
fn apply_rules(
    stage: &StageRuntime,
    remains: &EndedAttemptDir,
    reported: &mut Reported,
) -> Result<(), AttemptError> {
    // Rules on the same file share one reading; one file at a time is held.
    let mut rules: Vec<&CompiledRule> = stage.rules.iter().collect();
    rules.sort_by(|a, b| a.file.cmp(&b.file));
    for of_file in rules.chunk_by(|a, b| a.file == b.file) {
        let Some(first) = of_file.first() else { continue };
        let text = match read_rule_file(remains, &first.file) {
            Err(error) => {
                match AttemptError::of_left(MissingMetric, &format!("cannot read `{}`", first.file), &error) {
                    AttemptError::Trial(_) => Err(io_words(&error)),
                    other => return Err(other),
                }
            }
            Ok(text) => Ok(text),
        };
        // As a person sees it, like a log.
        let text = text.as_deref().map(plain);
        for rule in of_file {
            let found = match &text {
                Ok(text) => search(rule, &text.bytes, RULE_LIMIT),
                Err(why) => Err(failure(MissingMetric, format!("`{}` needs `{}`: {why}", rule.metric, rule.file))),
            };
            match found {
                Ok(number) => {
                    reported.left_out.remove(&rule.metric);
                    reported.metrics.insert(rule.metric.clone(), Metric::Number(number));
                }
                // What is in `metrics.json` stays.
                Err(_) if reported.metrics.contains_key(&rule.metric) => {}
                Err(why) if stage.needed_metrics.contains(&rule.metric) => return Err(why.into()),
                Err(why) if why.kind == BadMetrics => {
                    reported.left_out.insert(rule.metric.clone(), why.reason);
                }
                Err(_) => {}
            }
        }
    }
    Ok(())
}

/// The last report of a metric is its value where nothing else is. What a file of reports holds beyond all bounds might change
/// it: then it is none.
fn take_reports(job: &Job, remains: &EndedAttemptDir, reported: &mut Reported) -> Result<(), AttemptError> {
    let stage = &*job.stage_spec;
    if !stage.reports_count {
        return Ok(());
    }
    // A replay's directories lie where the user wants them.
    let is_beside = job.dir.parent() == job.scratch_dir.parent();
    let replayed = if is_beside { None } else { job.scratch_dir.parent().and_then(|dir| Opened::dir(dir).ok()) };
    let Some(case) = replayed.as_ref().or(remains.case()) else { return Ok(()) };
    let mut latest = Latest::default();
    let which = Which { printed: stage.printed.as_ref(), attempt: job.key.attempt, ended: true };
    let extent = each_report(case, which, |report| latest.take(report))
        .map_err(|error| AttemptError::of_left(MissingMetric, "cannot read the trial's reports", &error))?;
    match extent {
        Extent::Whole => latest.complete(reported),
        Extent::Cut => log::warn!(
            "`{}`: the trial reported more than is read of one file, {}; its last reports are no metrics",
            job.case,
            words::bytes(MAX_BYTES)
        ),
    }
    Ok(())
}

fn read_rule_file(remains: &EndedAttemptDir, name: &str) -> io::Result<Vec<u8>> {
    let file = remains.open(name)?;
    if file.kind()? != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut file = file.contents()?;
    // The last match counts, so the end is what to look at.
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_RULE_FILE_BYTES)))?;
    let mut text = Vec::new();
    file.take(MAX_RULE_FILE_BYTES).read_to_end(&mut text)?;
    if length <= MAX_RULE_FILE_BYTES {
        // Or `^` would not match at the beginning.
        let mark = text.len() - without_bom(&text).len();
        text.drain(..mark);
    }
    Ok(text)
}

/// One search takes time in proportion to the text, but an expression that looks far ahead for each of many matches can
/// take that times their number: no file may occupy a worker for ever.
pub(super) fn search(rule: &CompiledRule, text: &[u8], limit: Duration) -> Result<f64, Failure> {
    let start = Instant::now();
    let mut last = None;
    for (found, number) in rule.regex.find_iter(text).zip(1_u64..) {
        last = Some(found.start());
        if number.is_multiple_of(MATCHES_A_LOOK) && start.elapsed() >= limit {
            let why = format!("searching `{}` for `{}` takes too long", rule.file, rule.metric);
            return Err(Failure { retryable: false, ..bad(why) });
        }
    }
    let last = last.and_then(|start| rule.regex.captures_at(text, start)).and_then(|captures| captures.get(1));
    let Some(last) = last else {
        let why = format!("nothing in `{}` matches the expression for `{}`", rule.file, rule.metric);
        return Err(failure(MissingMetric, why));
    };
    let text = String::from_utf8_lossy(last.as_bytes());
    scaled(text.trim(), rule.scale).map_err(|what| {
        let shown = shorten(text.into_owned(), 64);
        bad(format!("`{shown}`, found in `{}` for `{}`, {what}", rule.file, rule.metric))
    })
}

/// A number that was found, times its scale; or what is wrong with it.
fn scaled(text: &str, scale: f64) -> Result<f64, String> {
    let not_finite = || "is not a finite number".to_owned();
    let found = read_measured(text).map_err(|lost| lost.map_or_else(not_finite, |lost| lost.to_string()))?;
    let number = found * scale;
    if !number.is_finite() {
        return Err(not_finite());
    }
    if number == 0.0 && found != 0.0 && scale != 0.0 {
        return Err(format!("times {} {}", float_text(scale), Lost::TooSmall));
    }
    // An integer times an integer is one as well.
    #[expect(clippy::cast_possible_truncation, reason = "the guard leaves integers within 64 bits")]
    let whole = (scale.fract() == 0.0 && scale.abs() < 9e18).then_some(scale as i64);
    let product = text.parse::<i128>().ok().zip(whole).map(|(found, scale)| found.checked_mul(scale.into()));
    match product {
        Some(product) => {
            let product = product.ok_or(Lost::Digits(number)).and_then(float_of_integer);
            product.map_err(|lost| format!("times {} {lost}", float_text(scale)))
        }
        None => Ok(number),
    }
}

/// Every needed metric is a finite number, and all that are kept together fit a record.
fn check_metrics(stage: &StageRuntime, reported: &mut Reported) -> Result<(), Failure> {
    let Reported { metrics, left_out, .. } = reported;
    metrics.retain(|name, metric| {
        let is_kept = metric.number().is_none_or(f64::is_finite);
        if !is_kept {
            left_out.insert(name.clone(), NAN_OR_INFINITE.to_owned());
        }
        is_kept
    });
    for name in &stage.needed_metrics {
        match (metrics.get(name), left_out.get(name)) {
            (Some(Metric::Number(_)), _) => {}
            (Some(Metric::Label(_)), _) => return Err(bad(format!("`{name}` is text, not a number"))),
            (None, Some(what)) => return Err(bad(format!("`{name}` is {what}: it must be a finite number"))),
            (None, None) => {
                return Err(failure(MissingMetric, format!("the trial did not report `{name}`")));
            }
        }
    }
    if !metrics_fit(metrics) {
        return Err(bad(format!(
            "{} metrics are more than a trial may report (32 KiB with their names)",
            metrics.len()
        )));
    }
    Ok(())
}

/// Hashes the outputs, and notes what of them is not durable yet. What is synced is what was hashed: the same open file.
pub(crate) fn keep_outputs(
    stage: &StageRuntime,
    remains: &EndedAttemptDir,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<Vec<OutputHash>, AttemptError> {
    keep_named(&stage.outputs, remains, unsynced, watch)
}

/// The same for outputs of these names.
pub(super) fn keep_named(
    names: &[String],
    remains: &EndedAttemptDir,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<Vec<OutputHash>, AttemptError> {
    let mut kept = Vec::new();
    for name in names {
        let hash = remains.find(name).and_then(|(file, way)| {
            let is_file = file.kind()? == FileType::RegularFile;
            let hash = remains.look(|_dir| file.hash(!is_file, watch))?;
            if is_file {
                unsynced.keep(name, file)?;
            } else {
                unsynced.kept_elsewhere();
            }
            for between in way {
                unsynced.keep(&between.to_string_lossy(), remains.open_real(&between)?)?;
            }
            Ok(hash)
        });
        match hash {
            Ok(hash) => kept.push(OutputHash { path: name.clone(), bytes: hash.bytes, blake3: hash.blake3 }),
            Err(error) => match AttemptError::of_left(MissingOutput, &format!("cannot read `{name}`"), &error) {
                AttemptError::Trial(_) => {
                    return Err(failure(MissingOutput, format!("`{name}`: {}", output_words(&error))).into());
                }
                other => return Err(other),
            },
        }
    }
    Ok(kept)
}

fn output_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ELOOP) => "leads in a circle of symbolic links".into(),
        Some(libc::ENXIO) => "is a socket".into(),
        _ => io_words(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::super::attempt_dir::Grounds;
    use super::super::syncer::Room;
    use super::*;
    use crate::executor::local::tests::{job, stage};
    use crate::study_file::{MetricRule, Work};
    use crate::sys::tree_hash::to_the_end;

    fn collect(job: &Job) -> Result<(Metrics, Vec<OutputHash>), AttemptError> {
        let remains = EndedAttemptDir::of(&Grounds::default(), job).unwrap();
        super::collect(job, &remains, &mut Unsynced::new(&Room::of_process()), &to_the_end)
    }

    fn kind_and_reason(trouble: AttemptError) -> (crate::model::FailureKind, String) {
        match trouble {
            AttemptError::Trial(failure) => (failure.kind, failure.reason),
            AttemptError::Machine(why) => panic!("{why}"),
            AttemptError::CutOff => panic!("it was cut off"),
        }
    }

    #[test]
    fn labels_are_bounded_and_reasons_name_the_file() {
        let label = format!("{{\"a\": \"{}\"}}", "ä".repeat(1_000));
        let Some(Metric::Label(label)) = parse_metrics(label.as_bytes()).unwrap().metrics.remove("a") else {
            panic!()
        };
        assert_eq!(label.len(), 1_024);
        let failure = parse_metrics(b"[1]").unwrap_err();
        assert_eq!((failure.kind, &*failure.reason), (BadMetrics, "`metrics.json` is not an object"));
    }

    #[test]
    fn what_nothing_needs_is_left_out_and_what_is_needed_fails() {
        let root = tempfile::tempdir().unwrap();
        let run = |needed: &[&str], text: &str| {
            let mut stage = stage(root.path(), Work::Closure);
            stage.needed_metrics = needed.iter().map(|name| (*name).to_owned()).collect();
            let job = job(stage, root.path());
            fs::create_dir_all(&job.dir).unwrap();
            fs::write(job.dir.join(METRICS_FILE), text).unwrap();
            let result = collect(&job).map(|(metrics, _)| metrics.into_keys().collect::<Vec<_>>().join(" "));
            (result.map_err(kind_and_reason), job.stage_spec.told.is_new("odd"))
        };
        for odd in ["NaN", "-Infinity", "null", "true", "[1, NaN]", "{}", "9007199254740993", "1e400", "1e-400"] {
            let text = format!("{{\"y\": 1, \"odd\": {odd}}}");
            assert_eq!(run(&["y"], &text), (Ok("y".to_owned()), false), "{odd}: said once");
            let (result, silent) = run(&["y", "odd"], &text);
            let (kind, reason) = result.unwrap_err();
            assert!(silent && kind == BadMetrics && reason.ends_with(": it must be a finite number"), "{reason}");
        }
        let (result, _) = run(&["odd"], "{\"odd\": 9007199254740993}");
        let why = "`odd` is 9007199254740993, which cannot be held exactly by a 64-bit float: it must be a finite number";
        assert_eq!(result.unwrap_err().1, why);
        assert_eq!(run(&["odd"], "\u{feff}{\"odd\": 9007199254740992}").0, Ok("odd".to_owned()));
        assert_eq!(run(&["odd"], "{\"odd\": \"1\"}").0.unwrap_err().1, "`odd` is text, not a number");
    }

    #[test]
    fn a_found_number_is_what_was_written_times_its_scale() {
        assert_eq!(scaled("-0.25", 1_000.0), Ok(-250.0));
        assert_eq!(scaled("+7", 1.0), Ok(7.0));
        assert_eq!(scaled("9007199254740992", 1.0), Ok(9_007_199_254_740_992.0));
        assert_eq!(scaled("9007199254740993", 0.5).unwrap_err(), "cannot be held exactly by a 64-bit float");
        assert_eq!(
            scaled("9007199254740991", 3.0).unwrap_err(),
            "times 3.0 cannot be held exactly by a 64-bit float"
        );
        assert_eq!(scaled("9007199254740991", 1e-3), Ok(9_007_199_254_740_991.0 * 1e-3));
        assert_eq!(
            scaled("1e-300", 1e-300).unwrap_err(),
            "times 1e-300 is too small for a 64-bit float: it would become 0"
        );
        for odd in ["inf", "nan", "1e400", "", "--", "1,000"] {
            assert!(scaled(odd, 1.0).is_err(), "{odd}");
        }
    }

    fn rule(metric: &str, regex: &str) -> CompiledRule {
        let rule = MetricRule { file: "report/sta.rpt".into(), regex: regex.into(), scale: 1_000.0 };
        CompiledRule::new(metric, &rule).unwrap()
    }

    #[test]
    fn rules_take_the_last_match_and_matter_only_if_needed() {
        let root = tempfile::tempdir().unwrap();
        let mut stage = stage(root.path(), Work::Closure);
        stage.rules = vec![rule("wns", r"wns\s+(\S+)"), rule("tns", r"tns\s+(\S+)")];
        stage.needed_metrics = ["wns".to_owned()].into();
        let mut job = job(stage, root.path());
        fs::create_dir_all(job.dir.join("report")).unwrap();
        let run = |job: &Job, text: &[u8]| {
            fs::write(job.dir.join("report/sta.rpt"), text).unwrap();
            collect(job).map(|(metrics, _)| metrics).map_err(kind_and_reason)
        };
        let expected = Metrics::from([("wns".into(), Metric::Number(-250.0))]);
        assert_eq!(run(&job, b"\xff wns 9\nwns  -0.25\ntns none\n"), Ok(expected));
        let (kind, why) = run(&job, b"tns 1").unwrap_err();
        assert_eq!(
            (kind, why.as_str()),
            (MissingMetric, "nothing in `report/sta.rpt` matches the expression for `wns`")
        );
        for text in [&b"wns inf"[..], b"wns --", b"wns nan", b"wns 1e308"] {
            assert_eq!(run(&job, text).unwrap_err().0, BadMetrics);
        }
        fs::remove_dir_all(&job.dir).unwrap();
        assert_eq!(
            kind_and_reason(collect(&job).unwrap_err()).1,
            "`wns` needs `report/sta.rpt`: the attempt's directory is gone"
        );
        Arc::get_mut(&mut job.stage_spec).unwrap().needed_metrics.clear();
        assert_eq!(collect(&job).unwrap(), (Metrics::new(), Vec::new()));
    }

    #[test]
    fn a_search_ends_however_many_matches_there_are() {
        let far = rule("wns", "(a).*b|(a)");
        // Each match looks for the `b` to the very end: 10^10 steps in all.
        let text = vec![b'a'; 256 << 10];
        let failure = search(&far, &text, Duration::ZERO).unwrap_err();
        assert_eq!((failure.kind, failure.retryable), (BadMetrics, false));
        assert_eq!(failure.reason, "searching `report/sta.rpt` for `wns` takes too long");
        let few = b"a 1\n".repeat(10);
        assert_eq!(search(&rule("wns", r"a (\d)"), &few, Duration::ZERO), Ok(1_000.0));
    }

    #[test]
    fn outputs_are_hashed_or_missed() {
        let root = tempfile::tempdir().unwrap();
        let mut stage = stage(root.path(), Work::Closure);
        stage.outputs = vec!["out/netlist.v".into()];
        let job = job(stage, root.path());
        fs::create_dir_all(job.dir.join("out")).unwrap();
        let why = |job: &Job| kind_and_reason(collect(job).unwrap_err());
        assert_eq!(why(&job), (MissingOutput, "`out/netlist.v`: no such file or directory".into()));
        std::os::unix::fs::symlink("/etc/passwd", job.dir.join("out/netlist.v")).unwrap();
        assert_eq!(
            why(&job).1,
            "`out/netlist.v`: is a symbolic link out of the attempt's directory, to `/etc/passwd`"
        );
        fs::remove_file(job.dir.join("out/netlist.v")).unwrap();
        fs::write(job.dir.join("out/netlist.v"), "module").unwrap();
        let (_, outputs) = collect(&job).unwrap();
        let blake3 = *blake3::hash(b"module").as_bytes();
        assert_eq!(outputs, [OutputHash { path: "out/netlist.v".into(), bytes: 6, blake3 }]);
    }

    #[test]
    fn a_record_holds_only_so_much() {
        let root = tempfile::tempdir().unwrap();
        let job = job(stage(root.path(), Work::Closure), root.path());
        fs::create_dir_all(&job.dir).unwrap();
        let many: Vec<String> = (0..10_000).map(|n| format!("\"m{n}\":{n}")).collect();
        fs::write(job.dir.join(METRICS_FILE), format!("{{{}}}", many.join(","))).unwrap();
        assert_eq!(kind_and_reason(collect(&job).unwrap_err()).0, BadMetrics);
        fs::write(job.dir.join(METRICS_FILE), vec![b' '; (1 << 20) + 1]).unwrap();
        assert_eq!(kind_and_reason(collect(&job).unwrap_err()).1, "`metrics.json` is larger than 1 MiB");
        fs::remove_file(job.dir.join(METRICS_FILE)).unwrap();
        fs::create_dir(job.dir.join(METRICS_FILE)).unwrap();
        assert_eq!(kind_and_reason(collect(&job).unwrap_err()).1, "`metrics.json` is not a regular file");
    }
}
