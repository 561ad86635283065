//! Which addresses containers get: a subnet, and the order in which its addresses are handed out.

use std::{collections::VecDeque, fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 subnet, written `10.87.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    length: u8,
}

/// Why a text is no subnet that containers can live in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubnetError {
    /// It is not written `address/length`.
    #[error("`{0}` is no subnet of the form `10.87.0.0/16`")]
    Form(String),
    /// The prefix leaves no room, or more than can be meant.
    #[error("the prefix of `{0}` is not between 8 and 29 bits")]
    Length(String),
    /// Bits after the prefix are set.
    #[error("`{text}` has bits set after its prefix; the subnet is `{subnet}`")]
    HostBits {
        /// As given.
        text: String,
        /// What was probably meant.
        subnet: Subnet,
    },
    /// A range that packets cannot use.
    #[error("`{0}` is not a range for machines' addresses")]
    Special(String),
}

impl Subnet {
    /// `10.87.0.0/16`
    pub const DEFAULT: Subnet = Subnet {
        network: 0x0a57_0000,
        length: 16,
    };

    /// The address of the engine's side: the gateway and name server of every container.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    /// The subnet's own address.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network)
    }

    /// The length of the prefix in bits, 8 to 29.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The mask of the prefix.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX << (32 - u32::from(self.length)))
    }

    /// Is the address within?
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & u32::from(self.mask()) == self.network
    }

    /// Addresses for containers: all but the subnet's own, the gateway's and the broadcast address.
    fn first(self) -> u32 {
        self.network + 2
    }

    fn last(self) -> u32 {
        (self.network | !u32::from(self.mask())) - 1
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Subnet, SubnetError> {
        let form = || SubnetError::Form(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let length: u8 = length.parse().map_err(|_| form())?;
        if !(8..=29).contains(&length) {
            return Err(SubnetError::Length(text.to_owned()));
        }
        let mask = u32::MAX << (32 - u32::from(length));
        let subnet = Subnet {
            network: u32::from(address) & mask,
            length,
        };
        if address != subnet.network() {
            return Err(SubnetError::HostBits {
                text: text.to_owned(),
                subnet,
            });
        }
        let first = subnet.network().octets()[0];
        if address.is_loopback() || address.is_link_local() || first == 0 || first >= 224 {
            return Err(SubnetError::Special(text.to_owned()));
        }
        Ok(subnet)
    }
}

/// Hands out addresses; one that was given back is used again as late as possible, so that nothing that still remembers its
/// last owner (a neighbour table, a log, a peer's retries) meets the next one.
#[derive(Debug)]
pub(super) struct Addresses {
    subnet: Subnet,
    /// The lowest address never handed out.
    fresh: u32,
    /// Given back, oldest first.
    returned: VecDeque<Ipv4Addr>,
}

impl Addresses {
    pub(super) fn new(subnet: Subnet) -> Addresses {
        Addresses {
            subnet,
            fresh: subnet.first(),
            returned: VecDeque::new(),
        }
    }

    /// The next address, or none when all are in use.
    pub(super) fn take(&mut self) -> Option<Ipv4Addr> {
        if self.fresh <= self.subnet.last() {
            self.fresh += 1;
            return Some(Ipv4Addr::from(self.fresh - 1));
        }
        self.returned.pop_front()
    }

    /// Takes back an address that [`Addresses::take`] gave.
    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        self.returned.push_back(address);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let answer = text.parse::<Subnet>().map_or_else(
            |e| e.to_string(),
            |s| format!("{s} gateway {}", s.gateway()),
        );
        expected.assert_eq(&answer);
    }

    #[test]
    fn subnets_parse() {
        assert_eq!("10.87.0.0/16".parse(), Ok(Subnet::DEFAULT));
        check(
            "192.168.4.8/29",
            expect!["192.168.4.8/29 gateway 192.168.4.9"],
        );
        check(
            "10.87.0.0",
            expect!["`10.87.0.0` is no subnet of the form `10.87.0.0/16`"],
        );
        check(
            "10.87.0/16",
            expect!["`10.87.0/16` is no subnet of the form `10.87.0.0/16`"],
        );
        check(
            "10.87.0.0/33",
            expect!["the prefix of `10.87.0.0/33` is not between 8 and 29 bits"],
        );
        check(
            "10.87.1.0/16",
            expect!["`10.87.1.0/16` has bits set after its prefix; the subnet is `10.87.0.0/16`"],
        );
        check(
            "127.0.0.0/8",
            expect!["`127.0.0.0/8` is not a range for machines' addresses"],
        );
        check(
            "239.0.0.0/8",
            expect!["`239.0.0.0/8` is not a range for machines' addresses"],
        );
    }

    #[test]
    fn an_address_returns_after_all_others() {
        let mut addresses = Addresses::new("10.0.0.0/29".parse().expect("a subnet"));
        let first = addresses.take().expect("room");
        addresses.give_back(first);
        let rest: Vec<String> = std::iter::from_fn(|| addresses.take())
            .map(|a| a.to_string())
            .collect();
        assert_eq!(
            rest,
            ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]
        );
        assert_eq!(addresses.take(), None);
    }
}
