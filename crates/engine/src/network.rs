//! The network of execs: a namespace from the sandbox's pool, or none when the machine does not allow it.

use crate::{config, session::Session};

/// The engine's network, started at its first use.
pub struct Networking {
    disabled: bool,
}

/// What one exec gets.
pub struct ExecNetwork {}

/// Holds an exec's namespace until the process has ended.
pub struct Held {}

impl Networking {
    /// Does nothing yet.
    pub fn new(config: &config::Network) -> Self {
        Self { disabled: config.disabled }
    }

    /// A namespace for an exec of this session.
    pub async fn take(&self, _session: &Session) -> ExecNetwork {
        let _ = self.disabled;
        ExecNetwork {}
    }
}

impl ExecNetwork {
    /// The namespace, and the contents of `/etc/hosts` and `/etc/resolv.conf`.
    pub fn into_parts(self, hostname: &str) -> (Held, Vec<u8>, Vec<u8>) {
        let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{hostname}\n");
        (Held {}, hosts.into_bytes(), b"nameserver 127.0.0.1\nsearch bodkin.local\n".to_vec())
    }
}

impl Held {
    /// As the sandbox wants it.
    pub fn spec(&self) -> sandbox::spec::Net {
        sandbox::spec::Net::None
    }
}
