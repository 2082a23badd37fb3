//! The live page: kept up to date in a real browser through crash and restart, stopped from it, and closed to everybody
//! who was not told its address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::browser::Browser;
use crate::harness::{Sandbox, StudyFile, wait_until};

/// Each trial waits for a gate of its own. Names and values would be markup if anybody let them.
pub fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("watched")
.with(r#"description = "<img src=x onerror=\"document.title='owned'\">""#)
.run("workers = 2")
.stage("try", ["./trial.sh", "{n}", "{mode}"], 8, 2)
.sweep("n = { min = 1, max = 8, type = \"int\" }\nmode = [\"</script><img src=x onerror=document.title=1>\"]")
.minimize("cost"),
    );
    sandbox.script(
        "trial.sh",
        r#"
echo "<script>document.title=1</script>" >&2
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/started"
while [ ! -e "$PITON_STUDY_DIR/gate_$1" ]; do sleep 0.02; done
[ "$1" != 2 ] || exit 3
echo "{\"cost\": $1, \"note\": \"<img src=x onerror=alert(1)>\"}" > metrics.json
"#,
    );
    sandbox
}

/// A server, ended when dropped.
pub struct Server {
    child: Child,
    /// Host and port.
    pub host: String,
    pub token: String,
}

impl Server {
    pub fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, &[])
    }

    /// The same with more arguments.
    pub fn start_with(sandbox: &Sandbox, more: &[&str]) -> Self {
        Self::of(&mut sandbox.piton([&["serve", "study.redb"], more].concat()))
    }

    /// Of a store, or of a directory.
    pub fn of_store(sandbox: &Sandbox, store: &str) -> Self {
        Self::of(&mut sandbox.piton(["serve", store]))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let rest = line.trim().strip_prefix("http://").unwrap();
        let (host, token) = rest.trim_end_matches('/').split_once('/').unwrap();
        Self { child, host: host.to_owned(), token: token.to_owned() }
    }

    pub fn url(&self) -> String {
        format!("http://{}/{}/", self.host, self.token)
    }

    /// A connection on which so much was said.
    fn saying(&self, words: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        stream
    }

    /// A connection on which something below the token was asked for.
    fn asking(&self, path: &str) -> TcpStream {
        let (host, token) = (&self.host, &self.token);
        self.saying(&format!("GET /{token}/{path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Sends a request as it is and gives the whole answer.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = self.saying(request);
        let mut answer = Vec::new();
        // An answer that comes before all was sent may end in a reset.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Below the token, with more headers; the status and the whole answer.
    pub fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let (host, token) = (&self.host, &self.token);
        let answer = self.raw(&format!("{method} /{token}/{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"));
        (status(&answer), answer)
    }
}

/// A study that is over, and its server.
pub fn finished() -> (Sandbox, Server) {
    let sandbox = study();
    for n in 1..=8 {
        sandbox.write(&format!("gate_{n}"), "");
    }
    sandbox.ok("run study.toml", 0);
    let server = Server::start(&sandbox);
    (sandbox, server)
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Waits until the page says so.
pub fn shows(browser: &Browser, selector: &str, words: &str) {
    let text = format!("const e = document.querySelector('{selector}'); return e ? e.textContent : ''");
    wait_until(&format!("`{selector}` says `{words}`"), || {
        browser.script(&text).as_str().is_some_and(|text| text.contains(words))
    });
}

pub fn running(sandbox: &Sandbox, trials: usize) {
    wait_until("trials have started", || sandbox.lines("started").len() >= trials);
}

#[test]
fn the_page_lives_through_crash_and_restart_and_stops_the_engine() {
    let sandbox = study();
    let engine = sandbox.start("run study.toml");
    running(&sandbox, 2);
    let server = Server::start(&sandbox);
    let browser = Browser::start(1280, 1_000);
    browser.open(&server.url());
    shows(&browser, "#live", "The engine runs: pid");
    shows(&browser, "#live", "0 of 8 done");
    shows(&browser, "#live", "watched_0_0");

    sandbox.write("gate_1", "");
    shows(&browser, "#live", "1 of 8 done");
    shows(&browser, "#live", "best cost 1 (watched_0_0)");
    sandbox.write("gate_2", "");
    shows(&browser, "#live", "exit_code");
    // The table comes from the page, which is fetched again once trials have ended.
    shows(&browser, "#table", "succeeded");
    shows(&browser, "#table", "failed");
    // As it is sorted and filtered now, it stays.
    browser.script(
        "const i = document.querySelector('#table input'); i.value = 'watched_0_'; i.dispatchEvent(new Event('input')); \
         [...document.querySelectorAll('#table th button')].find(b => b.textContent.startsWith('case')).click(); \
         [...document.querySelectorAll('#table th button')].find(b => b.textContent.startsWith('case')).click(); \
         document.activeElement.blur()",
    );
    let states = "return [...document.querySelectorAll('#table tbody tr td:nth-child(2)')].filter(d => d.textContent === 'succeeded').length";
    sandbox.write("gate_3", "");
    wait_until("two have succeeded in the table", || browser.script(states) == 2);
    let first = "return document.querySelector('#table tbody tr td').textContent";
    assert_eq!(browser.script(first), "watched_0_7");
    assert_eq!(browser.script("return document.querySelector('#table input').value"), "watched_0_");

    engine.signal(Signal::KILL);
    engine.wait();
    shows(&browser, "#live", "No engine runs the study; go on with: piton resume");
    shows(&browser, "h1", "interrupted");
    assert_eq!(browser.script("return document.getElementById('stop').hidden"), true);
    let engine = sandbox.start("run study.toml");
    shows(&browser, "#live", "The engine runs: pid");

    // It asks first.
    let open = "return document.getElementById('stop-dialog').open";
    browser.script("document.getElementById('stop').click()");
    assert_eq!(browser.script(open), true);
    browser.script("document.querySelector('#stop-dialog button[value=\"\"]').click()");
    assert_eq!(browser.script(open), false);
    assert_eq!(sandbox.dump()["study"]["status"], "running");
    browser.script("document.getElementById('stop').click()");
    browser.script("document.querySelector('#stop-dialog button[value=stop]').click()");
    shows(&browser, "#live", "Draining");
    for n in 4..=8 {
        sandbox.write(&format!("gate_{n}"), "");
    }
    assert_eq!(engine.wait().code(), Some(75));
    shows(&browser, "#live", "No engine runs the study");

    assert_eq!(browser.script("return document.title"), "watched · piton");
    assert_eq!(browser.script("return document.images.length"), 0);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The log that a link leads to is text.
    browser.script("document.querySelector('#table a[href$=\"stderr.log\"]').click()");
    shows(&browser, "body", "<script>document.title=1</script>");
}

#[test]
fn nobody_gets_in_without_the_address() {
    let (sandbox, server) = finished();
    let (host, token) = (&server.host, &server.token);
    let port = host.rsplit(':').next().unwrap();
    let get =
        |path: &str, host: &str| status(&server.raw(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")));

    assert_eq!(get(&format!("/{token}/"), host), 200);
    for path in
        ["/", "/x/", "/metrics", &format!("/{}/", &token[1..]), &format!("/{token}0/"), &format!("/{token}")]
    {
        assert!(matches!(get(path, host), 403 | 404), "{path}");
    }
    // Names that a page elsewhere could have rebound to this address.
    for name in
        ["evil.example", &format!("evil.example:{port}"), "127.0.0.1.evil.example", "localhost.evil.example"]
    {
        assert_eq!(get(&format!("/{token}/"), name), 421, "{name}");
    }
    assert_eq!(get(&format!("/{token}/"), &format!("localhost:{port}")), 200);
    assert_eq!(status(&server.raw(&format!("GET /{token}/ HTTP/1.1\r\n\r\n"))), 400);

    let other_port = format!("Origin: http://127.0.0.1:{}\r\n", if port == "80" { "81" } else { "80" });
    for foreign in
        ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Origin: https://192.0.2.1\r\n", &other_port]
    {
        let (code, answer) = server.ask("POST", "stop", foreign);
        assert_eq!(code, 403, "{foreign}");
        assert!(answer.contains("--allow-host"), "{answer}");
    }
    let rebound = server
        .raw(&format!("POST /{token}/stop HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n"));
    assert_eq!(status(&rebound), 421);
    assert!(rebound.contains("--allow-host"), "{rebound}");
    let unknown = format!("POST /{}/stop HTTP/1.1\r\nHost: {host}\r\n\r\n", "0".repeat(token.len()));
    assert_eq!(status(&server.raw(&unknown)), 404);
    assert_eq!(server.ask("DELETE", "stop", "").0, 405);
    assert_eq!(server.ask("POST", "stop", "Sec-Fetch-Site: cross-site\r\n").0, 403);
    assert_eq!(server.ask("GET", "stop", "").0, 405);
    assert_eq!(server.ask("PUT", "", "").0, 405);
    assert_eq!(server.ask("POST", "stop", &format!("Origin: http://{host}\r\n")).0, 409, "no engine runs");

    let log = "artifacts/0_try/watched_0_0/attempt_1/stderr.log";
    let (code, answer) = server.ask("GET", log, "");
    assert_eq!(code, 200);
    assert!(answer.contains("Content-Type: text/plain") && answer.contains("nosniff"), "{answer}");
    assert!(answer.ends_with("<script>document.title=1</script>\n"), "{answer}");
    let head = server.ask("HEAD", log, "").1;
    assert!(head.ends_with("\r\n\r\n") && head.contains("Content-Length: 34"), "{head}");
    let attempt = sandbox.path("artifacts/watched/0_try/watched_0_0/attempt_1");
    std::os::unix::fs::symlink(sandbox.path("study.toml"), attempt.join("link")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("."), attempt.join("out")).unwrap();
    for escape in [
        "artifacts/../../study.toml",
        "artifacts/%2e%2e/%2e%2e/study.toml",
        "artifacts/..%2f..%2fstudy.toml",
        "artifacts//etc/passwd",
        "artifacts/0_try/watched_0_0/attempt_1/link",
        "artifacts/0_try/watched_0_0/attempt_1/out/study.toml",
        "artifacts/0_try",
        "artifacts/.piton-study.json",
        "artifacts/telemetry.jsonl",
        "artifacts/study_checkpoint.json",
        "artifacts/%2epiton-study.json",
        "study.redb",
    ] {
        assert_eq!(server.ask("GET", escape, "").0, 404, "{escape}");
    }
    assert_eq!(
        status(&server.raw(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nX: {}\r\n", "x".repeat(70_000)))),
        431
    );
    assert_eq!(status(&server.raw("\u{1}\u{2}\r\n\r\n")), 400);
}

#[test]
fn a_head_of_the_events_is_a_head_alone() {
    let (_sandbox, server) = finished();
    // It ends by itself, and holds no place of those that are kept up to date.
    for _ in 0..20 {
        let (code, answer) = server.ask("HEAD", "events", "");
        assert_eq!(code, 200);
        assert!(answer.contains("Content-Type: text/event-stream") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    for path in ["", "metrics", "artifacts/none", "nothing"] {
        let answer = server.ask("HEAD", path, "").1;
        assert!(answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
}

/// Reads a connection until it ends, however it does.
fn to_its_end(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn silence_without_the_token_keeps_out_nobody() {
    let (_sandbox, server) = finished();
    // Nothing, a part of a request, a request without the token whose answer nobody reads.
    let mut silent = Vec::new();
    for words in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        silent.extend((0..100).map(|_| server.saying(words)));
        assert_eq!(server.ask("GET", "", "").0, 200, "{words:?}");
    }
    // More of them than are kept waiting: those that wait longest make way, never who comes.
    assert_eq!(to_its_end(silent.remove(0)), "");
    assert_eq!(server.ask("GET", "metrics", "").0, 200);
    assert_eq!(server.ask("GET", "artifacts/0_try/watched_0_0/attempt_1/stderr.log", "").0, 200);
}

#[test]
fn a_head_that_trickles_in_is_given_up() {
    let (_sandbox, server) = finished();
    let (host, token) = (&server.host, &server.token);
    let mut slow = server.saying(&format!("GET /{token}/ HTTP/1.1\r\nHost: {host}\r\nX: "));
    slow.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let mut answer = [0; 12];
    wait_until("the server has had enough of one letter after the other", || {
        drop(slow.write(b"x"));
        matches!(slow.read(&mut answer), Ok(12))
    });
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert_eq!(server.ask("GET", "", "").0, 200);
}

#[test]
fn readers_that_stall_lose_their_seats() {
    let (sandbox, server) = finished();
    let large = sandbox.path("artifacts/watched/0_try/watched_0_0/attempt_1/large");
    std::fs::File::create(&large).unwrap().set_len(64 << 20).unwrap();
    let path = "artifacts/0_try/watched_0_0/attempt_1/large";
    // Their answers began, so that each has its seat.
    let stalled: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = server.asking(path);
            stream.read_exact(&mut [0; 15]).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.ask("GET", "", "").0, 503);
    // Nobody lets go of anything but the server.
    wait_until("a seat is free", || server.ask("GET", "", "").0 == 200);
    drop(stalled);
}

#[test]
fn pages_that_are_kept_up_to_date_are_counted() {
    let (_sandbox, server) = finished();
    // More streams than are kept up to date at once are told so; those before go on.
    let mut streams: Vec<TcpStream> = (0..16)
        .map(|_| {
            let stream = server.asking("events");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert!(line.contains("200"), "{line}");
            stream
        })
        .collect();
    assert_eq!(server.ask("GET", "events", "").0, 503);
    // One that is closed makes room, without anything having to happen in the study.
    drop(streams.pop());
    wait_until("there is room again", || {
        let mut answer = [0; 12];
        server.asking("events").read_exact(&mut answer).unwrap();
        &answer == b"HTTP/1.1 200"
    });
}

/// Nobody can list that many trials; what happened fits on a page.
#[test]
fn a_huge_plan_has_a_page() {
    for (budget, domain, sampling) in [
        ("10_000_000", r#"{ min = 1, max = 10_000_000, type = "int" }"#, "grid"),
        ("10_000_000", r#"{ min = 1, max = 10_000_000, type = "int" }"#, "random"),
        ("1_000_000_000_000_000", "{ min = 0.0, max = 1.0 }", "random"),
    ] {
        let sandbox = Sandbox::with_study(StudyFile::new("huge")
.run("workers = 2")
.stage("try", r#"printf "{{\"y\": %s}}" {x} > "$PITON_METRICS_FILE"
               echo >> "$PITON_STUDY_DIR/started"
               [ $(wc -l < "$PITON_STUDY_DIR/started") -lt 8 ] || ! mkdir "$PITON_STUDY_DIR/enough" || kill $(cat "$PITON_STUDY_DIR/engine")"#, budget, 1)
.with(format!(r#"sampling = "{sampling}""#))
.sweep(format!("x = {domain}"))
.minimize("y"));
        sandbox.script("run.sh", "echo $$ > engine\nexec \"$1\" run study.toml");
        let piton = env!("CARGO_BIN_EXE_piton");
        let run = Command::new("./run.sh").arg(piton).current_dir(sandbox.path(".")).output().unwrap();
        assert_eq!(run.status.code(), Some(75), "{}", crate::harness::both(&run));
        let server = Server::start(&sandbox);
        let (code, page) = server.ask("GET", "", "");
        assert_eq!(code, 200, "{page}");
        assert!(page.len() < 8 << 20, "{} bytes", page.len());
        assert!(page.contains("huge_0_0") || page.contains("\"i\":[0,"), "its trials are in it");
        assert_eq!(server.ask("GET", "metrics", "").0, 200);
        assert_eq!(server.ask("GET", "", "").0, 200);
        // The same pass is behind the page that is written.
        sandbox.ok("report study.redb -o report.html", 0);
    }
}

/// A store can name any directory as its artifacts.
#[test]
fn artifacts_of_another_study_are_not_shown() {
    let (sandbox, server) = finished();
    assert_eq!(server.ask("GET", "artifacts/0_try/watched_0_0/attempt_1/params.json", "").0, 200);
    let other = sandbox.path("elsewhere");
    let claimed = |words: &str| {
        std::fs::create_dir_all(other.join("artifacts/watched/0_try")).unwrap();
        std::fs::write(other.join("artifacts/watched/0_try/secret"), "s").unwrap();
        std::fs::write(other.join("artifacts/watched/.piton-study.json"), words).unwrap();
    };
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(sandbox.path("study.redb"), other.join("study.redb")).unwrap();
    let own = std::fs::read_to_string(sandbox.path("artifacts/watched/.piton-study.json")).unwrap();
    let another = own.replace(|c: char| c.is_ascii_digit(), "a");
    for (words, code) in [("", 404), ("{}", 404), (another.as_str(), 404), (own.as_str(), 200)] {
        claimed(words);
        let mut moved = sandbox.piton(["serve", "elsewhere/study.redb"]);
        let server = Server::of(&mut moved);
        assert_eq!(server.ask("GET", "artifacts/0_try/secret", "").0, code, "{words}");
    }
}

/// What a scraper reads, by the parser of those who wrote the format.
pub fn scraped(server: &Server) -> serde_json::Value {
    let (host, token) = (&server.host, &server.token);
    let answer =
        server.raw(&format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"));
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let script = "import sys, json\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        print(json.dumps({s.name + json.dumps(s.labels, sort_keys=True): s.value if s.value == s.value else None for f in parse(sys.stdin.read()) for s in f.samples}))";
    let mut python = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/python/bin/python"))
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_metrics_are_openmetrics() {
    let (_sandbox, server) = finished();
    let values = scraped(&server);
    assert_eq!(values[r#"piton_trials{"stage": "try", "state": "succeeded"}"#], 7.0, "{values}");
    assert_eq!(values[r#"piton_trials{"stage": "try", "state": "failed"}"#], 1.0);
    assert_eq!(values[r#"piton_attempts_total{"outcome": "failed"}"#], 1.0);
    assert_eq!(values[r#"piton_best{"metric": "cost", "stage": "try"}"#], 1.0);
    assert_eq!(values["piton_engine_alive{}"], 0.0);
}
