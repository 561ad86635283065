//! Exit codes, streams, environment, working directory, users, programs.

use sandbox::Exit;

use crate::kit::{Image, able, refused, run};

#[test]
fn root_exit_codes_and_output_come_back() {
    if !able() {
        return;
    }
    let image = Image::new();
    for init in [true, false] {
        let mut spec = image.script("echo out; echo err >&2; exit 7");
        spec.init = init;
        let ran = run(spec);
        assert_eq!((ran.out.as_str(), ran.exit), ("out\nerr\n", Exit::Code(7)), "init: {init}");
    }
    assert_eq!(run(image.script("kill -KILL $$")).exit, Exit::Code(137));
}

#[test]
fn root_unknown_programs_are_named() {
    if !able() {
        return;
    }
    let image = Image::new();
    assert_eq!(refused(image.spec(&["nope"])), "unknown program `nope`: not found in `/usr/bin:/bin`");
    assert_eq!(refused(image.spec(&["/bin/nope"])), "unknown program `/bin/nope`: no such file");
    assert_eq!(refused(image.spec(&["/bin"])), "unknown program `/bin`: it is a directory");
}
