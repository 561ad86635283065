//! Repositories that a Dockerfile adds.

use serde_json::json;

use crate::{
    kit::{Lab, Session, quoted},
    servers::{Server, git, repository},
};

/// What a Dockerfile of one `ADD` leaves in `/r`; the rest of the query.
fn built(add: &str, then: &str) -> String {
    let text = quoted(&format!("FROM scratch\nADD {add} /r\n"));
    format!(
        r#"{{directory{{withNewFile(path:"Dockerfile",contents:{text}){{dockerBuild{{directory(path:"/r"){{{then}"#
    )
}

fn entries(session: &Session, add: &str) -> serde_json::Value {
    session.get(&built(add, "entries"))
}

#[test]
fn root_a_dockerfile_adds_repositories_at_a_reference_and_from_a_folder() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let work = repository(dir.path(), "r.git");
    let head = git(&work, &["rev-parse", "HEAD"]);
    git(&work, &["tag", "v1"]);
    std::fs::write(work.join("later"), "l\n").expect("written");
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "-qm", "two"]);
    let server = Server::daemon(dir.path());
    let url = format!("git://127.0.0.1:{}/r.git", server.port);
    let session = lab.session();
    assert_eq!(
        entries(&session, &url),
        json!(["f", "later", "link", "sub"])
    );
    assert_eq!(
        entries(&session, &format!("{url}#v1")),
        json!(["f", "link", "sub"])
    );
    assert_eq!(entries(&session, &format!("{url}#main:sub")), json!(["g"]));
    assert_eq!(
        entries(&session, &format!("--keep-git-dir=true {url}#{head}")),
        json!([".git", "f", "link", "sub"])
    );
    let owned = built(
        &format!("--chmod=0640 {url}#v1"),
        r#"file(path:"f"){contents"#,
    );
    assert_eq!(session.get(&owned), json!("one\n"));
    assert_eq!(
        entries(&session, &format!("--checksum={} {url}#v1", &head[..12])),
        json!(["f", "link", "sub"])
    );

    for (add, told) in [
        (format!("{url}#v2"), "repository does not contain ref v2"),
        (format!("{url}#v1:nowhere"), "\"/nowhere\": not found"),
        (
            format!("--checksum={} {url}", &head[..12]),
            "and its checksum says",
        ),
        (
            format!("--checksum=sha256:1 {url}"),
            "is no commit: give 7 digits",
        ),
        ("git://-x/r.git".to_owned(), "is no address of a repository"),
    ] {
        let error = session.error(&built(&add, "entries"));
        assert!(
            error.contains("Dockerfile:2") && error.contains(told),
            "{add}: {error}"
        );
    }
    session.close();
}
