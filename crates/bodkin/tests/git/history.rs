//! How two references of a repository belong together.

use crate::{
    kit::{Lab, quoted},
    servers::{Server, git, repository},
};

#[test]
fn root_two_branches_have_a_common_ancestor() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let work = repository(dir.path(), "r.git");
    let base = git(&work, &["rev-parse", "HEAD"]);
    for branch in ["one", "two"] {
        git(&work, &["checkout", "-q", "-b", branch, base.trim()]);
        std::fs::write(work.join(branch), "x\n").expect("written");
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", branch]);
    }
    git(&work, &["checkout", "-q", "--orphan", "apart"]);
    git(&work, &["commit", "-qm", "apart"]);
    let server = Server::daemon(dir.path());
    let url = quoted(&format!("git://127.0.0.1:{}/r.git", server.port));
    let session = lab.session_of("v0.21.7");
    let branch = |name: &str, tail: &str| {
        format!("{{ git(url: {url}) {{ branch(name: \"{name}\") {{ {tail} }} }} }}")
    };
    let two = quoted(&session.text(&branch("two", "id")));
    let ancestor = format!("commonAncestor(other: {two}) {{ commit }}");
    assert_eq!(session.text(&branch("one", &ancestor)), base.trim());
    let error = session.error(&branch("apart", &ancestor));
    assert!(error.contains("ancestor"), "{error}");
    session.close();
}
