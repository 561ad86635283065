//! Repositories of other kinds: with SHA-256, with files that are kept elsewhere, behind a proxy.

use std::fs;

use serde_json::Value;

use crate::{
    kit::{Lab, quoted},
    servers::{Server, git, repository},
    web::Web,
};

#[test]
fn root_repositories_with_sha256_are_as_others() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let work = dir.path().join("new");
    fs::create_dir(&work).expect("made");
    git(
        &work,
        &["init", "-q", "-b", "main", "--object-format=sha256"],
    );
    fs::write(work.join("f"), "sha256\n").expect("written");
    git(&work, &["add", "f"]);
    git(&work, &["commit", "-qm", "one"]);
    let commit = git(&work, &["rev-parse", "HEAD"]);
    assert_eq!(commit.len(), 64);
    let server = Server::daemon(dir.path());
    let session = lab.session();
    let url = format!("git://127.0.0.1:{}/new", server.port);
    let asked = |then: &str| format!("{{git(url:\"{url}\"){{branch(name:\"main\"){{{then}");
    assert_eq!(session.text(&asked("commit")), commit);
    let file = "tree{file(path:\"f\"){contents";
    assert_eq!(session.text(&asked(file)), "sha256\n");
    let known = format!("{{git(url:\"{url}\"){{commit(id:\"{commit}\"){{{file}");
    assert_eq!(session.text(&known), "sha256\n");
    session.close();
}

#[test]
fn root_large_files_are_got_from_where_they_are_kept() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let contents = "what is kept elsewhere\n";
    let work = repository(dir.path(), "large");
    fs::write(dir.path().join("blob"), contents).expect("written");
    let sum =
        crate::servers::run(std::process::Command::new("sha256sum").arg(dir.path().join("blob")));
    let sum = sum.split(' ').next().expect("a sum").to_owned();
    let server = Web::new({
        let sum = sum.clone();
        move |port, asked| {
            if asked.line.starts_with("POST /lfs/objects/batch") && asked.body.contains(&sum) {
                let answer = format!(
                    r#"{{"transfer":"basic","objects":[{{"oid":"{sum}","size":{},"actions":{{"download":{{"href":"http://127.0.0.1:{port}/blob"}}}}}}]}}"#,
                    contents.len()
                );
                ("200 OK", answer)
            } else if asked.line.starts_with("GET /blob") {
                ("200 OK", contents.to_owned())
            } else {
                ("404 Not Found", "{}".to_owned())
            }
        }
    });
    fs::write(
        work.join(".gitattributes"),
        "*.bin filter=lfs diff=lfs merge=lfs -text\n",
    )
    .expect("written");
    fs::write(
        work.join(".lfsconfig"),
        format!("[lfs]\n\turl = http://127.0.0.1:{}/lfs\n", server.port),
    )
    .expect("written");
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{sum}\nsize {}\n",
        contents.len()
    );
    fs::write(work.join("a.bin"), pointer).expect("written");
    // Without the filter: what is committed is the pointer.
    git(
        &work,
        &[
            "-c",
            "filter.lfs.clean=cat",
            "-c",
            "filter.lfs.required=false",
            "add",
            "-A",
        ],
    );
    git(&work, &["commit", "-qm", "large"]);
    let daemon = Server::daemon(dir.path());
    let session = lab.session();
    let text = session.text(&format!(
        "{{git(url:\"git://127.0.0.1:{}/large\"){{head{{tree{{file(path:\"a.bin\"){{contents",
        daemon.port
    ));
    assert_eq!(text, contents, "{:?}\n{}", server.lines(), lab.log());
    session.close();
}

#[test]
fn root_what_goes_out_goes_through_the_proxy() {
    let Some(lab) = Lab::new() else { return };
    let proxy = Web::new(|_, asked| {
        if asked.line.starts_with("GET http://files.example/f ") {
            ("200 OK", "through the proxy".to_owned())
        } else {
            ("502 Bad Gateway", "nobody there".to_owned())
        }
    });
    let direct = Web::new(|_, _| ("200 OK", "direct".to_owned()));
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let session = lab.session_with(
        "v0.14.0",
        &[
            ("HTTP_PROXY", &address),
            ("http_proxy", &address),
            ("HTTPS_PROXY", &address),
            ("NO_PROXY", "127.0.0.1,localhost"),
            ("no_proxy", "127.0.0.1,localhost"),
        ],
    );
    let file = |url: &str| format!("{{http(url:{}){{contents", quoted(url));
    assert_eq!(
        session.text(&file("http://files.example/f")),
        "through the proxy"
    );
    let near = format!("http://127.0.0.1:{}/f", direct.port);
    assert_eq!(session.text(&file(&near)), "direct");
    // A repository and a registry: the proxy is asked, and what it says is told.
    let error = session.error("{git(url:\"http://git.example/r.git\"){head{commit");
    assert!(error.contains("502"), "{error}");
    let error = session.error("{container{from(address:\"registry.example/a/b:1\"){id");
    assert!(error.contains("registry.example"), "{error}");
    let lines = proxy.lines();
    for wanted in [
        "GET http://git.example/r.git/info/refs",
        "CONNECT registry.example:443",
    ] {
        assert!(lines.iter().any(|l| l.starts_with(wanted)), "{lines:?}");
    }
    // Steps have it in their environment, where nobody sees it in the container's own.
    let inside = "{container{from(address:\"alpine:3.20.2\"){withExec(args:[\"sh\",\"-c\",\"echo $HTTP_PROXY $https_proxy\"]){stdout";
    assert_eq!(session.text(inside), format!("{address} {address}\n"));
    let own = session.get("{container{from(address:\"alpine:3.20.2\"){envVariables{name");
    let none = |v: &Value| !v.to_string().to_ascii_lowercase().contains("proxy");
    assert!(none(&own), "{own}");
    session.close();
}
