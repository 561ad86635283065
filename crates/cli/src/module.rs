//! A module's configuration: `dagger.json`, where it is and what is in it.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Failure;

/// The configuration's file name.
pub const FILE: &str = "dagger.json";
/// Largest configuration.
const LARGEST: u64 = 8 << 20;
/// Known keys in the order they are written in.
const KEYS: [&str; 9] = [
    "name",
    "engineVersion",
    "sdk",
    "include",
    "exclude",
    "dependencies",
    "source",
    "views",
    "codegen",
];

/// A module's configuration. Keys that are not known stay.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The module's directory.
    pub dir: PathBuf,
    /// The file as it is.
    pub text: String,
    values: Map<String, Value>,
}

impl Config {
    /// Reads the configuration in a directory.
    ///
    /// # Errors
    /// There is none, or it is not JSON.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let file = dir.join(FILE);
        let cannot = |why: String| Failure::new(format!("cannot read `{}`: {why}", file.display()));
        let meta = std::fs::metadata(&file).map_err(|e| cannot(e.to_string()))?;
        if meta.len() > LARGEST {
            return Err(cannot(format!("longer than {LARGEST} bytes")));
        }
        let text = std::fs::read_to_string(&file).map_err(|e| cannot(e.to_string()))?;
        let values = serde_json::from_str(&text).map_err(|e| cannot(e.to_string()))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            text,
            values,
        })
    }

    /// A new configuration, not written yet.
    pub fn new(dir: &Path, name: &str, engine_version: &str) -> Self {
        let mut values = Map::new();
        values.insert("name".to_owned(), name.into());
        values.insert("engineVersion".to_owned(), engine_version.into());
        Self {
            dir: dir.to_path_buf(),
            text: String::new(),
            values,
        }
    }

    /// A text of the configuration; empty counts as missing.
    fn text_of(&self, key: &str) -> Option<&str> {
        self.values
            .get(key)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
    }

    /// The module's name.
    pub fn name(&self) -> &str {
        self.text_of("name").unwrap_or_default()
    }

    /// The language of its code: a name or, since 0.16, an object with one.
    pub fn sdk(&self) -> Option<&str> {
        self.text_of("sdk").or_else(|| {
            let source = self.values.get("sdk")?.get("source")?.as_str();
            source.filter(|s| !s.is_empty())
        })
    }

    /// Where its code is, below its directory.
    pub fn source(&self) -> &str {
        self.text_of("source").unwrap_or(".")
    }

    /// Says where the code is.
    pub fn set_source(&mut self, source: &str) {
        self.values.insert("source".to_owned(), source.into());
    }

    /// Names and sources of what it depends on. Old files have sources only.
    pub fn dependencies(&self) -> Vec<(&str, &str)> {
        let list = self.values.get("dependencies").and_then(Value::as_array);
        let text = |v: &'_ Value, key: &str| v.get(key).and_then(Value::as_str).is_some();
        list.into_iter()
            .flatten()
            .filter_map(|d| match d {
                Value::String(source) => Some(("", source.as_str())),
                object if text(object, "source") => Some((
                    object.get("name").and_then(Value::as_str).unwrap_or(""),
                    object.get("source").and_then(Value::as_str)?,
                )),
                _ => None,
            })
            .collect()
    }

    /// Adds a dependency, or changes the one of that name.
    pub fn depend(&mut self, name: &str, source: &str) {
        let entry = serde_json::json!({ "name": name, "source": source, "pin": "" });
        let list = self
            .values
            .entry("dependencies")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            let same = |d: &Value| d.get("name").and_then(Value::as_str) == Some(name);
            match list.iter_mut().find(|d| same(d)) {
                Some(old) => *old = entry,
                None => list.push(entry),
            }
        }
    }

    /// The file's text: known keys in their order, then the others in theirs.
    pub fn render(&self) -> String {
        let mut ordered = Map::new();
        for key in KEYS {
            if let Some(value) = self.values.get(key) {
                ordered.insert(key.to_owned(), value.clone());
            }
        }
        for (key, value) in &self.values {
            ordered.entry(key).or_insert_with(|| value.clone());
        }
        let mut text = serde_json::to_string_pretty(&ordered).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Writes the file: whole, or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self) -> Result<(), Failure> {
        let file = self.dir.join(FILE);
        let part = self
            .dir
            .join(format!(".{FILE}.{}", uuid::Uuid::new_v4().simple()));
        let written =
            std::fs::write(&part, self.render()).and_then(|()| std::fs::rename(&part, &file));
        written.map_err(|e| {
            // Nothing is there if the write failed early.
            let _ = std::fs::remove_file(&part);
            Failure::new(format!("cannot write `{}`: {e}", file.display()))
        })
    }
}

/// The directory of the module that a directory is in: the nearest with a configuration, up to that of the Git repository.
///
/// # Errors
/// There is none.
pub fn find(from: &Path) -> Result<PathBuf, Failure> {
    for dir in from.ancestors() {
        if dir.join(FILE).is_file() {
            return Ok(dir.to_path_buf());
        }
        if dir.join(".git").exists() {
            break;
        }
    }
    Err(Failure::new(format!(
        "no {FILE} found in directory {} or any parents up to git root",
        from.display()
    )))
}

/// The root of what a module can see: that of its Git repository, or its own directory.
pub fn context(module: &Path) -> &Path {
    module
        .ancestors()
        .find(|d| d.join(".git").exists())
        .unwrap_or(module)
}

/// The configuration that a user means: of `--mod`, of the environment, or of the working directory.
///
/// # Errors
/// There is none; a module that is not on this machine.
pub fn wanted(flag: Option<&str>, workdir: &Path) -> Result<Config, Failure> {
    let from_env = std::env::var("DAGGER_MODULE").ok();
    let Some(reference) = flag.or(from_env.as_deref()).filter(|m| !m.is_empty()) else {
        return Config::read(&find(workdir)?);
    };
    if let Ok(near) = find(workdir).and_then(|dir| Config::read(&dir)) {
        let named = near.dependencies();
        let named = named.iter().find(|(name, _)| *name == reference);
        if let Some((_, source)) = named {
            return local(source, &near.dir);
        }
    }
    local(reference, workdir)
}

/// The module in a directory that a user or a configuration names.
///
/// # Errors
/// There is none; a module that is not on this machine.
pub fn local(reference: &str, base: &Path) -> Result<Config, Failure> {
    let dir = tidy(&base.join(reference));
    if !dir.is_dir() && !reference.starts_with(['.', '/']) {
        return Err(Failure::new(format!(
            "cannot use the module {reference:?}: there is no such directory, and modules in Git repositories are not \
             available in this version"
        )));
    }
    if !dir.join(FILE).is_file() {
        return Err(Failure::new(format!(
            "no {FILE} found in directory {}",
            dir.display()
        )));
    }
    Config::read(&dir)
}

/// A path without `.` and `..`, by its text alone.
pub fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// The way from one absolute directory to another.
pub fn way(from: &Path, to: &Path) -> PathBuf {
    let common = from
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_keeps_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"later":1,"source":"src","name":"m","dependencies":["./old"],"sdk":{"source":"go"}}"#;
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let mut config = Config::read(dir.path()).unwrap();
        assert_eq!(
            (config.name(), config.sdk(), config.source()),
            ("m", Some("go"), "src")
        );
        config.depend("d", "../d");
        config.depend("d", "../e");
        assert_eq!(config.dependencies(), [("", "./old"), ("d", "../e")]);
        config.write().unwrap();
        let again = Config::read(dir.path()).unwrap();
        assert_eq!(
            again.values.keys().collect::<Vec<_>>(),
            ["name", "sdk", "dependencies", "source", "later"]
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_module_is_looked_for_up_to_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("repo/a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(dir.path().join("repo/.git")).unwrap();
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        let none = find(&inner).unwrap_err().message;
        assert!(
            none.starts_with("no dagger.json found in directory "),
            "{none}"
        );
        std::fs::write(dir.path().join("repo/dagger.json"), "{}").unwrap();
        assert_eq!(find(&inner).unwrap(), dir.path().join("repo"));
        assert_eq!(context(&inner), dir.path().join("repo"));
    }

    #[test]
    fn ways_go_up_and_down() {
        let way = |a: &str, b: &str| way(Path::new(a), Path::new(b)).display().to_string();
        assert_eq!(way("/r", "/r/plain"), "plain");
        assert_eq!(way("/r/a/b", "/r/c"), "../../c");
        assert_eq!(tidy(Path::new("/a/./b/../c")), Path::new("/a/c"));
    }
}
