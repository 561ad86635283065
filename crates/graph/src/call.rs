//! Calls: one field asked of one receiver with arguments. A chain of calls is a recipe; its digest names the result and its
//! printable form is the object's ID.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;

/// Most calls one ID may hold.
pub const MAX_ID_CALLS: usize = 200_000;
/// Most bytes one ID may have.
pub const MAX_ID_BYTES: usize = 64 << 20;

/// Names a call by the content of its whole recipe: xxh3-128, printed `xxh3:<32 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub u128);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "xxh3:{:032x}", self.0)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// A literal in a recipe's arguments.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// Null.
    Null,
    /// Boolean.
    Bool(bool),
    /// Integer.
    Int(i64),
    /// Float.
    Float(f64),
    /// String.
    String(Arc<str>),
    /// Enum value name.
    Enum(Arc<str>),
    /// List.
    List(Vec<Literal>),
    /// Input object.
    Input(Vec<(Arc<str>, Literal)>),
    /// Another object, by its recipe.
    Call(Arc<Call>),
}

/// One field asked. Immutable; shared between recipes.
pub struct Call {
    /// The object the field was asked of; `None` is the root `Query`.
    pub receiver: Option<Arc<Call>>,
    /// Field name.
    pub field: Arc<str>,
    /// Arguments that were given, sorted by name; nulls and sensitive ones left out.
    pub args: Vec<(Arc<str>, Literal)>,
    /// Type of the result: the object type's name.
    pub type_name: Arc<str>,
    /// 1-based index when the object is an element of the list the field returned.
    pub nth: u32,
    /// Schema view the call was made under, when it changes the field's meaning; empty otherwise.
    pub view: Arc<str>,
    digest: OnceLock<Digest>,
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Call({}.{} {})",
            self.receiver.as_ref().map_or("Query", |r| &r.type_name),
            self.field,
            self.digest()
        )
    }
}

/// Chains are as long as clients make them: release them without recursion.
impl Drop for Call {
    fn drop(&mut self) {
        let mut pending = Vec::new();
        take_links(self, &mut pending);
        while let Some(call) = pending.pop() {
            if let Ok(mut call) = Arc::try_unwrap(call) {
                take_links(&mut call, &mut pending);
            }
        }
    }
}

fn take_links(call: &mut Call, into: &mut Vec<Arc<Call>>) {
    into.extend(call.receiver.take());
    for (_, literal) in &mut call.args {
        take_literal(literal, into);
    }
}

fn take_literal(literal: &mut Literal, into: &mut Vec<Arc<Call>>) {
    match std::mem::replace(literal, Literal::Null) {
        Literal::Call(c) => into.push(c),
        Literal::List(items) => items
            .into_iter()
            .for_each(|mut l| take_literal(&mut l, into)),
        Literal::Input(fields) => fields
            .into_iter()
            .for_each(|(_, mut l)| take_literal(&mut l, into)),
        Literal::Null
        | Literal::Bool(_)
        | Literal::Int(_)
        | Literal::Float(_)
        | Literal::String(_)
        | Literal::Enum(_) => {}
    }
}

impl Call {
    /// A call with its arguments sorted and nulls dropped.
    pub fn new(
        receiver: Option<Arc<Call>>,
        field: &str,
        args: Vec<(Arc<str>, Literal)>,
        type_name: &str,
    ) -> Arc<Self> {
        Self::with(receiver, field, args, type_name, 0, "")
    }

    /// [`Call::new`] with a list index and a view.
    pub fn with(
        receiver: Option<Arc<Call>>,
        field: &str,
        mut args: Vec<(Arc<str>, Literal)>,
        type_name: &str,
        nth: u32,
        view: &str,
    ) -> Arc<Self> {
        args.retain(|(_, l)| *l != Literal::Null);
        args.sort_by(|a, b| a.0.cmp(&b.0));
        let call = Self {
            receiver,
            field: field.into(),
            args,
            type_name: type_name.into(),
            nth,
            view: view.into(),
            digest: OnceLock::new(),
        };
        // Computed while the receiver's digest is at hand, so that no later computation recurses.
        let _ = call.digest();
        Arc::new(call)
    }

    /// The element `nth` (1-based) of the list this call returns.
    pub fn element(self: &Arc<Self>, nth: u32, type_name: &str) -> Arc<Self> {
        Self::with(
            self.receiver.clone(),
            &self.field,
            self.args.clone(),
            type_name,
            nth,
            &self.view,
        )
    }

    /// The argument `name`.
    pub fn arg(&self, name: &str) -> Option<&Literal> {
        self.args.iter().find(|(n, _)| **n == *name).map(|(_, l)| l)
    }

    /// The digest of the whole recipe.
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let mut h = Vec::with_capacity(128);
            h.extend_from_slice(
                &self
                    .receiver
                    .as_ref()
                    .map_or(0, |r| r.digest().0)
                    .to_le_bytes(),
            );
            put_str(&mut h, &self.field);
            put_str(&mut h, &self.type_name);
            put_str(&mut h, &self.view);
            h.extend_from_slice(&self.nth.to_le_bytes());
            put_len(&mut h, self.args.len());
            for (name, literal) in &self.args {
                put_str(&mut h, name);
                put_literal(&mut h, literal, &mut |h, c| {
                    h.extend_from_slice(&c.digest().0.to_le_bytes())
                });
            }
            Digest(xxhash_rust::xxh3::xxh3_128(&h))
        })
    }

    /// The printable ID: base64 over the recipe's calls, each once, receivers and arguments first.
    pub fn encode(self: &Arc<Self>) -> String {
        let mut index: std::collections::HashMap<Digest, u32> = std::collections::HashMap::new();
        let mut out = vec![FORMAT];
        // Post-order with an explicit stack: (call, children pushed?).
        let mut stack: Vec<(&Arc<Call>, bool)> = vec![(self, false)];
        while let Some((call, expanded)) = stack.pop() {
            if index.contains_key(&call.digest()) {
                continue;
            }
            if !expanded {
                stack.push((call, true));
                if let Some(r) = &call.receiver {
                    stack.push((r, false));
                }
                for (_, l) in &call.args {
                    each_call(l, &mut |c| stack.push((c, false)));
                }
                continue;
            }
            put_len(
                &mut out,
                call.receiver
                    .as_ref()
                    .map_or(0, |r| index[&r.digest()] as usize + 1),
            );
            put_str(&mut out, &call.field);
            put_str(&mut out, &call.type_name);
            put_str(&mut out, &call.view);
            put_len(&mut out, call.nth as usize);
            put_len(&mut out, call.args.len());
            for (name, l) in &call.args {
                put_str(&mut out, name);
                put_literal(&mut out, l, &mut |o, c| {
                    put_len(o, index[&c.digest()] as usize)
                });
            }
            let n = index.len() as u32;
            index.insert(call.digest(), n);
        }
        base64::engine::general_purpose::STANDARD.encode(out)
    }

    /// Reads an ID made by [`Call::encode`].
    ///
    /// # Errors
    /// `cannot decode empty string as ID`, or what is wrong with the text.
    pub fn decode(id: &str) -> Result<Arc<Self>, IdError> {
        if id.is_empty() {
            return Err(IdError::Empty);
        }
        if id.len() > MAX_ID_BYTES {
            return Err(IdError::TooLarge);
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(id)
            .map_err(|_| IdError::Malformed("not base64"))?;
        let mut r = Reader {
            bytes: &bytes,
            at: 0,
        };
        if r.byte()? != FORMAT {
            return Err(IdError::Malformed("unknown format"));
        }
        let mut calls: Vec<Arc<Call>> = Vec::new();
        while r.at < bytes.len() {
            if calls.len() >= MAX_ID_CALLS {
                return Err(IdError::TooLarge);
            }
            let receiver = match r.len()? {
                0 => None,
                n => Some(
                    calls
                        .get(n - 1)
                        .ok_or(IdError::Malformed("receiver out of range"))?
                        .clone(),
                ),
            };
            let field = r.string()?;
            let type_name = r.string()?;
            let view = r.string()?;
            let nth =
                u32::try_from(r.len()?).map_err(|_| IdError::Malformed("index out of range"))?;
            let mut args = Vec::new();
            for _ in 0..r.len()? {
                let name: Arc<str> = r.string()?.into();
                args.push((name, r.literal(&calls, 0)?));
            }
            calls.push(Self::with(receiver, &field, args, &type_name, nth, &view));
        }
        calls.pop().ok_or(IdError::Malformed("no call"))
    }
}

/// First byte of every ID.
const FORMAT: u8 = 1;
/// Deepest nesting of lists and input objects in one argument.
const MAX_LITERAL_DEPTH: u32 = 64;

/// Why a text is no ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The empty string.
    #[error("cannot decode empty string as ID")]
    Empty,
    /// Larger than [`MAX_ID_BYTES`] or with more than [`MAX_ID_CALLS`] calls.
    #[error("cannot decode ID: larger than the limit")]
    TooLarge,
    /// Anything else.
    #[error("cannot decode ID: {0}")]
    Malformed(&'static str),
}

fn each_call<'a>(l: &'a Literal, f: &mut impl FnMut(&'a Arc<Call>)) {
    match l {
        Literal::Call(c) => f(c),
        Literal::List(items) => items.iter().for_each(|l| each_call(l, f)),
        Literal::Input(fields) => fields.iter().for_each(|(_, l)| each_call(l, f)),
        Literal::Null
        | Literal::Bool(_)
        | Literal::Int(_)
        | Literal::Float(_)
        | Literal::String(_)
        | Literal::Enum(_) => {}
    }
}

fn put_len(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    put_len(out, s.len());
    out.extend_from_slice(s.as_bytes());
}

fn put_literal(
    out: &mut Vec<u8>,
    l: &Literal,
    put_call: &mut impl FnMut(&mut Vec<u8>, &Arc<Call>),
) {
    match l {
        Literal::Null => out.push(0),
        Literal::Bool(b) => out.extend_from_slice(&[1, u8::from(*b)]),
        Literal::Int(i) => {
            out.push(2);
            out.extend_from_slice(&i.to_le_bytes());
        }
        Literal::Float(f) => {
            out.push(3);
            out.extend_from_slice(&f.to_le_bytes());
        }
        Literal::String(s) => {
            out.push(4);
            put_str(out, s);
        }
        Literal::Enum(s) => {
            out.push(5);
            put_str(out, s);
        }
        Literal::List(items) => {
            out.push(6);
            put_len(out, items.len());
            for l in items {
                put_literal(out, l, put_call);
            }
        }
        Literal::Input(fields) => {
            out.push(7);
            put_len(out, fields.len());
            for (name, l) in fields {
                put_str(out, name);
                put_literal(out, l, put_call);
            }
        }
        Literal::Call(c) => {
            out.push(8);
            put_call(out, c);
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, IdError> {
        let b = *self
            .bytes
            .get(self.at)
            .ok_or(IdError::Malformed("cut off"))?;
        self.at += 1;
        Ok(b)
    }

    fn len(&mut self) -> Result<usize, IdError> {
        let mut n = 0usize;
        for shift in (0..35).step_by(7) {
            let b = self.byte()?;
            n |= usize::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(IdError::Malformed("length too large"))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], IdError> {
        let part = self
            .bytes
            .get(self.at..self.at + N)
            .ok_or(IdError::Malformed("cut off"))?;
        self.at += N;
        part.try_into().map_err(|_| IdError::Malformed("cut off"))
    }

    fn string(&mut self) -> Result<String, IdError> {
        let n = self.len()?;
        let part = self
            .at
            .checked_add(n)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or(IdError::Malformed("cut off"))?;
        self.at += n;
        String::from_utf8(part.to_vec()).map_err(|_| IdError::Malformed("not UTF-8"))
    }

    fn literal(&mut self, calls: &[Arc<Call>], depth: u32) -> Result<Literal, IdError> {
        if depth > MAX_LITERAL_DEPTH {
            return Err(IdError::Malformed("literal too deep"));
        }
        Ok(match self.byte()? {
            0 => Literal::Null,
            1 => Literal::Bool(self.byte()? != 0),
            2 => Literal::Int(i64::from_le_bytes(self.take()?)),
            3 => Literal::Float(f64::from_le_bytes(self.take()?)),
            4 => Literal::String(self.string()?.into()),
            5 => Literal::Enum(self.string()?.into()),
            6 => {
                let n = self.len()?;
                let mut items = Vec::new();
                for _ in 0..n {
                    items.push(self.literal(calls, depth + 1)?);
                }
                Literal::List(items)
            }
            7 => {
                let n = self.len()?;
                let mut fields = Vec::new();
                for _ in 0..n {
                    let name: Arc<str> = self.string()?.into();
                    fields.push((name, self.literal(calls, depth + 1)?));
                }
                Literal::Input(fields)
            }
            8 => Literal::Call(
                calls
                    .get(self.len()?)
                    .ok_or(IdError::Malformed("argument out of range"))?
                    .clone(),
            ),
            _ => return Err(IdError::Malformed("unknown literal")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: usize) -> Arc<Call> {
        let mut c = Call::new(None, "container", vec![], "Container");
        for i in 0..n {
            c = Call::new(
                Some(c),
                "withEnvVariable",
                vec![("name".into(), Literal::String(format!("A{i}").into()))],
                "Container",
            );
        }
        c
    }

    #[test]
    fn an_id_reads_back_as_the_same_recipe() {
        let dir = Call::new(None, "directory", vec![], "Directory");
        let c = Call::new(
            Some(chain(3)),
            "withDirectory",
            vec![
                ("path".into(), Literal::String("/a".into())),
                ("directory".into(), Literal::Call(dir)),
                ("x".into(), Literal::Null),
            ],
            "Container",
        );
        let id = c.encode();
        let back = Call::decode(&id).expect("an ID we made");
        assert_eq!(back.digest(), c.digest());
        assert_eq!(back.encode(), id);
        assert!(back.arg("x").is_none());
    }

    #[test]
    fn long_chains_encode_decode_and_drop_without_recursion() {
        let c = chain(100_000);
        let back = Call::decode(&c.encode()).expect("an ID we made");
        assert_eq!(back.digest(), c.digest());
    }

    #[test]
    fn garbage_is_refused_with_words() {
        assert_eq!(
            Call::decode("").unwrap_err().to_string(),
            "cannot decode empty string as ID"
        );
        assert!(Call::decode("!!").is_err());
        assert!(Call::decode("AQ==").is_err());
        assert!(Call::decode("AQUBYQ==").is_err());
    }
}
