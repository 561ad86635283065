//! IPv4 packets as bytes: which ones the gate takes from containers, and its answers. Pure.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use sys::netns::Instruction;

use super::{address::Subnet, link::LOOPBACK};

const IP: usize = 20;
pub(super) const TCP: u8 = 6;
pub(super) const ICMP: u8 = 1;
pub(super) const SYN: u8 = 0x02;
const RST_ACK: u8 = 0x14;
/// FIN, SYN, RST and ACK: of these the first packet of a connection has SYN only.
pub(super) const FLAGS: u8 = 0x17;
pub(super) const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;

/// The gate's filter: first packets of TCP connections and echo requests, from containers to beyond their subnet.
pub(super) fn filter(subnet: Subnet) -> Vec<Instruction> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    /// Loads the length of the IP header into the index register.
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_BYTE_INDEXED: u16 = 0x50;
    const AND: u16 = 0x54;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_ANY: u16 = 0x45;
    const RETURN: u16 = 0x06;
    /// Where the kernel shows the index of the device (`SKF_AD_OFF + SKF_AD_IFINDEX`).
    const DEVICE: u32 = 0xffff_f000 + 8;
    let step = |code, operand, hit, miss| Instruction {
        code,
        hit,
        miss,
        operand,
    };
    vec![
        step(LOAD_WORD, DEVICE, 0, 0),
        step(JUMP_EQUAL, LOOPBACK, 15, 0),
        step(LOAD_HALF, 6, 0, 0),
        step(JUMP_ANY, 0x1fff, 13, 0), // a later fragment
        step(LOAD_WORD, 16, 0, 0),
        step(AND, subnet.mask().to_bits(), 0, 0),
        step(JUMP_EQUAL, subnet.network().to_bits(), 10, 0),
        step(LOAD_HEADER_LENGTH, 0, 0, 0),
        step(LOAD_BYTE, 9, 0, 0),
        step(JUMP_EQUAL, u32::from(TCP), 0, 3),
        step(LOAD_BYTE_INDEXED, 13, 0, 0),
        step(AND, u32::from(FLAGS), 0, 0),
        step(JUMP_EQUAL, u32::from(SYN), 3, 4),
        step(JUMP_EQUAL, u32::from(ICMP), 0, 3),
        step(LOAD_BYTE_INDEXED, 0, 0, 0),
        step(JUMP_EQUAL, u32::from(ECHO), 0, 1),
        step(RETURN, 0xffff, 0, 0),
        step(RETURN, 0, 0, 0),
    ]
}

/// A packet that the gate takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    /// From the IP header on, with right checksums.
    pub(super) bytes: Vec<u8>,
    /// Length of the IP header.
    header: usize,
    pub(super) wants: Wants,
}

/// What the packet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// A connection.
    Connection {
        from: SocketAddrV4,
        to: SocketAddrV4,
    },
    /// An echo.
    Echo { from: Ipv4Addr, to: Ipv4Addr },
}

/// Why a container gets no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody listens there.
    Reset,
    /// ICMP destination unreachable with this code.
    Unreachable(u8),
    /// Silence: the container's own patience counts.
    None,
}

/// By what error the machine was refused, the container is refused too.
pub(super) fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Refusal::Reset,
        io::ErrorKind::NetworkUnreachable => Refusal::Unreachable(0),
        io::ErrorKind::PermissionDenied => PROHIBITED,
        io::ErrorKind::TimedOut => Refusal::None,
        _ => Refusal::Unreachable(1),
    }
}

/// Communication administratively prohibited.
pub(super) const PROHIBITED: Refusal = Refusal::Unreachable(13);

impl Packet {
    /// Reads a packet that passed the [`filter`]; none when it is torn.
    pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
        let first = *bytes.first()?;
        let header = usize::from(first & 15) * 4;
        let total = usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?));
        let mut bytes = bytes.get(..total)?.to_vec();
        let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
        let number = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let (from, to) = (address(12)?, address(16)?);
        if first >> 4 != 4 || header < IP {
            return None;
        }
        let (wants, shortest, sum_at) = match *bytes.get(9)? {
            TCP => {
                let (from, to) = (
                    SocketAddrV4::new(from, number(header)?),
                    SocketAddrV4::new(to, number(header + 2)?),
                );
                (Wants::Connection { from, to }, 20, 16)
            }
            ICMP => (Wants::Echo { from, to }, 8, 2),
            _ => return None,
        };
        if bytes.len() < header + shortest {
            return None;
        }
        // The sender left the checksum to a device that does not exist.
        seal(&mut bytes, header, sum_at);
        Some(Packet {
            bytes,
            header,
            wants,
        })
    }

    /// The data of an echo request: identifier, sequence number and contents.
    pub(super) fn payload(&self) -> &[u8] {
        self.bytes.get(self.header..).unwrap_or_default()
    }

    /// The packet that tells the container; the gateway speaks for all but the wanted address itself.
    pub(super) fn refuse(&self, refusal: Refusal, gateway: Ipv4Addr) -> Option<Vec<u8>> {
        let (from, to) = match self.wants {
            Wants::Connection { from, to } => (*from.ip(), *to.ip()),
            Wants::Echo { from, to } => (from, to),
        };
        match refusal {
            Refusal::None => None,
            Refusal::Unreachable(code) => {
                let cause = self.bytes.get(..self.header + 8)?;
                let body = [&[UNREACHABLE, code, 0, 0, 0, 0, 0, 0][..], cause].concat();
                Some(packet(ICMP, gateway, from, &body, 2))
            }
            Refusal::Reset => {
                let Wants::Connection {
                    from: client,
                    to: server,
                } = self.wants
                else {
                    return None;
                };
                let segment = self.payload();
                let data = segment
                    .len()
                    .checked_sub(usize::from(segment.get(12)? >> 4) * 4)?;
                let sequence = u32::from_be_bytes(*segment.get(4..)?.first_chunk()?);
                let next = sequence
                    .wrapping_add(1)
                    .wrapping_add(u32::try_from(data).ok()?);
                let mut body = Vec::with_capacity(20);
                body.extend(server.port().to_be_bytes());
                body.extend(client.port().to_be_bytes());
                body.extend([0; 4]);
                body.extend(next.to_be_bytes());
                body.extend([5 << 4, RST_ACK, 0, 0, 0, 0, 0, 0]);
                Some(packet(TCP, to, from, &body, 16))
            }
        }
    }

    /// The answer to an echo request: `reply` is the other side's, whose identifier is the machine's and not the container's.
    pub(super) fn echoed(&self, reply: &[u8]) -> Option<Vec<u8>> {
        let Wants::Echo { from, to } = self.wants else {
            return None;
        };
        let identifier = self.payload().get(4..6)?;
        let body = [&[ECHO_REPLY, 0, 0, 0][..], identifier, reply.get(6..)?].concat();
        Some(packet(ICMP, to, from, &body, 2))
    }
}

/// An echo request under a number of our own.
pub(super) fn echo_request(request: &[u8], number: u16) -> Vec<u8> {
    let mut bytes = request.to_vec();
    put(&mut bytes, 4, number);
    put(&mut bytes, 2, 0);
    let sum = checksum(&bytes, 0);
    put(&mut bytes, 2, sum);
    bytes
}

/// The reply within an IP packet, if it has this number.
pub(super) fn echo_reply(packet: &[u8], number: u16) -> Option<&[u8]> {
    let message = packet.get(usize::from(packet.first()? & 15) * 4..)?;
    let ours = *message.first()? == ECHO_REPLY && message.get(4..6)? == number.to_be_bytes();
    ours.then_some(message)
}

/// A packet of our own around a body whose checksum is at `sum_at`.
fn packet(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, body: &[u8], sum_at: usize) -> Vec<u8> {
    let total = u16::try_from(IP + body.len()).unwrap_or(u16::MAX);
    let [high, low] = total.to_be_bytes();
    // Don't fragment; 64 hops.
    let mut bytes = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let sum = checksum(&bytes, 0);
    put(&mut bytes, 10, sum);
    bytes.extend(body);
    seal(&mut bytes, IP, sum_at);
    bytes
}

/// Makes the checksum of the body right.
fn seal(bytes: &mut [u8], header: usize, sum_at: usize) {
    put(bytes, header + sum_at, 0);
    // TCP's covers the addresses, the protocol and the length too (RFC 9293, 3.1).
    let before = match (bytes.get(9), bytes.get(12..20)) {
        (Some(&TCP), Some(addresses)) => {
            let length = u32::try_from(bytes.len().saturating_sub(header)).unwrap_or(0);
            sum(addresses) + u32::from(TCP) + length
        }
        _ => 0,
    };
    let value = checksum(bytes.get(header..).unwrap_or_default(), before);
    put(bytes, header + sum_at, value);
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(slot) = bytes.get_mut(at..at + 2) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

/// The sum of the 16-bit words; a packet has too few of them to overflow.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [last] => u32::from(*last) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).sum()
}

/// The internet checksum (RFC 1071) over the bytes and what was summed before.
fn checksum(bytes: &[u8], before: u32) -> u16 {
    let mut sum = sum(bytes) + before;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN from 10.87.0.2:1234 to 192.0.2.7:80 with sequence number 7 and an option.
    fn syn() -> Vec<u8> {
        let mut body = vec![
            0x04,
            0xd2,
            0,
            80,
            0,
            0,
            0,
            7,
            0,
            0,
            0,
            0,
            6 << 4,
            SYN,
            1,
            0,
            0xbe,
            0xef,
            0,
            0,
        ];
        body.extend([2, 4, 5, 0xb4]);
        packet(TCP, [10, 87, 0, 2].into(), [192, 0, 2, 7].into(), &body, 16)
    }

    fn valid(bytes: &[u8]) -> bool {
        let pseudo = if bytes[9] == TCP {
            sum(&bytes[12..20]) + 6 + u32::try_from(bytes.len() - IP).expect("short")
        } else {
            0
        };
        checksum(&bytes[..IP], 0) == 0 && checksum(&bytes[IP..], pseudo) == 0
    }

    #[test]
    fn a_first_packet_is_read_and_its_checksum_made_right() {
        let mut bytes = syn();
        bytes[36] ^= 0x55;
        let packet = Packet::parse(&bytes).expect("a packet");
        let wants = Wants::Connection {
            from: "10.87.0.2:1234".parse().expect("a"),
            to: "192.0.2.7:80".parse().expect("b"),
        };
        assert_eq!((packet.wants, &packet.bytes), (wants, &syn()));
        assert!(valid(&packet.bytes));
        for end in 0..bytes.len() {
            assert_eq!(Packet::parse(&bytes[..end]), None);
        }
    }

    #[test]
    fn refusals_are_what_the_kernel_expects() {
        let packet = Packet::parse(&syn()).expect("a packet");
        let gateway = Ipv4Addr::new(10, 87, 0, 1);
        let reset = packet.refuse(Refusal::Reset, gateway).expect("a packet");
        assert!(valid(&reset));
        assert_eq!(reset[12..20], [192, 0, 2, 7, 10, 87, 0, 2]);
        assert_eq!(
            reset[20..34],
            [0, 80, 0x04, 0xd2, 0, 0, 0, 0, 0, 0, 0, 8, 0x50, RST_ACK]
        );
        let unreachable = packet.refuse(PROHIBITED, gateway).expect("a packet");
        assert!(valid(&unreachable));
        assert_eq!(unreachable[12..22], [10, 87, 0, 1, 10, 87, 0, 2, 3, 13]);
        assert_eq!(unreachable[28..], packet.bytes[..28]);
        assert_eq!(packet.refuse(Refusal::None, gateway), None);
    }

    #[test]
    fn an_echo_gets_its_own_identifier_back() {
        let request = packet(
            ICMP,
            [10, 87, 0, 2].into(),
            [192, 0, 2, 7].into(),
            &[ECHO, 0, 0, 0, 1, 2, 0, 9, b'x'],
            2,
        );
        let request = Packet::parse(&request).expect("a packet");
        let reply = request
            .echoed(&[0, 0, 0, 0, 77, 77, 0, 9, b'x'])
            .expect("a packet");
        assert!(valid(&reply));
        assert_eq!(reply[20..22], [0, 0]);
        assert_eq!(reply[24..], [1, 2, 0, 9, b'x']);
        let ours = echo_request(request.payload(), 0x4d4d);
        assert_eq!(
            (checksum(&ours, 0), &ours[4..]),
            (0, &[77, 77, 0, 9, b'x'][..])
        );
        assert_eq!(echo_reply(&reply, 0x102), Some(&reply[20..]));
        assert_eq!(echo_reply(&reply, 0x103), None);
    }

    #[test]
    fn errors_become_refusals() {
        let of = |errno: i32| refusal(&io::Error::from_raw_os_error(errno));
        assert_eq!(of(libc::ECONNREFUSED), Refusal::Reset);
        assert_eq!(of(libc::EHOSTUNREACH), Refusal::Unreachable(1));
        assert_eq!(of(libc::ENETUNREACH), Refusal::Unreachable(0));
        assert_eq!(of(libc::EPERM), PROHIBITED);
        assert_eq!(of(libc::ETIMEDOUT), Refusal::None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100), header in 0_u8..255, protocol in 0_u8..8) {
            let mut bytes = bytes;
            let total = u8::try_from(bytes.len()).unwrap_or(0);
            for (at, value) in [(0, header), (2, 0), (3, total), (9, protocol)] {
                if let Some(slot) = bytes.get_mut(at) { *slot = value; }
            }
            if let Some(packet) = Packet::parse(&bytes) {
                for refusal in [Refusal::Reset, PROHIBITED, Refusal::None] {
                    packet.refuse(refusal, Ipv4Addr::LOCALHOST);
                }
                packet.echoed(packet.payload());
            }
        }
    }
}
