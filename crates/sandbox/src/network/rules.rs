//! The packet filter of the engine's namespace, as nf_tables messages.
//!
//! In the syntax of `nft`, where `inner` decides who reaches whom and everything else goes to the proxy:
//!
//! ```text
//! table ip bodkin {
//!   map session { type ipv4_addr : mark; }     # whose container has this address
//!   set members { type mark . ipv4_addr; }     # the same, the other way round
//!   chain entry { type filter hook prerouting priority mangle; policy drop;
//!     iif lo ip saddr != SUBNET accept
//!     ip daddr GATEWAY accept
//!     ip daddr SUBNET goto inner
//!     ip daddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 } reject with icmp admin-prohibited
//!     iif != lo tcp flags & (fin | syn | rst | ack) == syn drop      # the gate takes it from here
//!     meta l4proto { tcp, udp } tproxy to 127.0.0.1:PORT accept
//!     icmp type echo-request drop                                    # likewise
//!     reject with icmp admin-prohibited
//!   }
//!   chain inner {
//!     meta mark set ip saddr map @session
//!     meta mark . ip daddr @members accept
//!     reject with icmp admin-prohibited
//!   }
//! }
//! ```

use std::net::Ipv4Addr;

use super::{
    address::Subnet,
    link::LOOPBACK,
    netlink::{ACKED, APPEND, Batch, CREATE, Message, REQUEST},
    outside::REFUSED,
    packet::{ECHO, FLAGS, ICMP, SYN, TCP},
};

/// A session as the packet filter knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) session: u32,
    pub(super) address: Ipv4Addr,
}

/// The table with its chains and rules. TCP and UDP to the outside reach the sockets bound to `proxy` on 127.0.0.1.
pub(super) fn table(subnet: Subnet, proxy: u16) -> Batch {
    let mut batch = Batch::default();
    begin(&mut batch);
    object(&mut batch, NEW_TABLE, CREATE, |m| {
        m.string(1, TABLE);
    });
    object(&mut batch, NEW_SET, CREATE, |m| {
        m.string(1, TABLE).string(2, SESSION).number_be(3, MAP);
        m.number_be(4, TYPE_ADDRESS)
            .number_be(5, 4)
            .number_be(6, TYPE_MARK)
            .number_be(7, 4)
            .number_be(10, 1);
    });
    object(&mut batch, NEW_SET, CREATE, |m| {
        m.string(1, TABLE).string(2, MEMBERS).number_be(3, 0);
        m.number_be(4, (TYPE_MARK << 6) | TYPE_ADDRESS)
            .number_be(5, 8)
            .number_be(10, 2);
    });
    object(&mut batch, NEW_CHAIN, CREATE, |m| {
        m.string(1, TABLE).string(3, INNER);
    });
    object(&mut batch, NEW_CHAIN, CREATE, |m| {
        m.string(1, TABLE).string(3, ENTRY);
        m.nested(4, |m| {
            m.number_be(1, 0).number_be(2, MANGLE);
        });
        m.number_be(5, DROP).string(7, "filter");
    });
    rule(&mut batch, INNER, |e| {
        e.payload(A, NETWORK, SOURCE, 4)
            .lookup(SESSION, A, Some(A))
            .mark(A);
    });
    rule(&mut batch, INNER, |e| {
        e.meta(A, META_MARK)
            .payload(B, NETWORK, DESTINATION, 4)
            .lookup(MEMBERS, A, None)
            .verdict(ACCEPT, None);
    });
    rule(&mut batch, INNER, |e| {
        e.reject();
    });
    rule(&mut batch, ENTRY, |e| {
        e.meta(A, META_INPUT)
            .compare(A, EQUAL, &LOOPBACK.to_ne_bytes())
            .within(SOURCE, NOT_EQUAL, subnet.network(), subnet.length())
            .verdict(ACCEPT, None);
    });
    rule(&mut batch, ENTRY, |e| {
        e.payload(A, NETWORK, DESTINATION, 4)
            .equals(A, &subnet.gateway().octets())
            .verdict(ACCEPT, None);
    });
    rule(&mut batch, ENTRY, |e| {
        e.within(DESTINATION, EQUAL, subnet.network(), subnet.length())
            .verdict(GOTO, Some(INNER));
    });
    for (network, length) in REFUSED {
        rule(&mut batch, ENTRY, |e| {
            e.within(DESTINATION, EQUAL, network, length).reject();
        });
    }
    rule(&mut batch, ENTRY, |e| {
        e.meta(A, META_INPUT)
            .compare(A, NOT_EQUAL, &LOOPBACK.to_ne_bytes())
            .meta(A, META_PROTOCOL)
            .equals(A, &[TCP])
            .payload(A, TRANSPORT, 13, 1)
            .masked(A, &[FLAGS])
            .equals(A, &[SYN])
            .verdict(DROP, None);
    });
    for protocol in [TCP, UDP] {
        rule(&mut batch, ENTRY, |e| {
            e.meta(A, META_PROTOCOL)
                .equals(A, &[protocol])
                .proxy(proxy)
                .verdict(ACCEPT, None);
        });
    }
    rule(&mut batch, ENTRY, |e| {
        e.meta(A, META_PROTOCOL)
            .equals(A, &[ICMP])
            .payload(A, TRANSPORT, 0, 1)
            .equals(A, &[ECHO])
            .verdict(DROP, None);
    });
    rule(&mut batch, ENTRY, |e| {
        e.reject();
    });
    end(&mut batch);
    batch
}

/// Lets the member and the other members of its session reach each other.
pub(super) fn admit(member: Member) -> Batch {
    elements(NEW_ELEMENT, CREATE, member)
}

/// Takes back what [`admit`] did.
pub(super) fn expel(member: Member) -> Batch {
    elements(DELETE_ELEMENT, 0, member)
}

fn elements(kind: u16, flags: u16, member: Member) -> Batch {
    let session = member.session.to_be_bytes();
    let address = member.address.octets();
    let key = [session, address].concat();
    let mut batch = Batch::default();
    begin(&mut batch);
    for (set, key, value) in [
        (SESSION, &address[..], Some(&session[..])),
        (MEMBERS, &key[..], None),
    ] {
        object(&mut batch, kind, flags, |m| {
            m.string(1, TABLE).string(2, set).nested(3, |m| {
                m.nested(1, |m| {
                    m.nested(1, |m| {
                        m.attribute(1, key);
                    });
                    if let Some(value) = value {
                        m.nested(2, |m| {
                            m.attribute(1, value);
                        });
                    }
                });
            });
        });
    }
    end(&mut batch);
    batch
}

const TABLE: &str = "bodkin";
const SESSION: &str = "session";
const MEMBERS: &str = "members";
const ENTRY: &str = "entry";
const INNER: &str = "inner";

/// The subsystem `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

/// `NFPROTO_IPV4`
const IPV4: u8 = 2;
/// The priority `mangle`, as the kernel's two's complement.
const MANGLE: u32 = (-150_i32).cast_unsigned();
/// `NFT_SET_MAP`
const MAP: u32 = 8;
/// How `nft` shows a key; the kernel does not care.
const TYPE_ADDRESS: u32 = 7;
const TYPE_MARK: u32 = 19;

/// Two neighbouring registers of four bytes, `NFT_REG32_00` and `_01`.
const A: u32 = 8;
const B: u32 = 9;
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// `NFT_PAYLOAD_NETWORK_HEADER`
const NETWORK: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`
const TRANSPORT: u32 = 2;
/// `NFT_CMP_EQ`
const EQUAL: u32 = 0;
/// `NFT_CMP_NEQ`
const NOT_EQUAL: u32 = 1;
const META_MARK: u32 = 3;
const META_INPUT: u32 = 4;
const META_PROTOCOL: u32 = 16;
const UDP: u8 = 17;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const GOTO: u32 = (-4_i32).cast_unsigned();

/// The header of the messages around a transaction: any family, version 0, and the subsystem it is for.
const BATCH: [u8; 4] = [0, 0, 0, 10];

fn begin(batch: &mut Batch) {
    batch.message(16, REQUEST, |m| {
        m.raw(&BATCH);
    });
}

fn end(batch: &mut Batch) {
    batch.message(17, REQUEST, |m| {
        m.raw(&BATCH);
    });
}

fn object(batch: &mut Batch, kind: u16, flags: u16, write: impl FnOnce(&mut Message<'_>)) {
    batch.message((SUBSYSTEM << 8) | kind, ACKED | flags, |m| {
        m.raw(&[IPV4, 0, 0, 0]);
        write(m);
    });
}

fn rule(batch: &mut Batch, chain: &str, write: impl FnOnce(&mut Expressions<'_, '_>)) {
    object(batch, NEW_RULE, CREATE | APPEND, |m| {
        m.string(1, TABLE)
            .string(2, chain)
            .nested(4, |m| write(&mut Expressions { m }));
    });
}

/// The expressions of a rule, in order.
struct Expressions<'a, 'b> {
    m: &'a mut Message<'b>,
}

impl Expressions<'_, '_> {
    fn add(&mut self, name: &str, write: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        self.m.nested(1, |m| {
            m.string(1, name).nested(2, write);
        });
        self
    }

    fn meta(&mut self, register: u32, key: u32) -> &mut Self {
        self.add("meta", |m| {
            m.number_be(1, register).number_be(2, key);
        })
    }

    /// Four bytes of the IPv4 header.
    /// Sets the packet's mark.
    fn mark(&mut self, register: u32) -> &mut Self {
        self.add("meta", |m| {
            m.number_be(2, META_MARK).number_be(3, register);
        })
    }

    /// Bytes of the header of this layer.
    fn payload(&mut self, register: u32, layer: u32, offset: u32, length: u32) -> &mut Self {
        self.add("payload", |m| {
            m.number_be(1, register).number_be(2, layer);
            m.number_be(3, offset).number_be(4, length);
        })
    }

    fn masked(&mut self, register: u32, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or(4);
        self.add("bitwise", |m| {
            m.number_be(1, register)
                .number_be(2, register)
                .number_be(3, length);
            m.nested(4, |m| {
                m.attribute(1, mask);
            });
            m.nested(5, |m| {
                m.attribute(1, &vec![0; mask.len()]);
            });
        })
    }

    fn compare(&mut self, register: u32, how: u32, value: &[u8]) -> &mut Self {
        self.add("cmp", |m| {
            m.number_be(1, register).number_be(2, how).nested(3, |m| {
                m.attribute(1, value);
            });
        })
    }

    fn equals(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.compare(register, EQUAL, value)
    }

    /// Is the address at this offset of the IP header within the network, or not?
    fn within(&mut self, offset: u32, how: u32, network: Ipv4Addr, length: u8) -> &mut Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        self.payload(A, NETWORK, offset, 4)
            .masked(A, &mask.to_be_bytes())
            .compare(A, how, &network.octets())
    }

    fn lookup(&mut self, set: &str, from: u32, to: Option<u32>) -> &mut Self {
        self.add("lookup", |m| {
            m.string(1, set).number_be(2, from);
            if let Some(to) = to {
                m.number_be(3, to);
            }
        })
    }

    fn immediate(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.add("immediate", |m| {
            m.number_be(1, register).nested(2, |m| {
                m.attribute(1, value);
            });
        })
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) -> &mut Self {
        self.add("immediate", |m| {
            m.number_be(1, 0).nested(2, |m| {
                m.nested(2, |m| {
                    m.number_be(1, code);
                    if let Some(chain) = chain {
                        m.string(2, chain);
                    }
                });
            });
        })
    }

    fn proxy(&mut self, port: u16) -> &mut Self {
        self.immediate(A, &Ipv4Addr::LOCALHOST.octets())
            .immediate(B, &port.to_be_bytes())
            .add("tproxy", |m| {
                m.number_be(1, u32::from(IPV4))
                    .number_be(2, A)
                    .number_be(3, B);
            })
    }

    /// `reject with icmp admin-prohibited`
    fn reject(&mut self) -> &mut Self {
        self.add("reject", |m| {
            m.number_be(1, 0).attribute(2, &[13]);
        })
    }
}
