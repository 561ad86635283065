//! Changes of permission bits, as `chmod` takes them.

/// A change of permission bits: `0755`, `u=rwX,go=rX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modes {
    /// These bits.
    Octal(u32),
    /// One change after another.
    Symbolic(Vec<Change>),
}

/// One `u+x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Bits of the classes it is for: of user, group, other, with setuid, setgid and sticky.
    who: u32,
    /// `+`, `-` or `=`.
    op: char,
    /// `rwxst` in all classes.
    bits: u32,
    /// `x` only for directories and what somebody may execute.
    maybe_x: bool,
    /// The bits that this class has: `u`, `g` or `o`.
    copied: Option<u32>,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

impl Modes {
    /// Reads what `chmod` would take. `None` when it is nothing of that kind.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(bits) = u32::from_str_radix(text, 8) {
            return (bits <= 0o7777).then_some(Self::Octal(bits));
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let ops = clause.find(['+', '-', '='])?;
            let mut who = 0;
            for c in clause[..ops].chars() {
                who |= match c {
                    'u' => USER,
                    'g' => GROUP,
                    'o' => OTHER,
                    'a' => 0o7777,
                    _ => return None,
                };
            }
            if who == 0 {
                who = 0o7777;
            }
            for c in clause[ops..].chars() {
                if matches!(c, '+' | '-' | '=') {
                    changes.push(Change {
                        who,
                        op: c,
                        bits: 0,
                        maybe_x: false,
                        copied: None,
                    });
                    continue;
                }
                let change = changes.last_mut()?;
                match c {
                    'r' => change.bits |= 0o444,
                    'w' => change.bits |= 0o222,
                    'x' => change.bits |= 0o111,
                    'X' => change.maybe_x = true,
                    's' => change.bits |= 0o6000,
                    't' => change.bits |= 0o1000,
                    'u' => change.copied = Some(6),
                    'g' => change.copied = Some(3),
                    'o' => change.copied = Some(0),
                    _ => return None,
                }
            }
        }
        Some(Self::Symbolic(changes))
    }

    /// The bits after the change.
    pub fn of(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(changes) => changes
                .iter()
                .fold(mode & 0o7777, |mode, c| c.of(mode, is_dir)),
        }
    }
}

impl Change {
    fn of(&self, mode: u32, is_dir: bool) -> u32 {
        let mut bits = self.bits;
        if self.maybe_x && (is_dir || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.copied {
            bits |= (mode >> shift & 7) * 0o111;
        }
        bits &= self.who;
        match self.op {
            '+' => mode | bits,
            '-' => mode & !bits,
            // As chmod does: `=` leaves set-id bits of directories.
            _ if is_dir => mode & !(self.who & 0o1777) | bits,
            _ => mode & !self.who | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_of_chmod() {
        for (text, mode, dir, want) in [
            ("0750", 0o644, false, 0o750),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o600, false, 0o711),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("u+s,+t", 0o755, false, 0o5755),
            ("u+x-w", 0o600, false, 0o500),
        ] {
            assert_eq!(
                Modes::parse(text).expect(text).of(mode, dir),
                want,
                "{text}"
            );
        }
        for bad in ["", "9", "17777", "u", "z+x", "u+z", "u+x,"] {
            assert_eq!(Modes::parse(bad), None, "{bad}");
        }
    }
}
