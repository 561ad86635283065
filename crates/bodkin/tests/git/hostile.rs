//! Repositories that mean harm, and submodules that do not.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    kit::Lab,
    servers::{Server, git, repository},
};

/// A tree object of raw lines for `git mktree`, which checks nothing.
fn mktree(dir: &Path, lines: &str) -> String {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["mktree", "--missing"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(lines.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A branch whose commit has this tree.
fn branch(dir: &Path, name: &str, tree: &str) {
    let commit = git(dir, &["commit-tree", "-m", name, tree]);
    git(dir, &["update-ref", &format!("refs/heads/{name}"), &commit]);
}

/// A branch with a `.gitmodules` of this address, and a place for it.
fn with_submodule(dir: &Path, name: &str, url: &str, commit: &str) {
    let text = format!("[submodule \"m\"]\n\tpath = m\n\turl = {url}\n");
    std::fs::write(dir.join("modules"), text).expect("written");
    let blob = git(dir, &["hash-object", "-w", "modules"]);
    let tree = mktree(
        dir,
        &format!("100644 blob {blob}\t.gitmodules\n160000 commit {commit}\tm\n"),
    );
    branch(dir, name, &tree);
}

#[test]
fn root_hostile_repositories_run_nothing_and_leave_their_place_nowhere() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let work = repository(dir.path(), "r");
    let head = git(&work, &["rev-parse", "HEAD"]);
    let blob = git(&work, &["rev-parse", "HEAD:f"]);
    let inner = mktree(&work, &format!("100755 blob {blob}\tpost-checkout\n"));
    for (name, entry) in [("dotgit", ".git"), ("upper", ".GIT"), ("short", "git~1")] {
        let tree = mktree(&work, &format!("040000 tree {inner}\t{entry}\n"));
        branch(&work, name, &tree);
    }
    let target = dir.path().join("touched");
    for (name, url) in [
        ("ext", format!("ext::sh -c touch% {}", target.display())),
        ("file", format!("file://{}", work.display())),
        ("local", work.display().to_string()),
        (
            "option",
            format!("--upload-pack=touch {}", target.display()),
        ),
        ("outside", "../../../x".to_owned()),
    ] {
        with_submodule(&work, name, &url, &head);
    }
    let server = Server::daemon(dir.path());
    let base = format!("git://127.0.0.1:{}/r/.git", server.port);
    with_submodule(&work, "good", &base, &head);
    with_submodule(&work, "relative", "../.git", &head);
    // A place behind a link.
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(work.join("to"), outside.to_str().expect("a path")).expect("written");
    let link = git(&work, &["hash-object", "-w", "to"]);
    std::fs::write(
        work.join("modules"),
        format!("[submodule \"m\"]\n\tpath = a/m\n\turl = {base}\n"),
    )
    .expect("written");
    let modules = git(&work, &["hash-object", "-w", "modules"]);
    let below = mktree(&work, &format!("160000 commit {head}\tm\n"));
    let tree = mktree(
        &work,
        &format!(
            "100644 blob {modules}\t.gitmodules\n120000 blob {link}\ta\n040000 tree {below}\ta\n"
        ),
    );
    branch(&work, "behind", &tree);

    let session = lab.session();
    let entries = |branch: &str| {
        format!(
            r#"{{git(url:"{base}"){{branch(name:"{branch}"){{tree(discardGitDir:true){{glob(pattern:"**/*")"#
        )
    };
    for (name, why) in [
        ("dotgit", "invalid path"),
        ("upper", "invalid path"),
        ("short", "invalid path"),
        ("ext", "`ext::`"),
        ("file", "`file`"),
        ("local", "names nothing on another machine"),
        ("option", "names nothing on another machine"),
        ("outside", "leads out of the host"),
    ] {
        let error = session.error(&entries(name));
        assert!(error.contains(why), "{name}: {error}");
    }
    // Whatever becomes of it, nothing is written where the link leads.
    session.ask(&entries("behind"));
    assert_eq!(std::fs::read_dir(&outside).expect("a folder").count(), 0);
    assert!(!target.exists());
    for name in ["good", "relative"] {
        assert_eq!(
            session.get(&entries(name)),
            json!([".gitmodules", "m", "m/f", "m/link", "m/sub", "m/sub/g"]),
            "{name}"
        );
    }
    for url in [
        "ext::sh -c x",
        "file:///etc",
        "--upload-pack=x",
        "/etc",
        "ssh://-oProxyCommand=x/y",
    ] {
        let answer = session.ask(&format!(r#"{{git(url:"{url}"){{head{{commit"#));
        assert!(
            answer["errors"][0]["message"].is_string(),
            "{url}: {answer}"
        );
    }
    session.close();
}
