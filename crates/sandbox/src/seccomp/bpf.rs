//! A compiler from rules to the kernel's packet filter: a binary search over the call's number per architecture, so that the
//! kernel decides in about ten instructions.

/// One instruction of a filter, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// The rules of one architecture.
#[derive(Debug)]
pub(super) struct Section {
    /// The kernel's audit number of the architecture.
    pub(super) arch: u32,
    /// Numbers without a rule fail with `ENOSYS`.
    pub(super) rules: Vec<Rule>,
}

/// What to do on a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) number: u32,
    pub(super) action: Action,
}

/// The index of a system call's argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Argument(pub(super) u32);

/// A decision. Arguments are compared by their lower 32 bits, which is all that the kernel looks at in those checked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    /// Allow when none of the mask's bits is set.
    IfMasked {
        argument: Argument,
        mask: u32,
        else_errno: u16,
    },
    /// Allow these values.
    IfOneOf {
        argument: Argument,
        values: &'static [u32],
        else_errno: u16,
    },
    /// Allow all but these values.
    UnlessOneOf {
        argument: Argument,
        values: &'static [u32],
        errno: u16,
    },
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const NUMBER: u32 = 0; // offsets in struct seccomp_data
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const ALLOW: u32 = 0x7FFF_0000; // SECCOMP_RET_ALLOW
const ERRNO: u32 = 0x0005_0000; // SECCOMP_RET_ERRNO
const NEWER: Action = Action::Errno(libc::ENOSYS as u16);

/// Compiles a filter. Calls of an architecture without a section fail with `ENOSYS`.
pub(super) fn compile(sections: &[Section]) -> Vec<Instruction> {
    let mut program = vec![op(LOAD, ARCH)];
    for section in sections {
        let mut body = vec![op(LOAD, NUMBER)];
        body.extend(search(&intervals(&section.rules)));
        program.extend(when(IF_EQUAL, section.arch, body));
    }
    program.extend(decide(NEWER));
    program
}

fn op(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// `body` when the comparison holds; what follows otherwise. `body` must end in returns.
fn when(comparison: u16, k: u32, body: Vec<Instruction>) -> Vec<Instruction> {
    // Conditional jumps reach 255 instructions; an unconditional one reaches everything.
    let mut code = vec![
        Instruction {
            code: comparison,
            jt: 1,
            jf: 0,
            k,
        },
        op(JUMP, body.len() as u32),
    ];
    code.extend(body);
    code
}

/// Numbers as intervals: the first number of each, and what holds up to the next.
fn intervals(rules: &[Rule]) -> Vec<(u32, Action)> {
    let mut rules = rules.to_vec();
    rules.sort_by_key(|r| r.number);
    let mut found: Vec<(u32, Action)> = Vec::new();
    let mut next = 0;
    let mut add = |from: u32, action: Action| {
        if found.last().is_none_or(|(_, last)| *last != action) {
            found.push((from, action));
        }
    };
    for rule in rules {
        if rule.number > next {
            add(next, NEWER);
        }
        add(rule.number, rule.action);
        next = rule.number.saturating_add(1);
    }
    add(next, NEWER);
    found
}

/// A binary search for the interval of the loaded number.
fn search(intervals: &[(u32, Action)]) -> Vec<Instruction> {
    match intervals {
        [] => decide(NEWER),
        [(_, action)] => decide(*action),
        _ => {
            let (low, high) = intervals.split_at(intervals.len() / 2);
            let boundary = high.first().map_or(0, |(from, _)| *from);
            let (low, high) = (search(low), search(high));
            match u8::try_from(low.len()) {
                Ok(skip) => {
                    let mut code = vec![Instruction {
                        code: IF_AT_LEAST,
                        jt: skip,
                        jf: 0,
                        k: boundary,
                    }];
                    code.extend(low);
                    code.extend(high);
                    code
                }
                Err(_) => {
                    let mut code = when(IF_AT_LEAST, boundary, high);
                    code.extend(low);
                    code
                }
            }
        }
    }
}

/// The instructions of one decision.
fn decide(action: Action) -> Vec<Instruction> {
    let load = |argument: Argument| op(LOAD, ARGUMENTS + 8 * argument.0);
    let allow = op(RETURN, ALLOW);
    let errno = |e: u16| op(RETURN, ERRNO | u32::from(e));
    // One comparison per value, each jumping over the rest to the second of two returns.
    let among = |argument, values: &[u32], others: Instruction, these: Instruction| {
        let mut code = vec![load(argument)];
        for (i, value) in values.iter().enumerate() {
            code.push(Instruction {
                code: IF_EQUAL,
                jt: (values.len() - i) as u8,
                jf: 0,
                k: *value,
            });
        }
        code.extend([others, these]);
        code
    };
    match action {
        Action::Allow => vec![allow],
        Action::Errno(e) => vec![errno(e)],
        Action::IfMasked {
            argument,
            mask,
            else_errno,
        } => {
            vec![
                load(argument),
                op(AND, mask),
                Instruction {
                    code: IF_EQUAL,
                    jt: 1,
                    jf: 0,
                    k: 0,
                },
                errno(else_errno),
                allow,
            ]
        }
        Action::IfOneOf {
            argument,
            values,
            else_errno,
        } => among(argument, values, errno(else_errno), allow),
        Action::UnlessOneOf {
            argument,
            values,
            errno: e,
        } => among(argument, values, allow, errno(e)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The kernel's side: runs a filter on one call whose first argument is `argument`.
    pub(crate) fn run(program: &[Instruction], arch: u32, number: u32, argument: u64) -> u32 {
        let (mut at, mut acc) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                LOAD => {
                    acc = match i.k {
                        NUMBER => number,
                        ARCH => arch,
                        ARGUMENTS => argument as u32,
                        other => panic!("offset {other}"),
                    }
                }
                AND => acc &= i.k,
                JUMP => at += i.k as usize,
                IF_EQUAL => at += usize::from(if acc == i.k { i.jt } else { i.jf }),
                IF_AT_LEAST => at += usize::from(if acc >= i.k { i.jt } else { i.jf }),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn a_large_program_still_finds_every_number() {
        let rules: Vec<Rule> = (0..2000)
            .map(|n| Rule {
                number: n,
                action: Action::Errno(n as u16 % 3 + 1),
            })
            .collect();
        let program = compile(&[Section { arch: 7, rules }]);
        for number in 0..2000 {
            assert_eq!(run(&program, 7, number, 0), ERRNO | (number % 3 + 1));
        }
        assert_eq!(run(&program, 7, 2000, 0), ERRNO | libc::ENOSYS as u32);
        assert_eq!(run(&program, 8, 0, 0), ERRNO | libc::ENOSYS as u32);
    }

    #[test]
    fn gaps_between_rules_are_newer_calls() {
        let rules = vec![
            Rule {
                number: 5,
                action: Action::Allow,
            },
            Rule {
                number: 9,
                action: Action::Allow,
            },
        ];
        let found: Vec<u32> = intervals(&rules)
            .into_iter()
            .map(|(from, _)| from)
            .collect();
        assert_eq!(found, [0, 5, 6, 9, 10]);
    }
}
