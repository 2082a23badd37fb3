//! The live page: kept up to date in a real browser through crash and restart, stopped from it, and closed to everybody
//! who was not told its address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::browser::Browser;
use crate::harness::{Sandbox, wait_until};

/// Each trial waits for a gate of its own. Names and values would be markup if anybody let them.
fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(
        r#"
[study]
name = "watched"
description = "<img src=x onerror=\"document.title='owned'\">"
[run]
workers = 2
[[stage]]
name = "try"
command = ["./trial.sh", "{n}", "{mode}"]
trial_budget = 8
survivor_count = 2
[stage.sweep]
n = { min = 1, max = 8, type = "int" }
mode = ["</script><img src=x onerror=document.title=1>"]
[[stage.objective]]
metric = "cost"
goal = "minimize"
"#,
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
struct Server {
    child: Child,
    /// Host and port.
    host: String,
    token: String,
}

impl Server {
    fn start(sandbox: &Sandbox) -> Self {
        let mut child =
            sandbox.piton(["serve", "study.redb"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let rest = line.trim().strip_prefix("http://").unwrap();
        let (host, token) = rest.trim_end_matches('/').split_once('/').unwrap();
        Self { child, host: host.to_owned(), token: token.to_owned() }
    }

    fn url(&self) -> String {
        format!("http://{}/{}/", self.host, self.token)
    }

    /// Sends a request as it is and gives the whole answer.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // An answer that comes before all was sent may end in a reset.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Below the token, with more headers; the status and the whole answer.
    fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let (host, token) = (&self.host, &self.token);
        let answer = self.raw(&format!("{method} /{token}/{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"));
        (status(&answer), answer)
    }
}

/// A study that is over, and its server.
fn finished() -> (Sandbox, Server) {
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

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Waits until the page says so.
fn shows(browser: &Browser, selector: &str, words: &str) {
    let text = format!("const e = document.querySelector('{selector}'); return e ? e.textContent : ''");
    wait_until(&format!("`{selector}` says `{words}`"), || {
        browser.script(&text).as_str().is_some_and(|text| text.contains(words))
    });
}

fn running(sandbox: &Sandbox, trials: usize) {
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

    assert_eq!(server.ask("POST", "stop", "Origin: http://evil.example\r\n").0, 403);
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
fn clients_that_do_nothing_hold_up_nobody() {
    let (_sandbox, server) = finished();
    let idle: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.host).unwrap();
            stream.write_all(b"GET / HT").unwrap();
            stream
        })
        .collect();
    assert_eq!(server.ask("GET", "", "").0, 200);
    // More streams than are kept up to date at once are told so; those before go on.
    let streams: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.host).unwrap();
            let (host, token) = (&server.host, &server.token);
            stream.write_all(format!("GET /{token}/events HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert!(line.contains("200"), "{line}");
            stream
        })
        .collect();
    assert_eq!(server.ask("GET", "events", "").0, 503);
    drop((idle, streams));
}

/// By the parser of those who wrote the format.
#[test]
fn the_metrics_are_openmetrics() {
    let (_sandbox, server) = finished();
    let (host, token) = (&server.host, &server.token);
    let answer =
        server.raw(&format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"));
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let script = "import sys, json\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        print(json.dumps({s.name + json.dumps(s.labels, sort_keys=True): s.value for f in parse(sys.stdin.read()) for s in f.samples}))";
    let mut python = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/python/bin/python"))
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    let values: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(values[r#"piton_trials{"stage": "try", "state": "succeeded"}"#], 7.0, "{values}");
    assert_eq!(values[r#"piton_trials{"stage": "try", "state": "failed"}"#], 1.0);
    assert_eq!(values[r#"piton_attempts_total{"outcome": "failed"}"#], 1.0);
    assert_eq!(values[r#"piton_best{"metric": "cost", "stage": "try"}"#], 1.0);
    assert_eq!(values["piton_engine_alive{}"], 0.0);
}
