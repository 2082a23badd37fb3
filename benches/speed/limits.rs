//! What the machine can do at all: starting processes, syncing a file, and redb alone with piton's kind of writes.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use redb::{ConcurrencyMode, Database, Durability, ReadableDatabase, TableDefinition};

use crate::bench::{Bench, Fallible};
use crate::measure::{Samples, figure, print, run_and_read, worker};
use crate::report::Report;

/// Measures them.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let (mut fsync, mut redb) = (Samples::default(), Samples::default());
    for _ in 0..bench.scale.reps {
        let dir = bench.dir("limits")?;
        fsync.push(figure(&run_and_read(worker("fsync")?.arg(dir.join("file")))?, "per_s")?);
        redb.push(redb_rate(&dir)?);
    }
    report.add("append 4 KiB and fdatasync", "1/s", &fsync);
    report.add("redb alone, transitions of piton's kind, 1,000 a commit", "1/s", &redb);
    report.add(
        "size of the program",
        "MB",
        &Samples::one(std::fs::metadata(env!("CARGO_BIN_EXE_piton"))?.len() as f64 / 1e6),
    );
    Ok(())
}

/// Transitions a second of redb alone, for 100,000 trials.
pub fn redb_rate(dir: &Path) -> Fallible<f64> {
    figure(&run_and_read(worker("redb")?.args(["200000", "1000"]).arg(dir.join("limits.redb")))?, "per_s")
}

/// Appends and syncs for two seconds.
pub fn fsync_loop(path: &Path) -> Fallible<()> {
    let mut file = File::create(path)?;
    let block = [7_u8; 4096];
    let begun = Instant::now();
    let mut count = 0_u32;
    while begun.elapsed() < Duration::from_secs(2) {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    print(&serde_json::json!({ "per_s": f64::from(count) / begun.elapsed().as_secs_f64() }))
}

/// What piton writes for each transition of a trial, without piton: an event of 100 bytes, a row of 200, and a place in a
/// queue that comes or goes. Two transitions a trial; commits as piton's.
pub fn redb_loop(count: u64, batch: u64, path: &Path) -> Fallible<()> {
    const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
    const TRIALS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("trials");
    const QUEUE: TableDefinition<'_, u64, ()> = TableDefinition::new("queue");
    let mut builder = Database::builder();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).set_cache_size(32 << 20);
    let db = builder.create(path)?;
    let (event, row) = ([1_u8; 100], [2_u8; 200]);
    let begun = Instant::now();
    let mut seq = 0;
    while seq < count {
        let mut tx = db.begin_write()?;
        tx.set_durability(Durability::Immediate)?;
        tx.set_quick_repair(true);
        {
            let (mut events, mut trials) = (tx.open_table(EVENTS)?, tx.open_table(TRIALS)?);
            let mut queue = tx.open_table(QUEUE)?;
            for _ in 0..batch.min(count - seq) {
                events.insert(seq, event.as_slice())?;
                trials.insert(seq / 2, row.as_slice())?;
                if seq % 2 == 0 {
                    queue.insert(seq / 2, ())?;
                } else {
                    queue.remove(seq / 2)?;
                }
                seq += 1;
            }
        }
        tx.commit()?;
    }
    drop(db.begin_read()?);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    print(&serde_json::json!({ "per_s": count as f64 / begun.elapsed().as_secs_f64() }))
}

/// The least that running `/bin/true` so many times, two at a time, with its output in files of its own, can cost:
/// `posix_spawn` and `wait` in one loop.
pub fn spawn_loop(count: u32, dir: &Path) -> Fallible<()> {
    let mut running = 0;
    for number in 0..count {
        if running == 2 {
            wait_one()?;
            running -= 1;
        }
        let name = |what: &str| CString::new(dir.join(format!("{number}.{what}")).as_os_str().as_bytes());
        spawn_true(&name("out")?, &name("err")?)?;
        running += 1;
    }
    (0..running).try_for_each(|_| wait_one())
}

fn wait_one() -> Fallible<()> {
    let mut status = 0;
    // SAFETY: the pointer is valid for the write.
    match unsafe { libc::waitpid(-1, &raw mut status, 0) } {
        pid if pid > 0 && status == 0 => Ok(()),
        _ => Err(format!("waitpid: status {status:#x}, {}", std::io::Error::last_os_error()).into()),
    }
}

fn spawn_true(out: &CString, err: &CString) -> Fallible<()> {
    let program = c"/bin/true";
    let argv = [program.as_ptr().cast_mut(), std::ptr::null_mut()];
    // SAFETY: the actions are initialised before they are used and destroyed once; every string lives until the call
    // returns; the pid is valid for the write, `environ` is never changed by this program.
    unsafe {
        unsafe extern "C" {
            static environ: *const *mut libc::c_char;
        }
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&raw mut actions);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        libc::posix_spawn_file_actions_addopen(&raw mut actions, 1, out.as_ptr(), flags, 0o644);
        libc::posix_spawn_file_actions_addopen(&raw mut actions, 2, err.as_ptr(), flags, 0o644);
        let mut pid = 0;
        let no_attributes = std::ptr::null();
        let code = libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions,
            no_attributes,
            argv.as_ptr(),
            environ,
        );
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
        if code != 0 {
            return Err(std::io::Error::from_raw_os_error(code).into());
        }
    }
    Ok(())
}
