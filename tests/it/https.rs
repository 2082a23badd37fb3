//! Ray over HTTPS: nginx before it, certificates by openssl, and what is refused before a token is sent.

use std::process::Command;

use crate::clusters::{Cluster, Ray};
use crate::harness::{Sandbox, both};
use crate::nginx::Nginx;
use crate::remote::Far;
use crate::sites::refused;

/// Who issues certificates, in a directory of its own.
struct Authority(Sandbox);

impl Authority {
    fn new() -> Self {
        let own = Self(Sandbox::new());
        own.openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem");
        own
    }

    fn openssl(&self, line: &str) {
        let made = Command::new("openssl").args(line.split_whitespace()).current_dir(self.dir()).output().unwrap();
        assert!(made.status.success(), "{line}: {}", both(&made));
    }

    fn dir(&self) -> std::path::PathBuf {
        self.0.path(".")
    }

    /// `<name>.pem` and `<name>.key`, for this address or name, and until then, as openssl writes times.
    fn issue(&self, name: &str, whose: &str, until: &str) {
        self.0.write("index.txt", "");
        self.0.write(
            "ca.conf",
            format!(
                "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nrand_serial = yes\nnew_certs_dir = .\n\
                 default_md = sha256\npolicy = any\nx509_extensions = server\n[any]\ncommonName = supplied\n\
                 [server]\nbasicConstraints = CA:FALSE\nsubjectAltName = {whose}\n"
            ),
        );
        self.openssl(&format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        self.openssl(&format!(
            "ca -batch -notext -config ca.conf -cert ca.pem -keyfile ca.key -startdate 20200101000000Z -enddate {until} \
             -in {name}.csr -out {name}.pem"
        ));
    }

    /// Whom this authority vouches for is trusted.
    fn trusted(&self) -> (String, String) {
        ("SSL_CERT_FILE".to_owned(), self.dir().join("ca.pem").display().to_string())
    }
}

const LONG: &str = "20991231000000Z";

fn server(port: u16, cert: &str, more: &str) -> String {
    format!(
        "server {{ listen HOST:{port} ssl; ssl_certificate {cert}.pem; ssl_certificate_key {cert}.key; {more} }}\n"
    )
}

fn far(address: &str, env: Vec<(String, String)>) -> Far {
    Far::with(&format!("executor = \"ray\"\n[run.ray]\naddress = \"{address}\"\nlost_after = \"15s\"\n"), env)
}

#[test]
fn whom_nobody_vouches_for_is_refused_and_told_no_token() {
    let authority = Authority::new();
    let own = format!("IP:{}", Nginx::address());
    authority.issue("good", &own, LONG);
    authority.issue("old", &own, "20200201000000Z");
    authority.issue("other", "DNS:ray.example.org", LONG);
    // Nobody's but its own: as openssl makes it unless it is told more, and as it is to be.
    for (name, more) in [("self", ""), ("alone", " -addext basicConstraints=critical,CA:FALSE")] {
        authority.openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName={own}{more} \
             -keyout {name}.key -out {name}.pem"
        ));
    }
    let servers = [
        server(8441, "good", "return 404;"),
        server(8442, "old", "return 404;"),
        server(8443, "other", "return 404;"),
        server(8444, "self", "return 404;"),
        server(8445, "good", "ssl_protocols TLSv1.2; return 404;"),
        server(8446, "good", "ssl_verify_client on; ssl_client_certificate ca.pem;"),
        server(8447, "good", "return 307 http://HOST:8448$request_uri;"),
        "server { listen HOST:8448; return 404; }\n".to_owned(),
        server(8449, "alone", "return 404;"),
    ];
    let nginx = Nginx::start(&authority.dir(), &servers.concat(), &[8441, 8448]);
    let at = |scheme: &str, port: u16| format!("{scheme}://{}:{port}", nginx.address);
    let token = ("RAY_AUTH_TOKEN".to_owned(), "secret-0123456789abcdef".to_owned());
    let env = || vec![authority.trusted(), token.clone()];
    let nothing = |name: &str| {
        let file = authority.dir().join(name).display().to_string();
        vec![("SSL_CERT_FILE".to_owned(), file), ("SSL_CERT_DIR".to_owned(), String::new()), token.clone()]
    };
    refused(
        &far(&at("https", 8441), vec![token.clone()]),
        &["UnknownIssuer", "no ray answers", "`SSL_CERT_FILE`"],
    );
    refused(
        &far(&at("https", 8442), env()),
        &["its certificate expired at 2020-02-01T00:00:00Z", "no ray answers"],
    );
    refused(&far(&at("https", 8443), env()), &["certificate not valid for name", "ray.example.org"]);
    refused(&far(&at("https", 8444), nothing("self.pem")), &["it is the certificate of an authority"]);
    refused(&far(&at("https", 8446), env()), &["it wants a certificate of whoever asks"]);
    refused(&far(&at("https", 8448), env()), &["no HTTPS is spoken there", "begins with `http://`"]);
    refused(&far(&at("http", 8441), env()), &["HTTPS is spoken there", "begins with `https://`"]);
    refused(&far(&at("https", 8447), env()), &["it sends to another address (HTTP 307)"]);
    // Whose certificates are good is asked: by TLS 1.3, and by 1.2.
    let answered = || std::fs::read_to_string(authority.dir().join("access")).unwrap();
    let before = answered().matches("\" 404 ").count();
    assert_eq!(before, 0, "nothing was asked: {}", answered());
    for port in [8441, 8445] {
        refused(&far(&at("https", port), env()), &["is not Ray's dashboard", "HTTP 404"]);
    }
    refused(&far(&at("https", 8449), nothing("alone.pem")), &["is not Ray's dashboard", "HTTP 404"]);
    assert!(answered().matches("\" 404 ").count() >= 3, "{}", answered());
    // Nobody is trusted.
    for (name, words) in [("none.pem", "none.pem"), ("good.key", "none was found")] {
        let far = far(&at("https", 8441), nothing(name));
        let output = far.command("run study.toml").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert!(both(&output).contains(words) && both(&output).contains("`SSL_CERT_FILE`"), "{}", both(&output));
    }
}

#[test]
fn a_study_runs_on_ray_over_https_with_a_token_from_a_file() {
    let ray = Ray::start_with(&[("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", "right-0123456789abcdef")]);
    let authority = Authority::new();
    authority.issue("good", &format!("DNS:localhost,IP:{}", Nginx::address()), LONG);
    let passed = server(8441, "good", &format!("location /ray/ {{ proxy_pass {}/; }}", ray.address()));
    let nginx = Nginx::start(&authority.dir(), &passed, &[8441]);
    let address = format!("https://{}:8441/ray/", nginx.address);
    let mut env = ray.env();
    env.retain(|(name, _)| !name.starts_with("RAY_AUTH_"));
    env.push(authority.trusted());
    let far = far(&address, env);
    far.sandbox.write("token", "right-0123456789abcdef\n");
    let path = far.sandbox.path("token").display().to_string();
    let mut told = far.env.clone();
    told.push(("RAY_AUTH_TOKEN_PATH".to_owned(), path));
    let far = Far { env: told, ..far };
    far.ok("run study.toml", 0);
    far.check_once();
    let access = std::fs::read_to_string(authority.dir().join("access")).unwrap();
    assert!(access.matches("POST /ray/api/jobs/ ").count() >= far.trials(), "{access}");
    assert!(access.matches("DELETE /ray/api/jobs/").count() >= 1, "{access}");
    // The same way with another token.
    far.sandbox.write("token", "wrong-0123456789abcdef\n");
    let wrong = Far::with(&format!("executor = \"ray\"\n[run.ray]\naddress = \"{address}\"\n"), far.env.clone());
    refused(&wrong, &["it wants another token"]);
}
