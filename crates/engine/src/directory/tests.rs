//! Questions of newer clients, asked of an engine.

use graph::resolve::View;
use serde_json::json;

use crate::testkit::Kit;

const NEW: View = View::new(0, 21, 0);

/// An empty directory with files: `("a/b", "text")`.
fn tree(files: &[(&str, &str)]) -> String {
    files
        .iter()
        .fold("directory".to_owned(), |query, (path, text)| {
            format!(
                "{query} {{ withNewFile(path: {}, contents: {})",
                json!(path),
                json!(text)
            )
        })
}

/// A chain that ends in `tail`.
fn ask(files: &[(&str, &str)], tail: &str) -> String {
    format!(
        "{{ {} {{ {tail} }} {} }}",
        tree(files),
        "}".repeat(files.len())
    )
}

async fn id(asker: &crate::testkit::Asker, files: &[(&str, &str)], tail: &str) -> String {
    let query = if tail.is_empty() {
        ask(files, "id")
    } else {
        ask(files, &format!("{tail} {{ id }}"))
    };
    json!(asker.text(&query).await).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_changes_tell_patch_and_apply() {
    let kit = Kit::new();
    let asker = kit.session(NEW);
    let old = [
        ("keep", "k"),
        ("mod.txt", "1\n2\n3\n"),
        ("gone/a", "x"),
        ("gone/b", "y"),
        ("moved", "same content"),
    ];
    let new = [
        ("keep", "k"),
        ("mod.txt", "1\ntwo\n3\n"),
        ("new/n.txt", "hello\n"),
        ("there", "same content"),
    ];
    let from = id(&asker, &old, "").await;
    let changes = format!("changes(from: {from})");
    let told = asker
        .data(&ask(&new, &format!("{changes} {{ addedPaths modifiedPaths removedPaths isEmpty diffStats {{ path oldPath kind addedLines removedLines }} layer {{ glob(pattern: \"**\") }} before {{ entries }} after {{ entries }} asPatch {{ name contents }} }}")))
        .await;
    let told = &told
        .pointer("/directory/withNewFile/withNewFile/withNewFile/withNewFile/changes")
        .expect("changes");
    assert_eq!(told["addedPaths"], json!(["new/", "new/n.txt", "there"]));
    assert_eq!(told["modifiedPaths"], json!(["mod.txt"]));
    assert_eq!(told["removedPaths"], json!(["gone/", "moved"]));
    assert_eq!(told["isEmpty"], json!(false));
    assert_eq!(
        told["layer"]["glob"],
        json!(["mod.txt", "new/", "new/n.txt", "there"])
    );
    assert_eq!(
        told["before"]["entries"],
        json!(["gone/", "keep", "mod.txt", "moved"])
    );
    let stats = told["diffStats"].as_array().expect("a list");
    assert!(stats.contains(&json!({"path": "mod.txt", "oldPath": null, "kind": "MODIFIED", "addedLines": 1, "removedLines": 1})));
    assert!(stats.contains(&json!({"path": "there", "oldPath": "moved", "kind": "RENAMED", "addedLines": 0, "removedLines": 0})));
    assert!(stats.contains(&json!({"path": "gone/a", "oldPath": null, "kind": "REMOVED", "addedLines": 0, "removedLines": 1})));

    // The patch makes the one the other again; so do the changes themselves.
    let patch = json!(told["asPatch"]["contents"]).to_string();
    let want = asker.leaf(&ask(&new, "glob(pattern: \"**\")")).await;
    let patched = asker.data(&ask(&old, &format!("withPatch(patch: {patch}) {{ glob(pattern: \"**\") file(path: \"mod.txt\") {{ contents }} }}"))).await;
    let patched = patched
        .pointer(&("/directory".to_owned() + &"/withNewFile".repeat(5) + "/withPatch"))
        .expect("a directory");
    // An empty directory is none to a patch: `gone` stays, empty.
    let mut got: Vec<_> = patched["glob"].as_array().expect("a list").clone();
    got.retain(|p| p != "gone/");
    assert_eq!(json!(got), want);
    assert_eq!(patched["file"]["contents"], "1\ntwo\n3\n");
    let file = asker
        .text(&format!(
            "{{ file(name: \"p\", contents: {patch}) {{ id }} }}"
        ))
        .await;
    asker
        .leaf(&ask(
            &old,
            &format!(
                "withPatchFile(patch: {}) {{ file(path: \"new/n.txt\") {{ contents }} }}",
                json!(file)
            ),
        ))
        .await;
    let set = id(&asker, &new, &changes).await;
    let applied = asker
        .leaf(&ask(
            &old,
            &format!("withChanges(changes: {set}) {{ glob(pattern: \"**\") }}"),
        ))
        .await;
    assert_eq!(applied, want);
    let elsewhere = asker
        .leaf(&ask(
            &[("mine", ""), ("gone/c", "")],
            &format!("withChanges(changes: {set}) {{ glob(pattern: \"**\") }}"),
        ))
        .await;
    assert_eq!(
        elsewhere,
        json!(["mine", "mod.txt", "new/", "new/n.txt", "there"])
    );

    for (patch, part) in [
        ("nonsense", "no `diff --git`"),
        (
            "--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n",
            "none: no such file",
        ),
        (
            "--- a/keep\n+++ b/keep\n@@ -1 +1 @@\n-a\n+b\n",
            "keep: error applying hunk",
        ),
        (
            "--- /dev/null\n+++ b/../out\n@@ -0,0 +1 @@\n+b\n",
            "outside of the directory",
        ),
        (
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+.\n\\ No newline at end of file\n--- /dev/null\n+++ b/l/new\n@@ -0,0 +1 @@\n+b\n",
            "l/new: it is beyond a symbolic link",
        ),
        (
            "diff --git a/m b/m\nnew file mode 160000\nindex 0000000..1234567\n--- /dev/null\n+++ b/m\n@@ -0,0 +1 @@\n+Subproject commit 1234567890123456789012345678901234567890\n",
            "m: it is a submodule",
        ),
        (
            "diff --git a/m b/m\nindex 1234567..2345678 160000\n--- a/m\n+++ b/m\n@@ -1 +1 @@\n-Subproject commit 1\n+Subproject commit 2\n",
            "m: it is a submodule",
        ),
    ] {
        let error = asker
            .error(&ask(
                &old,
                &format!("withPatch(patch: {}) {{ entries }}", json!(patch)),
            ))
            .await;
        assert!(error.contains(part), "{error}");
    }
    let empty = asker
        .data("{ changeset { isEmpty addedPaths sync } }")
        .await;
    assert_eq!(empty["changeset"]["isEmpty"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_changesets_are_merged() {
    let kit = Kit::new();
    let asker = kit.session(NEW);
    let base = [("f", "1\n2\n3\n4\n5\n6\n7\n"), ("g", "g\n")];
    let from = id(&asker, &base, "").await;
    let set =
        async |files: &[(&str, &str)]| id(&asker, files, &format!("changes(from: {from})")).await;
    let ours = [("f", "one\n2\n3\n4\n5\n6\n7\n"), ("g", "ours\n")];
    let apart = set(&[("f", "1\n2\n3\n4\n5\n6\nseven\n"), ("g", "g\n"), ("h", "h")]).await;
    let against = set(&[("f", "uno\n2\n3\n4\n5\n6\n7\n"), ("g", "g\n")]).await;
    let merged = async |other: &str, how: &str| {
        let tail = format!(
            "changes(from: {from}) {{ withChangeset(changes: {other}, onConflict: {how}) {{ after {{ file(path: \"f\") {{ contents }} }} }} }}"
        );
        asker.answer(&ask(&ours, &tail)).await
    };
    let text = |answer: &serde_json::Value| {
        answer
            .pointer(
                "/data/directory/withNewFile/withNewFile/changes/withChangeset/after/file/contents",
            )
            .and_then(|v| v.as_str())
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    };
    assert_eq!(
        text(&merged(&apart, "FAIL").await),
        "one\n2\n3\n4\n5\n6\nseven\n"
    );
    let refused = |answer: serde_json::Value| {
        answer["errors"][0]["message"]
            .as_str()
            .unwrap_or_default()
            .contains("both sides changed f")
    };
    assert!(refused(merged(&apart, "FAIL_EARLY").await));
    assert!(refused(merged(&against, "FAIL").await));
    assert!(text(&merged(&against, "PREFER_OURS").await).starts_with("one\n"));
    assert!(text(&merged(&against, "PREFER_THEIRS").await).starts_with("uno\n"));
    let marked = text(&merged(&against, "LEAVE_CONFLICT_MARKERS").await);
    assert!(
        marked.contains("<<<<<<<") && marked.contains("one") && marked.contains("uno"),
        "{marked}"
    );
    let all = asker
        .leaf(&ask(
            &ours,
            &format!(
                "changes(from: {from}) {{ withChangesets(changes: [{apart}]) {{ addedPaths }} }}"
            ),
        ))
        .await;
    assert_eq!(all, json!(["h"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_searches_find_lines_and_places() {
    let kit = Kit::new();
    let asker = kit.session(NEW);
    let files = [
        ("a.txt", "one\ntwo Two\nthree\n"),
        ("sub/b.md", "two\n"),
        (".hidden/c", "two"),
        ("skip.log", "two"),
        (".gitignore", "*.log\n"),
        ("bin", "two\u{0}"),
    ];
    let search = async |arguments: &str, fields: &str| {
        asker
            .leaf(&ask(&files, &format!("search({arguments}) {{ {fields} }}")))
            .await
    };
    assert_eq!(
        search(
            "pattern: \"two\", paths: [\"a.txt\"], insensitive: true",
            "filePath lineNumber absoluteOffset matchedLines submatches { text start end }"
        )
        .await,
        json!([{"filePath": "a.txt", "lineNumber": 2, "absoluteOffset": 4, "matchedLines": "two Two\n",
                "submatches": [{"text": "two", "start": 0, "end": 3}, {"text": "Two", "start": 4, "end": 7}]}])
    );
    let paths = async |arguments: &str| {
        let found = search(arguments, "filePath").await;
        let list = found.as_array().expect("a list").iter();
        list.map(|h| h["filePath"].as_str().expect("a path").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        paths("pattern: \"^two\"").await,
        [".hidden/c", "a.txt", "skip.log", "sub/b.md"]
    );
    assert_eq!(
        paths("pattern: \"^two\", skipHidden: true, skipIgnored: true").await,
        ["a.txt", "sub/b.md"]
    );
    assert_eq!(
        paths("pattern: \"two\", globs: [\"*.md\"]").await,
        ["sub/b.md"]
    );
    assert_eq!(paths("pattern: \"two\", limit: 1").await, [".hidden/c"]);
    assert_eq!(paths("pattern: \"two.*\", literal: true").await, [""; 0]);
    assert_eq!(
        search(
            "pattern: \"one.two\", multiline: true, dotall: true",
            "matchedLines"
        )
        .await,
        json!([{"matchedLines": "one\ntwo Two\n"}])
    );
    assert_eq!(
        search(
            "pattern: \"three\", filesOnly: true",
            "filePath matchedLines"
        )
        .await,
        json!([{"filePath": "a.txt", "matchedLines": ""}])
    );
    let error = asker
        .error(&ask(&files, "search(pattern: \"(\") { filePath }"))
        .await;
    assert!(error.contains("cannot search for"), "{error}");
    let error = asker
        .error(&ask(
            &files,
            "search(pattern: \"x\", paths: [\"nowhere\"]) { filePath }",
        ))
        .await;
    assert_eq!(error, "nowhere: no such file or directory");
    let in_file = asker
        .leaf(&ask(
            &files,
            "file(path: \"sub/b.md\") { search(pattern: \"two\") { filePath lineNumber } }",
        ))
        .await;
    assert_eq!(in_file, json!([{"filePath": "b.md", "lineNumber": 1}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_paths_are_looked_at() {
    let kit = Kit::new();
    let asker = kit.session(NEW);
    let nowhere = "{ directory { withSymlink(target: \"\", linkName: \"l\") { entries } } }";
    let error = asker.error(nowhere).await;
    assert_eq!(
        error,
        "`target` of a symbolic link is empty: say where it leads"
    );
    let files = [("a/b/c.txt", "12345"), ("a/.git", "")];
    let tail = "withSymlink(target: \"b/c.txt\", linkName: \"a/link\") { f: stat(path: \"a/b/c.txt\") { name size permissions fileType } d: stat(path: \"a\") { fileType } \
        l: stat(path: \"a/link\", doNotFollowSymlinks: true) { fileType } t: stat(path: \"a/link\") { fileType size } \
        e1: exists(path: \"a/link\", expectedType: SYMLINK_TYPE) e2: exists(path: \"a/link\", expectedType: SYMLINK_TYPE, doNotFollowSymlinks: true) e3: exists(path: \"none\") e4: exists(path: \"a\", expectedType: DIRECTORY_TYPE) \
        u: findUp(name: \".git\", start: \"a/b\") n: findUp(name: \"none\", start: \"a/b\") sub: directory(path: \"a/b\") { name file(path: \"c.txt\") { stat { name } } } }";
    let told = asker.data(&ask(&files, tail)).await;
    let told = told
        .pointer("/directory/withNewFile/withNewFile/withSymlink")
        .expect("a directory");
    assert_eq!(
        told,
        &json!({"f": {"name": "c.txt", "size": 5, "permissions": 0o644, "fileType": "REGULAR"}, "d": {"fileType": "DIRECTORY"}, "l": {"fileType": "SYMLINK"},
            "t": {"fileType": "REGULAR", "size": 5}, "e1": false, "e2": true, "e3": false, "e4": true, "u": "a/.git", "n": null,
            "sub": {"name": "b", "file": {"stat": {"name": "c.txt"}}}})
    );
    let error = asker
        .error(&ask(&files, "stat(path: \"none\") { name }"))
        .await;
    assert_eq!(error, "none: no such file or directory");
    for kind in ["directory", "container"] {
        let error = asker
            .error(&format!(
                "{{ {kind} {{ withError(err: \"no good\") {{ sync }} }} }}"
            ))
            .await;
        assert_eq!(error, "no good");
        asker
            .leaf(&format!(
                "{{ {kind} {{ withError(err: \"\") {{ sync }} }} }}"
            ))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_parts_owners_and_texts_change() {
    let kit = Kit::new();
    let asker = kit.session(NEW);
    let files = [
        ("a.txt", "x=1\ny=2\nz=3\n"),
        ("b.log", ""),
        ("d/e.txt", "e"),
        (".gitignore", "*.log\n"),
    ];
    assert_eq!(
        asker
            .leaf(&ask(
                &files,
                "filter(include: [\"**/*.txt\"], exclude: [\"d\"]) { glob(pattern: \"**\") }"
            ))
            .await,
        json!(["a.txt"])
    );
    assert_eq!(
        asker
            .leaf(&ask(
                &files,
                "filter(gitignore: true) { glob(pattern: \"**\") }"
            ))
            .await,
        json!([".gitignore", "a.txt", "d/", "d/e.txt"])
    );
    let source = id(&asker, &files, "").await;
    let copied = asker.leaf(&format!("{{ directory {{ withNewFile(path: \"to/mine\", contents: \"\", permissions: 0o600) {{ withDirectory(path: \"to\", source: {source}, gitignore: true, permissions: 448, owner: \"7:8\") {{ mine: stat(path: \"to/mine\") {{ permissions }} it: stat(path: \"to/d/e.txt\") {{ permissions }} }} }} }} }}").replace("0o600", "384")).await;
    assert_eq!(
        copied,
        json!({"mine": {"permissions": 0o600}, "it": {"permissions": 0o700}})
    );
    let error = asker
        .error(&ask(
            &files,
            "chown(path: \"d\", owner: \"somebody\") { entries }",
        ))
        .await;
    assert!(error.contains("no names to look up"), "{error}");
    asker.leaf(&ask(&files, "chown(path: \"d\", owner: \"5\") { file(path: \"d/e.txt\") { chown(owner: \"5:6\") { size } } }")).await;
    let file = async |tail: &str| {
        asker
            .leaf(&ask(&files, &format!("file(path: \"a.txt\") {{ {tail} }}")))
            .await
    };
    assert_eq!(
        file("contents(offsetLines: 2, limitLines: 1)").await,
        json!("y=2\n")
    );
    assert_eq!(file("contents(offsetLines: 9)").await, json!(""));
    assert_eq!(
        file("withReplaced(search: \"y=2\", replacement: \"Y\") { contents }").await,
        json!("x=1\nY\nz=3\n")
    );
    assert_eq!(
        file("withReplaced(search: \"=\", replacement: \":\", all: true) { contents }").await,
        json!("x:1\ny:2\nz:3\n")
    );
    assert_eq!(
        file("withReplaced(search: \"=\", replacement: \":\", firstFrom: 3) { contents }").await,
        json!("x=1\ny=2\nz:3\n")
    );
    let error = asker
        .error(&ask(
            &files,
            "file(path: \"a.txt\") { withReplaced(search: \"=\", replacement: \"\") { size } }",
        ))
        .await;
    assert!(error.contains("more than once"), "{error}");
    assert_eq!(file("asEnvFile { get(name: \"y\") }").await, json!("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_json_and_variables() {
    let kit = Kit::new();
    let asker = kit.session(NEW);
    let one = json!(asker.text("{ json { newInteger(value: 1) { id } } }").await).to_string();
    let made = asker.data(&format!("{{ json {{ withField(path: [\"a\", \"b\"], value: {one}) {{ contents fields field(path: [\"a\", \"b\"]) {{ asInteger }} pretty: contents(pretty: true, indent: \" \") }} }} }}")).await;
    assert_eq!(
        made["json"]["withField"],
        json!({"contents": "{\"a\":{\"b\":1}}", "fields": ["a"], "field": {"asInteger": 1}, "pretty": "{\n \"a\": {\n  \"b\": 1\n }\n}"})
    );
    let read = asker
        .data("{ json { withContents(contents: \"[true, \\\"s\\\"]\") { asArray { contents } } } }")
        .await;
    assert_eq!(
        read["json"]["withContents"]["asArray"],
        json!([{"contents": "true"}, {"contents": "\"s\""}])
    );
    let error = asker
        .error("{ json { newString(value: \"x\") { asInteger } } }")
        .await;
    assert_eq!(error, "the JSON value is a string, not a whole number");
    let error = asker
        .error("{ json { withContents(contents: \"{\") { contents } } }")
        .await;
    assert!(error.contains("cannot read `contents` as JSON"), "{error}");
    let set = "envFile { withVariable(name: \"APP_HOST\", value: \"h\") { withVariable(name: \"APP_URL\", value: \"http://${APP_HOST}/\")";
    let told = asker.leaf(&format!("{{ {set} {{ get(name: \"APP_URL\") raw: get(name: \"APP_URL\", raw: true) exists(name: \"NO\") namespace(prefix: \"app\") {{ variables {{ name value }} }} asFile {{ contents }} withoutVariable(name: \"APP_HOST\") {{ variables {{ name }} }} }} }} }} }}")).await;
    assert_eq!(
        told,
        json!({"get": "http://h/", "raw": "http://${APP_HOST}/", "exists": false, "namespace": {"variables": [{"name": "HOST", "value": "h"}, {"name": "URL", "value": "http://h/"}]},
        "asFile": {"contents": "APP_HOST=h\nAPP_URL=http://${APP_HOST}/\n"}, "withoutVariable": {"variables": [{"name": "APP_URL"}]}})
    );
    let id = json!(asker.leaf(&format!("{{ {set} {{ id }} }} }} }}")).await).to_string();
    assert_eq!(asker.leaf(&format!("{{ container {{ withEnvFileVariables(source: {id}) {{ envVariable(name: \"APP_URL\") }} }} }}")).await, json!("http://h/"));
    let address = asker
        .data("{ address(value: \"tcp://localhost:80\") { value service { ports { port } } } }")
        .await;
    assert_eq!(
        address["address"],
        json!({"value": "tcp://localhost:80", "service": {"ports": [{"port": 80}]}})
    );
    let error = asker
        .error("{ address(value: \"nonsense\") { service { hostname } } }")
        .await;
    assert!(error.contains("tcp://host:port"), "{error}");
    let uri = asker.data("{ secret(uri: \"env://NAME\") { uri name } address(value: \"env://NAME\") { secret { uri } } }").await;
    assert_eq!(uri["secret"], json!({"uri": "env://NAME", "name": ""}));
    let error = asker.error("{ secret(uri: \"NAME\") { uri } }").await;
    assert!(error.contains("env://NAME"), "{error}");
    for (uri, what) in [
        ("env://", "`env://` names no variable"),
        ("file://", "`file://` names no file"),
        ("cmd:// ", "`cmd://` has no command"),
    ] {
        let error = asker
            .error(&format!("{{ secret(uri: \"{uri}\") {{ plaintext }} }}"))
            .await;
        assert!(error.contains(what), "{uri}: {error}");
    }
    let error = asker
        .error("{ secret(uri: \"vault://x\") { plaintext } }")
        .await;
    assert!(error.contains("vault is no place"), "{error}");
}
