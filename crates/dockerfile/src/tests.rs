//! Whole Dockerfiles to whole plans.

use super::*;

fn options() -> Options {
    Options {
        platform: "linux/amd64".into(),
        build_platform: "linux/amd64".into(),
        ..Options::default()
    }
}

fn image() -> Settings {
    Settings {
        env: vec![("PATH".into(), "/bin".into()), ("BASE".into(), "b".into())],
        cmd: vec!["/bin/sh".into()],
        ..Settings::default()
    }
}

/// Plans with every image known as `image()`.
fn planned_with(text: &str, options: &Options, image: &Settings) -> Result<Plan, Error> {
    let source = parse("Dockerfile", text)?;
    let mut images = Images::new();
    loop {
        match plan(&source, options, &images)? {
            Answer::Plan(plan) => return Ok(*plan),
            Answer::Needs(keys) => images.extend(keys.into_iter().map(|k| (k, image.clone()))),
        }
    }
}

fn planned(text: &str) -> Plan {
    planned_with(text, &options(), &image()).unwrap_or_else(|e| panic!("{e}"))
}

fn fails(text: &str, want: &str) {
    match planned_with(text, &options(), &image()) {
        Ok(p) => panic!("{text} gave {p}"),
        Err(e) => assert!(e.to_string().contains(want), "{text}: {e}"),
    }
}

fn settings(text: &str) -> Settings {
    planned(text).target().expect("a stage").settings.clone()
}

fn runs(plan: &Plan) -> Vec<Run> {
    let steps = plan.stages.iter().flat_map(|s| &s.steps);
    steps
        .filter_map(|s| {
            if let Op::Run(r) = &s.op {
                Some(r.clone())
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn stages_that_nothing_needs_are_not_planned() {
    let p = planned(
        "FROM a AS one\nRUN false\nFROM b AS two\nRUN x\nFROM scratch\nCOPY --from=two /x /y\n",
    );
    assert_eq!(
        p.to_string(),
        "stage two from image b (linux/amd64)\n  4: run [\"/bin/sh\", \"-c\", \"x\"] as \"\" in /\n\
         stage 2 from scratch\n  6: copy /x from stage 1 to /y\n"
    );
}

#[test]
fn variables_have_their_scopes() {
    let text = "ARG TAG=1\nARG IMG=a:$TAG\nFROM $IMG AS x\nARG TAG\nARG W=$BASE-w\nENV E=$TAG W2=$W\nARG E=arg\nRUN y\nFROM x\nRUN z";
    let p = planned(text);
    assert_eq!(p.stages[0].base.to_string(), "image a:1 (linux/amd64)");
    let all = runs(&p);
    let env = |n: usize, k: &str| {
        all[n]
            .env
            .iter()
            .find(|(name, _)| name == k)
            .map(|(_, v)| v.clone())
    };
    assert_eq!(env(0, "TAG"), Some("1".into()));
    assert_eq!(env(0, "W2"), Some("b-w".into()));
    assert_eq!(env(0, "E"), Some("1".into()));
    // A stage inherits the arguments of the stage it is based on.
    assert_eq!(env(1, "W"), Some("b-w".into()));
    assert_eq!(p.stages[1].settings.var("W"), None);
    let given = Options {
        args: vec![
            ("TAG".into(), "2".into()),
            ("http_proxy".into(), "p".into()),
            ("NOT".into(), "x".into()),
        ],
        ..options()
    };
    let p = planned_with(text, &given, &image()).expect("a plan");
    assert_eq!(p.stages[0].base.to_string(), "image a:2 (linux/amd64)");
    assert!(runs(&p)[0].env.contains(&("http_proxy".into(), "p".into())));
    assert!(!runs(&p)[0].env.iter().any(|(k, _)| k == "NOT"));
}

#[test]
fn commands_reset_each_other_as_documented() {
    let s = settings("FROM a AS p\nCMD [\"x\"]\nFROM p\nENTRYPOINT [\"e\"]");
    assert!(s.cmd.is_empty());
    let s = settings("FROM a\nCMD x y\nENTRYPOINT e");
    assert_eq!(
        (s.cmd.join("|"), s.entrypoint.join("|")),
        ("/bin/sh|-c|x y".into(), "/bin/sh|-c|e".into())
    );
    let s = settings("FROM a\nSHELL [\"/bin/bash\", \"-ec\"]\nCMD x");
    assert_eq!(s.cmd, ["/bin/bash", "-ec", "x"]);
    assert_eq!(s.write()["Shell"], serde_json::json!(["/bin/bash", "-ec"]));
}

#[test]
fn configuration_is_written_as_images_have_it() {
    let s = settings(
        "FROM a\nEXPOSE 80 53/UDP 8000-8002\nVOLUME [\"/a b\"]\nVOLUME /c /d\nUSER u:g\nWORKDIR w/../x\nSTOPSIGNAL SIGINT\n\
         HEALTHCHECK --interval=1m30s --retries=3 CMD curl x\nLABEL a=\"b c\" 'd e'=f\nLABEL old style value\nONBUILD RUN <<E\nx\nE\n",
    );
    assert_eq!(
        serde_json::Value::Object(s.write()),
        serde_json::json!({
            "Env": ["PATH=/bin", "BASE=b"], "Cmd": ["/bin/sh"], "User": "u:g", "WorkingDir": "/x", "StopSignal": "SIGINT",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
            "Volumes": {"/a b": {}, "/c": {}, "/d": {}}, "Labels": {"a": "b c", "d e": "f", "old": "style value"},
            "Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90_000_000_000i64, "Retries": 3},
            "OnBuild": ["RUN <<E\nx\nE"],
        })
    );
    assert_eq!(Settings::read(&s.write()), s);
    let s = settings("FROM a\nMAINTAINER Some One <some@example.org>\nEXPOSE 36412/SCTP");
    assert_eq!(s.author.as_deref(), Some("Some One <some@example.org>"));
    assert_eq!(s.exposed, ["36412/sctp"]);
    fails("FROM a\nEXPOSE 80/icmp", "it is tcp, udp or sctp");
    assert_eq!(
        settings("FROM a\nHEALTHCHECK NONE").healthcheck,
        Some(serde_json::json!({"Test": ["NONE"]}))
    );
}

#[test]
fn heredocs_run_and_become_files() {
    let p =
        planned("FROM a\nRUN <<E\na\nE\nRUN <<'S'\n#!/x\nb\nS\nRUN cat <<A && <<B\n1\nA\n2\nB\n");
    let r = runs(&p);
    assert_eq!(r[0].argv, ["/bin/sh", "-c", "a\n"]);
    assert_eq!(r[1].argv, ["/dev/pipes/S"]);
    assert_eq!(
        r[1].script,
        Some(("/dev/pipes/S".into(), "#!/x\nb\n".into()))
    );
    assert_eq!(r[2].argv[2], "cat <<A && <<B\n1\nA\n2\nB\n");
    let p = planned("FROM a\nENV V=x\nCOPY <<E <<'F' a /d/\nit's \"$V\" \\$V \\n ${V}\nE\n$V\nF\n");
    let Op::Copy(c) = &p.stages[0].steps[0].op else {
        panic!("{p}")
    };
    assert_eq!(c.inline[0].body, "it's \"x\" $V \\n x\n");
    assert_eq!(c.inline[1].body, "$V\n");
    assert_eq!(c.sources, ["a"]);
}

#[test]
fn triggers_of_the_base_come_first() {
    let base = Settings {
        onbuild: vec![
            "COPY . /app".into(),
            "RUN --mount=from=tools,target=/t x".into(),
        ],
        ..image()
    };
    let p = planned_with("FROM a\nRUN y", &options(), &base).expect("a plan");
    assert_eq!(p.stages[0].steps.len(), 3);
    assert!(p.stages[0].settings.onbuild.is_empty());
    let p = planned("FROM a AS p\nONBUILD RUN t\nFROM p\nRUN y");
    assert_eq!(runs(&p).len(), 2);
    let bad = Settings {
        onbuild: vec!["FROM x".into()],
        ..image()
    };
    let e = planned_with("FROM a", &options(), &bad)
        .expect_err("refused")
        .to_string();
    assert!(e.contains("isn't allowed as an ONBUILD trigger"), "{e}");
}

#[test]
fn targets_are_names_or_numbers() {
    let text = "FROM a AS one\nFROM b AS two\nFROM c\n";
    for (target, want) in [("", "2"), ("ONE", "one"), ("1", "two")] {
        let o = Options {
            target: target.into(),
            ..options()
        };
        assert_eq!(
            planned_with(text, &o, &image())
                .expect("a plan")
                .target()
                .expect("one")
                .name,
            want
        );
    }
    let o = Options {
        target: "nope".into(),
        ..options()
    };
    let e = planned_with(text, &o, &image())
        .expect_err("none")
        .to_string();
    assert!(
        e.contains("target stage \"nope\" could not be found; there are one, two"),
        "{e}"
    );
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, want) in [
        (
            "RUN x",
            "Dockerfile:1: `RUN x`: no build stage in current context",
        ),
        ("", "no instructions"),
        ("FROM ${X}", "base name (${X}) should not be blank"),
        ("FROM a as", "FROM requires either one or three arguments"),
        ("FROM a AS 1x", "invalid name for build stage"),
        ("FROM a\nCOPY x", "requires at least two arguments"),
        ("FROM a\nCOPY --frm=b x y", "unknown flag: frm"),
        ("FROM a\nCOPY --from=0 x y", "not before this one"),
        ("FROM a AS b\nCOPY --from=b x y", "circular dependency"),
        (
            "FROM a AS b\nCOPY --from=c x y\nFROM a AS c\nCOPY --from=b x y",
            "circular dependency",
        ),
        ("FROM a\nCOPY --chmod=9 x y", "invalid chmod"),
        ("FROM a\nCOPY http://x/y /", "source can't be a URL"),
        ("FROM a\nENV a b=c d\nENV x=1 y", "can't find = in \"y\""),
        ("FROM a\nENV a", "must have two arguments"),
        ("FROM a\nEXPOSE 70000", "invalid port"),
        ("FROM a\nEXPOSE 8080:80", "invalid port"),
        ("FROM a\nSHELL bash", "JSON form"),
        (
            "FROM a\nRUN --mount=type=x,target=/a b",
            "unsupported mount type",
        ),
        (
            "FROM a\nRUN --network=host x",
            "network.host is not allowed",
        ),
        (
            "FROM a\nONBUILD FROM b",
            "isn't allowed as an ONBUILD trigger",
        ),
        ("FROM a\nONBUILD COPY x", "requires at least two arguments"),
        ("FROM a\nHEALTHCHECK curl", "Unknown type"),
        ("FROM a\nHEALTHCHECK --interval=3 CMD x", "invalid duration"),
        ("FROM a\nUSER \"x", "matching double-quote"),
        ("FROM a\nENV A=\"${B:?give B}\"", "B: give B"),
        ("FROM a\nSTOPSIGNAL 99", "no signal"),
    ] {
        fails(text, want);
    }
}

#[test]
fn many_stages_are_no_recursion() {
    let mut text = "FROM a AS s0\n".to_owned();
    for i in 1..5000 {
        text.push_str(&format!("FROM s{} AS s{i}\n", i - 1));
    }
    assert_eq!(planned(&text).stages.len(), 5000);
}
