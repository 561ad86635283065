//! The executable in containers that it runs itself: sessions inside sessions. Needs root; says so and passes without.
//!
//! The containers hold nothing but the executable, so no image is needed.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const BODKIN: &str = env!("CARGO_BIN_EXE_bodkin");

/// Whether these tests can run here; says why not.
fn able() -> bool {
    // What belongs to root is what this process made as root.
    let root =
        fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: needs root");
    }
    root
}

/// An engine of its own, stopped in the end.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// With what `engine.json` says.
    fn new(config: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("engine.json"), config.to_string()).unwrap();
        Self { dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BODKIN);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("BODKIN_STATE_DIR", self.dir.path().join("state"))
            .env("BODKIN_CONFIG", self.dir.path().join("engine.json"))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self.command(args).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(stdin.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// The data that a document answers, and what was shown meanwhile.
    fn query(&self, document: &str, variables: &Value) -> (Value, String) {
        let out = self.output(&["query", "--var-json", &variables.to_string()], document);
        let shown = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{document}\n{shown}");
        (serde_json::from_slice(&out.stdout).unwrap(), shown)
    }

    /// The ID of the executable as a file.
    fn executable(&self) -> Value {
        let (data, _) = self.query(
            "query($p: String!) { host { file(path: $p) { id } } }",
            &json!({ "p": BODKIN }),
        );
        data.pointer("/host/file/id").unwrap().clone()
    }

    /// Runs the executable in a container that holds the files in `/w`, with a session inside; selects `then` of it.
    fn nested(&self, args: &[&str], files: &[(&str, &str)], then: &str) -> (Value, String) {
        let document = format!(
            "query($exe: FileID!, $args: [String!]!, $dir: DirectoryID!) {{ container {{
                withMountedFile(path: \"/bin/dagger\", source: $exe) {{ withDirectory(path: \"/w\", directory: $dir) {{
                withWorkdir(path: \"/w\") {{ withExec(args: $args, experimentalPrivilegedNesting: true) {{ {then} }} }} }} }} }} }}"
        );
        let mut chain = String::from("{ id }");
        for (name, contents) in files.iter().rev() {
            chain = format!(
                "{{ withNewFile(path: {}, contents: {}) {chain} }}",
                json!(name),
                json!(contents)
            );
        }
        let (dir, _) = self.query(&format!("{{ directory {chain} }}"), &json!({}));
        let variables = json!({ "exe": self.executable(), "args": args, "dir": leaf(&dir) });
        let (data, shown) = self.query(&document, &variables);
        let path = "/container/withMountedFile/withDirectory/withWorkdir/withExec";
        (data.pointer(path).unwrap().clone(), shown)
    }

    /// Processes that the engine has started and that are there.
    fn children(&self) -> Vec<String> {
        let out = self.output(&["engine", "status"], "");
        let status = String::from_utf8(out.stdout).unwrap();
        let pid = status
            .split("pid ")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned();
        let parent = |process: &Path| {
            let status = fs::read_to_string(process.join("status")).ok()?;
            Some(
                status
                    .lines()
                    .find_map(|l| l.strip_prefix("PPid:"))?
                    .trim()
                    .to_owned(),
            )
        };
        let all = fs::read_dir("/proc").unwrap().map(|e| e.unwrap().path());
        all.filter(|p| parent(p).as_ref() == Some(&pid))
            .map(|p| fs::read_to_string(p.join("cmdline")).unwrap_or_default())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let out = self.output(&["engine", "stop"], "");
        assert!(out.status.success() || std::thread::panicking(), "{out:?}");
    }
}

/// The only leaf of an answer.
fn leaf(data: &Value) -> &Value {
    match data.as_object().and_then(|o| o.values().next()) {
        Some(inner) => leaf(inner),
        None => data,
    }
}

/// What a nested `query` printed.
fn printed(exec: &Value) -> Value {
    serde_json::from_str(exec.get("stdout").unwrap().as_str().unwrap()).unwrap()
}

#[test]
fn root_a_program_in_a_container_joins_the_session_and_its_host_is_the_container() {
    if !able() {
        return;
    }
    let world = World::new(&json!({}));
    let document =
        r#"{ host { directory(path: ".") { entries } file(path: "/w/a") { contents } } }"#;
    let files = [("q", document), ("a", "inner")];
    let (exec, shown) = world.nested(
        &["dagger", "query", "--doc", "q"],
        &files,
        "stdout envVariables { name }",
    );
    assert_eq!(
        printed(&exec),
        json!({ "host": { "directory": { "entries": ["a", "q"] }, "file": { "contents": "inner" } } })
    );
    assert_eq!(
        exec["envVariables"],
        json!([]),
        "the session is not a part of the container"
    );
    assert!(!shown.contains("CACHED"), "{shown}");
    // Another session has another port and token: the step is the same.
    let (again, shown) = world.nested(&["dagger", "query", "--doc", "q"], &files, "stdout");
    assert_eq!(printed(&again), printed(&exec));
    assert!(shown.contains("dagger query --doc q CACHED"), "{shown}");
    assert_eq!(world.children(), Vec::<String>::new());
}

#[test]
fn root_what_a_nested_session_exports_is_in_the_container() {
    if !able() {
        return;
    }
    let world = World::new(&json!({}));
    let document =
        r#"{ directory { withNewFile(path: "x/y", contents: "z") { export(path: "out") } } }"#;
    let then = r#"stdout file(path: "/w/out/x/y") { contents }"#;
    let (exec, _) = world.nested(&["dagger", "query", "--doc", "q"], &[("q", document)], then);
    assert_eq!(leaf(&printed(&exec)), &json!("/w/out"));
    assert_eq!(exec["file"]["contents"], json!("z"));
    assert!(!world.dir.path().join("out").exists());
}

#[test]
fn root_sessions_go_as_deep_as_containers_do() {
    if !able() {
        return;
    }
    let world = World::new(&json!({}));
    let innermost = r#"{ host { directory(path: "/deep") { entries } } }"#;
    let inner = r#"query($exe: FileID!, $q: String!) { container {
        withMountedFile(path: "/bin/dagger", source: $exe) { withNewFile(path: "/deep/q", contents: $q) {
        withExec(args: ["dagger", "query", "--doc", "/deep/q"], experimentalPrivilegedNesting: true) { stdout } } } } }"#;
    let variables = json!({ "exe": world.executable(), "q": innermost }).to_string();
    let args = ["dagger", "query", "--doc", "q", "--var-json", &variables];
    let (exec, _) = world.nested(&args, &[("q", inner)], "stdout");
    let innermost: Value = serde_json::from_str(leaf(&printed(&exec)).as_str().unwrap()).unwrap();
    assert_eq!(leaf(&innermost), &json!(["q"]));
    assert_eq!(world.children(), Vec::<String>::new());
}

#[test]
fn root_a_container_without_network_has_its_session_all_the_same() {
    if !able() {
        return;
    }
    let world = World::new(&json!({ "network": { "disabled": true } }));
    let document = r#"{ host { directory(path: "/w") { entries } } }"#;
    let (exec, _) = world.nested(
        &["dagger", "query", "--doc", "q"],
        &[("q", document)],
        "stdout",
    );
    assert_eq!(leaf(&printed(&exec)), &json!(["q"]));
}
