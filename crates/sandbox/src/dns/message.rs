//! DNS messages (RFC 1035) as far as a forwarder needs them: the header, one question, and answers of our own.

use std::net::Ipv4Addr;

use super::zone::Name;

/// The longest message over UDP that every client takes.
pub(super) const CLASSIC: usize = 512;
/// The longest we send over UDP to clients that say they take more.
pub(super) const LONGEST_UDP: usize = 4096;

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
const OPT: u16 = 41;
const INTERNET: u16 = 1;
/// Answers of our own may be kept this long: services come and go.
const KEEP: u32 = 1;

const HEADER: usize = 12;
const IS_ANSWER: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const AUTHORITATIVE: u8 = 0x04;
const RECURSION_AVAILABLE: u8 = 0x80;

/// How a question was settled (RFC 1035, 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
}

/// A question as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    bytes: &'a [u8],
    /// Where the question section ends.
    end: usize,
    /// The name, if it is one that we could know; others are forwarded unread.
    pub(super) name: Option<Name>,
    pub(super) kind: u16,
    /// The longest answer over UDP that the client takes.
    pub(super) room: usize,
}

impl Query<'_> {
    /// Reads a query with exactly one question; anything else is not answered at all.
    pub(super) fn parse(bytes: &[u8]) -> Option<Query<'_>> {
        let header = bytes.get(..HEADER)?;
        let count = |at: usize| {
            header
                .get(at..)?
                .first_chunk()
                .map(|c| u16::from_be_bytes(*c))
        };
        if header.get(2)? & IS_ANSWER != 0 || count(4)? != 1 || count(6)? != 0 || count(8)? != 0 {
            return None;
        }
        let (labels, at) = labels(bytes, HEADER)?;
        let kind = u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
        let class = u16::from_be_bytes(*bytes.get(at + 2..)?.first_chunk()?);
        let end = at + 4;
        let name = if class == INTERNET {
            labels.and_then(|text| text.parse().ok())
        } else {
            None
        };
        let room = extended_room(bytes, end, count(10)?).clamp(CLASSIC, LONGEST_UDP);
        Some(Query {
            bytes,
            end,
            name,
            kind,
            room,
        })
    }

    /// The query's operation: 0 is an ordinary question.
    pub(super) fn operation(&self) -> u8 {
        self.bytes.get(2).map_or(0, |byte| (byte >> 3) & 15)
    }

    /// An answer without records.
    pub(super) fn settled(&self, code: Code) -> Vec<u8> {
        self.reply(code, 0, &[])
    }

    /// An answer with addresses.
    pub(super) fn addresses(&self, addresses: &[Ipv4Addr]) -> Vec<u8> {
        // More would not fit the shortest message; nobody looks at so many.
        let addresses = addresses.get(..16).unwrap_or(addresses);
        let mut records = Vec::new();
        for address in addresses {
            record(&mut records, A, &address.octets());
        }
        self.reply(
            Code::NoError,
            u16::try_from(addresses.len()).unwrap_or(0),
            &records,
        )
    }

    /// An answer with a name.
    pub(super) fn pointer(&self, name: &Name) -> Vec<u8> {
        let mut target = Vec::new();
        for label in name.as_str().split('.') {
            target.push(u8::try_from(label.len()).unwrap_or(63));
            target.extend(label.as_bytes());
        }
        target.push(0);
        let mut records = Vec::new();
        record(&mut records, PTR, &target);
        self.reply(Code::NoError, 1, &records)
    }

    /// The answer that tells a client to ask again over TCP.
    pub(super) fn truncated(&self) -> Vec<u8> {
        let mut reply = self.settled(Code::NoError);
        if let Some(flags) = reply.get_mut(2) {
            *flags = (*flags | TRUNCATED) & !AUTHORITATIVE;
        }
        reply
    }

    fn reply(&self, code: Code, count: u16, records: &[u8]) -> Vec<u8> {
        let mut reply = self.bytes.get(..self.end).unwrap_or_default().to_vec();
        let own = if matches!(code, Code::NoError | Code::NoSuchName) {
            AUTHORITATIVE
        } else {
            0
        };
        if let Some([_, _, flags, more, _, _, answers @ .., _, _, _, _]) =
            reply.first_chunk_mut::<HEADER>()
        {
            *flags = (*flags & !TRUNCATED) | IS_ANSWER | own;
            *more = RECURSION_AVAILABLE | code as u8;
            *answers = count.to_be_bytes();
        }
        // No authority and no additional records.
        if let Some(rest) = reply.get_mut(8..HEADER) {
            rest.fill(0);
        }
        reply.extend(records);
        reply
    }

    /// Is `reply` an answer to this question, asked under the number `id`? Servers may change the case of the name.
    pub(super) fn answered_by(&self, reply: &[u8], id: u16) -> bool {
        let question = |bytes: &[u8]| bytes.get(HEADER..self.end).map(<[u8]>::to_ascii_lowercase);
        let Some(header) = reply.first_chunk::<HEADER>() else {
            return false;
        };
        let asked = u16::from_be_bytes([header[4], header[5]]);
        let same = question(reply).is_some_and(|theirs| Some(theirs) == question(self.bytes));
        // A server that cannot read the question may leave it out.
        let bare = asked == 0 && reply.len() == HEADER && header[3] & 15 != 0;
        header[..2] == id.to_be_bytes()
            && header[2] & IS_ANSWER != 0
            && (bare || (asked == 1 && same))
    }

    /// The message under another number.
    pub(super) fn numbered(&self, id: u16) -> Vec<u8> {
        numbered(self.bytes, id)
    }

    /// The number the client gave it.
    pub(super) fn id(&self) -> u16 {
        self.bytes
            .first_chunk()
            .map_or(0, |id| u16::from_be_bytes(*id))
    }
}

/// The message under another number.
pub(super) fn numbered(bytes: &[u8], id: u16) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    if let Some(slot) = copy.first_chunk_mut() {
        *slot = id.to_be_bytes();
    }
    copy
}

/// Does the answer say that it is not whole?
pub(super) fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// Did the server fail, so that another may do better?
pub(super) fn is_failure(reply: &[u8]) -> bool {
    reply
        .get(3)
        .is_none_or(|code| matches!(code & 15, 2 | 4 | 5))
}

/// A record about the question's own name.
fn record(out: &mut Vec<u8>, kind: u16, data: &[u8]) {
    out.extend([0xc0, 12]);
    out.extend(kind.to_be_bytes());
    out.extend(INTERNET.to_be_bytes());
    out.extend(KEEP.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend(data);
}

/// Reads the labels at `at`: the text if every label is ASCII without dots, and where they end. Compression has no place
/// in a question.
fn labels(bytes: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let start = at;
    let mut text = Some(String::new());
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        if length > 63 || at + length - start > 254 {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        text = text
            .filter(|_| label.is_ascii() && !label.contains(&b'.'))
            .map(|mut text| {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&String::from_utf8_lossy(label));
                text
            });
    }
}

/// The size a client announces by EDNS (RFC 6891), when its first additional record is that.
fn extended_room(bytes: &[u8], at: usize, additional: u16) -> usize {
    let Some(record) = bytes.get(at..at + 5) else {
        return CLASSIC;
    };
    match record {
        [0, high, low, size @ ..] if additional > 0 && u16::from_be_bytes([*high, *low]) == OPT => {
            size.first_chunk()
                .map_or(CLASSIC, |size| usize::from(u16::from_be_bytes(*size)))
        }
        _ => CLASSIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02Db\x04test\0\0\x01\0\x01";

    #[test]
    fn a_question_is_read() {
        let query = Query::parse(ASK).expect("a query");
        assert_eq!(
            (
                query.name.as_ref().map(Name::as_str),
                query.kind,
                query.room,
                query.id()
            ),
            (Some("db.test"), A, CLASSIC, 0x1234)
        );
        let mut extended = ASK.to_vec();
        extended[11] = 1;
        extended.extend(b"\0\0\x29\x10\0\0\0\0\0\0\0");
        assert_eq!(Query::parse(&extended).expect("a query").room, 4096);
    }

    #[test]
    fn an_address_answers_it() {
        let query = Query::parse(ASK).expect("a query");
        let reply = query.addresses(&[Ipv4Addr::new(10, 87, 0, 2)]);
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\x0a\x57\0\x02";
        assert_eq!(
            reply,
            [b"\x12\x34\x85\x80\0\x01\0\x01\0\0\0\0", &ASK[12..], record].concat()
        );
        assert!(query.answered_by(&reply, 0x1234));
        assert!(!query.answered_by(&reply, 0x1235));
        assert!(!query.answered_by(ASK, 0x1234));
        assert!(!query.answered_by(&reply[..20], 0x1234));
        assert!(is_truncated(&query.truncated()) && !is_truncated(&reply));
        assert!(
            is_failure(&query.settled(Code::ServerFailure))
                && !is_failure(&query.settled(Code::NoSuchName))
        );
    }

    #[test]
    fn torn_and_twisted_messages_are_no_queries() {
        for end in 0..ASK.len() {
            assert!(Query::parse(&ASK[..end]).is_none());
        }
        for (at, value) in [
            (2, 0x80),
            (5, 2),
            (5, 0),
            (7, 1),
            (9, 1),
            (12, 0xc0),
            (12, 64),
        ] {
            let mut bytes = ASK.to_vec();
            bytes[at] = value;
            assert!(Query::parse(&bytes).is_none(), "byte {at}");
        }
        let endless = [&ASK[..12], b"\x3f", &[b'a'; 63].repeat(9)].concat();
        assert!(Query::parse(&endless).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            for bytes in [bytes.clone(), [&ASK[..12], &bytes].concat()] {
                if let Some(query) = Query::parse(&bytes) {
                    let reply = query.settled(Code::ServerFailure);
                    proptest::prop_assert!(query.answered_by(&reply, query.id()));
                    query.answered_by(&bytes, 0);
                }
            }
        }
    }
}
