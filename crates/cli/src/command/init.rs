//! `init`: a new module.

use std::path::{Component, Path};

use super::{Setup, done};
use crate::{
    Outcome, args,
    error::Failure,
    module::{self, Config},
    output,
    session::VERSION,
};

/// Runs the command. A license comes with the code of an SDK, so there is none here.
///
/// # Errors
/// There is a module already; the directory cannot be written.
pub fn run(setup: &Setup, init: &args::Init) -> Result<Outcome, Failure> {
    if let Some(sdk) = init.sdk.as_deref().filter(|s| !s.is_empty()) {
        return Err(Failure::new(format!(
            "`init --sdk {sdk}` is not available in this version of bodkin"
        )));
    }
    if init.license.as_deref().is_some_and(|l| !l.is_empty()) {
        setup
            .stderr
            .line("No license is written: there is no code without --sdk.");
    }
    let dir = match &init.path {
        Some(path) => module::tidy(&setup.workdir.join(path)),
        None => setup.workdir.clone(),
    };
    if dir.join(module::FILE).exists() {
        return Err(Failure::new(format!(
            "cannot initialize a module in {}: there is one already ({} exists)",
            dir.display(),
            module::FILE
        )));
    }
    let name = match init.name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => name.to_owned(),
        None => dir
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .ok_or_else(|| Failure::new("the module needs a name: --name"))?,
    };
    let mut config = Config::new(&dir, &name, VERSION);
    if let Some(source) = &init.source {
        let source = below(source)?;
        if source != "." {
            config.set_source(&source);
        }
    }
    let made = std::fs::create_dir_all(module::tidy(&dir.join(config.source())));
    made.map_err(|e| Failure::new(format!("cannot make `{}`: {e}", dir.display())))?;
    config.write()?;
    let told = format!("Initialized module {name} in {}\n", dir.display());
    output::stdout(told.as_bytes())
        .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")))?;
    Ok(done())
}

/// A path that stays below the module's directory.
fn below(source: &Path) -> Result<String, Failure> {
    let tidy = module::tidy(source);
    let escapes = source.is_absolute()
        || source
            .components()
            .scan(0i32, |depth, part| {
                *depth += match part {
                    Component::ParentDir => -1,
                    Component::Normal(_) => 1,
                    _ => 0,
                };
                Some(*depth)
            })
            .any(|depth| depth < 0);
    if escapes {
        return Err(Failure::new(format!(
            "cannot use --source `{}`: it is not below the module's directory",
            source.display()
        )));
    }
    let text = tidy.to_string_lossy().into_owned();
    Ok(if text.is_empty() {
        ".".to_owned()
    } else {
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_stays_below_the_module() {
        let text = |s: &str| below(Path::new(s)).ok();
        assert_eq!(text("./a/../b").as_deref(), Some("b"));
        assert_eq!(text(".").as_deref(), Some("."));
        for bad in ["/a", "..", "a/../../b"] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }
}
