use std::collections::HashSet;

use super::*;

/// The tree of the recorded cases, in walk order.
const TREE: &[&str] = &[
    ".env",
    "a.txt",
    "b.md",
    "build",
    "build/out.bin",
    "docs",
    "docs/img",
    "docs/img/p.png",
    "docs/readme.md",
    "empty",
    "node_modules",
    "node_modules/x",
    "node_modules/x/index.js",
    "src",
    "src/lib",
    "src/lib/data.json",
    "src/lib/util.go",
    "src/main.go",
    "src/main_test.go",
    "src/node_modules",
    "src/node_modules/y",
    "src/node_modules/y/index.js",
];

fn apply(include: &[&str], exclude: &[&str]) -> Vec<String> {
    let filter = Filter::new(include, exclude).unwrap();
    let listed = list_without_pruning(&filter);
    assert_eq!(listed, walk(&filter), "a pruning walk differs");
    listed
}

/// What is included, and its parents.
fn list_without_pruning(filter: &Filter) -> Vec<String> {
    let included: Vec<&str> = TREE
        .iter()
        .copied()
        .filter(|p| filter.decide(p, false) == Decision::Include)
        .collect();
    let emitted: HashSet<&str> = included
        .iter()
        .copied()
        .flat_map(self_and_parents)
        .collect();
    TREE.iter()
        .filter(|p| emitted.contains(*p))
        .map(|p| (*p).to_owned())
        .collect()
}

fn self_and_parents(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |p| p.rsplit_once('/').map(|(dir, _)| dir))
}

/// The same by steps, pruning, as a real walk does it.
fn walk(filter: &Filter) -> Vec<String> {
    fn visit(
        filter: &Filter,
        state: &DirState,
        prefix: &str,
        pending: &mut Vec<String>,
        out: &mut Vec<String>,
    ) {
        for path in TREE {
            let Some(name) = path.strip_prefix(prefix) else {
                continue;
            };
            if name.is_empty() || name.contains('/') {
                continue;
            }
            let inner = format!("{path}/");
            let is_dir = *path == "empty" || TREE.iter().any(|p| p.starts_with(&inner));
            let step = filter.step(state, path.as_bytes(), is_dir);
            assert_eq!(step.decision, filter.decide(path, is_dir));
            assert_eq!(step.descend, is_dir && filter.may_contain(path));
            pending.push((*path).to_owned());
            if step.decision == Decision::Include {
                out.append(pending);
            }
            if step.descend {
                visit(filter, &step.state, &inner, pending, out);
            }
            if pending.last().is_some_and(|last| last == path) {
                pending.pop();
            }
        }
    }
    let mut out = Vec::new();
    visit(filter, &DirState::default(), "", &mut Vec::new(), &mut out);
    out
}

fn without(gone: &[&str]) -> Vec<String> {
    let below = |path: &str, dir: &str| path == dir || path.starts_with(&format!("{dir}/"));
    TREE.iter()
        .filter(|path| !gone.iter().any(|dir| below(path, dir)))
        .map(|p| (*p).to_owned())
        .collect()
}

#[test]
fn excludes() {
    for (exclude, gone) in [
        (&["node_modules"][..], &["node_modules"][..]),
        (&["node_modules/"], &["node_modules"]),
        (&["docs/*"], &["docs/img", "docs/readme.md"]),
        (&["docs/**"], &["docs/img", "docs/readme.md"]),
        (&["*.md"], &["b.md"]),
        (&["**/*.md"], &["b.md", "docs/readme.md"]),
        (&["./docs"], &["docs"]),
        (&["docs", "!docs/readme.md"], &["docs/img"]),
        (
            &["**/*.go", "!**/*_test.go"],
            &["src/lib/util.go", "src/main.go"],
        ),
        (&["?.txt"], &["a.txt"]),
        (&[""], &[]),
        (&["#docs", "docs"], &["docs"]),
        (&[" docs "], &["docs"]),
        (&["."], &[]),
        (&["../docs"], &[]),
        (&["{docs,src}"], &[]),
        (&["/docs"], &[]),
    ] {
        assert_eq!(apply(&[], exclude), without(gone), "{exclude:?}");
    }
    assert!(apply(&[], &["*"]).is_empty());
    let src = TREE
        .iter()
        .filter(|p| p.starts_with("src"))
        .map(|p| (*p).to_owned())
        .collect::<Vec<_>>();
    assert_eq!(apply(&[], &["*", "!src"]), src);
    assert_eq!(apply(&[], &["**", "!src/main.go"]), ["src", "src/main.go"]);
}

#[test]
fn includes() {
    let src: Vec<String> = TREE
        .iter()
        .filter(|p| p.starts_with("src"))
        .map(|p| (*p).to_owned())
        .collect();
    for include in ["src", "src/", "src/*", "src/**"] {
        assert_eq!(apply(&[include], &[]), src, "{include}");
    }
    assert_eq!(apply(&["a.txt"], &[]), ["a.txt"]);
    assert_eq!(apply(&["empty"], &[]), ["empty"]);
    assert_eq!(apply(&["**/*.md"], &[]), ["b.md", "docs", "docs/readme.md"]);
    assert_eq!(
        apply(&["src/lib/util.go"], &[]),
        ["src", "src/lib", "src/lib/util.go"]
    );
    assert_eq!(
        apply(&["**/node_modules"], &[]),
        [
            "node_modules",
            "node_modules/x",
            "node_modules/x/index.js",
            "src",
            "src/node_modules",
            "src/node_modules/y",
            "src/node_modules/y/index.js",
        ]
    );
    assert_eq!(apply(&["*"], &[]), without(&[]));
    let no_lib: Vec<String> = src
        .iter()
        .filter(|p| !p.starts_with("src/lib"))
        .cloned()
        .collect();
    assert_eq!(apply(&["src", "!src/lib"], &[]), no_lib);
    assert_eq!(apply(&["src"], &["src/lib"]), no_lib);
    assert!(apply(&["src"], &["src"]).is_empty());
}

#[test]
fn prunes_before_descending() {
    let descends = |include: &[&str], exclude: &[&str], dir: &str| {
        Filter::new(include, exclude).unwrap().may_contain(dir)
    };
    assert!(!descends(&[], &["node_modules"], "node_modules"));
    assert!(!descends(&[], &["docs", "!src/x"], "docs"));
    assert!(descends(&[], &["docs", "!docs/x"], "docs"));
    assert!(descends(&[], &["docs", "!**/x"], "docs"));
    assert!(!descends(&["src/lib"], &[], "docs"));
    assert!(descends(&["src/lib"], &[], "src"));
    assert!(descends(&["src/lib"], &[], "src/lib/deep"));
    assert!(!descends(&["*.md"], &[], "docs"));
    assert!(descends(&["**/*.md"], &[], "docs"));
    assert!(descends(&[], &["*"], ""));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec![
                "a", "b", "c", "*", "?", "**", "[ab]", "[^a]", "/", "\\a",
            ]),
            1..6,
        )
        .prop_flat_map(|parts| {
            let body = parts.concat();
            prop_oneof![Just(body.clone()), Just(format!("!{body}"))]
        })
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec("[abc]{1,2}", 1..5).prop_map(|parts| parts.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// Whatever is included lies only in directories that the walk looks into.
        #[test]
        fn pruning_loses_nothing(include in prop::collection::vec(pattern(), 0..3), exclude in prop::collection::vec(pattern(), 0..4), path in path()) {
            let Ok(filter) = Filter::new(&include, &exclude) else { return Ok(()) };
            if filter.decide(&path, false) == Decision::Include {
                for dir in self_and_parents(&path).skip(1) {
                    prop_assert!(filter.may_contain(dir), "{} in {}", path, dir);
                }
            }
        }

        /// A pattern matches below a directory only if it was said to be possible.
        #[test]
        fn may_match_below_is_sound(pattern in pattern(), path in path()) {
            let Ok(Some(pattern)) = crate::pattern::Pattern::compile(&pattern) else { return Ok(()) };
            if pattern.matches(path.as_bytes()) {
                for dir in self_and_parents(&path).skip(1) {
                    prop_assert!(pattern.may_match_below(dir.as_bytes()));
                }
            }
        }

        /// Without `**`, and without a class that holds `/`, a pattern is `filepath.Match`. With one they differ, here as in
        /// Go: `filepath.Match` settles for the first fit of what stands between two stars.
        #[test]
        fn agrees_with_go_match(pattern in pattern(), path in path()) {
            let mut pattern = pattern.replace('!', "").replace("[^a]", "[ab]");
            while pattern.contains("**") {
                pattern = pattern.replace("**", "*");
            }
            let cleaned = crate::clean(&pattern);
            prop_assume!(!cleaned.contains("**"));
            let Ok(Some(compiled)) = crate::pattern::Pattern::compile(&pattern) else { return Ok(()) };
            prop_assert_eq!(compiled.matches(path.as_bytes()), crate::go_match(&cleaned, path.as_bytes()).unwrap());
        }

        /// Nothing panics on arbitrary text.
        #[test]
        fn any_text_is_safe(pattern in ".{0,20}", path in ".{0,20}") {
            if let Ok(filter) = Filter::new(&[pattern.as_str()], &[pattern.as_str()]) {
                filter.decide(&path, false);
                filter.may_contain(&path);
            }
        }
    }
}
