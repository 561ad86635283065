//! Capability sets of a container.

/// The capabilities that Docker gives to a container's root: enough for package managers, nothing that reaches the host.
pub(crate) const DEFAULT: u64 = bits(&[
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    13, // NET_RAW
    18, // SYS_CHROOT
    27, // MKNOD
    29, // AUDIT_WRITE
    31, // SETFCAP
]);

/// The five sets of a container's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: u64,
    pub(crate) permitted: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl Sets {
    /// The sets for a container, given what this process could give at most.
    pub(crate) fn of(privileged: bool, ours: u64) -> Sets {
        if privileged {
            return Sets {
                bounding: ours,
                permitted: ours,
                effective: ours,
                inheritable: ours,
                ambient: ours,
            };
        }
        let caps = DEFAULT & ours;
        Sets {
            bounding: caps,
            permitted: caps,
            effective: caps,
            inheritable: 0,
            ambient: 0,
        }
    }
}

const fn bits(caps: &[u32]) -> u64 {
    let mut set = 0;
    let mut i = 0;
    while i < caps.len() {
        set |= 1 << caps[i];
        i += 1;
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_the_one_docker_shows() {
        assert_eq!(format!("{DEFAULT:016x}"), "00000000a80425fb");
    }

    #[test]
    fn an_ordinary_container_inherits_nothing() {
        let sets = Sets::of(false, u64::MAX);
        assert_eq!((sets.inheritable, sets.ambient), (0, 0));
        assert_eq!(Sets::of(false, 1).bounding, 1);
        assert_eq!(Sets::of(true, 0x1ff).ambient, 0x1ff);
    }
}
