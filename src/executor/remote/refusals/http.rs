//! What the HTTP client says when there was no answer of Ray's, and what proxies answer in Ray's place.

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

use super::Meaning::{self, Passing, Stranger};
use super::meaning;

/// The system's words that mean more than that nobody answers now.
const SYSTEM: [(&str, Meaning); 2] = [
    // No name server answers.
    ("Temporary failure in name resolution", Passing),
    // A name that is none will be none.
    ("failed to lookup address information", Stranger),
];

const WANTS_HTTPS: &str = "HTTPS is spoken there: its address begins with `https://`";
const WANTS_CERTIFICATE: &str = "it wants a certificate of whoever asks, and piton has none";

/// Words in a proxy's page of status 400, and what is the matter: those of nginx, Apache, and what is written in Go.
const PAGES: [(&str, &str); 4] = [
    ("The plain HTTP request was sent to HTTPS port", WANTS_HTTPS),
    ("speaking plain HTTP to an SSL-enabled server port", WANTS_HTTPS),
    ("Client sent an HTTP request to an HTTPS server", WANTS_HTTPS),
    ("No required SSL certificate was sent", WANTS_CERTIFICATE),
];

/// What a proxy that stands before Ray has against a request, if that is what this answer is: asking again changes nothing.
pub(in super::super) fn of_page(status: u16, text: &str) -> Option<&'static str> {
    let known = |(words, _): &&(&str, &str)| status == 400 && text.contains(words);
    PAGES.iter().find(known).map(|(_, why)| *why)
}

/// What an error of the client means, and what it says.
pub(in super::super) fn of_client(error: &ureq::Error) -> (Meaning, String) {
    match error {
        ureq::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(tls) => of_tls(tls),
            None => {
                let words = error.to_string();
                (meaning(&SYSTEM, &words).unwrap_or(Passing), words)
            }
        },
        ureq::Error::Rustls(tls) => of_tls(tls),
        ureq::Error::Timeout(_) => (Passing, "no answer in time".to_owned()),
        ureq::Error::ConnectionFailed => (Passing, error.to_string()),
        ureq::Error::Protocol(_) => (Stranger, format!("what answers is no HTTP ({error})")),
        ureq::Error::BodyExceedsLimit(limit) => {
            (Stranger, format!("its answer is longer than {} MiB", limit >> 20))
        }
        _ => (Stranger, error.to_string()),
    }
}

/// What keeps two ends from trusting each other is there the next time, too.
fn of_tls(error: &rustls::Error) -> (Meaning, String) {
    use rustls::Error;
    let words = match error {
        Error::AlertReceived(AlertDescription::InternalError | AlertDescription::UserCanceled)
        | Error::FailedToGetRandomBytes => return (Passing, error.to_string()),
        Error::AlertReceived(AlertDescription::CertificateRequired) => WANTS_CERTIFICATE.to_owned(),
        Error::InvalidMessage(_) => {
            format!("no HTTPS is spoken there ({error}): the address of plain HTTP begins with `http://`")
        }
        Error::InvalidCertificate(why) => of_certificate(why, error),
        _ => error.to_string(),
    };
    (Stranger, words)
}

fn of_certificate(why: &CertificateError, error: &rustls::Error) -> String {
    let at = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).map_or_else(|_| format!("second {seconds}"), |at| at.to_string())
    };
    let help = match why {
        CertificateError::ExpiredContext { not_after, .. } => {
            return format!("its certificate expired at {}", at(not_after));
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            return format!(
                "its certificate is not valid before {}: look at this machine's clock",
                at(not_before)
            );
        }
        CertificateError::UnknownIssuer => {
            ": name a file with the certificate of the authority that issued it in `SSL_CERT_FILE`"
        }
        // Of `openssl req -x509`, if nothing else is said.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            ": it is the certificate of an authority, and no server's (`basicConstraints = CA:FALSE`)"
        }
        _ => "",
    };
    format!("{error}{help}")
}
