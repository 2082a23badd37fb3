//! A head node of the study's own on this machine, closed to its other users.
//!
//! Whoever may submit a job to it runs programs as the study's user. So it wants a random token, which lies in a file that
//! only this user can read; all its files are below a directory that only this user can enter; it listens on a loopback
//! address of its own, chosen at random. (Some of Ray's services listen on all addresses, whatever their options say; they want
//! the token, too.) Ray opens its ports itself, so one may be taken between the choice and Ray: then it does not come up,
//! another one is started, and who answers instead does not get the token.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, geteuid};

use crate::executor::local::keeper::{KeeperClient, SpawnError, SpawnRequest, Started};
use crate::executor::local::strays::kill_attempt;
use crate::executor::{ATTEMPT_KEY_VAR, AttemptKey};
use crate::model::{StudyId, TrialId};
use crate::sys::disk;
use crate::sys::temporary::{TemporaryDir, remove_leftover_dirs};
use crate::sys::words::{io_words, shell_quoted};

/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(3);

/// A head node of the study's own, a child of the keeper: it ends with the engine, however that ends.
pub(super) struct Head {
    keeper: KeeperClient,
    started: Started,
    key: AttemptKey,
    pub(super) address: SocketAddrV4,
    /// Who has it may run programs as this user.
    pub(super) token: String,
    pub(super) log: String,
    /// Ray's files and the token; it makes sockets in it, whose paths must be short.
    dir: TemporaryDir,
}

/// What the names of such directories begin with.
const PREFIX: &str = "piton-ray-";

/// In such a directory, what the head's programs leave; short, since there are sockets in it.
const TEMP: &str = "t";
/// Where programs put temporary files.
const TEMP_VAR: &str = "TMPDIR";

/// Gives a job the directory for temporary files that the engine has: the head's own goes with the head.
pub(super) fn own_temp_dir() -> String {
    match std::env::var(TEMP_VAR) {
        Ok(dir) => format!("export {TEMP_VAR}={}; ", shell_quoted(&dir)),
        Err(_) => format!("unset {TEMP_VAR}; "),
    }
}

/// Removes the directories of heads whose engines were killed.
pub(in super::super) fn remove_leftovers() {
    remove_leftover_dirs(&std::env::temp_dir(), PREFIX);
}

impl Head {
    pub(super) fn start(keeper: &KeeperClient, study: StudyId, root: &Path) -> Result<Self, String> {
        let cannot = |what: &str, error: &io::Error| format!("cannot {what}: {}", io_words(error));
        let [a, b, c] = disk::random::<3>().map_err(|error| cannot("get random bytes", &error))?;
        // Ray opens its own directories to everybody; nobody else gets through this one.
        let own_dir = TemporaryDir::new_in(&std::env::temp_dir(), PREFIX)
            .map_err(|error| cannot("make a directory for Ray", &error))?;
        let dir = own_dir.path();
        std::fs::create_dir(dir.join(TEMP)).map_err(|error| cannot("make a directory for Ray", &error))?;
        let token = make_token(&dir.join("token")).map_err(|error| cannot("make a token for Ray", &error))?;
        // An address that nobody else uses, and nobody could have foreseen.
        let own = Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254));
        let ports = free_ports::<9>(own).map_err(|error| cannot("find ports for Ray", &error))?;
        let [gcs, dashboard, agent, grpc, client, metrics, object, node, env_agent] = ports;
        let log = root.join("ray.log");
        let line = format!(
            "exec ray start --head --block --disable-usage-stats --include-dashboard=true \
             --node-ip-address={own} --dashboard-host={own} --port={gcs} --dashboard-port={dashboard} \
             --dashboard-agent-listen-port={agent} --dashboard-agent-grpc-port={grpc} \
             --ray-client-server-port={client} --metrics-export-port={metrics} --object-manager-port={object} \
             --node-manager-port={node} --runtime-env-agent-port={env_agent} --temp-dir={}",
            shell_quoted(&dir.join("r").to_string_lossy())
        );
        let key = AttemptKey { study, trial: TrialId::CLUSTER, attempt: 1 };
        // What an earlier engine's head left behind would hold its jobs.
        kill_attempt(&key).map_err(|error| cannot("end an earlier head node of Ray's", &error))?;
        let text = |text: OsString| {
            CString::new(text.into_vec()).map_err(|_| "the environment holds a NUL byte".to_owned())
        };
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            // Another cluster's; and what Ray's helpers leave (`pymp-…`) has to go with its head.
            if name.as_encoded_bytes().starts_with(b"RAY_AUTH_") || name == "RAY_ADDRESS" || name == TEMP_VAR {
                continue;
            }
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            env.push(text(entry)?);
        }
        env.push(text(format!("{ATTEMPT_KEY_VAR}={key}").into())?);
        env.push(text(
            [OsString::from(format!("{TEMP_VAR}=")), own_dir.path().join(TEMP).into()].into_iter().collect(),
        )?);
        env.push(c"RAY_USAGE_STATS_ENABLED=0".to_owned());
        // The token itself stands on no command line and in no environment.
        env.push(c"RAY_AUTH_MODE=token".to_owned());
        env.push(text([OsString::from("RAY_AUTH_TOKEN_PATH="), dir.join("token").into()].into_iter().collect())?);
        let log_path = text(log.clone().into_os_string())?;
        let started = keeper.spawn(&SpawnRequest {
            program: c"/bin/sh",
            argv: &[c"sh".to_owned(), c"-c".to_owned(), text(line.into())?],
            env: &env,
            cwd: c"/",
            stdin: None,
            stdout: &log_path,
            stderr: &log_path,
            address_space_bytes: None,
            cgroup_procs: None,
        });
        let started = started.map_err(|error| match error {
            gone @ (SpawnError::KeeperGone(_) | SpawnError::KeeperDied) => gone.to_string(),
            SpawnError::Refused { errno, .. } => cannot("start Ray", &errno.into()),
        })?;
        let (address, log) = (SocketAddrV4::new(own, dashboard), log.to_string_lossy().into_owned());
        Ok(Self { keeper: keeper.clone(), started, key, address, token, log, dir: own_dir })
    }

    /// Whether its process is gone.
    pub(super) fn has_ended(&self) -> bool {
        !self.started.events.is_empty()
    }

    /// Shuts it down: TERM, and KILL after a while; nothing of it is left.
    pub(super) fn end(self) {
        self.keeper.signal(self.started.id, Signal::TERM);
        if self.started.events.recv_timeout(GRACE).is_err() {
            self.keeper.signal(self.started.id, Signal::KILL);
            let _ = self.started.events.recv();
        }
        if let Err(error) = kill_attempt(&self.key) {
            log::warn!("some processes of Ray's may be left: {}", io_words(&error));
        }
        if let Err(error) = self.dir.remove() {
            log::warn!("cannot remove Ray's files: {}", io_words(&error));
        }
    }
}

/// A new token, in a file that only this user can read.
fn make_token(path: &Path) -> io::Result<String> {
    let token: String = disk::random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(token.as_bytes())?;
    Ok(token)
}

/// Ports that nobody listens on. All are bound at once, so that they differ.
fn free_ports<const N: usize>(address: Ipv4Addr) -> io::Result<[u16; N]> {
    let mut ports = [0; N];
    let mut taken = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((address, 0))?;
        *port = listener.local_addr()?.port();
        taken.push(listener);
    }
    Ok(ports)
}

/// Whether a program of this user listens there, and none of anybody else's.
pub(super) fn is_ours(address: SocketAddrV4) -> bool {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let owners: Vec<u32> = tables.iter().flat_map(|table| listeners(table, address)).collect();
    !owners.is_empty() && owners.iter().all(|owner| *owner == geteuid().as_raw())
}

/// The users whose sockets take connections to this address, by the kernel's table of IPv4 or of IPv6.
fn listeners(table: &str, address: SocketAddrV4) -> impl Iterator<Item = u32> {
    table.lines().filter_map(move |line| {
        // `sl local_address rem_address st tx:rx tr:when retrnsmt uid …`, addresses in words of the machine's order.
        let fields: Vec<&str> = line.split_whitespace().take(8).collect();
        let [_, local, _, "0A", _, _, _, owner] = fields[..] else { return None };
        let (host, port) = local.split_once(':')?;
        if u16::from_str_radix(port, 16).ok()? != address.port() {
            return None;
        }
        let word = host.get(host.len().checked_sub(8)?..)?;
        let last = Ipv4Addr::from(u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
        let anywhere = host.bytes().all(|digit| digit == b'0');
        (anywhere || last == *address.ip()).then(|| owner.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn who_listens_is_told_by_the_kernel() {
        let own = Ipv4Addr::new(127, 93, 7, 1);
        let listener = TcpListener::bind((own, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_ours(SocketAddrV4::new(own, port)));
        assert!(!is_ours(SocketAddrV4::new(Ipv4Addr::new(127, 93, 7, 2), port)), "another address");
        drop(listener);
        assert!(!is_ours(SocketAddrV4::new(own, port)), "nobody");
        let everywhere = TcpListener::bind("[::]:0").unwrap();
        assert!(is_ours(SocketAddrV4::new(own, everywhere.local_addr().unwrap().port())));
    }

    #[test]
    fn whoever_else_listens_there_is_seen() {
        let word = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = |host: &str, state: &str, uid: u32| {
            format!(
                "   0: {host}:1F90 {}:0000 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 9 1 0\n",
                "0".repeat(host.len())
            )
        };
        let at = SocketAddrV4::new(Ipv4Addr::new(127, 9, 8, 7), 0x1f90);
        let seen = |table: &str| listeners(table, at).collect::<Vec<u32>>();
        let head =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        assert!(seen(head).is_empty());
        let mapped = format!("0000000000000000{}{}", word([0, 0, 0xff, 0xff]), word([127, 9, 8, 7]));
        for host in [word([127, 9, 8, 7]), word([0; 4]), "0".repeat(32), mapped] {
            assert_eq!(seen(&line(&host, "0A", 1000)), [1000], "{host}");
            assert!(seen(&line(&host, "01", 1000)).is_empty(), "a connection is no listener: {host}");
        }
        assert!(seen(&line(&word([127, 9, 8, 8]), "0A", 1000)).is_empty());
        assert!(seen(&line(&word([127, 9, 8, 7]), "0A", 1000).replace("1F90", "1F91")).is_empty());
        assert!(seen("nonsense\n: : : 0A : : : :\n0: x:1F90 0 0A 0 0 0 0\n").is_empty());
    }

    #[test]
    fn a_token_is_new_and_nobody_elses_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = make_token(&path).unwrap();
        assert_eq!((token.len(), std::fs::read_to_string(&path).unwrap()), (64, token.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make_token(&path).is_err(), "one that is there already is not taken over");
        assert_ne!(make_token(&dir.path().join("other")).unwrap(), token);
    }
}
