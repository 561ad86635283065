//! What the name server knows itself: for each session its domains, its names, and their addresses. Pure look-up.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::Ipv4Addr,
    str::FromStr,
    sync::Arc,
};

use crate::network::SessionId;

/// A domain name in lower case without the final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// Why a text is no domain name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Longer than 253 bytes, or nothing.
    #[error("a domain name has 1 to 253 bytes")]
    Length,
    /// A label that is empty, longer than 63 bytes, or not made of letters, digits, `-` and `_`.
    #[error("`{0}` is no label of a domain name")]
    Label(String),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > 253 {
            return Err(NameError::Length);
        }
        let fits = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        match text.split('.').find(|label| !fits(label)) {
            Some(label) => Err(NameError::Label(label.to_owned())),
            None => Ok(Name(text.to_ascii_lowercase())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it the domain, or below it?
    fn within(&self, domain: &Name) -> bool {
        self.0
            .strip_suffix(domain.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

/// All sessions' names. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    sessions: HashMap<SessionId, Arc<Names>>,
}

/// One session's names.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Domains in which nobody else knows names: what is not in `hosts` does not exist.
    pub domains: BTreeSet<Name>,
    /// Names, usually fully qualified; a short one is found only when asked for exactly so.
    pub hosts: BTreeMap<Name, Vec<Ipv4Addr>>,
}

/// What a session's names say about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The name exists and has these addresses.
    Addresses(Vec<Ipv4Addr>),
    /// The address belongs to this name (a question for `…in-addr.arpa`).
    Pointer(Name),
    /// The name cannot exist.
    Nothing,
    /// Somebody else must be asked.
    Elsewhere,
}

impl Zone {
    /// The session's names, to be read.
    pub fn names(&self, session: SessionId) -> Option<&Names> {
        self.sessions.get(&session).map(Arc::as_ref)
    }

    /// The session's names, to be changed.
    pub fn names_mut(&mut self, session: SessionId) -> &mut Names {
        Arc::make_mut(self.sessions.entry(session).or_default())
    }

    /// Forgets a session.
    pub fn remove(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Looks a name up as the session's containers see it.
    pub fn find(&self, session: SessionId, name: &Name) -> Found {
        let Some(names) = self.names(session) else {
            return Found::Elsewhere;
        };
        if let Some(addresses) = names.hosts.get(name) {
            return Found::Addresses(addresses.clone());
        }
        if let Some(address) = reverse(name)
            && let Some((name, _)) = names
                .hosts
                .iter()
                .find(|(_, addresses)| addresses.contains(&address))
        {
            return Found::Pointer(name.clone());
        }
        if names.domains.iter().any(|domain| name.within(domain)) {
            Found::Nothing
        } else {
            Found::Elsewhere
        }
    }
}

/// The address in a name such as `4.3.2.1.in-addr.arpa`.
fn reverse(name: &Name) -> Option<Ipv4Addr> {
    let mut octets = name
        .as_str()
        .strip_suffix(".in-addr.arpa")?
        .rsplit('.')
        .map(str::parse);
    let address = Ipv4Addr::new(
        octets.next()?.ok()?,
        octets.next()?.ok()?,
        octets.next()?.ok()?,
        octets.next()?.ok()?,
    );
    octets.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn zone() -> Zone {
        let mut zone = Zone::default();
        for (session, domain, address) in [
            (1, "one.dagger.local", [10, 87, 0, 2]),
            (2, "two.dagger.local", [10, 87, 0, 3]),
        ] {
            let names = zone.names_mut(SessionId(session));
            names.domains.insert(name(domain));
            names
                .hosts
                .insert(name(&format!("db.{domain}")), vec![address.into()]);
        }
        zone
    }

    #[test]
    fn a_session_sees_its_own_names_only() {
        let zone = zone();
        assert_eq!(
            zone.find(SessionId(1), &name("DB.one.dagger.local.")),
            Found::Addresses(vec![[10, 87, 0, 2].into()])
        );
        assert_eq!(
            zone.find(SessionId(1), &name("web.one.dagger.local")),
            Found::Nothing
        );
        assert_eq!(
            zone.find(SessionId(1), &name("one.dagger.local")),
            Found::Nothing
        );
        assert_eq!(
            zone.find(SessionId(1), &name("db.two.dagger.local")),
            Found::Elsewhere
        );
        assert_eq!(
            zone.find(SessionId(1), &name("notone.dagger.local")),
            Found::Elsewhere
        );
        assert_eq!(
            zone.find(SessionId(3), &name("db.one.dagger.local")),
            Found::Elsewhere
        );
        assert_eq!(
            zone.find(SessionId(1), &name("2.0.87.10.in-addr.arpa")),
            Found::Pointer(name("db.one.dagger.local"))
        );
        assert_eq!(
            zone.find(SessionId(1), &name("3.0.87.10.in-addr.arpa")),
            Found::Elsewhere
        );
        assert_eq!(
            zone.find(SessionId(1), &name("3.2.0.87.10.in-addr.arpa")),
            Found::Elsewhere
        );
    }

    #[test]
    fn a_removed_session_is_forgotten() {
        let mut zone = zone();
        let before = zone.clone();
        zone.remove(SessionId(1));
        assert_eq!(
            zone.find(SessionId(1), &name("db.one.dagger.local")),
            Found::Elsewhere
        );
        assert!(matches!(
            before.find(SessionId(1), &name("db.one.dagger.local")),
            Found::Addresses(_)
        ));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "ä.example",
            &"a".repeat(64),
            &"a.".repeat(128),
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }
}
