//! What a trial that exited 0 has to show: metrics and outputs.
//!
//! All of it was written by the trial and may be anything: a FIFO, a link to `/etc`, a gigabyte of brackets, NaN. Every
//! file is opened without following links or blocking, read up to a limit, and refused in words.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FileType;

use super::durable::Unsynced;
use super::failure::{Trouble, failure, shorten};
use super::place::{Grounds, Way};
use crate::executor::{CompiledRule, Job, StageRuntime};
use crate::model::{Failure, Metric, Metrics, OutputHash};
use crate::sys::opened::Opened;
use crate::sys::tree_hash::HashWatch;
use crate::sys::words::io_words;

pub(super) const METRICS_FILE: &str = "metrics.json";
const MAX_METRICS_FILE_BYTES: u64 = 1 << 20;
/// Of a file that rules read, the last so many bytes are searched.
const MAX_RULE_FILE_BYTES: u64 = 64 << 20;
/// A rule's search may take this long.
const RULE_LIMIT: Duration = Duration::from_secs(60);
/// The clock is looked at once in so many matches.
const MATCHES_A_LOOK: u64 = 16;
pub(super) const MAX_LABEL_BYTES: usize = 1 << 10;
/// A record of the journal holds all of a trial's metrics, and records are bounded.
const MAX_METRICS_BYTES: usize = 32 << 10;

/// An attempt's directory after the attempt; the trial may have removed it.
pub(crate) struct Remains {
    dir: Result<Arc<Opened>, &'static str>,
}

impl Remains {
    /// What is at the place where the attempt's directory was made.
    ///
    /// # Errors
    /// Why the place itself cannot be reached: no trial is to blame for what lies above its directory.
    pub(crate) fn of(grounds: &Grounds, job: &Job) -> Result<Self, String> {
        let way = Way::to(&job.dir, job);
        let failed = |error: io::Error| {
            format!("cannot open the attempt's directory `{}`: {}", job.dir.display(), io_words(&error))
        };
        let gone = Self { dir: Err("the attempt's directory is gone") };
        // The last two are the case's and the attempt's own: what became of them is the trial's doing.
        let own = way.names.len().saturating_sub(1).min(2);
        let shared = Way {
            names: way.names.iter().take(way.names.len().saturating_sub(own)).cloned().collect(),
            ..way.clone()
        };
        let mut dir = match grounds.open(&shared) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(gone),
            other => other.map_err(failed)?,
        };
        for name in way.names.iter().skip(shared.names.len()) {
            dir = match dir.enter(name) {
                Ok(dir) => Arc::new(dir),
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound => return Ok(gone),
                    io::ErrorKind::NotADirectory => {
                        return Ok(Self {
                            dir: Err("something else lies in the place of the attempt's directory"),
                        });
                    }
                    io::ErrorKind::PermissionDenied => {
                        return Ok(Self { dir: Err("the attempt's directory was locked") });
                    }
                    _ => return Err(failed(error)),
                },
            };
        }
        Ok(Self { dir: Ok(dir) })
    }

    /// A directory that was never made, or is not this attempt's.
    pub(crate) const fn none() -> Self {
        Self { dir: Err("the attempt has no directory") }
    }

    /// The directory, if it is there.
    pub(super) fn dir(&self) -> Option<&Opened> {
        self.dir.as_deref().ok()
    }

    /// Opens what is in it, through links that stay in it; nothing leads out.
    pub(super) fn open(&self, name: &str) -> io::Result<Opened> {
        self.find(name).map(|(file, _)| file)
    }

    /// Opens what is in it by its path without links.
    fn open_real(&self, path: &Path) -> io::Result<Opened> {
        match &self.dir {
            Ok(dir) => dir.open(path),
            Err(why) => Err(io::Error::new(io::ErrorKind::NotFound, *why)),
        }
    }

    /// Likewise, with the directories in it whose entries lead there, innermost first.
    fn find(&self, name: &str) -> io::Result<(Opened, Vec<PathBuf>)> {
        match &self.dir {
            Ok(dir) => {
                let (real, way) = dir.resolve(Path::new(name))?;
                Ok((self.open_real(&real)?, way))
            }
            Err(why) => Err(io::Error::new(io::ErrorKind::NotFound, *why)),
        }
    }
}

/// Everything a command attempt reported, complete; or why it counts as failed. What is not durable yet is noted.
pub(super) fn collect(
    job: &Job,
    remains: &Remains,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<(Metrics, Vec<OutputHash>), Trouble> {
    let mut metrics = read_metrics_file(remains)?;
    complete(job, remains, &mut metrics, unsynced, watch).map(|outputs| (metrics, outputs))
}

/// Adds what the rules find, checks that nothing is missing, and notes the outputs that are not durable yet.
pub(super) fn complete(
    job: &Job,
    remains: &Remains,
    metrics: &mut Metrics,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<Vec<OutputHash>, Trouble> {
    let stage = &*job.stage_spec;
    apply_rules(stage, remains, metrics)?;
    check_metrics(stage, metrics)?;
    keep_outputs(stage, remains, unsynced, watch)
}

fn bad(reason: impl Into<String>) -> Failure {
    failure("bad_metrics", reason)
}

fn read_metrics_file(remains: &Remains) -> Result<Metrics, Trouble> {
    let file = match remains.open(METRICS_FILE) {
        Ok(file) => file,
        // Whether it had to be there depends on what is needed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Metrics::new()),
        Err(error) => return Err(Trouble::of_left("bad_metrics", "cannot open `metrics.json`", &error)),
    };
    // A disk that cannot be read is not the trial's fault.
    let cannot_read = |error: io::Error| Trouble::of_left("bad_metrics", "cannot read `metrics.json`", &error);
    if file.kind().map_err(cannot_read)? != FileType::RegularFile {
        return Err(bad("`metrics.json` is not a regular file").into());
    }
    let mut text = Vec::new();
    file.file()
        .map_err(cannot_read)?
        .take(MAX_METRICS_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(cannot_read)?;
    if text.len() as u64 > MAX_METRICS_FILE_BYTES {
        return Err(bad("`metrics.json` is larger than 1 MiB").into());
    }
    Ok(parse_metrics(&text)?)
}

pub(super) fn parse_metrics(text: &[u8]) -> Result<Metrics, Failure> {
    let entries: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(text) {
        Ok(serde_json::Value::Object(entries)) => entries,
        Ok(_) => return Err(bad("`metrics.json` is not an object")),
        Err(_) if text.trim_ascii().is_empty() => return Err(bad("`metrics.json` is empty")),
        Err(_) if contains(text, b"NaN") || contains(text, b"Infinity") => {
            return Err(bad("`metrics.json` holds NaN or Infinity: metrics are finite numbers"));
        }
        Err(error) if error.to_string().starts_with("number out of range") => {
            return Err(bad(format!("`metrics.json`, line {}: a number too large to be finite", error.line())));
        }
        Err(error) => return Err(bad(format!("`metrics.json` is not JSON: {error}"))),
    };
    let mut metrics = Metrics::new();
    for (name, value) in entries {
        let metric = match value {
            serde_json::Value::Number(number) => match number.as_f64() {
                Some(number) if number.is_finite() => Metric::Number(number),
                _ => return Err(bad(format!("`{name}` in `metrics.json` is not finite"))),
            },
            serde_json::Value::String(label) => Metric::Label(shorten(label, MAX_LABEL_BYTES)),
            other => {
                return Err(bad(format!("`{name}` in `metrics.json` is {}, not a number", json_kind(&other))));
            }
        };
        metrics.insert(name, metric);
    }
    Ok(metrics)
}

fn json_kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
        serde_json::Value::Number(_) | serde_json::Value::String(_) => "a value",
    }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// A rule's number wins over one of the same name in `metrics.json`: the study file says where it comes from. A rule
/// that finds nothing matters only if its metric is needed.
fn apply_rules(stage: &StageRuntime, remains: &Remains, metrics: &mut Metrics) -> Result<(), Trouble> {
    // Rules on the same file share one reading; one file at a time is held.
    let mut rules: Vec<&CompiledRule> = stage.rules.iter().collect();
    rules.sort_by(|a, b| a.file.cmp(&b.file));
    for of_file in rules.chunk_by(|a, b| a.file == b.file) {
        let Some(first) = of_file.first() else { continue };
        let text = match read_rule_file(remains, &first.file) {
            Err(error) => {
                match Trouble::of_left("missing_metric", &format!("cannot read `{}`", first.file), &error) {
                    Trouble::Trial(_) => Err(io_words(&error)),
                    other => return Err(other),
                }
            }
            Ok(text) => Ok(text),
        };
        for rule in of_file {
            let found = match &text {
                Ok(text) => search(rule, text, RULE_LIMIT),
                Err(why) => {
                    Err(failure("missing_metric", format!("`{}` needs `{}`: {why}", rule.metric, rule.file)))
                }
            };
            match found {
                Ok(number) => drop(metrics.insert(rule.metric.clone(), Metric::Number(number))),
                Err(why) if stage.needed_metrics.contains(&rule.metric) && !metrics.contains_key(&rule.metric) => {
                    return Err(why.into());
                }
                Err(_) => {}
            }
        }
    }
    Ok(())
}

fn read_rule_file(remains: &Remains, name: &str) -> io::Result<Vec<u8>> {
    let file = remains.open(name)?;
    if file.kind()? != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut file = file.file()?;
    // The last match counts, so the end is what to look at.
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_RULE_FILE_BYTES)))?;
    let mut text = Vec::new();
    file.take(MAX_RULE_FILE_BYTES).read_to_end(&mut text)?;
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
        return Err(failure("missing_metric", why));
    };
    let text = String::from_utf8_lossy(last.as_bytes());
    let number = text.trim().parse::<f64>().map(|number| number * rule.scale);
    number.ok().filter(|number| number.is_finite()).ok_or_else(|| {
        let shown = shorten(text.into_owned(), 64);
        bad(format!("`{shown}`, found in `{}` for `{}`, is not a finite number", rule.file, rule.metric))
    })
}

/// Every needed metric is a finite number, and all together fit a record.
fn check_metrics(stage: &StageRuntime, metrics: &Metrics) -> Result<(), Failure> {
    let mut bytes = 0_usize;
    for (name, metric) in metrics {
        bytes += name.len() + 16;
        match metric {
            Metric::Number(number) if !number.is_finite() => return Err(bad(format!("`{name}` is not finite"))),
            Metric::Number(_) => {}
            Metric::Label(label) => bytes += label.len(),
        }
    }
    if bytes > MAX_METRICS_BYTES {
        return Err(bad(format!(
            "{} metrics are more than a trial may report (32 KiB with their names)",
            metrics.len()
        )));
    }
    for name in &stage.needed_metrics {
        match metrics.get(name) {
            Some(Metric::Number(_)) => {}
            Some(Metric::Label(_)) => return Err(bad(format!("`{name}` is text, not a number"))),
            None => return Err(failure("missing_metric", format!("the trial did not report `{name}`"))),
        }
    }
    Ok(())
}

/// Hashes the outputs, and notes what of them is not durable yet. What is synced is what was hashed: the same open file.
pub(crate) fn keep_outputs(
    stage: &StageRuntime,
    remains: &Remains,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<Vec<OutputHash>, Trouble> {
    let mut kept = Vec::new();
    for name in &stage.outputs {
        let hash = remains.find(name).and_then(|(file, way)| {
            let is_file = file.kind()? == FileType::RegularFile;
            let hash = file.hash(!is_file, watch)?;
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
            Err(error) => match Trouble::of_left("missing_output", &format!("cannot read `{name}`"), &error) {
                Trouble::Trial(_) => {
                    return Err(failure("missing_output", format!("`{name}`: {}", output_words(&error))).into());
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

    use super::super::durable::Room;
    use super::*;
    use crate::executor::local::tests::{job, stage};
    use crate::spec::{MetricRule, Work};
    use crate::sys::tree_hash::to_the_end;

    fn collect(job: &Job) -> Result<(Metrics, Vec<OutputHash>), Trouble> {
        let remains = Remains::of(&Grounds::default(), job).unwrap();
        super::collect(job, &remains, &mut Unsynced::new(&Room::of_process()), &to_the_end)
    }

    fn kind_and_reason(trouble: Trouble) -> (String, String) {
        match trouble {
            Trouble::Trial(failure) => (failure.kind, failure.reason),
            Trouble::Machine(why) => panic!("{why}"),
            Trouble::CutOff => panic!("it was cut off"),
        }
    }

    fn reason(text: &[u8]) -> String {
        let failure = parse_metrics(text).unwrap_err();
        assert_eq!(failure.kind, "bad_metrics");
        failure.reason
    }

    #[test]
    fn numbers_and_labels_are_read() {
        let metrics =
            parse_metrics(br#" {"a": 1, "b": -2.5e3, "c": "fast", "d": 18446744073709551615} "#).unwrap();
        let expected = Metrics::from([
            ("a".into(), Metric::Number(1.0)),
            ("b".into(), Metric::Number(-2_500.0)),
            ("c".into(), Metric::Label("fast".into())),
            ("d".into(), Metric::Number(18_446_744_073_709_551_615.0)),
        ]);
        assert_eq!(metrics, expected);
        let label = format!("{{\"a\": \"{}\"}}", "ä".repeat(1_000));
        let Some(Metric::Label(label)) = parse_metrics(label.as_bytes()).unwrap().remove("a") else { panic!() };
        assert_eq!(label.len(), 1_024);
    }

    #[test]
    fn garbage_is_refused_in_words() {
        assert_eq!(reason(b""), "`metrics.json` is empty");
        assert_eq!(reason(b"[1]"), "`metrics.json` is not an object");
        assert_eq!(reason(b"{\"a\": NaN}"), "`metrics.json` holds NaN or Infinity: metrics are finite numbers");
        assert_eq!(reason(b"{\n\"a\": 1e999}"), "`metrics.json`, line 2: a number too large to be finite");
        assert_eq!(reason(b"{\"a\": null}"), "`a` in `metrics.json` is null, not a number");
        assert_eq!(reason(b"{\"a\": {\"b\": 1}}"), "`a` in `metrics.json` is an object, not a number");
        assert!(reason(b"{\"a\": \"\xff\"}").starts_with("`metrics.json` is not JSON: "));
        assert!(reason(b"{\"a\": 1").starts_with("`metrics.json` is not JSON: "));
        assert!(reason(&[b'['; 1 << 20]).starts_with("`metrics.json` is not JSON: "));
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
            (kind.as_str(), why.as_str()),
            ("missing_metric", "nothing in `report/sta.rpt` matches the expression for `wns`")
        );
        for text in [&b"wns inf"[..], b"wns --", b"wns nan", b"wns 1e308"] {
            assert_eq!(run(&job, text).unwrap_err().0, "bad_metrics");
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
        assert_eq!((&*failure.kind, failure.retryable), ("bad_metrics", false));
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
        assert_eq!(why(&job), ("missing_output".into(), "`out/netlist.v`: no such file or directory".into()));
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
        assert_eq!(kind_and_reason(collect(&job).unwrap_err()).0, "bad_metrics");
        fs::write(job.dir.join(METRICS_FILE), vec![b' '; (1 << 20) + 1]).unwrap();
        assert_eq!(kind_and_reason(collect(&job).unwrap_err()).1, "`metrics.json` is larger than 1 MiB");
        fs::remove_file(job.dir.join(METRICS_FILE)).unwrap();
        fs::create_dir(job.dir.join(METRICS_FILE)).unwrap();
        assert_eq!(kind_and_reason(collect(&job).unwrap_err()).1, "`metrics.json` is not a regular file");
    }
}
