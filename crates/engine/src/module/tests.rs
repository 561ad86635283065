//! The fields through the door that clients use.

use graph::resolve::View;
use serde_json::{Value as Json, json};

use crate::testkit::{Asker, Kit};

const OLD: View = View::new(0, 14, 0);
const NEW: View = View::new(0, 21, 7);

async fn text_kind(s: &Asker) -> String {
    s.text("{typeDef{withKind(kind:STRING_KIND){id}}}").await
}

#[tokio::test]
async fn root_descriptions_are_built_step_by_step() {
    let kit = Kit::new();
    let s = kit.session(OLD);
    let text = text_kind(&s).await;
    let place = s
        .text("{sourceMap(filename:\"main.go\",line:3,column:7){id}}")
        .await;
    let function = s
        .text(&format!(
            "{{function(name:\"greet_all\",returnType:\"{text}\"){{withDescription(description:\"says hello\"){{\
             withArg(name:\"first_name\",typeDef:\"{text}\",defaultValue:\"\\\"bob\\\"\",description:null,sourceMap:\"{place}\"){{id}}}}}}}}"
        ))
        .await;
    let object = s
        .text(&format!(
            "{{typeDef{{withObject(name:\"my-thing\",description:\"d\"){{withField(name:\"some_field\",typeDef:\"{text}\"){{\
             withFunction(function:\"{function}\"){{withConstructor(function:\"{function}\"){{id}}}}}}}}}}}}"
        ))
        .await;
    let shown = s
        .data(&format!(
            "{{loadTypeDefFromID(id:\"{object}\"){{kind optional asList{{elementTypeDef{{kind}}}} asObject{{name description sourceModuleName \
             fields{{name typeDef{{kind}}}} functions{{name description returnType{{kind}} args{{name defaultValue sourceMap{{line}} \
             typeDef{{kind}}}}}} constructor{{name}} sourceMap{{filename}}}}}}}}"
        ))
        .await;
    assert_eq!(
        shown["loadTypeDefFromID"],
        json!({
            "kind": "OBJECT_KIND", "optional": false, "asList": null,
            "asObject": {
                "name": "MyThing", "description": "d", "sourceModuleName": "",
                "fields": [{"name": "someField", "typeDef": {"kind": "STRING_KIND"}}],
                "functions": [{
                    "name": "greetAll", "description": "says hello", "returnType": {"kind": "STRING_KIND"},
                    "args": [{"name": "firstName", "defaultValue": "\"bob\"", "sourceMap": {"line": 3}, "typeDef": {"kind": "STRING_KIND"}}],
                }],
                "constructor": {"name": "greetAll"},
                "sourceMap": {"filename": ""},
            },
        })
    );
}

#[tokio::test]
async fn root_ids_load_in_another_session() {
    let kit = Kit::new();
    let s = kit.session(OLD);
    let text = text_kind(&s).await;
    let arg = format!(
        "{{function(name:\"f\",returnType:\"{text}\"){{withArg(name:\"x\",typeDef:\"{text}\"){{args{{id}}}}}}}}"
    );
    let list = s.leaf(&arg).await;
    let id = list[0]["id"].as_str().expect("an ID");
    let other = kit.session(OLD);
    let shown = other
        .leaf(&format!("{{loadFunctionArgFromID(id:\"{id}\"){{name}}}}"))
        .await;
    assert_eq!(shown, json!("x"));
    let module = s
        .text("{module{withDescription(description:\"d\"){id}}}")
        .await;
    let shown = other
        .data(&format!(
            "{{loadModuleFromID(id:\"{module}\"){{name description objects{{kind}}}}}}"
        ))
        .await;
    assert_eq!(
        shown["loadModuleFromID"],
        json!({"name": "", "description": "d", "objects": []})
    );
}

#[tokio::test]
async fn root_newer_clients_see_more() {
    let kit = Kit::new();
    let s = kit.session(NEW);
    let shown = s
        .data(
            "{typeDef{withEnum(name:\"level\"){withEnumMember(name:\"LOW\",value:\"low\",deprecated:\"no\"){name kind \
             asEnum{sourceMap{line} members{name value deprecated}}}}}}",
        )
        .await;
    assert_eq!(
        shown["typeDef"]["withEnum"]["withEnumMember"],
        json!({
            "name": "Level", "kind": "ENUM_KIND",
            "asEnum": {"sourceMap": null, "members": [{"name": "LOW", "value": "low", "deprecated": "no"}]},
        })
    );
    assert_eq!(
        s.leaf("{typeDef{withKind(kind:STRING){kind}}}").await,
        json!("STRING_KIND")
    );
    let shown = s
        .leaf(
            "{error(message:\"m\"){withValue(name:\"n\",value:\"1\"){message values{name value}}}}",
        )
        .await;
    assert_eq!(
        shown,
        json!({"message": "m", "values": [{"name": "n", "value": "1"}]})
    );
}

/// The entry of the list in which `as` has this name.
fn find<'a>(types: &'a Json, as_: &str, name: &str) -> &'a Json {
    let all = types.as_array().expect("a list");
    all.iter()
        .map(|t| &t[as_])
        .find(|t| t["name"] == *name)
        .unwrap_or_else(|| panic!("no {name}"))
}

#[tokio::test]
async fn root_all_types_are_described() {
    let kit = Kit::new();
    for view in [View::new(0, 9, 0), OLD, NEW] {
        let s = kit.session(view);
        let types = s
            .leaf(
                "{currentTypeDefs{kind asObject{name description functions{name returnType{kind asList{elementTypeDef{kind}}} \
                 args{name defaultValue typeDef{kind optional asObject{name}}}}} asInput{name fields{name}} asEnum{name values{name}} \
                 asScalar{name}}}",
            )
            .await;
        let container = find(&types, "asObject", "Container");
        let functions = container["functions"].as_array().expect("functions");
        assert!(!functions.iter().any(|f| f["name"] == "id"));
        let function = functions
            .iter()
            .find(|f| f["name"] == "withMountedDirectory")
            .expect("a function");
        let args = function["args"].as_array().expect("arguments");
        assert_eq!(
            args[1]["typeDef"],
            json!({"kind": "OBJECT_KIND", "optional": false, "asObject": {"name": "Directory"}}),
            "{view}"
        );
        find(&types, "asObject", "Query");
        assert_eq!(
            find(&types, "asInput", "BuildArg")["fields"],
            json!([{"name": "name"}, {"name": "value"}])
        );
        find(&types, "asEnum", "NetworkProtocol");
        find(&types, "asScalar", "Platform");
        for arg in types
            .as_array()
            .expect("a list")
            .iter()
            .flat_map(|t| t["asObject"]["functions"].as_array())
            .flatten()
        {
            for arg in arg["args"].as_array().expect("arguments") {
                if let Some(text) = arg["defaultValue"].as_str() {
                    assert!(serde_json::from_str::<Json>(text).is_ok(), "{text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn root_nobody_is_inside_a_module() {
    let kit = Kit::new();
    let s = kit.session(OLD);
    assert!(
        s.error("{currentModule{name}}")
            .await
            .contains("does not run inside a module")
    );
    assert!(
        s.error("{currentFunctionCall{name}}")
            .await
            .contains("does not run inside a function")
    );
    assert!(
        s.error("{module{initialize{id}}}")
            .await
            .contains("Module.initialize is not available")
    );
    let text = text_kind(&s).await;
    assert!(
        s.error(&format!(
            "{{module{{withObject(object:\"{text}\"){{id}}}}}}"
        ))
        .await
        .contains("expected the description of an object")
    );
}
