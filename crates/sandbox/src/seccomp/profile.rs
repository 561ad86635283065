//! Which system calls are allowed, per architecture.

use super::bpf::{Action, Argument, Rule, Section};

const ALLOWED: &str = include_str!("allowed.txt");

const EPERM: u16 = libc::EPERM as u16;
const ENOSYS: u16 = libc::ENOSYS as u16;
/// How 64-bit x86 tells a call of its variant with 32-bit pointers.
const X32_BIT: u32 = 0x4000_0000;

/// A machine: its own architecture and those whose programs it can also run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    #[cfg_attr(
        all(not(test), not(target_arch = "x86_64")),
        expect(dead_code, reason = "the other machine")
    )]
    X86,
    #[cfg_attr(
        all(not(test), not(target_arch = "aarch64")),
        expect(dead_code, reason = "the other machine")
    )]
    Arm,
}

/// The machine this was built for.
#[cfg(target_arch = "x86_64")]
pub(super) const MACHINE: Machine = Machine::X86;
/// The machine this was built for.
#[cfg(target_arch = "aarch64")]
pub(super) const MACHINE: Machine = Machine::Arm;

/// Columns of the list.
#[derive(Debug, Clone, Copy)]
enum Column {
    X86_64,
    I386,
    X32,
    Aarch64,
    Arm,
}

/// The filter's sections for a machine.
pub(super) fn sections(machine: Machine) -> Vec<Section> {
    match machine {
        Machine::X86 => {
            let mut native = rules(Column::X86_64, 0);
            native.extend(rules(Column::X32, X32_BIT));
            vec![
                Section {
                    arch: 0xC000_003E,
                    rules: native,
                },
                Section {
                    arch: 0x4000_0003,
                    rules: rules(Column::I386, 0),
                },
            ]
        }
        Machine::Arm => {
            let mut arm = rules(Column::Arm, 0);
            // breakpoint, cacheflush and set_tls lie in a range of their own.
            arm.extend([0xF_0001, 0xF_0002, 0xF_0005].map(|number| Rule {
                number,
                action: Action::Allow,
            }));
            vec![
                Section {
                    arch: 0xC000_00B7,
                    rules: rules(Column::Aarch64, 0),
                },
                Section {
                    arch: 0x4000_0028,
                    rules: arm,
                },
            ]
        }
    }
}

/// One rule for each known number, refusals included: what follows the last one is newer than this list.
fn rules(column: Column, marker: u32) -> Vec<Rule> {
    let allowed: Vec<(u32, Action)> = lines()
        .filter_map(|(name, numbers)| Some((numbers[column as usize]?, action(name))))
        .collect();
    let last = allowed
        .iter()
        .map(|(n, _)| *n)
        .max()
        .unwrap_or(0)
        .max(NEWEST);
    let mut rules: Vec<Rule> = (0..=last)
        .map(|number| Rule {
            number: number | marker,
            action: Action::Errno(EPERM),
        })
        .collect();
    for (number, action) in allowed {
        if let Some(rule) = rules.get_mut(number as usize) {
            rule.action = action;
        }
    }
    rules
}

/// The newest call that was looked at when the list was made: `file_setattr` of Linux 6.17, on all architectures.
const NEWEST: u32 = 469;

fn action(name: &str) -> Action {
    match name {
        // New namespaces would bring capabilities over them. The kernel looks at the lower half of the flags only.
        "clone" => Action::IfMasked {
            argument: Argument(0),
            mask: 0x7E02_0000,
            else_errno: EPERM,
        },
        // Its flags lie in memory, where a filter cannot look: programs fall back to `clone`.
        "clone3" => Action::Errno(ENOSYS),
        // Ordinary Linux, 32-bit, without address randomisation, both, and the question which one it is.
        "personality" => Action::IfOneOf {
            argument: Argument(0),
            values: &[0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF],
            else_errno: EPERM,
        },
        // The kernel's crypto (CVE-2026-31431) and virtual machine sockets are not namespaced.
        "socket" => Action::UnlessOneOf {
            argument: Argument(0),
            values: &[38, 40],
            errno: EPERM,
        },
        _ => Action::Allow,
    }
}

/// The same rules in the form of an OCI runtime configuration.
pub(crate) fn oci() -> serde_json::Value {
    use serde_json::json;
    let rule = |name: &str, op: &str, value: u32, two: u32| {
        let args = [json!({ "index": 0, "value": value, "valueTwo": two, "op": op })];
        json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args })
    };
    let mut plain = Vec::new();
    let mut rules = Vec::new();
    for (name, _) in lines() {
        match action(name) {
            Action::Allow => plain.push(name),
            Action::Errno(errno) => rules
                .push(json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno })),
            Action::IfMasked { mask, .. } => rules.push(rule(name, "SCMP_CMP_MASKED_EQ", mask, 0)),
            Action::IfOneOf { values, .. } => {
                rules.extend(values.iter().map(|v| rule(name, "SCMP_CMP_EQ", *v, 0)))
            }
            Action::UnlessOneOf { values, .. } => {
                // Conditions of several rules are alternatives: the gaps between the values, as ranges.
                let (first, last) = (
                    values.first().copied().unwrap_or(0),
                    values.last().copied().unwrap_or(0),
                );
                rules.push(rule(name, "SCMP_CMP_LT", first, 0));
                rules.extend(
                    (first..last)
                        .filter(|v| !values.contains(v))
                        .map(|v| rule(name, "SCMP_CMP_EQ", v, 0)),
                );
                rules.push(rule(name, "SCMP_CMP_GT", last, 0));
            }
        }
    }
    rules.push(json!({ "names": plain, "action": "SCMP_ACT_ALLOW" }));
    let architectures = match MACHINE {
        Machine::X86 => ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"].as_slice(),
        Machine::Arm => ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"].as_slice(),
    };
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "architectures": architectures, "syscalls": rules })
}

fn lines() -> impl Iterator<Item = (&'static str, [Option<u32>; 5])> {
    ALLOWED
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next()?;
            let mut number = || fields.next().and_then(|f| f.parse().ok());
            Some((name, [number(), number(), number(), number(), number()]))
        })
}

#[cfg(test)]
mod tests {
    use super::{
        super::bpf::{compile, tests::run},
        *,
    };

    const ALLOW: u32 = 0x7FFF_0000;
    const X86_64: u32 = 0xC000_003E;
    const I386: u32 = 0x4000_0003;

    fn answer(machine: Machine, arch: u32, number: u32, argument: u64) -> Result<(), u32> {
        match run(&compile(&sections(machine)), arch, number, argument) {
            ALLOW => Ok(()),
            other => {
                assert_eq!(other >> 16, 5, "only errors, never a kill");
                Err(other & 0xFFFF)
            }
        }
    }

    #[test]
    fn every_line_of_the_list_has_a_name_and_five_columns() {
        for line in ALLOWED.lines().filter(|l| !l.starts_with('#')) {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            assert!(
                fields.len() == 6
                    && fields[1..]
                        .iter()
                        .all(|f| *f == "-" || f.parse::<u32>().is_ok_and(|n| n < 1024)),
                "{line}"
            );
        }
        assert!(lines().count() > 350);
    }

    #[test]
    fn every_number_gets_what_the_list_says() {
        for (machine, arch, column, marker) in [
            (Machine::X86, X86_64, Column::X86_64, 0),
            (Machine::X86, X86_64, Column::X32, X32_BIT),
            (Machine::X86, I386, Column::I386, 0),
            (Machine::Arm, 0xC000_00B7, Column::Aarch64, 0),
            (Machine::Arm, 0x4000_0028, Column::Arm, 0),
        ] {
            let program = compile(&sections(machine));
            let allowed: std::collections::HashMap<u32, Action> = lines()
                .filter_map(|(name, n)| Some((n[column as usize]?, action(name))))
                .collect();
            let last = allowed.keys().copied().max().unwrap().max(NEWEST);
            for number in 0..2000 {
                let expected = match allowed.get(&number) {
                    Some(Action::Errno(e)) => 0x5_0000 | u32::from(*e),
                    Some(_) => ALLOW,
                    None if number > last => 0x5_0000 | u32::from(ENOSYS),
                    None => 0x5_0000 | u32::from(EPERM),
                };
                assert_eq!(
                    run(&program, arch, number | marker, 0),
                    expected,
                    "{column:?} {number}"
                );
            }
        }
    }

    #[test]
    fn arguments_are_looked_at_where_they_matter() {
        let x86 = |number, argument| answer(Machine::X86, X86_64, number, argument);
        assert_eq!(x86(56, 0x0100_0011), Ok(()), "clone like fork");
        assert_eq!(x86(56, 0x1000_0011), Err(1), "clone with a user namespace");
        assert_eq!(x86(56, 0x0002_0011), Err(1), "clone with a mount namespace");
        assert_eq!(x86(435, 0), Err(38), "clone3");
        assert_eq!(
            (x86(135, 0xFFFF_FFFF), x86(135, 0x20008), x86(135, 0x1)),
            (Ok(()), Ok(()), Err(1)),
            "personality"
        );
        assert_eq!(
            (
                x86(41, 2),
                x86(41, 38),
                x86(41, 39),
                x86(41, 40),
                x86(41, 41)
            ),
            (Ok(()), Err(1), Ok(()), Err(1), Ok(())),
            "socket"
        );
        assert_eq!(
            x86(41, (1 << 32) | 40),
            Err(1),
            "the kernel ignores the upper half, and so must the filter"
        );
        assert_eq!(
            answer(Machine::X86, I386, 120, 0x1000_0011),
            Err(1),
            "clone on i386"
        );
        assert_eq!(
            answer(Machine::X86, I386, 359, 38),
            Err(1),
            "socket on i386"
        );
    }

    #[test]
    fn what_reaches_the_host_is_refused() {
        for (number, name) in [
            (165, "mount"),
            (272, "unshare"),
            (308, "setns"),
            (321, "bpf"),
            (248, "add_key"),
            (246, "kexec_load"),
            (175, "init_module"),
            (425, "io_uring_setup"),
            (304, "open_by_handle_at"),
            (298, "perf_event_open"),
            (323, "userfaultfd"),
            (103, "syslog"),
            (169, "reboot"),
        ] {
            assert_eq!(answer(Machine::X86, X86_64, number, 0), Err(1), "{name}");
        }
        assert_eq!(
            answer(Machine::X86, X86_64, 1000, 0),
            Err(38),
            "newer than the list"
        );
        assert_eq!(
            answer(Machine::X86, 0xC000_00B7, 0, 0),
            Err(38),
            "another architecture"
        );
        assert_eq!(
            answer(Machine::Arm, 0x4000_0028, 0xF_0002, 0),
            Ok(()),
            "cacheflush"
        );
    }
}
