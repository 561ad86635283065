//! The crate from outside: against GNU tar, and against a real registry.

mod gnu_tar;
mod registry;

#[test]
fn no_forgotten_test_files() {
    let listed = ["gnu_tar.rs", "main.rs", "registry.rs"];
    let mut found: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, listed);
}
