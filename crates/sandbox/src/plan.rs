//! What an ordinary container looks like, as data: mounts, masks, devices and where programs are looked for.

/// Paths below `/proc` that an ordinary container must not see.
pub(crate) const MASKED_PROC: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
/// Paths below `/sys` that an ordinary container must not see.
pub(crate) const MASKED_SYS: &[&str] = &["devices/virtual/powercap", "firmware"];
/// Paths below `/proc` that an ordinary container must not write to.
pub(crate) const READONLY_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// A device node: name in `/dev`, major, minor.
pub(crate) type Device = (&'static str, u32, u32);
/// The devices of an ordinary container.
pub(crate) const DEVICES: &[Device] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Links in `/dev`.
pub(crate) const DEV_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Where programs are looked for when the container's environment has no `PATH`.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The paths at which a program named without a slash may be, in the order of `PATH`.
pub(crate) fn program_paths(path: &[u8], name: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for dir in path.split(|b| *b == b':') {
        let dir = if dir.is_empty() { b".".as_slice() } else { dir };
        let candidate = [dir, b"/", name].concat();
        if !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// The value of a variable in an environment, the first one as `getenv` finds it.
pub(crate) fn variable<'a>(env: &'a [Vec<u8>], name: &str) -> Option<&'a [u8]> {
    env.iter()
        .find_map(|e| e.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Files that hold the certificate authorities of common distributions, in the order they are tried.
pub(crate) const CA_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_order_of_path() {
        let paths = program_paths(b"/bin::/usr/bin:/bin", b"sh");
        assert_eq!(
            paths,
            [
                b"/bin/sh".to_vec(),
                b"./sh".to_vec(),
                b"/usr/bin/sh".to_vec()
            ]
        );
    }

    #[test]
    fn the_first_setting_of_a_variable_counts() {
        let env = [b"A=1".to_vec(), b"PATHS=x".to_vec(), b"A=2".to_vec()];
        assert_eq!(variable(&env, "A"), Some(b"1".as_slice()));
        assert_eq!(variable(&env, "PATH"), None);
    }
}
