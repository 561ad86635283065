//! Tokens to a document: a flat arena linked by index, so that neither parsing nor dropping recurses.

use std::borrow::Cow;

use super::lex::{Lexer, SyntaxError, Token, block};

/// "No such entry" in the arena's links.
pub(crate) const NONE: u32 = u32::MAX;
/// Deepest nesting of selections.
pub(crate) const MAX_DEPTH: usize = 50_000;
/// Deepest nesting of lists and input objects in one argument.
pub(crate) const MAX_VALUE_DEPTH: usize = 48;
/// Most list wrappings of a variable's type.
const MAX_TYPE_DEPTH: usize = 16;

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Val<'a> {
    Var(&'a str),
    Int(&'a str),
    Float(&'a str),
    Str(Cow<'a, str>),
    Bool(bool),
    Null,
    Enum(&'a str),
    /// First item.
    List(u32),
    /// First field.
    Object(u32),
}

/// A literal with its name (argument or input field) and its next sibling.
#[derive(Debug)]
pub(crate) struct ValEntry<'a> {
    pub(crate) val: Val<'a>,
    pub(crate) name: &'a str,
    pub(crate) next: u32,
    pub(crate) pos: u32,
}

/// An applied directive.
#[derive(Debug)]
pub(crate) struct DirEntry<'a> {
    pub(crate) name: &'a str,
    /// First argument.
    pub(crate) args: u32,
    pub(crate) next: u32,
    pub(crate) pos: u32,
}

/// One selection.
#[derive(Debug)]
pub(crate) enum Sel<'a> {
    Field {
        key: &'a str,
        name: &'a str,
        args: u32,
    },
    Spread(&'a str),
    Inline(Option<&'a str>),
}

/// A selection with its links.
#[derive(Debug)]
pub(crate) struct SelEntry<'a> {
    pub(crate) sel: Sel<'a>,
    pub(crate) directives: u32,
    /// First selection inside.
    pub(crate) first: u32,
    pub(crate) next: u32,
    pub(crate) pos: u32,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    Query,
    Mutation,
    Subscription,
}

/// The type of a variable.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VarType<'a> {
    pub(crate) name: &'a str,
    /// From outside inwards, for each level: is it non-null? The last one is the named type; the others are lists.
    pub(crate) non_null: Vec<bool>,
}

/// A declared variable.
#[derive(Debug)]
pub(crate) struct VarDef<'a> {
    pub(crate) name: &'a str,
    pub(crate) ty: VarType<'a>,
    /// Default value, or [`NONE`].
    pub(crate) default: u32,
    pub(crate) pos: u32,
}

/// An operation.
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    pub(crate) kind: OpKind,
    pub(crate) name: Option<&'a str>,
    pub(crate) vars: Vec<VarDef<'a>>,
    pub(crate) first: u32,
    pub(crate) pos: u32,
}

/// A fragment.
#[derive(Debug)]
pub(crate) struct Fragment<'a> {
    pub(crate) name: &'a str,
    pub(crate) on: &'a str,
    pub(crate) first: u32,
    pub(crate) pos: u32,
}

/// A parsed document.
#[derive(Debug, Default)]
pub(crate) struct Document<'a> {
    pub(crate) text: &'a str,
    pub(crate) vals: Vec<ValEntry<'a>>,
    pub(crate) dirs: Vec<DirEntry<'a>>,
    pub(crate) sels: Vec<SelEntry<'a>>,
    pub(crate) operations: Vec<Operation<'a>>,
    pub(crate) fragments: Vec<Fragment<'a>>,
}

impl<'a> Document<'a> {
    /// The selections from `first` on.
    pub(crate) fn sels(&self, first: u32) -> impl Iterator<Item = &SelEntry<'a>> {
        std::iter::successors(self.sels.get(first as usize), |s| {
            self.sels.get(s.next as usize)
        })
    }

    /// The directives from `first` on.
    pub(crate) fn dirs(&self, first: u32) -> impl Iterator<Item = &DirEntry<'a>> {
        std::iter::successors(self.dirs.get(first as usize), |d| {
            self.dirs.get(d.next as usize)
        })
    }
}

/// Reads an executable document.
///
/// # Errors
/// The first thing that is no GraphQL, and where.
pub(crate) fn parse(text: &str) -> Result<Document<'_>, SyntaxError> {
    let mut p = Parser::new(text)?;
    while p.token != Token::End {
        p.definition()?;
    }
    Ok(p.doc)
}

/// A parser of values, directives and (for [`parse`]) executable definitions. The schema's parser builds on it.
pub(crate) struct Parser<'a> {
    lexer: Lexer<'a>,
    pub(crate) token: Token<'a>,
    pub(crate) pos: usize,
    pub(crate) doc: Document<'a>,
}

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, SyntaxError> {
        let mut lexer = Lexer::new(text)?;
        let (token, pos) = lexer.next()?;
        Ok(Self {
            lexer,
            token,
            pos,
            doc: Document {
                text,
                ..Document::default()
            },
        })
    }

    pub(crate) fn advance(&mut self) -> Result<Token<'a>, SyntaxError> {
        let (token, pos) = self.lexer.next()?;
        self.pos = pos;
        Ok(std::mem::replace(&mut self.token, token))
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError::at(self.lexer.text(), self.pos, message)
    }

    pub(crate) fn expected(&self, what: &str) -> SyntaxError {
        self.error(format!("expected {what}, found {}", self.token))
    }

    pub(crate) fn eat(&mut self, punct: u8) -> Result<bool, SyntaxError> {
        let found = self.token == Token::Punct(punct);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(crate) fn expect(&mut self, punct: u8) -> Result<(), SyntaxError> {
        if self.eat(punct)? {
            Ok(())
        } else {
            Err(self.expected(&format!("`{}`", char::from(punct))))
        }
    }

    pub(crate) fn eat_word(&mut self, word: &str) -> Result<bool, SyntaxError> {
        let found = self.token == Token::Name(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(crate) fn name(&mut self) -> Result<&'a str, SyntaxError> {
        match self.token {
            Token::Name(n) => {
                self.advance()?;
                Ok(n)
            }
            _ => Err(self.expected("a name")),
        }
    }

    /// The string at hand, decoded; `None` when the token is none.
    pub(crate) fn string(&mut self) -> Result<Option<Cow<'a, str>>, SyntaxError> {
        let text = match self.token {
            Token::Str(raw) => self.lexer.decode(raw, self.pos)?,
            Token::Block(raw) => Cow::Owned(block(raw)),
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(text))
    }

    fn definition(&mut self) -> Result<(), SyntaxError> {
        let pos = self.pos as u32;
        let kind = match self.token {
            Token::Punct(b'{') => {
                let first = self.selections()?;
                self.doc.operations.push(Operation {
                    kind: OpKind::Query,
                    name: None,
                    vars: Vec::new(),
                    first,
                    pos,
                });
                return Ok(());
            }
            Token::Name("query") => OpKind::Query,
            Token::Name("mutation") => OpKind::Mutation,
            Token::Name("subscription") => OpKind::Subscription,
            Token::Name("fragment") => return self.fragment(),
            _ => return Err(self.expected("a query or a fragment")),
        };
        self.advance()?;
        let name = if matches!(self.token, Token::Name(_)) {
            Some(self.name()?)
        } else {
            None
        };
        let mut vars = Vec::new();
        if self.eat(b'(')? {
            while !self.eat(b')')? {
                let pos = self.pos as u32;
                self.expect(b'$')?;
                let name = self.name()?;
                self.expect(b':')?;
                let ty = self.var_type()?;
                let default = if self.eat(b'=')? {
                    self.value(true)?
                } else {
                    NONE
                };
                self.directives(true)?;
                vars.push(VarDef {
                    name,
                    ty,
                    default,
                    pos,
                });
            }
            if vars.is_empty() {
                return Err(self.error("expected a variable between the brackets"));
            }
        }
        self.directives(false)?;
        if self.token != Token::Punct(b'{') {
            return Err(self.expected("`{`"));
        }
        let first = self.selections()?;
        self.doc.operations.push(Operation {
            kind,
            name,
            vars,
            first,
            pos,
        });
        Ok(())
    }

    fn fragment(&mut self) -> Result<(), SyntaxError> {
        let pos = self.pos as u32;
        self.advance()?;
        if self.token == Token::Name("on") {
            return Err(self.error("a fragment may not be named `on`"));
        }
        let name = self.name()?;
        if !self.eat_word("on")? {
            return Err(self.expected("`on`"));
        }
        let on = self.name()?;
        self.directives(false)?;
        if self.token != Token::Punct(b'{') {
            return Err(self.expected("`{`"));
        }
        let first = self.selections()?;
        self.doc.fragments.push(Fragment {
            name,
            on,
            first,
            pos,
        });
        Ok(())
    }

    fn var_type(&mut self) -> Result<VarType<'a>, SyntaxError> {
        let mut lists = 0;
        while self.eat(b'[')? {
            lists += 1;
            if lists > MAX_TYPE_DEPTH {
                return Err(self.error("the variable's type has too many lists"));
            }
        }
        let name = self.name()?;
        let mut non_null = vec![self.eat(b'!')?];
        for _ in 0..lists {
            self.expect(b']')?;
            non_null.push(self.eat(b'!')?);
        }
        non_null.reverse();
        Ok(VarType { name, non_null })
    }

    /// Links `index` behind `last` (or as `first`) of a chain in the selections.
    fn link_sel(&mut self, first: &mut u32, last: &mut u32, index: u32) {
        match self.doc.sels.get_mut(*last as usize) {
            Some(s) => s.next = index,
            None => *first = index,
        }
        *last = index;
    }

    /// A selection set, `{` being the token at hand.
    fn selections(&mut self) -> Result<u32, SyntaxError> {
        self.expect(b'{')?;
        // Open sets: the selection they belong to, their first and last member.
        let mut open: Vec<(u32, u32, u32)> = vec![(NONE, NONE, NONE)];
        loop {
            let Some(&(owner, mut first, mut last)) = open.last() else {
                return Err(self.expected("`{`"));
            };
            let pos = self.pos as u32;
            let sel = match self.token {
                Token::Punct(b'}') => {
                    if first == NONE {
                        return Err(self.expected("a field"));
                    }
                    self.advance()?;
                    open.pop();
                    match self.doc.sels.get_mut(owner as usize) {
                        Some(s) => s.first = first,
                        None => return Ok(first),
                    }
                    continue;
                }
                Token::Spread => {
                    self.advance()?;
                    match self.token {
                        Token::Name("on") => {
                            self.advance()?;
                            Sel::Inline(Some(self.name()?))
                        }
                        Token::Name(n) => {
                            self.advance()?;
                            Sel::Spread(n)
                        }
                        _ => Sel::Inline(None),
                    }
                }
                Token::Name(n) => {
                    self.advance()?;
                    let (key, name) = if self.eat(b':')? {
                        (n, self.name()?)
                    } else {
                        (n, n)
                    };
                    Sel::Field {
                        key,
                        name,
                        args: self.arguments(false)?,
                    }
                }
                _ => return Err(self.expected("a field")),
            };
            let directives = self.directives(false)?;
            let inline = matches!(sel, Sel::Inline(_));
            let spread = matches!(sel, Sel::Spread(_));
            let index = self.doc.sels.len() as u32;
            self.doc.sels.push(SelEntry {
                sel,
                directives,
                first: NONE,
                next: NONE,
                pos,
            });
            self.link_sel(&mut first, &mut last, index);
            if let Some(top) = open.last_mut() {
                *top = (owner, first, last);
            }
            if !spread && self.token == Token::Punct(b'{') {
                self.advance()?;
                if open.len() >= MAX_DEPTH {
                    return Err(self.error(format!(
                        "the query is nested more than {MAX_DEPTH} levels deep"
                    )));
                }
                open.push((index, NONE, NONE));
            } else if inline {
                return Err(self.expected("`{`"));
            }
        }
    }

    /// `(name: value …)`, if there is one.
    pub(crate) fn arguments(&mut self, constant: bool) -> Result<u32, SyntaxError> {
        if !self.eat(b'(')? {
            return Ok(NONE);
        }
        let (mut first, mut last) = (NONE, NONE);
        while !self.eat(b')')? {
            let name = self.name()?;
            self.expect(b':')?;
            let index = self.value(constant)?;
            self.link_val(&mut first, &mut last, index, name);
        }
        if first == NONE {
            return Err(self.error("expected an argument between the brackets"));
        }
        Ok(first)
    }

    fn link_val(&mut self, first: &mut u32, last: &mut u32, index: u32, name: &'a str) {
        if let Some(v) = self.doc.vals.get_mut(index as usize) {
            v.name = name;
        }
        match self.doc.vals.get_mut(*last as usize) {
            Some(v) => v.next = index,
            None => *first = index,
        }
        *last = index;
    }

    /// Directives, if there are any.
    pub(crate) fn directives(&mut self, constant: bool) -> Result<u32, SyntaxError> {
        let (mut first, mut last) = (NONE, NONE);
        while self.token == Token::Punct(b'@') {
            let pos = self.pos as u32;
            self.advance()?;
            let name = self.name()?;
            let args = self.arguments(constant)?;
            let index = self.doc.dirs.len() as u32;
            self.doc.dirs.push(DirEntry {
                name,
                args,
                next: NONE,
                pos,
            });
            match self.doc.dirs.get_mut(last as usize) {
                Some(d) => d.next = index,
                None => first = index,
            }
            last = index;
        }
        Ok(first)
    }

    /// One value; its index.
    pub(crate) fn value(&mut self, constant: bool) -> Result<u32, SyntaxError> {
        struct Open<'a> {
            object: bool,
            index: u32,
            first: u32,
            last: u32,
            /// Name of the field being read.
            name: &'a str,
        }
        let mut open: Vec<Open<'a>> = Vec::new();
        loop {
            // Close what ends here, or read the next field's name.
            let mut done = None;
            if let Some(top) = open.last_mut() {
                if top.object {
                    if self.token == Token::Punct(b'}') {
                        done = Some(Val::Object(top.first));
                    } else {
                        match self.token {
                            Token::Name(n) => top.name = n,
                            _ => return Err(self.expected("a field of the input object")),
                        }
                        self.advance()?;
                        self.expect(b':')?;
                    }
                } else if self.token == Token::Punct(b']') {
                    done = Some(Val::List(top.first));
                }
            }
            let index;
            if let Some(val) = done {
                self.advance()?;
                let Some(closed) = open.pop() else {
                    return Err(self.expected("a value"));
                };
                index = closed.index;
                if let Some(entry) = self.doc.vals.get_mut(index as usize) {
                    entry.val = val;
                }
            } else {
                let pos = self.pos as u32;
                index = self.doc.vals.len() as u32;
                let opens = match self.token {
                    Token::Punct(b'[') => Some(false),
                    Token::Punct(b'{') => Some(true),
                    _ => None,
                };
                let val = if opens.is_some() {
                    Val::Null
                } else {
                    self.scalar(constant)?
                };
                self.doc.vals.push(ValEntry {
                    val,
                    name: "",
                    next: NONE,
                    pos,
                });
                if let Some(object) = opens {
                    if open.len() >= MAX_VALUE_DEPTH {
                        return Err(self.error(format!(
                            "a value is nested more than {MAX_VALUE_DEPTH} levels deep"
                        )));
                    }
                    self.advance()?;
                    open.push(Open {
                        object,
                        index,
                        first: NONE,
                        last: NONE,
                        name: "",
                    });
                    continue;
                }
            }
            match open.last_mut() {
                None => return Ok(index),
                Some(top) => {
                    let (mut first, mut last, name) = (top.first, top.last, top.name);
                    self.link_val(&mut first, &mut last, index, name);
                    if let Some(top) = open.last_mut() {
                        (top.first, top.last) = (first, last);
                    }
                }
            }
        }
    }

    fn scalar(&mut self, constant: bool) -> Result<Val<'a>, SyntaxError> {
        if let Some(text) = self.string()? {
            return Ok(Val::Str(text));
        }
        let val = match self.token {
            Token::Punct(b'$') if !constant => {
                self.advance()?;
                return Ok(Val::Var(self.name()?));
            }
            Token::Punct(b'$') => return Err(self.error("a variable may not be used here")),
            Token::Int(t) => Val::Int(t),
            Token::Float(t) => Val::Float(t),
            Token::Name("true") => Val::Bool(true),
            Token::Name("false") => Val::Bool(false),
            Token::Name("null") => Val::Null,
            Token::Name(n) => Val::Enum(n),
            _ => return Err(self.expected("a value")),
        };
        self.advance()?;
        Ok(val)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<'a> Document<'a> {
        /// The values (arguments, list items, input fields) from `first` on.
        pub(crate) fn vals(&self, first: u32) -> impl Iterator<Item = &ValEntry<'a>> {
            std::iter::successors(self.vals.get(first as usize), |v| {
                self.vals.get(v.next as usize)
            })
        }
    }

    fn keys(doc: &Document<'_>, first: u32) -> Vec<String> {
        doc.sels(first)
            .map(|s| match &s.sel {
                Sel::Field { key, name, .. } => format!("{key}={name}"),
                Sel::Spread(n) => format!("...{n}"),
                Sel::Inline(on) => format!("...on {}", on.unwrap_or("-")),
            })
            .collect()
    }

    #[test]
    fn a_document_with_everything() {
        let text = r#"query A($x: [Int!]! = [1, 2] @d, $y: S) @d { a b: c(x: 1, y: [$x, {k: "v"}]) { d } ...F @include(if: true) ... on T { e } ... { f } }
            fragment F on T @d { g }  subscription { h }"#;
        let doc = parse(text).expect("a document");
        assert_eq!(doc.operations.len(), 2);
        assert_eq!(doc.operations[1].kind, OpKind::Subscription);
        assert_eq!(
            doc.operations[0].vars[0].ty,
            VarType {
                name: "Int",
                non_null: vec![true, true]
            }
        );
        assert_eq!(
            keys(&doc, doc.operations[0].first),
            ["a=a", "b=c", "...F", "...on T", "...on -"]
        );
        assert_eq!(keys(&doc, doc.fragments[0].first), ["g=g"]);
        let field = doc
            .sels(doc.operations[0].first)
            .nth(1)
            .expect("the second");
        let Sel::Field { args, .. } = field.sel else {
            panic!("a field")
        };
        let names: Vec<_> = doc.vals(args).map(|v| v.name).collect();
        assert_eq!(names, ["x", "y"]);
        let Val::List(items) = doc.vals(args).nth(1).expect("y").val else {
            panic!("a list")
        };
        let items: Vec<_> = doc.vals(items).map(|v| &v.val).collect();
        assert_eq!(items[0], &Val::Var("x"));
        let Val::Object(fields) = items[1] else {
            panic!("an object")
        };
        assert_eq!(doc.vals(*fields).map(|v| v.name).collect::<Vec<_>>(), ["k"]);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        for (text, part) in [
            ("{", "expected a field, found the end"),
            ("{}", "expected a field"),
            ("{a{}}", "expected a field"),
            ("{a(}", "expected a name"),
            ("{a()}", "expected an argument"),
            ("{a(b)}", "expected `:`"),
            ("{a(b:)}", "expected a value"),
            ("{a(b:[1}", "expected a value"),
            ("{a(b:{1:2})}", "expected a field of the input object"),
            ("{...}", "expected `{`"),
            ("{... on}", "expected a name"),
            ("query(){a}", "expected a variable"),
            ("query($a:Int=$b){a}", "may not be used here"),
            ("query A B{a}", "expected `{`"),
            ("fragment on on T{a}", "may not be named"),
            ("fragment F{a}", "expected `on`"),
            ("type A{b:C}", "expected a query or a fragment"),
            ("a", "expected a query or a fragment"),
            ("{a}}", "expected a query or a fragment"),
            ("{a:}", "expected a name"),
            ("query($a:[Int){a}", "expected `]`"),
        ] {
            let e = parse(text).expect_err(text);
            assert!(e.message.contains(part), "{text}: {e}");
        }
    }

    #[test]
    fn depth_is_bounded_and_not_by_the_stack() {
        let deep = |n: usize| "{a".repeat(n) + &"}".repeat(n);
        let text = deep(20_000);
        let run = move || {
            assert!(parse(&text).is_ok());
            let e = parse(&deep(MAX_DEPTH + 1)).expect_err("too deep");
            assert!(e.message.contains("levels deep"));
            let e = parse(&format!("{{a(b:{})}}", "[".repeat(10_000))).expect_err("too deep");
            assert!(e.message.contains("levels deep"));
        };
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(run)
            .expect("a thread")
            .join()
            .expect("no overflow");
    }
}
