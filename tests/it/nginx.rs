//! A real web server in front of what is tested.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::wait_until;

/// nginx on a loopback address of its own, ended when dropped.
pub struct Nginx {
    child: Child,
    pub address: String,
}

impl Nginx {
    /// With these blocks of its configuration, where `HOST` stands for its address, on these ports.
    pub fn start(dir: &Path, servers: &str, ports: &[u16]) -> Self {
        let address = Self::address();
        let config = format!(
            "daemon off; master_process off; error_log stderr; pid {0}/pid; events {{}}\n\
             http {{ access_log {0}/access; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;\n\
             uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n{1} }}\n",
            dir.display(),
            servers.replace("HOST", &address)
        );
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .args(["-c", "nginx.conf", "-p"])
            .arg(dir)
            .current_dir(dir)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { child, address };
        for port in ports {
            wait_until("nginx listens", || std::net::TcpStream::connect((nginx.address.as_str(), *port)).is_ok());
        }
        nginx
    }

    /// Nobody else's: of this process.
    pub fn address() -> String {
        let pid = std::process::id();
        format!("127.{}.{}.{}", 64 + (pid >> 16 & 63), pid >> 8 & 255, pid & 255)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
