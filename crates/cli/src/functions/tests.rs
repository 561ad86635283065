//! Command lines against a small API.

use serde_json::{Value as Json, json};

use super::{
    help,
    model::{Model, kebab, same_name},
    parse::{Asked, Known, Reader, Stop},
    plan::{self, Finish, Plan},
    print::{self, Style},
};

fn of(text: &str) -> Json {
    if let Some(inner) = text.strip_suffix('!') {
        return json!({"kind": "NON_NULL", "name": null, "ofType": of(inner)});
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return json!({"kind": "LIST", "name": null, "ofType": of(inner)});
    }
    json!({"kind": "SCALAR", "name": text, "ofType": null})
}

/// `name(arg:Type=default,…):Type`
fn field(text: &str) -> Json {
    let (head, returns) = text.rsplit_once("):").unwrap();
    let (name, args) = head.split_once('(').unwrap();
    let args: Vec<_> = args
        .split(',')
        .filter(|a| !a.is_empty())
        .map(|a| {
            let (name, rest) = a.split_once(':').unwrap();
            let (t, default) = match rest.split_once('=') {
                Some((t, d)) => (t, Some(d)),
                None => (rest, None),
            };
            json!({"name": name, "description": "About.", "defaultValue": default, "type": of(t)})
        })
        .collect();
    json!({"name": name, "description": format!("Does {name}\nthis. More."), "isDeprecated": false, "args": args, "type": of(returns)})
}

fn model() -> Model {
    let object = |name: &str, fields: &[&str]| {
        json!({"kind": "OBJECT", "name": name, "description": "", "enumValues": null,
            "fields": fields.iter().map(|f| field(f)).collect::<Vec<_>>()})
    };
    let mut types = vec![
        object(
            "Query",
            &[
                "container(platform:Platform):Container!",
                "version():String!",
                "host():Host!",
                "needs(what:Strange!):String!",
                "loadContainerFromID(id:ContainerID!):Container!",
            ],
        ),
        object(
            "Container",
            &[
                "id():ContainerID!",
                "from(address:String!):Container!",
                "withExec(args:[String!]!,useEntrypoint:Boolean=false,expect:ReturnType=SUCCESS):Container!",
                "withMountedSecret(path:String!,source:SecretID!):Container!",
                "withPorts(ports:[Int!]!,files:[FileID!]):Container!",
                "envVariables():[EnvVariable!]!",
                "stdout():String!",
                "sync():ContainerID!",
                "user():String!",
                "up():Void",
                "rootfs():Directory!",
                "entrypoint():[String!]!",
            ],
        ),
        object(
            "EnvVariable",
            &["id():EnvVariableID!", "name():String!", "value():String!"],
        ),
        object(
            "Directory",
            &["id():DirectoryID!", "entries(path:String):[String!]!"],
        ),
        object("File", &["id():FileID!"]),
        object("Secret", &["id():SecretID!", "plaintext():String!"]),
        object("Host", &["directory(path:String!):Directory!"]),
        json!({"kind": "ENUM", "name": "ReturnType", "enumValues": [{"name": "SUCCESS"}, {"name": "FAILURE"}]}),
    ];
    for scalar in [
        "String",
        "Int",
        "Boolean",
        "Void",
        "Platform",
        "ContainerID",
        "EnvVariableID",
        "DirectoryID",
        "FileID",
        "SecretID",
        "HostID",
    ] {
        types.push(json!({"kind": "SCALAR", "name": scalar}));
    }
    Model::from_introspection(json!({"__schema": {"queryType": {"name": "Query"}, "types": types}}))
        .unwrap()
}

fn read(model: &Model, line: &[&str]) -> Result<Asked, Stop> {
    let known =
        [("--progress", true), ("--silent", false), ("-v", false)].map(|(n, takes_value)| Known {
            name: n.to_owned(),
            takes_value,
        });
    let words: Vec<String> = line.iter().map(ToString::to_string).collect();
    Reader {
        model,
        start: model.root().unwrap(),
        program: "dagger core",
        known: &known,
    }
    .read(&words)
}

fn planned(line: &[&str], ids: &[&str], output: Option<&str>) -> Plan {
    let model = model();
    let asked = read(&model, line).unwrap();
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(plan::objects(&asked).len(), ids.len());
    plan::plan(&model, &asked, &ids, output)
}

fn mistake(line: &[&str]) -> String {
    match read(&model(), line) {
        Err(Stop::Mistake { message, .. }) => message,
        other => panic!("{line:?}: {other:?}"),
    }
}

#[test]
fn names_are_found_in_any_spelling() {
    for (name, spelled) in [
        ("withExec", "with-exec"),
        ("loadContainerFromID", "load-container-from-id"),
        ("asTarball", "as-tarball"),
        ("setSecretURIFor", "set-secret-uri-for"),
        ("snake_case", "snake-case"),
    ] {
        assert_eq!(kebab(name), spelled);
        assert!(same_name(name, spelled));
    }
    assert!(same_name("withExec", "with_exec"));
    assert!(!same_name("withExec", "with-exe"));
}

#[test]
fn a_chain_is_one_query() {
    let plan = planned(
        &[
            "container",
            "from",
            "--address",
            "a:1",
            "with-exec",
            "--args",
            "sh,-c",
            "--args=exit 5",
            "--use_entrypoint",
            "--expect",
            "failure",
            "stdout",
        ],
        &[],
        None,
    );
    assert_eq!(
        plan.query,
        r#"{container{from(address:"a:1"){withExec(args:["sh","-c","exit 5"],useEntrypoint:true,expect:FAILURE){stdout}}}}"#
    );
    assert_eq!(plan.effects, Vec::<String>::new());
    assert_eq!(plan.path, ["container", "from", "withExec", "stdout"]);
    assert_eq!(plan.finish, Finish::Print);
}

#[test]
fn objects_get_their_ids_first() {
    let line = [
        "container",
        "with-mounted-secret",
        "--path",
        "/s",
        "--source",
        "env:X",
        "with-ports",
        "--ports",
        "1,2",
        "--files",
        "a,b",
        "user",
    ];
    assert_eq!(
        planned(&line, &["S", "A", "B"], None).query,
        r#"{container{withMountedSecret(path:"/s",source:"S"){withPorts(ports:[1,2],files:["A","B"]){user}}}}"#
    );
    let query = plan::ids_query(&["x{id}".to_owned(), "y{z{start}}".to_owned()]);
    assert_eq!(query, "{a0:x{id} a1:y{z{start}}}");
    let data = json!({"a0": {"id": "X"}, "a1": {"z": {"start": "Y"}}});
    assert_eq!(plan::ids(&data, 2), ["X", "Y"]);
    assert_eq!(
        plan::without_aliases(
            "input: a1.file resolve: gone\ninput: a10.x",
            &["x{id}".to_owned(), "host{file(path:\"a\"){id}}".to_owned()]
        ),
        "input: host.file resolve: gone\ninput: a10.x"
    );
}

#[test]
fn an_object_is_synced_shown_or_saved() {
    let plan = planned(&["container"], &[], None);
    assert_eq!(plan.effects, ["{container{sync}}"]);
    assert_eq!(plan.query, "{container{_type:__typename entrypoint user}}");
    let plan = planned(&["container", "sync", "rootfs"], &[], Some("/out"));
    assert_eq!(plan.effects, ["{container{sync}}"]);
    assert_eq!(plan.query, r#"{container{rootfs{export(path:"/out")}}}"#);
    assert_eq!(plan.finish, Finish::Saved);
    let plan = planned(&["container", "up"], &[], Some("/out"));
    assert_eq!(plan.finish, Finish::Nothing);
}

#[test]
fn flags_of_every_command_stand_anywhere() {
    let asked = read(
        &model(),
        &[
            "-o",
            "out",
            "container",
            "--progress",
            "plain",
            "-vj",
            "--silent",
            "stdout",
        ],
    )
    .unwrap();
    assert_eq!(asked.output.as_deref(), Some("out"));
    assert!(asked.json);
    assert_eq!(asked.calls.len(), 2);
}

#[test]
fn mistakes_are_told_in_dagger_s_words() {
    for (line, says) in [
        (
            &["container", "nope"][..],
            "unknown command \"nope\" for \"dagger core container\"",
        ),
        (
            &["container", "stdout", "more"],
            "unknown command \"more\" for \"dagger core container stdout\"",
        ),
        (
            &["container", "from", "stdout"],
            "required flag(s) \"address\" not set",
        ),
        (
            &["container", "with-mounted-secret", "nope"],
            "required flag(s) \"path\", \"source\" not set",
        ),
        (&["container", "--nope"], "unknown flag: --nope"),
        (&["container", "-z"], "unknown shorthand flag: 'z' in -z"),
        (
            &["container", "from", "--address"],
            "flag needs an argument: --address",
        ),
        (
            &["container", "with-ports", "--ports", "x"],
            "invalid argument \"x\" for \"--ports\" flag: not a whole number",
        ),
        (
            &["container", "with-exec", "--expect", "x"],
            "invalid argument \"x\" for \"--expect\" flag: value should be one of SUCCESS,FAILURE",
        ),
        (&["needs"], "unknown command \"needs\" for \"dagger core\""),
    ] {
        assert_eq!(mistake(line), says);
    }
}

#[test]
fn help_needs_no_flags() {
    let model = model();
    let Err(Stop::Help { command, asked }) =
        read(&model, &["container", "from", "with-exec", "--help"])
    else {
        panic!()
    };
    let text = help::text(&model, model.root().unwrap(), &command, &asked, false);
    expect_test::expect![[r#"
        Does withExec
        this. More.

        USAGE
          dagger core container from with-exec [arguments] <function>

        FUNCTIONS
          entrypoint            Does entrypoint this.
          env-variables         Does envVariables this.
          from                  Does from this.
          rootfs                Does rootfs this.
          stdout                Does stdout this.
          sync                  Does sync this.
          up                    Does up this.
          user                  Does user this.
          with-exec             Does withExec this.
          with-mounted-secret   Does withMountedSecret this.
          with-ports            Does withPorts this.

        ARGUMENTS
          --args strings             About. [required]
          --use-entrypoint           About.
          --expect SUCCESS,FAILURE   About. (default "SUCCESS")

        OPTIONS
          -j, --json            Print the result as JSON
          -o, --output string   Save the result to a file or directory

        Use "dagger core container from with-exec [arguments] <function> --help" for more information about a function.
    "#]]
    .assert_eq(&text);
    assert!(matches!(read(&model, &[]), Err(Stop::Help { .. })));
}

#[test]
fn results_are_at_the_end_of_the_path() {
    let path: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    assert_eq!(plan::result(json!({"a": {"b": {"c": 1}}}), &path), json!(1));
    assert_eq!(
        plan::result(json!({"a": {"b": [{"c": "x"}, {"c": ["y", "z"]}]}}), &path),
        json!(["x", "y", "z"])
    );
    assert_eq!(plan::result(json!({"a": null}), &path), Json::Null);
}

#[test]
fn results_are_printed_raw_as_json_or_as_yaml() {
    let style = |json, terminal| Style { json, terminal };
    let raw = style(false, false);
    assert_eq!(print::text(&json!("raw"), raw), "raw");
    assert_eq!(print::text(&json!("raw"), style(false, true)), "raw\n");
    assert_eq!(
        print::text(&json!("<raw>"), style(true, false)),
        "\"<raw>\"\n"
    );
    assert_eq!(print::text(&json!(["A", 80, true]), raw), "A\n80\ntrue\n");
    assert_eq!(print::text(&json!([]), raw), "");
    assert_eq!(print::text(&Json::Null, style(false, true)), "");
    let object =
        json!({"_type": "T", "list": ["a b", "yes"], "none": [], "size": 3, "text": "a: b"});
    assert_eq!(
        print::text(&object, style(false, true)),
        "_type: T\nlist:\n    - a b\n    - \"yes\"\nnone: []\nsize: 3\ntext: \"a: b\"\n"
    );
    assert_eq!(
        print::text(&json!([{"_type": "T", "x": 1}]), style(false, true)),
        "- _type: T\n  x: 1\n"
    );
    assert_eq!(
        print::text(&json!({"_type": "T"}), raw),
        "{\n    \"_type\": \"T\"\n}\n"
    );
}
