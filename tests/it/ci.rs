//! What a CI system and a terminal are shown: annotations, the job's summary, JUnit; bars, and no copies of them.

use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Engine, Sandbox, StudyFile, wait_until};

/// Trials that wait for `gate`, but for the first, which fails; values and log would be markup and commands.
fn study(budget: u32) -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("gated")
            .run("workers = 2")
            .stage("only", ["./trial.sh", "{n}", "{mode}"], budget, 2)
            .sweep("n = { min = 1, max = 40, type = \"int\" }\nmode = [\"<img src=x>|`y`\"]")
            .minimize("cost")
            .with("[[stage.failure]]\nkind = \"odd\"\nexit_code = 3"),
    );
    sandbox.script(
        "trial.sh",
        r#"
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/started"
echo "::error::from a trial ##[group]" >&2
[ "$1" != 1 ] || exit 3
while [ ! -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done
echo "{\"cost\": $1}" > metrics.json
"#,
    );
    sandbox
}

fn on_github(sandbox: &Sandbox, line: &str) -> Command {
    let mut command = sandbox.piton(line.split_whitespace());
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", sandbox.path("summary.md"));
    command
}

/// Lines the runner takes for commands.
fn commands(stderr: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stderr);
    text.lines()
        .filter(|line| line.trim_start().starts_with("::") || line.contains("##["))
        .map(str::to_owned)
        .collect()
}

#[test]
fn github_gets_annotations_groups_and_a_summary() {
    let sandbox = study(6);
    sandbox.write("gate", "");
    sandbox.write("summary.md", "what another step said\n");
    let output = on_github(&sandbox, "run study.toml --ci --junit results.xml").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = commands(&output.stderr);
    assert_eq!(said[0], "::group::stage 0 `only`: 6 trials", "{said:?}");
    assert!(said[1].starts_with("::error title=gated_0_0 failed%3A odd::exited with code 3%0A"), "{said:?}");
    assert!(said[1].ends_with("artifacts/gated/0_only/gated_0_0/attempt_1/stderr.log"), "{said:?}");
    assert_eq!(said[2..], ["::endgroup::"]);

    let summary = std::fs::read_to_string(sandbox.path("summary.md")).unwrap();
    assert!(summary.starts_with("what another step said\n### piton: gated is completed\n"), "{summary}");
    assert!(
        summary.contains("| only | closed | 6 | 5 | 1 | 2 | cost 2 &#40;gated&#95;0&#95;1&#41; |"),
        "{summary}"
    );
    assert!(summary.contains("&#60;img src=x&#62;&#124;&#96;y&#96;"), "{summary}");
    assert!(!summary.contains("<img") && !summary.contains("`y`"), "{summary}");
    let junit = std::fs::read_to_string(sandbox.path("results.xml")).unwrap();
    assert!(junit.contains("<testsuites") && junit.matches("<testcase").count() == 6, "{junit}");
}

#[test]
fn elsewhere_it_says_nothing_in_that_language() {
    let sandbox = study(4);
    sandbox.write("gate", "");
    let mut command = sandbox.piton(["run", "study.toml", "--ci"]);
    let output = command.env_remove("GITHUB_ACTIONS").env_remove("GITHUB_STEP_SUMMARY").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(commands(&output.stderr), Vec::<String>::new());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("exited with code 3 (odd); artifacts/gated/0_only/gated_0_0"), "{text}");
}

#[test]
fn a_job_that_is_cut_off_says_how_to_go_on() {
    let sandbox = study(6);
    let mut command = on_github(&sandbox, "run study.toml --ci --junit results.xml --drain-for 1h");
    let log = std::fs::File::create(sandbox.path("log")).unwrap();
    let engine = Engine { child: command.stderr(log).spawn().unwrap() };
    wait_until("two trials run", || sandbox.lines("started").len() >= 3);
    engine.signal(Signal::TERM);
    wait_until("it stops", || sandbox.lines("log").iter().any(|line| line.starts_with("stopping")));
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(75));
    let said = commands(&std::fs::read(sandbox.path("log")).unwrap());
    assert_eq!(
        said.last().unwrap(),
        "::warning title=the study was interrupted::go on with `piton run study.toml`",
        "{said:?}"
    );
    let summary = std::fs::read_to_string(sandbox.path("summary.md")).unwrap();
    assert!(
        summary.contains("gated is interrupted") && summary.contains("Go on with <code>piton run"),
        "{summary}"
    );
    let junit = std::fs::read_to_string(sandbox.path("results.xml")).unwrap();
    assert_eq!(junit.matches("<testcase").count(), 6, "{junit}");
}

/// A terminal of its own, as tmux has it.
pub struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    pub fn start(sandbox: &Sandbox, columns: u32, line: &str) -> Self {
        Self::at(sandbox.path("tmux"), sandbox, columns, line)
    }

    /// Another one.
    pub fn start_beside(sandbox: &Sandbox, columns: u32, line: &str) -> Self {
        Self::at(sandbox.path("tmux_2"), sandbox, columns, line)
    }

    fn at(socket: std::path::PathBuf, sandbox: &Sandbox, columns: u32, line: &str) -> Self {
        let terminal = Self { socket };
        let columns = columns.to_string();
        let line = format!("{} {line}; echo \"exit $?\"; read wait", env!("CARGO_BIN_EXE_piton"));
        let dir = sandbox.path(".");
        let mut command = terminal.tmux();
        command
            .args(["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", "40", "-c"])
            .arg(dir)
            .arg(line);
        command
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .env_remove("COLUMNS");
        assert!(command.status().unwrap().success());
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.socket);
        command
    }

    fn screen(&self) -> String {
        String::from_utf8(self.tmux().args(["capture-pane", "-p"]).output().unwrap().stdout).unwrap()
    }

    pub fn waits_for(&self, words: &str) -> String {
        wait_until(words, || self.screen().contains(words));
        self.screen()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.tmux().arg("kill-server").status());
    }
}

#[test]
fn a_terminal_shows_what_runs_and_keeps_no_copies() {
    for columns in [60, 120] {
        let sandbox = study(40);
        let terminal = Terminal::start(&sandbox, columns, "run study.toml");
        terminal.waits_for("running: gated_0_");
        let screen = terminal.waits_for("1/40");
        assert!(screen.contains("gated_0_0 failed after"), "{screen}");
        assert!(screen.replace('\n', "").contains("attempt_1/stderr.log"), "{screen}");
        assert!(!screen.contains("#1m"), "{screen}");
        assert!(terminal.tmux().args(["send-keys", "C-c"]).status().unwrap().success());
        terminal.waits_for("go on later with");
        sandbox.write("gate", "");
        let screen = terminal.waits_for("exit 75");
        let bars = screen
            .lines()
            .filter(|line| line.starts_with("only ━") || line.starts_with("only ╸") || line.starts_with("only ─"))
            .count();
        assert_eq!(bars, 1, "{screen}");
        assert!(!screen.contains("running:"), "{screen}");
        assert!(!screen.contains("^C"), "{screen}");
    }
}

#[test]
fn a_terminal_shows_how_the_best_value_went() {
    let sandbox = study(40);
    sandbox.write("gate", "");
    let terminal = Terminal::start(&sandbox, 140, "run study.toml");
    let screen = terminal.waits_for("exit 0");
    let bar = screen.lines().find(|line| line.contains("40/40")).unwrap();
    // The first success had the least cost, 2.
    assert!(bar.contains("▁▁▁") && bar.contains("best cost 2 (gated_0_1)"), "{screen}");
    assert!(screen.contains("survivor"), "{screen}");
}

#[test]
fn a_bar_of_a_finished_stage_is_full_on_every_screen() {
    for (columns, cells, how_it_went) in [(60, 12, false), (140, 24, true)] {
        let sandbox = study(40);
        sandbox.write("gate", "");
        let terminal = Terminal::start(&sandbox, columns, "run study.toml");
        let screen = terminal.waits_for("exit 0");
        let bar = screen.lines().find(|line| line.contains("40/40")).unwrap();
        assert!(bar.starts_with(&format!("only {} 40/40", "━".repeat(cells))), "{screen}");
        assert!(bar.contains("best cost 2 (gated_0_1)"), "{screen}");
        assert_eq!(bar.contains('▁'), how_it_went, "{screen}");
    }
}
