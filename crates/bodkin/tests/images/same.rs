//! The same inputs give the same image, wherever they are put together.

use std::fs;

use crate::kit::{Lab, REGISTRY, args, quoted};

/// Digests that two engines, each with a store of its own, give the same pipeline, and the archives they write of it.
#[test]
fn root_two_stores_make_the_same_image() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut digests = Vec::new();
    let mut archives = Vec::new();
    for round in ["first", "second"] {
        let Some(lab) = Lab::new() else { return };
        let s = lab.session();
        let made = format!(
            "{{container{{from(address:\"alpine:3.20.2\"){{withEnvVariable(name:\"SOURCE_DATE_EPOCH\",value:\"1700000000\"){{\
             withNewFile(path:\"/a/new\",contents:\"n\"){{withExec(args:{}){{withLabel(name:\"z\",value:\"1\"){{withLabel(name:\"a\",value:\"2\"){{",
            args(&[
                "sh",
                "-c",
                "mkdir /b && date >/dev/null && echo x >/b/x && ln /b/x /b/y && rm /a/new && chmod 700 /b"
            ])
        );
        let address = format!("{REGISTRY}/conformance/same-{}:{round}", std::process::id());
        let published = s.text(&format!("{made}publish(address:{})", quoted(&address)));
        digests.push(published.rsplit('@').next().expect("a digest").to_owned());
        // Twice by the same engine, and by the other one.
        for n in 0..2 {
            let path = dir.path().join(format!("{round}{n}.tar"));
            let path = path.to_str().expect("a path");
            s.get(&format!("{made}asTarball{{export(path:{})}}", quoted(path)));
            archives.push(fs::read(path).expect("an archive"));
        }
        s.close();
    }
    assert_eq!(digests[0], digests[1]);
    assert!(digests[0].starts_with("sha256:") && archives[0].len() > 1000);
    for other in &archives[1..] {
        assert!(*other == archives[0], "archives differ");
    }
}
