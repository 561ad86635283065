//! Names as GraphQL spells them: types in UpperCamel, fields and arguments in lowerCamel.
//!
//! Spaces, `_`, `-` and `.` begin a new word, and so does a letter behind a digit. Of several capitals in a row only the
//! first stays one (`HTTPServer` becomes `Httpserver`). Other characters are dropped. `JSON` is a word of its own.

/// A type's name.
pub fn type_name(name: &str) -> String {
    match name.trim() {
        "JSON" => "JSON".to_owned(),
        name => camel(name, true),
    }
}

/// A field's or argument's name.
pub fn field_name(name: &str) -> String {
    match name.trim() {
        "JSON" => "json".to_owned(),
        "ID" => "id".to_owned(),
        name => camel(name, false),
    }
}

fn camel(name: &str, upper: bool) -> String {
    let mut out = String::with_capacity(name.len());
    let mut capital_next = upper;
    let mut after_capital = false;
    for (at, c) in name.char_indices() {
        if c.is_ascii_alphabetic() {
            let lower = !capital_next && c.is_ascii_uppercase() && (at == 0 || after_capital);
            out.push(if capital_next {
                c.to_ascii_uppercase()
            } else if lower {
                c.to_ascii_lowercase()
            } else {
                c
            });
            capital_next = false;
        } else if c.is_ascii_digit() {
            out.push(c);
            capital_next = true;
        } else {
            capital_next = matches!(c, '_' | ' ' | '-' | '.');
        }
        after_capital = c.is_ascii_uppercase();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let cases = [
            ("foo", "Foo"),
            ("fooBar", "FooBar"),
            ("foo_bar", "FooBar"),
            ("foo-bar", "FooBar"),
            ("Foo", "Foo"),
            ("FOO", "Foo"),
            ("HTTPServer", "Httpserver"),
            ("foo2bar", "Foo2Bar"),
            ("myJSON", "MyJson"),
            ("a b", "AB"),
            ("JSON", "JSON"),
            ("  x.y ", "XY"),
            ("Müller", "Mller"),
            ("", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(type_name(name), expected, "{name}");
        }
    }

    #[test]
    fn fields() {
        let cases = [
            ("some_field", "someField"),
            ("first_arg", "firstArg"),
            ("introspectionJSON", "introspectionJson"),
            ("Build", "build"),
            ("ID", "id"),
            ("id", "id"),
            ("JSON", "json"),
            ("containerEcho", "containerEcho"),
            ("URLPath", "urlpath"),
            ("", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(field_name(name), expected, "{name}");
        }
    }
}
