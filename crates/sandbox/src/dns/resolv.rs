//! `resolv.conf`: reading the machine's and writing a container's.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

/// What a `resolv.conf` says, as far as it concerns us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// Name servers in order, at most three.
    pub servers: Vec<IpAddr>,
    /// Domains that short names are tried with.
    pub search: Vec<String>,
    /// Options as written.
    pub options: Vec<String>,
}

/// What the resolver of the C library reads (`MAXNS`).
const SERVERS: usize = 3;
/// A search list of our own for containers that would have none: some resolvers do not even look at a file without.
const FALLBACK_SEARCH: &str = "dagger.local";

impl ResolvConf {
    /// Reads the file's text; what is not understood is passed over, as the C library does (resolv.conf(5)).
    pub fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scope such as `fe80::1%eth0` names an interface; such a server cannot be told from here.
                    if let Some(address) = words.next().and_then(|word| word.parse().ok())
                        && conf.servers.len() < SERVERS
                    {
                        conf.servers.push(address);
                    }
                }
                // The last of these lines counts.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }

    /// The text of a container's file: the gateway as name server, the machine's own search list and then `domains`, the
    /// machine's options. There is always a search line.
    pub fn container(&self, gateway: Ipv4Addr, domains: &[String]) -> Vec<u8> {
        let mut search: Vec<&str> = Vec::new();
        for domain in self
            .search
            .iter()
            .chain(domains)
            .map(String::as_str)
            .filter(|domain| *domain != ".")
        {
            if !search.contains(&domain) {
                search.push(domain);
            }
        }
        if search.is_empty() {
            search.push(FALLBACK_SEARCH);
        }
        let mut text = format!("nameserver {gateway}\nsearch {}\n", search.join(" "));
        // `trust-ad` is about the way to a name server that is not the container's any more.
        let options: Vec<&str> = self
            .options
            .iter()
            .map(String::as_str)
            .filter(|option| *option != "trust-ad")
            .collect();
        if !options.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "options {}", options.join(" "));
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const MACHINE: &str = "# made by a tool\nnameserver 127.0.0.53 ; stub\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver nonsense\n\
                           nameserver 9.9.9.9\nnameserver 8.8.8.8\ndomain old.example\nsearch corp.example  lab.example\noptions edns0 trust-ad\n";

    #[test]
    fn the_machines_file_is_read_as_the_c_library_does() {
        let conf = ResolvConf::parse(MACHINE);
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53", "::1", "9.9.9.9"]);
        assert_eq!(conf.search, ["corp.example", "lab.example"]);
        assert_eq!(conf.options, ["edns0", "trust-ad"]);
    }

    #[test]
    fn a_containers_file_always_has_a_search_line() {
        let gateway = Ipv4Addr::new(10, 87, 0, 1);
        let text = |conf: ResolvConf, domains: &[String]| {
            String::from_utf8_lossy(&conf.container(gateway, domains)).into_owned()
        };
        expect![[r#"
            nameserver 10.87.0.1
            search corp.example lab.example abc.dagger.local
            options edns0
        "#]]
        .assert_eq(&text(
            ResolvConf::parse(MACHINE),
            &["abc.dagger.local".to_owned(), "lab.example".to_owned()],
        ));
        expect![[r#"
            nameserver 10.87.0.1
            search dagger.local
        "#]]
        .assert_eq(&text(ResolvConf::parse("search .\n"), &[]));
    }
}
