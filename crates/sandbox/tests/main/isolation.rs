//! What a container cannot see or do.

use std::fs;

use crate::{
    kit::{Image, able, run},
    probe,
};

#[test]
fn root_only_the_standard_streams_are_open() {
    if !able() {
        return;
    }
    let image = Image::new();
    // A descriptor that the runtime does not know, and that would survive an exec.
    let leak = fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    for init in [true, false] {
        let mut spec = image.script("ls /proc/self/fd; ls /proc/1/fd; true");
        spec.init = init;
        let out = run(spec).out;
        // The fourth of `ls` is the directory that it reads.
        assert_eq!(
            out.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3", "0", "1", "2"],
            "init: {init}"
        );
    }
}

#[test]
fn root_capabilities_and_filter_are_those_of_docker() {
    if !able() {
        return;
    }
    let image = Image::new();
    let show = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status";
    let root = "CapInh: 0000000000000000 CapPrm: 00000000a80425fb CapEff: 00000000a80425fb CapBnd: 00000000a80425fb \
                CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 2";
    let flat = |out: String| out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(flat(run(image.script(show)).out), root);
    let mut spec = image.script(show);
    spec.user.name = "build".into();
    let user = root.replace(
        "CapPrm: 00000000a80425fb CapEff: 00000000a80425fb",
        "CapPrm: 0000000000000000 CapEff: 0000000000000000",
    );
    assert_eq!(flat(run(spec).out), user);
}

#[test]
fn root_refused_calls_fail_and_kill_nobody() {
    if !able() {
        return;
    }
    let image = Image::new();
    let ask = |questions: &[&str]| {
        let mut spec = image.spec(&[&["/probe"], questions].concat());
        probe::install(&mut spec);
        run(spec).out
    };
    assert_eq!(
        ask(&[
            "unshare=268435456",
            "clone=268435473",
            "clone3",
            "socket=38",
            "socket=40",
            "socket=1"
        ]),
        "permission-denied permission-denied unsupported permission-denied permission-denied ok\n"
    );
    assert_eq!(
        ask(&[
            "personality=4294967295",
            "personality=1",
            "call=1000",
            "call=321"
        ]),
        "ok permission-denied unsupported permission-denied\n"
    );
    if cfg!(target_arch = "x86_64") {
        // getpid (20), mount (21) and socket as i386 programs call them; getpid of the x32 variant is not in this kernel.
        assert_eq!(
            ask(&[
                "i386=20",
                "i386=21",
                "i386-socket=1",
                "i386-socket=38",
                "i386=310"
            ]),
            "ok permission-denied ok permission-denied permission-denied\n"
        );
    }
}

#[test]
fn root_masked_and_read_only_paths_are() {
    if !able() {
        return;
    }
    let image = Image::new();
    let script = "for p in kcore keys timer_list sched_debug interrupts; do test -e /proc/$p || continue; head -c 1 /proc/$p | grep -q . && echo open: $p; done; \
                  for d in /proc/acpi /proc/scsi /sys/firmware; do test -d $d && ls $d; done; \
                  for f in /proc/sys/kernel/domainname /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run; do test -e $f || continue; \
                    { echo x > $f; } 2>/dev/null && echo written: $f; done; \
                  echo 1 > /proc/self/oom_score_adj && echo own";
    assert_eq!(run(image.script(script)).out, "own\n");
}

#[test]
fn root_devices_are_the_standard_ones() {
    if !able() {
        return;
    }
    let image = Image::new();
    let out = run(image.script("ls /dev; echo > /dev/null; head -c 4 /dev/zero | wc -c; echo x > /dev/full; stat -c '%a %t:%T' /dev/null /dev/tty; \
        readlink /dev/fd; mknod /tmp/disk b 8 0 && { head -c 1 /tmp/disk; } 2>&1; mknod /dev/mem c 1 1 && { head -c 1 /dev/mem; } 2>&1"));
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 4 sh: write error: No space left on device \
        666 1:3 666 5:0 /proc/self/fd head: /tmp/disk: REFUSED head: /dev/mem: REFUSED";
    let refused = ["Operation not permitted", "Permission denied"];
    let out = refused
        .iter()
        .fold(out.out, |out, words| out.replace(words, "REFUSED"));
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>().join(" "),
        expected
    );
}

#[test]
fn root_the_host_is_out_of_sight() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mounts_before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let out = run(image.script("ls /; readlink /proc/self/root; cat /proc/self/mountinfo | grep -cE ' shared:| master:'; ls /sys/class/net; cd /proc; echo /proc/[0-9]*"));
    assert_eq!(
        out.out.split_whitespace().collect::<Vec<_>>().join(" "),
        "bin dev etc proc root sys tmp usr / 0 lo /proc/1 /proc/2"
    );
    assert_eq!(
        fs::read_to_string("/proc/self/mountinfo").unwrap(),
        mounts_before
    );
}
