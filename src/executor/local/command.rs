//! What exactly a trial runs: its program, arguments and environment.
//!
//! Pure but for the search along PATH. It never decides whether something fails: what cannot be run is said so.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::blame::failure;
use crate::executor::{ATTEMPT_KEY_VAR, Job};
use crate::model::Failure;
use crate::model::FailureKind::{CommandNotFound, SpawnFailed};
use crate::model::artifacts::{METRICS_FILE, PARAMS_FILE};
use crate::study_file::{CPUS, ExpandContext, Expanded};

/// Where commands are looked for when nothing says where.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The pool whose items are cards.
const GPU: &str = "gpu";

/// A command, ready for the keeper.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) program: CString,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// It goes through `sh -c`.
    pub(super) by_shell: bool,
    /// What a person wrote, for messages.
    pub(super) shown: String,
}

impl Command {
    /// `inherited` is the engine's own environment.
    pub(super) fn of(job: &Job, slot: u32, inherited: &[(OsString, OsString)]) -> Result<Self, Failure> {
        let env = environment(job, slot, inherited);
        let (program, argv, by_shell, shown) = match expanded(job, slot)? {
            Expanded::Argv(words) => {
                let mut argv: Vec<OsString> = words.into_iter().map(Into::into).collect();
                let Some(first) = argv.first_mut() else {
                    return Err(failure(SpawnFailed, "the command is empty"));
                };
                let shown = first.to_string_lossy().into_owned();
                let program = find_program(first, &job.stage_spec.study_dir, env.get(OsStr::new("PATH")))
                    .ok_or_else(|| failure(CommandNotFound, format!("`{shown}` is not in PATH")))?;
                if shown.contains('/') {
                    // So that a program can find what lies beside it.
                    *first = program.clone().into_os_string();
                }
                (program, argv, false, shown)
            }
            Expanded::Shell(line) => {
                let argv = vec!["sh".into(), "-c".into(), line.into()];
                ("/bin/sh".into(), argv, true, "/bin/sh".into())
            }
            Expanded::Closure => return Err(failure(SpawnFailed, "a closure is no command")),
        };
        let entries = env.into_iter().map(|(name, value)| {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            entry
        });
        Ok(Self {
            program: c_string(program.into_os_string(), "the program's path")?,
            argv: argv.into_iter().map(|arg| c_string(arg, "an argument")).collect::<Result<_, _>>()?,
            env: entries.map(|entry| c_string(entry, "the environment")).collect::<Result<_, _>>()?,
            by_shell,
            shown,
        })
    }
}

/// Fills in the placeholders; in a shell line each value is quoted for its place.
fn expanded(job: &Job, slot: u32) -> Result<Expanded, Failure> {
    let used = job.stage_spec.work.names_directory();
    let text = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        // A name that nobody asks for.
        None if !used => Ok(String::new()),
        None => Err(failure(SpawnFailed, format!("`{}` is not UTF-8", path.display()))),
    };
    let parent_dir = job.parent_dir.as_deref().map(text).transpose()?;
    let study_dir = text(&job.stage_spec.study_dir)?;
    let context = ExpandContext {
        params: &job.params,
        case: &job.case,
        parent_dir: parent_dir.as_deref(),
        study_dir: &study_dir,
        seed: job.seed,
        replica: job.replica,
        attempt: job.key.attempt,
        slot,
        given: &job.given,
    };
    job.stage_spec.work.expand(&context).map_err(|error| failure(SpawnFailed, error.to_string()))
}

/// The engine's environment, then `[env]`, then the contract's variables.
fn environment(job: &Job, slot: u32, inherited: &[(OsString, OsString)]) -> BTreeMap<OsString, OsString> {
    let stage = &job.stage_spec;
    let mut env: BTreeMap<OsString, OsString> = inherited.iter().cloned().collect();
    env.extend(stage.env.iter().map(|(name, value)| (name.into(), value.into())));
    if let Some(cpus) = job.given.iter().find(|given| given.pool == CPUS) {
        env.entry("OMP_NUM_THREADS".into()).or_insert_with(|| cpus.text().into());
    }
    if job.replica.is_none() {
        // A piton that itself runs in a trial inherits one.
        env.remove(OsStr::new("PITON_REPLICA"));
    }
    let mut set = |name: &str, value: OsString| drop(env.insert(name.into(), value));
    set("PITON_STUDY", stage.study.clone().into());
    set("PITON_STUDY_DIR", stage.study_dir.clone().into());
    set("PITON_STAGE", stage.name.clone().into());
    set("PITON_STAGE_INDEX", job.stage.to_string().into());
    set("PITON_TRIAL", job.key.trial.to_string().into());
    set("PITON_CASE", job.case.clone().into());
    set("PITON_PARENT_CASE", job.parent_case.clone().into());
    set("PITON_ATTEMPT", job.key.attempt.to_string().into());
    set("PITON_SLOT", slot.to_string().into());
    set("PITON_SEED", job.seed.to_string().into());
    if let Some(replica) = job.replica {
        set("PITON_REPLICA", replica.to_string().into());
    }
    for given in &job.given {
        set(&format!("PITON_{}", given.pool.to_ascii_uppercase()), given.text().into());
        // What the makers of these cards' libraries look at, so that a program sees no other.
        if given.pool == GPU && !given.items.is_empty() {
            set("CUDA_VISIBLE_DEVICES", given.text().into());
            set("ROCR_VISIBLE_DEVICES", given.text().into());
        }
    }
    set("PITON_PARAMS_FILE", job.dir.join(PARAMS_FILE).into());
    set("PITON_METRICS_FILE", job.dir.join(METRICS_FILE).into());
    set("PITON_PROGRESS_FILE", job.progress_file().into());
    set("PITON_SCRATCH_DIR", job.scratch_dir.clone().into());
    set(ATTEMPT_KEY_VAR, job.key.to_string().into());
    match &job.parent_dir {
        Some(dir) => set("PITON_PARENT_DIR", dir.clone().into()),
        // A piton that itself runs in a trial inherits one.
        None => drop(env.remove(OsStr::new("PITON_PARENT_DIR"))),
    }
    env
}

/// A name with a slash is relative to the study file; any other is looked for along PATH, whose relative entries are
/// relative to the study file as well.
pub(super) fn find_program(name: &OsStr, study_dir: &Path, path: Option<&OsString>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(study_dir.join(name));
    }
    let path = path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    std::env::split_paths(path)
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| study_dir.join(dir).join(name))
        .find(|candidate| {
            candidate.is_file() && accessat(CWD, candidate, Access::EXEC_OK, AtFlags::empty()).is_ok()
        })
}

pub(super) fn c_string(text: OsString, what: &str) -> Result<CString, Failure> {
    CString::new(text.into_vec())
        .map_err(|_| Failure { retryable: false, ..failure(SpawnFailed, format!("{what} holds a NUL byte")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::local::tests::{job, stage};
    use crate::model::{Given, Value};
    use crate::study_file::{Part, Template, Work, is_pool_name};

    fn template(parts: Vec<Part>) -> Template {
        Template { parts }
    }

    #[test]
    fn placeholders_and_environment_tell_the_trial_all_it_may_know() {
        let root = Path::new("/study");
        let all = vec![
            Part::Text("a b=".into()),
            Part::Param("x".into()),
            Part::Case,
            Part::ParentDir,
            Part::StudyDir,
            Part::Seed,
            Part::Attempt,
            Part::Slot,
        ];
        let mut stage = stage(root, Work::Argv(vec![template(vec![Part::Text("./tool".into())]), template(all)]));
        stage.env = vec![("A".into(), "new".into()), ("PITON_CASE".into(), "forged".into())];
        let mut job = job(stage, root);
        job.params.insert("x".into(), Value::Float(1e-5));
        job.parent_dir = Some("/parent".into());
        let inherited = [("A".into(), "old".into()), ("B".into(), "kept".into())];
        let command = Command::of(&job, 3, &inherited).unwrap();
        assert_eq!(command.program.to_str(), Ok("/study/./tool"));
        assert_eq!(command.argv[1].to_str(), Ok("a b=0.00001case_0_0/parent/study713"));
        let env: Vec<&str> = command.env.iter().map(|entry| entry.to_str().unwrap()).collect();
        let key = format!("PITON_ATTEMPT_KEY={}", job.key);
        let expected =
            ["A=new", "B=kept", "PITON_CASE=case_0_0", "PITON_SLOT=3", "PITON_SEED=7", "PITON_ATTEMPT=1", &key];
        assert!(expected.iter().all(|entry| env.contains(entry)), "{env:?}");
        assert!(env.contains(&"PITON_PARENT_DIR=/parent"));
        let own: Vec<&str> =
            env.iter().filter_map(|entry| entry.strip_prefix("PITON_")?.split('=').next()).collect();
        assert_eq!(own.len(), 16);
        for name in own {
            assert!(!is_pool_name(&name.to_lowercase()), "a pool may be called as {name} is");
        }
    }

    #[test]
    fn a_trial_is_told_what_it_has_of_what_trials_share() {
        let root = Path::new("/study");
        let words = ["sh", "gpu", "cpus"].map(|name| match name {
            "sh" => template(vec![Part::Text("/bin/sh".into())]),
            pool => template(vec![Part::Param(pool.into())]),
        });
        let given = |pool: &str, amount, items: &[&str]| Given {
            pool: pool.into(),
            amount,
            items: items.iter().map(|item| (*item).to_owned()).collect(),
        };
        let of = |inherited: &[(OsString, OsString)], given: Vec<Given>| {
            let job = Job { given, ..job(stage(root, Work::Argv(words.to_vec())), root) };
            let command = Command::of(&job, 0, inherited).unwrap();
            let text = |text: &CString| text.to_str().unwrap().to_owned();
            (command.argv.iter().map(text).collect::<Vec<_>>(), command.env.iter().map(text).collect::<Vec<_>>())
        };
        let (argv, env) = of(
            &[("CUDA_VISIBLE_DEVICES".into(), "0,1,2,3".into())],
            vec![given("gpu", 2, &["1", "GPU-7"]), given("cpus", 4, &[]), given("vcs_licence", 3, &[])],
        );
        assert_eq!(argv[1..], ["1,GPU-7", "4"]);
        for entry in [
            "PITON_GPU=1,GPU-7",
            "CUDA_VISIBLE_DEVICES=1,GPU-7",
            "ROCR_VISIBLE_DEVICES=1,GPU-7",
            "PITON_CPUS=4",
            "OMP_NUM_THREADS=4",
            "PITON_VCS_LICENCE=3",
        ] {
            assert!(env.iter().any(|found| found == entry), "{entry}: {env:?}");
        }
        // Cards without names hide none, and who says how many threads means it.
        let (_, env) =
            of(&[("OMP_NUM_THREADS".into(), "1".into())], vec![given("gpu", 1, &[]), given("cpus", 4, &[])]);
        assert!(env.iter().any(|found| found == "OMP_NUM_THREADS=1"), "{env:?}");
        assert!(!env.iter().any(|found| found.contains("VISIBLE")), "{env:?}");
    }

    #[test]
    fn bare_names_are_found_along_path_and_missing_ones_are_named() {
        let root = Path::new("/study");
        let bare = |name: &str| Work::Argv(vec![template(vec![Part::Text(name.into())])]);
        let command = Command::of(&job(stage(root, bare("sh")), root), 0, &[]).unwrap();
        assert!(command.program.to_str().unwrap().ends_with("/bin/sh"));
        assert_eq!(command.argv, [c"sh".to_owned()]);
        let parent_dir = ("PITON_PARENT_DIR".into(), "/outer".into());
        let path = |dir: &str| ("PATH".into(), dir.into());
        assert!(
            !format!("{:?}", Command::of(&job(stage(root, bare("sh")), root), 0, &[parent_dir]))
                .contains("/outer")
        );
        let lost = Command::of(&job(stage(root, bare("sh")), root), 0, &[path("/nowhere::")]).unwrap_err();
        assert_eq!((lost.kind, lost.reason.as_str()), (CommandNotFound, "`sh` is not in PATH"));
        assert!(!lost.retryable);
        let nul = Command::of(&job(stage(root, bare("/bin/\0")), root), 0, &[]).unwrap_err();
        assert_eq!(nul.kind, SpawnFailed);
    }
}
