//! The rtnetlink messages that make a container's link, as data.
//!
//! There is no bridge device: every container hangs on a link of its own, and the engine's namespace routes. So containers
//! share no segment on which one could pretend to be another, the kernel's limit of 1,024 ports does not apply, and one
//! packet filter hook sees everything.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{
    address::Subnet,
    netlink::{ACKED, Batch, CREATE, EXCLUSIVE, Message, REPLACE, REQUEST, find},
};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;

const INET: u8 = 2;
const UP: u32 = 1;
/// The loopback device's index in every namespace.
pub(super) const LOOPBACK: u32 = 1;
/// The index of `eth0` in a container.
pub(super) const ETH0: u32 = 2;
const MTU: u32 = 1500;

/// `RTN_UNICAST`
const UNICAST: u8 = 1;
/// `RTN_LOCAL`
const LOCAL: u8 = 2;
/// `RTN_UNREACHABLE`
const UNREACHABLE: u8 = 7;
/// `RT_SCOPE_UNIVERSE`
const UNIVERSE: u8 = 0;
/// `RT_SCOPE_LINK`
const LINK: u8 = 253;
/// `RT_SCOPE_HOST`
const HOST: u8 = 254;

/// Prepares the engine's namespace: every address that is no container's is delivered to the engine's own sockets, which is
/// where the proxy listens.
pub(super) fn engine(subnet: Subnet) -> Batch {
    let mut batch = Batch::default();
    link_up(&mut batch, LOOPBACK);
    address(&mut batch, LOOPBACK, subnet.gateway(), 32);
    route(
        &mut batch,
        &Route {
            to: Ipv4Addr::UNSPECIFIED,
            length: 0,
            kind: LOCAL,
            scope: HOST,
            device: Some(LOOPBACK),
            via: None,
        },
    );
    let gap = Route {
        to: subnet.network(),
        length: subnet.length(),
        kind: UNREACHABLE,
        scope: UNIVERSE,
        device: None,
        via: None,
    };
    route(&mut batch, &gap);
    batch
}

/// Prepares a namespace that leads nowhere.
pub(super) fn alone() -> Batch {
    let mut batch = Batch::default();
    link_up(&mut batch, LOOPBACK);
    batch
}

/// Makes a pair of devices, one end in the engine's namespace as device number `index`, the other as `eth0` in the
/// namespace of a container, and leads the container's address there.
pub(super) fn pair(
    subnet: Subnet,
    index: u32,
    address: Ipv4Addr,
    container: BorrowedFd<'_>,
) -> Batch {
    let mut batch = Batch::default();
    batch.message(NEW_LINK, ACKED | CREATE | EXCLUSIVE, |m| {
        link_header(m, index, UP);
        m.string(3, &format!("c{index}"))
            .number(4, MTU)
            .attribute(1, &hardware(subnet.gateway()));
        m.nested(18, |m| {
            m.string(1, "veth").nested(2, |m| {
                m.nested(1, |m| {
                    link_header(m, ETH0, 0);
                    m.string(3, "eth0")
                        .number(4, MTU)
                        .attribute(1, &hardware(address));
                    m.number(28, u32::try_from(container.as_raw_fd()).unwrap_or(u32::MAX));
                });
            });
        });
    });
    route(
        &mut batch,
        &Route {
            to: address,
            length: 32,
            kind: UNICAST,
            scope: LINK,
            device: Some(index),
            via: None,
        },
    );
    neighbour(&mut batch, index, address);
    batch
}

/// Sets up the container's side, see [`pair`]. The subnet is not on the link: all packets go to the gateway.
pub(super) fn container(subnet: Subnet, own: Ipv4Addr) -> Batch {
    let mut batch = Batch::default();
    link_up(&mut batch, LOOPBACK);
    address(&mut batch, ETH0, own, subnet.length());
    link_up(&mut batch, ETH0);
    let out = Route {
        to: Ipv4Addr::UNSPECIFIED,
        length: 0,
        kind: UNICAST,
        scope: UNIVERSE,
        device: Some(ETH0),
        via: Some(subnet.gateway()),
    };
    route(&mut batch, &out);
    neighbour(&mut batch, ETH0, subnet.gateway());
    batch
}

/// Asks for the state of the device with this index; see [`is_working`].
pub(super) fn state_query(index: u32) -> Batch {
    let mut batch = Batch::default();
    batch.message(GET_LINK, REQUEST, |m| link_header(m, index, 0));
    batch
}

/// From the answer to [`state_query`]: does the device send? One end of a pair is up before the other; the kernel notices
/// later, in a queue of work of its own, that it can now be used, and loses until then all that is sent through it.
/// (Asking makes it notice, since Linux 6.7.)
pub(super) fn is_working(answer: &[u8]) -> Option<bool> {
    /// `IF_OPER_UP`
    const WORKING: u8 = 6;
    let state = find(answer.get(16..)?, 16)?;
    Some(state.first() == Some(&WORKING))
}

/// Asks where packets to an address would go; see [`is_elsewhere`].
pub(super) fn route_query(to: Ipv4Addr) -> Batch {
    let mut batch = Batch::default();
    batch.message(GET_ROUTE, REQUEST, |m| {
        m.raw(&[INET, 32, 0, 0, 0, 0, 0, 0])
            .raw(&0_u32.to_ne_bytes())
            .attribute(1, &to.octets());
    });
    batch
}

/// From the answer to [`route_query`]: is it an ordinary address of another machine (not one of ours, no broadcast)?
pub(super) fn is_elsewhere(answer: &[u8]) -> Option<bool> {
    let kind = *answer.get(7)?;
    find(answer.get(12..)?, 1)?;
    Some(kind == UNICAST)
}

fn link_header(m: &mut Message<'_>, index: u32, flags: u32) {
    m.raw(&[0; 4])
        .raw(&index.to_ne_bytes())
        .raw(&flags.to_ne_bytes())
        .raw(&flags.to_ne_bytes());
}

fn link_up(batch: &mut Batch, index: u32) {
    batch.message(NEW_LINK, ACKED, |m| link_header(m, index, UP));
}

/// The hardware address that goes with an address, so that nobody has to ask for it: no first packet waits, and no entry of
/// the neighbour table, whose size is one for the whole machine, has to be found out and kept.
fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // Locally administered, unicast.
    [0x02, 0x42, a, b, c, d]
}

fn neighbour(batch: &mut Batch, index: u32, address: Ipv4Addr) {
    /// `NUD_PERMANENT`
    const PERMANENT: u16 = 0x80;
    batch.message(NEW_NEIGHBOUR, ACKED | CREATE | REPLACE, |m| {
        m.raw(&[INET, 0, 0, 0]).raw(&index.to_ne_bytes());
        let [low, high] = PERMANENT.to_ne_bytes();
        m.raw(&[low, high, 0, 0]);
        m.attribute(1, &address.octets())
            .attribute(2, &hardware(address));
    });
}

fn address(batch: &mut Batch, index: u32, address: Ipv4Addr, length: u8) {
    /// `IFA_F_NOPREFIXROUTE`
    const NO_PREFIX_ROUTE: u32 = 0x200;
    batch.message(NEW_ADDRESS, ACKED | CREATE | EXCLUSIVE, |m| {
        m.raw(&[INET, length, 0, UNIVERSE])
            .raw(&index.to_ne_bytes());
        m.attribute(2, &address.octets())
            .attribute(1, &address.octets())
            .number(8, NO_PREFIX_ROUTE);
    });
}

struct Route {
    to: Ipv4Addr,
    length: u8,
    kind: u8,
    scope: u8,
    device: Option<u32>,
    via: Option<Ipv4Addr>,
}

fn route(batch: &mut Batch, route: &Route) {
    /// `RT_TABLE_MAIN`
    const MAIN: u8 = 254;
    /// `RTPROT_STATIC`
    const STATIC: u8 = 4;
    /// `RTNH_F_ONLINK`: the gateway is reached through the device although no route says so.
    const ON_LINK: u32 = 4;
    batch.message(NEW_ROUTE, ACKED | CREATE | REPLACE, |m| {
        m.raw(&[
            INET,
            route.length,
            0,
            0,
            MAIN,
            STATIC,
            route.scope,
            route.kind,
        ]);
        m.raw(&route.via.map_or(0, |_| ON_LINK).to_ne_bytes());
        if route.length > 0 {
            m.attribute(1, &route.to.octets());
        }
        if let Some(device) = route.device {
            m.number(4, device);
        }
        if let Some(via) = route.via {
            m.attribute(5, &via.octets());
        }
    });
}
