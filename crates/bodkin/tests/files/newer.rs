//! Fields of the newest clients that no other test asks for.

use serde_json::json;

use super::{
    NEW,
    kit::{Lab, args, quoted},
};

#[test]
fn variables_that_do_not_count_and_files_as_input() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session_of(NEW);
    let exec = |more: &str, command: &str, how: &str| {
        format!(
            "{{ container {{ from(address: \"alpine\") {{ withNewFile(path: \"/in\", contents: \"from a file\") {{ {more} {{ withExec(args: {} {how}) {{ stdout }} }} }} }} }} }}",
            args(&["sh", "-c", command])
        )
    };
    let shown = "printf %s \"$V \"; cat /proc/sys/kernel/random/uuid";
    let with = |value: &str| {
        let set = format!(
            "withVolatileVariable(name: \"V\", value: {})",
            quoted(value)
        );
        session.text(&exec(&set, shown, ""))
    };
    let first = with("one");
    assert!(first.starts_with("one "), "{first}");
    assert_eq!(with("two"), first, "the new value alone runs nothing");
    let plain = session.text(&exec(
        "withEnvVariable(name: \"V\", value: \"two\")",
        shown,
        "",
    ));
    assert!(plain.starts_with("two "), "{plain}");
    let gone = session.text(&exec(
        "withVolatileVariable(name: \"V\", value: \"x\") { withoutVolatileVariable(name: \"V\")",
        shown,
        "",
    ));
    assert!(gone.starts_with(' '), "{gone}");
    let read = exec(
        "withWorkdir(path: \"/\")",
        "cat; echo .",
        ", redirectStdin: \"in\"",
    );
    assert_eq!(session.text(&read), "from a file.\n");
    let both = exec(
        "withWorkdir(path: \"/\")",
        "cat",
        ", redirectStdin: \"/in\", stdin: \"x\"",
    );
    let error = session.error(&both);
    assert!(error.contains("cannot be used together"), "{error}");
    let none = exec(
        "withWorkdir(path: \"/\")",
        "cat",
        ", redirectStdin: \"/none\"",
    );
    let error = session.error(&none);
    assert!(error.contains("/none"), "{error}");
    let init = session.text(&exec(
        "withWorkdir(path: \"/\")",
        "echo $$",
        ", noInit: true",
    ));
    assert_eq!(init, "1\n");
    session.close();
}

#[test]
fn health_checks_go_and_values_are_json() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session_of(NEW);
    let with = "container { withDockerHealthcheck(args: [\"true\"]) { is: dockerHealthcheck { args } withoutDockerHealthcheck { dockerHealthcheck { args } } } }";
    let told = session.get(&format!("{{ {with} }}"));
    assert_eq!(
        told,
        json!({"is": {"args": ["true"]}, "withoutDockerHealthcheck": {"dockerHealthcheck": null}})
    );
    let yes = session.get("{ json { newBoolean(value: true) { asBoolean contents } } }");
    assert_eq!(yes, json!({"asBoolean": true, "contents": "true"}));
    let file = |text: &str| {
        format!(
            "{{ directory {{ withNewFile(path: \"f\", contents: {}) {{ file(path: \"f\") {{ asJSON {{ field(path: [\"a\"]) {{ asInteger }} }} }} }} }} }}",
            quoted(text)
        )
    };
    assert_eq!(session.get(&file("{\"a\": 7}")), json!(7));
    let error = session.error(&file("{\"a\": "));
    assert!(error.contains('f'), "{error}");
    let error = session.error("{ json { newBoolean(value: true) { asInteger } } }");
    assert!(
        error.contains("true") || error.contains("number"),
        "{error}"
    );
    session.close();
}

#[test]
fn functions_keep_their_rules_and_entries_their_kinds() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session_of(NEW);
    let kind = session.text("{ typeDef { withKind(kind: STRING_KIND) { id } } }");
    let told = session.get(&format!(
        "{{ function(name: \"f\", returnType: {}) {{ withCachePolicy(policy: Default, timeToLive: \"10m\") {{ withDeprecated(reason: \"use g\") {{ name deprecated }} }} }} }}",
        quoted(&kind)
    ));
    assert_eq!(told, json!({"name": "f", "deprecated": "use g"}));
    session.text(
        "{ container { from(address: \"alpine\") { withExec(args: [\"true\"]) { stdout } } } }",
    );
    let entries = session.get("{ engine { localCache { entrySet { entries { recordTypes } } } } }");
    let entries = entries.as_array().expect("a list");
    let of = |kind: &str| entries.iter().any(|e| e["recordTypes"] == json!([kind]));
    assert!(of("regular") && of("source.image"), "{entries:?}");
    session.close();
}
