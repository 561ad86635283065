//! Dockerfiles that ask for more than they may have.

use serde_json::{Value, json};

use crate::kit::{Lab, quoted};

/// Adds to the configuration of an engine that has not been started.
fn configure(lab: &Lab, security: &Value) {
    let command = lab.command(&[]);
    let path = command
        .get_current_dir()
        .expect("a folder")
        .join("engine.json");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["security"] = security.clone();
    std::fs::write(path, config.to_string()).expect("written");
}

fn build(dockerfile: &str) -> String {
    format!(
        "{{directory{{withNewFile(path:\"Dockerfile\",contents:{}){{dockerBuild{{file(path:\"/caps\"){{contents",
        quoted(dockerfile)
    )
}

#[test]
fn root_a_dockerfile_gets_no_rights_that_nobody_gave_it() {
    let Some(lab) = Lab::new() else { return };
    let asking = build(
        "FROM alpine:3.20.2\nRUN --security=insecure grep CapEff /proc/self/status > /caps\n",
    );
    let session = lab.session();
    let error = session.error(&asking);
    assert!(
        error.contains("Dockerfile:2: `RUN --security=insecure grep")
            && error.contains("insecureDockerfiles"),
        "{error}"
    );
    // One that is not asked to run it is built.
    let other = "FROM alpine:3.20.2 AS other\nRUN --security=insecure true\nFROM alpine:3.20.2\nRUN grep CapEff /proc/self/status > /caps\n";
    let usual = session.text(&build(other));
    assert!(usual.contains("00000000a80425fb"), "{usual}");
    session.close();

    let Some(lab) = Lab::new() else { return };
    configure(&lab, &json!({ "insecureDockerfiles": true }));
    let session = lab.session();
    let allowed = session.text(&asking);
    assert_ne!(allowed, usual);
    session.close();

    // Who forbids all means all.
    let Some(lab) = Lab::new() else { return };
    let both = json!({ "insecureDockerfiles": true, "insecureRootCapabilities": false });
    configure(&lab, &both);
    let session = lab.session();
    let error = session.error(&asking);
    assert!(error.contains("is not allowed"), "{error}");
    session.close();
}

#[test]
fn root_passwords_in_addresses_are_in_no_error() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session();
    let unreachable = "FROM scratch\nADD http://us3r:pa55w0rd@127.0.0.1:9/f /caps\n";
    for query in [
        build(unreachable),
        build("FROM us3r:pa55w0rd@host.example/image\nRUN true\n"),
        "{container{from(address:\"us3r:pa55w0rd@host.example/image\"){id".to_owned(),
        "{container{from(address:\"https://us3r:pa55w0rd@host.example/image\"){id".to_owned(),
        "{container{publish(address:\"us3r:pa55w0rd@host.example/image:1\")".to_owned(),
        "{container{publish(address:\"https://us3r:pa55w0rd@host.example/image:1\")".to_owned(),
    ] {
        let error = session.error(&query);
        assert!(
            !error.contains("pa55w0rd") && !error.contains("us3r"),
            "{error}"
        );
    }
    session.close();
    let log = lab.log();
    assert!(!log.contains("pa55w0rd"), "{log}");
}
