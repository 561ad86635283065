//! What clients are told of mistakes in a container's calls, and that nothing of it is a secret.

use graph::resolve::View;
use serde_json::Value as Json;

use crate::testkit::{Asker, Kit};

/// Whether a sandbox can be had here; says why not.
fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: needs root");
    }
    root
}

/// The error of `rest` on a container that has the secret `value` as `KEY`, whole.
async fn failed(asker: &Asker, value: &str, rest: &str) -> Json {
    let value = Json::from(value);
    let set = format!("{{ setSecret(name: \"s\", plaintext: {value}) {{ id }} }}");
    let id = asker.text(&set).await;
    let query = format!(
        "{{ container {{ withSecretVariable(name: \"KEY\", secret: \"{id}\") {{ {rest} }} }} }}"
    );
    let mut answer = asker.answer(&query).await;
    assert!(answer["errors"].is_array(), "{query}: {answer}");
    answer["errors"][0].take()
}

#[tokio::test]
async fn root_a_secret_with_a_nul_byte_is_not_shown() {
    if !able() {
        return;
    }
    let kit = Kit::new();
    let asker = kit.session(View::DEFAULT);
    let error = failed(
        &asker,
        "NulSecretQQ77\0tail88",
        "withExec(args: [\"x\"]) { stdout }",
    )
    .await;
    let text = error.to_string();
    assert!(text.contains("`KEY` contains a NUL byte"), "{text}");
    assert!(!text.contains("QQ77") && !text.contains("tail88"), "{text}");
}

#[tokio::test]
async fn root_secrets_are_masked_in_commands_before_these_are_cut_or_quoted() {
    if !able() {
        return;
    }
    let kit = Kit::new();
    let asker = kit.session(View::DEFAULT);
    // Over the end of what is shown of a command, and with what quoting changes.
    let secret = "QQ7\"7\nab";
    for before in 80..125 {
        let args = Json::from(vec![
            "/nope".to_owned(),
            format!("{}{secret}tail", "x".repeat(before)),
        ]);
        let error = failed(
            &asker,
            secret,
            &format!("withExec(args: {args}) {{ stdout }}"),
        )
        .await;
        let mut shown = error.to_string();
        for span in asker.0.session.progress.spans() {
            shown += &format!("{} {:?}\n", span.name, span.error);
        }
        assert!(!shown.contains("QQ"), "{before}: {shown}");
    }
}

#[tokio::test]
async fn secrets_of_the_session_are_masked_in_every_error() {
    let kit = Kit::new();
    let asker = kit.session(View::DEFAULT);
    let error = failed(
        &asker,
        "hunter2",
        "directory(path: \"/nope/hunter2\") { id }",
    )
    .await;
    assert_eq!(error["message"], "/nope/***: no such file or directory");
    let spans = asker.0.session.progress.spans();
    assert!(spans.iter().any(|s| s.error.is_some()));
    assert!(
        spans.iter().all(|s| !format!("{s:?}").contains("hunter2")),
        "{spans:?}"
    );
    // Another session does not know it.
    let other = kit.session(View::DEFAULT);
    let text = other
        .error("{ directory { directory(path: \"/nope/hunter2\") { id } } }")
        .await;
    assert!(text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn root_errors_do_not_echo_megabytes() {
    if !able() {
        return;
    }
    let kit = Kit::new();
    let asker = kit.session(View::DEFAULT);
    let long = "x".repeat(100_000);
    let args = Json::from(vec!["/nope".to_owned(), long.clone(), long]);
    let error = failed(
        &asker,
        "hunter2",
        &format!("withExec(args: {args}) {{ stdout }}"),
    )
    .await;
    let text = error["message"].as_str().unwrap();
    assert!(
        text.len() < 10_000 && text.contains("bytes] did not complete"),
        "{text}"
    );
    assert_eq!(
        error["extensions"]["cmd"], args,
        "extensions have all of it"
    );
    let text = asker
        .error(&format!(
            "{{ directory {{ directory(path: \"{}\") {{ id }} }} }}",
            "a/".repeat(100_000)
        ))
        .await;
    assert!(
        text.len() < 40_000 && text.contains("bytes …]"),
        "{}",
        text.len()
    );
}

#[tokio::test]
async fn mistakes_are_named() {
    let kit = Kit::new();
    let asker = kit.session(View::DEFAULT);
    let cases = [
        (
            "withExec(args: [\"a\"], expect: [0, 300]) { id }",
            "`expect` of `withExec` names the exit code 300: exit codes go from 0 to 255",
        ),
        (
            "withExec(args: [\"a\"], expect: [-1]) { id }",
            "`expect` of `withExec` names the exit code -1: exit codes go from 0 to 255",
        ),
        (
            "withExec(args: [\"a\"], expect: []) { id }",
            "`expect` of `withExec` is an empty list, so that no exit code would do: name one, or ANY",
        ),
        (
            "withEnvVariable(name: \"\", value: \"x\") { id }",
            "`withEnvVariable` cannot set an environment variable with the name \"\": it is empty",
        ),
        (
            "withEnvVariable(name: \"A=B\", value: \"x\") { id }",
            "`withEnvVariable` cannot set an environment variable with the name \"A=B\": it contains `=`",
        ),
        (
            "withEnvVariable(name: \"A\\u0000\", value: \"x\") { id }",
            "`withEnvVariable` cannot set an environment variable with the name \"A\\0\": it contains a NUL byte",
        ),
        (
            "withNewFile(path: \"/a\\u0000b\", contents: \"x\") { id }",
            "the path \"/a\\0b\" contains a NUL byte (\\0), which no path can",
        ),
    ];
    for (call, expected) in cases {
        let query = format!("{{ container {{ {call} }} }}");
        assert_eq!(asker.error(&query).await, expected, "{call}");
    }
    let name = "n".repeat(300);
    let query =
        format!("{{ container {{ withNewFile(path: \"/d/{name}\", contents: \"x\") {{ id }} }} }}");
    assert_eq!(
        asker.error(&query).await,
        format!("/d/{name}: File name length exceeds the maximum supported 255 characters")
    );
}
