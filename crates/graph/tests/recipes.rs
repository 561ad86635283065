//! Recipes: equal ones have equal digests and IDs, in this version and the next; whatever is read is read back.

use std::sync::Arc;

use graph::call::{Call, IdError, Literal};
use proptest::prelude::*;

fn text(s: &str) -> Literal {
    Literal::String(s.into())
}

/// Changing how digests or IDs are made means that IDs handed out before no longer load: do it on purpose only.
#[test]
fn digests_and_ids_stay_what_they_are() {
    let dir = Call::new(None, "directory", vec![], "Directory");
    let from = Call::new(
        Some(Call::new(None, "container", vec![], "Container")),
        "from",
        vec![("address".into(), text("alpine"))],
        "Container",
    );
    let args = vec![
        ("path".into(), text("/src")),
        ("directory".into(), Literal::Call(dir)),
        (
            "exclude".into(),
            Literal::List(vec![text("*.o"), Literal::Enum("ALL".into())]),
        ),
        (
            "opts".into(),
            Literal::Input(vec![
                ("n".into(), Literal::Int(-7)),
                ("f".into(), Literal::Float(0.5)),
                ("b".into(), Literal::Bool(true)),
            ]),
        ),
        ("owner".into(), Literal::Null),
    ];
    let call = Call::with(Some(from), "withDirectory", args, "Container", 2, "v0.12.0");
    assert_eq!(call.digest().to_string(), GOLDEN_DIGEST);
    assert_eq!(call.encode(), GOLDEN_ID);
    assert_eq!(
        Call::decode(GOLDEN_ID).expect("an ID").digest(),
        call.digest()
    );
}

const GOLDEN_DIGEST: &str = "xxh3:9cccbbe6999b34e02495a53683c92bde";
const GOLDEN_ID: &str = concat!(
    "AQAJZGlyZWN0b3J5CURpcmVjdG9yeQAAAAAJY29udGFpbmVyCUNvbnRhaW5lcgAAAAIEZnJvbQlDb250YWluZXIAAAEHYWRkcmVzcwQGYWxwaW5l",
    "Aw13aXRoRGlyZWN0b3J5CUNvbnRhaW5lcgd2MC4xMi4wAgQJZGlyZWN0b3J5CAAHZXhjbHVkZQYCBAMqLm8FA0FMTARvcHRzBwMBbgL5////////",
    "/wFmAwAAAAAAAOA/AWIBAQRwYXRoBAQvc3Jj",
);

#[test]
fn each_part_of_a_call_counts() {
    let base = || Call::new(None, "container", vec![], "Container");
    let arg = |l: Literal| vec![("a".into(), l)];
    let all = [
        Call::new(None, "f", vec![], "T"),
        Call::new(Some(base()), "f", vec![], "T"),
        Call::new(None, "g", vec![], "T"),
        Call::new(None, "f", vec![], "U"),
        Call::with(None, "f", vec![], "T", 1, ""),
        Call::with(None, "f", vec![], "T", 0, "v1.0.0"),
        Call::new(None, "f", arg(text("")), "T"),
        Call::new(None, "f", arg(Literal::Enum("".into())), "T"),
        Call::new(None, "f", arg(Literal::Int(0)), "T"),
        Call::new(None, "f", arg(Literal::Float(0.0)), "T"),
        Call::new(None, "f", arg(Literal::Bool(false)), "T"),
        Call::new(None, "f", arg(Literal::List(vec![])), "T"),
        Call::new(None, "f", arg(Literal::Input(vec![])), "T"),
        Call::new(None, "f", arg(Literal::List(vec![Literal::Null])), "T"),
        Call::new(None, "f", arg(Literal::Call(base())), "T"),
        Call::new(None, "f", vec![("b".into(), text(""))], "T"),
    ];
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            assert_ne!(a.digest(), b.digest(), "{a:?} {b:?}");
            assert_ne!(a.encode(), b.encode());
        }
    }
    let shuffled =
        |names: [&str; 3]| Call::new(None, "f", names.map(|n| (n.into(), text(n))).to_vec(), "T");
    assert_eq!(
        shuffled(["a", "b", "c"]).encode(),
        shuffled(["c", "a", "b"]).encode()
    );
}

fn literal() -> impl Strategy<Value = Literal> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Literal::Bool),
        any::<i64>().prop_map(Literal::Int),
        (-1e300..1e300).prop_map(Literal::Float),
        ".*".prop_map(|s| Literal::String(s.into())),
        "[A-Z_]{1,8}".prop_map(|s| Literal::Enum(s.into())),
        Just(Literal::Null),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Literal::List),
            prop::collection::vec(("[a-z]{1,6}", inner), 0..6)
                .prop_map(|f| Literal::Input(f.into_iter().map(|(n, l)| (n.into(), l)).collect())),
        ]
    })
}

type Step = (String, Vec<(String, Literal)>, u32, usize, usize);

fn step() -> impl Strategy<Value = Step> {
    (
        "[a-zA-Z]{1,12}",
        prop::collection::vec(("[a-z]{1,6}", literal()), 0..4),
        0..3u32,
        any::<usize>(),
        any::<usize>(),
    )
}

/// A graph of calls in which later ones refer to earlier ones as receivers and arguments.
fn graph_of(steps: Vec<Step>) -> Arc<Call> {
    let mut calls = vec![Call::new(None, "root", vec![], "Root")];
    for (field, args, nth, receiver, arg) in steps {
        let mut args: Vec<(Arc<str>, Literal)> =
            args.into_iter().map(|(n, l)| (n.into(), l)).collect();
        args.sort_by(|a, b| a.0.cmp(&b.0));
        args.dedup_by(|a, b| a.0 == b.0);
        args.push((
            "object".into(),
            Literal::List(vec![Literal::Call(calls[arg % calls.len()].clone())]),
        ));
        let receiver = (receiver % (calls.len() + 1))
            .checked_sub(1)
            .map(|i| calls[i].clone());
        calls.push(Call::with(
            receiver,
            &field,
            args,
            "T",
            nth,
            if nth == 2 { "v0.9.0" } else { "" },
        ));
    }
    calls.pop().expect("the last one")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ids_read_back_as_the_same_recipe(steps in prop::collection::vec(step(), 0..20)) {
        let call = graph_of(steps);
        let id = call.encode();
        let back = Call::decode(&id).expect("an ID we made");
        prop_assert_eq!(back.digest(), call.digest());
        prop_assert_eq!(back.encode(), id);
        prop_assert_eq!(&back.args, &call.args);
    }

    #[test]
    fn broken_ids_are_refused_not_trusted(steps in prop::collection::vec(step(), 0..6), at in any::<usize>(), byte in any::<u8>(), cut in any::<bool>()) {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        let mut bytes = engine.decode(graph_of(steps).encode()).expect("base64");
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        // Either it is an error, or it is some recipe that prints and reads like any other.
        match Call::decode(&engine.encode(&bytes)) {
            Err(e) => prop_assert!(e == IdError::Empty || e.to_string().starts_with("cannot decode ID")),
            Ok(call) => prop_assert_eq!(Call::decode(&call.encode()).expect("an ID we made").digest(), call.digest()),
        }
    }
}
