//! The live page behind a real proxy that speaks TLS, in a real browser.

use std::path::Path;
use std::process::Command;

use crate::browser::Browser;
use crate::harness::Sandbox;
use crate::nginx::Nginx;
use crate::serve::{Server, finished, running, shows, study};

/// The name that only the proxy has.
const NAME: &str = "runs.example.org";

/// Passes `Host` as the browser said it.
const WHOLE: u16 = 8443;
/// Passes it without its port.
const BARE: u16 = 8444;
/// Asks by the address it knows, as nginx does unless it is told otherwise.
const UPSTREAM: u16 = 8445;

/// Ports that pass the page's host on in three ways.
fn start(dir: &Path, server: &str) -> Nginx {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"])
        .args([&format!("/CN={NAME}"), "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", crate::harness::both(&made));
    let ports =
        [(WHOLE, "proxy_set_header Host $http_host;"), (BARE, "proxy_set_header Host $host;"), (UPSTREAM, "")];
    let servers = ports.map(|(port, header)| {
        format!(
            "server {{ listen HOST:{port} ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem;\n\
             location / {{ proxy_pass http://{server}; {header} }} }}\n"
        )
    });
    Nginx::start(dir, &servers.concat(), &ports.map(|(port, _)| port))
}

/// What comes of asking the engine to stop, from the page itself.
fn asked_to_stop(browser: &Browser) -> (u64, String) {
    let answer =
        browser.script("return fetch('stop', { method: 'POST' }).then(async (a) => [a.status, await a.text()])");
    (answer[0].as_u64().unwrap(), answer[1].as_str().unwrap().to_owned())
}

fn browser(proxy: &Nginx) -> Browser {
    Browser::start_with(1280, 1_000, &[&format!("--host-resolver-rules=MAP {NAME} {}", proxy.address)])
}

#[test]
fn stop_works_behind_a_proxy_that_speaks_tls() {
    let sandbox = study();
    let engine = sandbox.start("run study.toml");
    running(&sandbox, 2);
    let server = Server::start_with(&sandbox, &["--allow-host", NAME]);
    let dir = Sandbox::new();
    let proxy = start(&dir.path("."), &server.host);
    let browser = browser(&proxy);
    browser.open(&format!("https://{NAME}:{BARE}/{}/", server.token));
    // The stream comes through at once, not when a buffer is full.
    shows(&browser, "#live", "The engine runs: pid");
    sandbox.write("gate_1", "");
    shows(&browser, "#live", "1 of 8 done");
    browser.script("document.getElementById('stop').click()");
    browser.script("document.querySelector('#stop-dialog button[value=stop]').click()");
    shows(&browser, "#live", "Draining");
    for n in 2..=8 {
        sandbox.write(&format!("gate_{n}"), "");
    }
    assert_eq!(engine.wait().code(), Some(75));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn however_the_proxy_passes_the_host_on_the_page_may_ask_and_no_other() {
    let (sandbox, server) = finished();
    let dir = Sandbox::new();
    let proxy = start(&dir.path("."), &server.host);
    let browser = browser(&proxy);
    let token = &server.token;
    // By address everything agrees already.
    for port in [WHOLE, BARE] {
        browser.open(&format!("https://{}:{port}/{token}/", proxy.address));
        assert_eq!(asked_to_stop(&browser), (409, "no engine runs the study\n".into()), "{port}");
    }
    // The name was not told: what helps is said, by whichever answer comes.
    for port in [WHOLE, BARE] {
        browser.open(&format!("https://{NAME}:{port}/{token}/"));
        let refused = browser.script("return document.body.textContent");
        assert!(refused.as_str().unwrap().contains("--allow-host"), "{port}: {refused}");
    }
    browser.open(&format!("https://{NAME}:{UPSTREAM}/{token}/"));
    let (code, words) = asked_to_stop(&browser);
    assert!(code == 403 && words.contains("--allow-host"), "{code} {words}");

    let server = Server::start_with(&sandbox, &["--allow-host", NAME]);
    let dir = Sandbox::new();
    drop(proxy);
    let proxy = start(&dir.path("."), &server.host);
    for port in [WHOLE, BARE, UPSTREAM] {
        browser.open(&format!("https://{NAME}:{port}/{}/", server.token));
        assert_eq!(asked_to_stop(&browser), (409, "no engine runs the study\n".into()), "{port}");
    }
    // A page of another name, though it is on the same machine and behind the same proxy.
    browser.open(&format!("https://{}:{UPSTREAM}/{}/", proxy.address, server.token));
    let (code, words) = asked_to_stop(&browser);
    assert_eq!(code, 403, "{words}");
}
