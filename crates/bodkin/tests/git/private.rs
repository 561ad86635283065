//! Repositories that want a password or a key.

use std::fs;

use serde_json::json;

use crate::{
    kit::Lab,
    servers::{Agent, Server, git, keygen, repository},
};

#[test]
fn root_passwords_come_from_tokens_headers_and_the_clients_helpers() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    repository(dir.path(), "r.git");
    let users = [("me", "s3cret-word"), ("x-access-token", "t0ken-value")];
    let server = Server::web(dir.path(), &users);
    let url = format!("http://127.0.0.1:{}/git/r.git", server.port);
    let query = format!(r#"{{git(url:"{url}"){{head{{tree(discardGitDir:true){{entries"#);
    let entries = json!(["f", "link", "sub"]);

    // Nothing set up, and nobody is asked.
    let none = dir.path().join("none");
    fs::write(&none, "").expect("written");
    let bare = [
        ("GIT_CONFIG_GLOBAL", none.to_str().expect("a path")),
        ("GIT_CONFIG_NOSYSTEM", "1"),
    ];
    let session = lab.session_with("v0.14.0", &bare);
    let error = session.error(&query);
    assert!(
        error.contains("git error") && error.contains("credential helper"),
        "{error}"
    );

    // A token, as programs of 0.14 give it.
    let token = session.text(r#"{setSecret(name:"t",plaintext:"t0ken-value"){id"#);
    let with = |field: &str| {
        format!(r#"{{git(url:"{url}"){{{field}{{head{{tree(discardGitDir:true){{entries"#)
    };
    assert_eq!(
        session.get(&with(&format!(r#"withAuthToken(token:"{token}")"#))),
        entries
    );
    let header = session.text(r#"{setSecret(name:"h",plaintext:"Basic bWU6czNjcmV0LXdvcmQ="){id"#);
    assert_eq!(
        session.get(&with(&format!(r#"withAuthHeader(header:"{header}")"#))),
        entries
    );
    let wrong = session.text(r#"{setSecret(name:"w",plaintext:"wr0ng-value"){id"#);
    let asked = format!(
        r#"{{git(url:"{url}"){{withAuthToken(token:"{wrong}"){{branch(name:"main"){{commit"#
    );
    let error = session.error(&asked);
    assert!(
        error.contains("Authentication failed") && !error.contains("wr0ng"),
        "{error}"
    );
    session.close();

    // The user's own helper, with nothing set up for us.
    let config = dir.path().join("gitconfig");
    let helper = "[credential]\n\thelper = \"!f() { test $1 = get && echo username=me && echo password=s3cret-word; }; f\"\n";
    fs::write(&config, helper).expect("written");
    let own = [("GIT_CONFIG_GLOBAL", config.to_str().expect("a path"))];
    let session = lab.session_with("v0.14.0", &own);
    assert_eq!(session.get(&query), entries);
    session.close();

    // A user of one's own choice, as programs of 0.21 give it.
    let session = lab.session_with("v0.21.0", &bare);
    let secret = session.text(r#"{setSecret(name:"s",plaintext:"s3cret-word"){id"#);
    let chosen = format!(
        r#"{{git(url:"{url}",httpAuthUsername:"me",httpAuthToken:"{secret}"){{head{{tree(discardGitDir:true){{entries"#
    );
    // Newer views mark folders.
    assert_eq!(session.get(&chosen), json!(["f", "link", "sub/"]));
    session.close();
    let log = lab.log();
    assert!(!log.contains("s3cret") && !log.contains("t0ken"), "{log}");
}

#[test]
fn root_keys_come_from_the_clients_agent_and_servers_are_known() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("key");
    keygen(&key);
    repository(dir.path(), "r.git");
    let server = Server::ssh(dir.path(), &key);
    let agent = Agent::with(dir.path(), &key);
    let url = format!(
        "ssh://root@127.0.0.1:{}{}/r.git",
        server.port,
        dir.path().display()
    );
    let query = format!(r#"{{git(url:"{url}"){{head{{tree{{entries"#);

    let without = lab.session_with("v0.14.0", &[("SSH_AUTH_SOCK", "")]);
    let error = without.error(&query);
    assert!(
        error.contains("Permission denied (publickey") && error.contains("agent"),
        "{error}"
    );
    // A socket that is given counts for whoever has none.
    let socket = without.text(&format!(
        r#"{{host{{unixSocket(path:"{}"){{id"#,
        agent.socket.display()
    ));
    let given = format!(r#"{{git(url:"{url}",sshAuthSocket:"{socket}"){{head{{tree{{entries"#);
    assert_eq!(without.get(&given), json!([".git", "f", "link", "sub"]));
    without.close();

    let session = lab.session_with(
        "v0.14.0",
        &[("SSH_AUTH_SOCK", agent.socket.to_str().expect("a path"))],
    );
    assert_eq!(session.get(&query), json!([".git", "f", "link", "sub"]));
    // Known hosts that are given are the only ones.
    let public = fs::read_to_string(dir.path().join("host.pub")).expect("a key");
    let other = fs::read_to_string(key.with_extension("pub")).expect("a key");
    let line = |public: &str| {
        let words: Vec<&str> = public.split_whitespace().take(2).collect();
        format!("[127.0.0.1]:{} {}", server.port, words.join(" "))
    };
    let ask = |hosts: &str| format!(r#"{{git(url:"{url}",sshKnownHosts:"{hosts}"){{head{{commit"#);
    assert!(session.get(&ask(&line(&public))).is_string());
    let error = session.error(&ask(&line(&other)));
    assert!(error.contains("Host key verification failed"), "{error}");
    session.close();
}

#[test]
fn root_a_branch_that_moves_is_seen_by_the_next_session_and_a_known_commit_needs_no_network() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let work = repository(dir.path(), "r.git");
    let first = git(&work, &["rev-parse", "HEAD"]);
    let server = Server::daemon(dir.path());
    let url = format!("git://127.0.0.1:{}/r.git/.git", server.port);
    let file =
        format!(r#"{{git(url:"{url}"){{branch(name:"main"){{tree{{file(path:"f"){{contents"#);
    let session = lab.session();
    assert_eq!(session.text(&file), "one\n");
    fs::write(work.join("f"), "two\n").expect("written");
    git(&work, &["commit", "-qam", "two"]);
    assert_eq!(session.text(&file), "one\n");
    session.close();
    let session = lab.session();
    assert_eq!(session.text(&file), "two\n");
    // Many commits of one repository work at once.
    let both = format!(
        r#"{{a:git(url:"{url}"){{commit(id:"{first}"){{tree(discardGitDir:true){{file(path:"f"){{contents}}}}}}}} b:git(url:"{url}"){{head{{tree(discardGitDir:true){{file(path:"f"){{contents}}}}}}}}}}"#
    );
    let answer = session.ask(&both);
    assert_eq!(
        answer["data"]["a"]["commit"]["tree"]["file"]["contents"], "one\n",
        "{answer}"
    );
    session.close();
    drop(server);
    let session = lab.session();
    let known =
        format!(r#"{{git(url:"{url}"){{commit(id:"{first}"){{tree{{file(path:"f"){{contents"#);
    assert_eq!(session.text(&known), "one\n");
    session.close();
}

#[test]
fn root_what_was_fetched_is_for_those_whom_the_remote_has_answered() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let work = repository(dir.path(), "r.git");
    let commit = git(&work, &["rev-parse", "HEAD"]);
    git(
        dir.path(),
        &["clone", "-q", "--no-hardlinks", "r.git", "fork.git"],
    );
    let server = Server::web(dir.path(), &[("x-access-token", "t0ken-value")]);
    let port = server.port;
    let url = |name: &str| format!("http://127.0.0.1:{port}/git/{name}");
    let none = dir.path().join("none");
    fs::write(&none, "").expect("written");
    let bare = [
        ("GIT_CONFIG_GLOBAL", none.to_str().expect("a path")),
        ("GIT_CONFIG_NOSYSTEM", "1"),
    ];
    let ask = |name: &str, token: &str, then: &str| {
        let token = match token {
            "" => String::new(),
            id => format!(r#"{{withAuthToken(token:"{id}")"#),
        };
        format!(
            r#"{{git(url:"{}"){token}{{commit(id:"{commit}"){{{then}"#,
            url(name)
        )
    };
    let given = |session: &crate::kit::Session, value: &str| {
        session.text(&format!(r#"{{setSecret(name:"t",plaintext:"{value}"){{id"#))
    };
    let plain = r#"tree(discardGitDir:true){file(path:"f"){contents"#;
    let config = r#"tree{file(path:".git/config"){contents"#;
    let session = lab.session_with("v0.14.0", &bare);
    let token = given(&session, "t0ken-value");
    assert_eq!(session.text(&ask("r.git", &token, plain)), "one\n");
    // A `.git` tells of the repository that was asked for.
    for name in ["fork.git", "r.git"] {
        let text = session.text(&ask(name, &token, config));
        assert!(text.contains(&format!("\"{}\"", url(name))), "{text}");
    }
    // Nobody else, and nowhere else.
    let error = session.error(&ask("nosuch.git", &token, plain));
    assert!(error.contains("nosuch.git"), "{error}");
    session.close();
    let session = lab.session_with("v0.14.0", &bare);
    for token in [String::new(), given(&session, "wr0ng-value")] {
        for then in [plain, config] {
            let error = session.error(&ask("r.git", &token, then));
            assert!(error.contains("git error"), "{error}");
        }
    }
    session.close();
    // Who had it has it without the server.
    drop(server);
    let session = lab.session_with("v0.14.0", &bare);
    let token = given(&session, "t0ken-value");
    assert_eq!(session.text(&ask("r.git", &token, plain)), "one\n");
    let error = session.error(&ask("r.git", "", plain));
    assert!(error.contains("git error"), "{error}");
    session.close();
    let log = lab.log();
    assert!(!log.contains("t0ken") && !log.contains("wr0ng"), "{log}");
}
