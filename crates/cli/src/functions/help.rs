//! Help for functions.

use super::{
    model::{Argument, Function, Input, Model, Object, Returned, TypeRef, kebab},
    parse::Asked,
};

/// The help for what was asked so far.
pub fn text(model: &Model, start: &Object, command: &str, asked: &Asked, bold: bool) -> String {
    let last = asked.calls.last().and_then(|call| {
        let object = model.object(&call.on)?;
        let function = object.functions.iter().find(|f| f.name == call.function)?;
        Some((object, function))
    });
    let next = match last {
        None => Some(start),
        Some((on, function)) => match model.returned(on, function) {
            Returned::Object(object) | Returned::Same(object) => Some(object),
            Returned::Value | Returned::Void => None,
        },
    };
    let about = last.map_or(start.description.as_str(), |(_, f)| f.description.as_str());
    let args: Vec<_> = last.iter().flat_map(|(_, f)| &f.args).collect();
    let args: Vec<_> = args
        .into_iter()
        .filter_map(|a| Some((a, model.input(&a.of)?)))
        .collect();
    let functions: Vec<_> = next.map(|o| listed(model, o)).unwrap_or_default();

    let mut out = String::new();
    if !about.trim().is_empty() {
        out.push_str(about.trim());
        out.push_str("\n\n");
    }
    let title = |name: &str| match bold {
        true => format!("\u{1b}[1m{name}\u{1b}[0m\n"),
        false => format!("{name}\n"),
    };
    out.push_str(&title("USAGE"));
    let arguments = if args.is_empty() { "" } else { " [arguments]" };
    let function = if functions.is_empty() {
        ""
    } else {
        " <function>"
    };
    out.push_str(&format!("  {command}{arguments}{function}\n"));
    if !functions.is_empty() {
        out.push('\n');
        out.push_str(&title("FUNCTIONS"));
        let rows = functions
            .iter()
            .map(|f| (kebab(&f.name), summary(&f.description)));
        table(rows.collect(), &mut out);
    }
    if !args.is_empty() {
        out.push('\n');
        out.push_str(&title("ARGUMENTS"));
        let rows = args.iter().map(|(argument, input)| {
            (
                format!("--{} {}", kebab(&argument.name), kind(&argument.of, *input)),
                about_argument(argument, *input),
            )
        });
        table(rows.collect(), &mut out);
    }
    out.push('\n');
    out.push_str(&title("OPTIONS"));
    let options = [
        ("-j, --json", "Print the result as JSON"),
        (
            "-o, --output string",
            "Save the result to a file or directory",
        ),
    ];
    let options = options.map(|(a, b)| (a.to_owned(), b.to_owned()));
    table(options.to_vec(), &mut out);
    if !functions.is_empty() {
        out.push_str(&format!(
            "\nUse \"{command}{arguments} <function> --help\" for more information about a function.\n"
        ));
    }
    out
}

/// The functions of an object that help shows.
pub fn listed<'a>(model: &Model, object: &'a Object) -> Vec<&'a Function> {
    let shown = |f: &&Function| {
        f.name != "id"
            && !f.deprecated
            && !(f.name.starts_with("load") && f.name.ends_with("FromID"))
            && model.callable(f)
    };
    object.functions.iter().filter(shown).collect()
}

fn kind(of: &TypeRef, input: Input<'_>) -> String {
    let list = of.lists > 0;
    let name = match input {
        Input::String => "string",
        Input::Int => "int",
        Input::Float => "float",
        Input::Boolean if !list => return String::new(),
        Input::Boolean => "bool",
        Input::Enum { values, .. } => {
            return format!("{}{}", values.join(","), if list { " …" } else { "" });
        }
        Input::Platform => "Platform",
        Input::PortForward => "PortForward",
        Input::Object(kind) => kind.name(),
    };
    match (list, input) {
        (false, _) => name.to_owned(),
        (true, Input::String | Input::Int | Input::Float | Input::Boolean) => format!("{name}s"),
        (true, _) => format!("[]{name}"),
    }
}

fn about_argument(argument: &Argument, input: Input<'_>) -> String {
    let mut text = argument.description.trim().replace('\n', " ");
    let shown = |d: &String| !["\"\"", "[]", "false", "null"].contains(&d.as_str());
    if argument.required() {
        text.push_str(" [required]");
    } else if let Some(default) = argument.default.as_ref().filter(|d| shown(d)) {
        match input {
            Input::Enum { .. } => text.push_str(&format!(" (default {default:?})")),
            _ => text.push_str(&format!(" (default {default})")),
        }
    }
    text.trim_start().to_owned()
}

/// The first sentence of a description, on one line.
fn summary(text: &str) -> String {
    let paragraph = text.trim().split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None if line.is_empty() => "-".to_owned(),
        None => line,
    }
}

fn table(rows: Vec<(String, String)>, out: &mut String) {
    let width = rows
        .iter()
        .map(|(a, _)| a.chars().count())
        .max()
        .unwrap_or(0);
    for (left, right) in rows {
        let line = format!("  {left:width$}   {right}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
