//! `install`: a dependency of a module.

use super::{Setup, done};
use crate::{Outcome, args, error::Failure, module, output};

/// Runs the command.
///
/// # Errors
/// No module, or one that cannot be depended on.
pub fn run(setup: &Setup, install: &args::Install) -> Result<Outcome, Failure> {
    let mut into = module::wanted(install.r#mod.as_deref(), &setup.workdir)?;
    let dependency = module::local(&install.module, &setup.workdir)?;
    let cannot = |why: String| {
        Failure::new(format!(
            "cannot install {:?} into {:?}: {why}",
            install.module,
            into.name()
        ))
    };
    if dependency.dir == into.dir {
        return Err(cannot("a module cannot depend on itself".to_owned()));
    }
    if !dependency.dir.starts_with(module::context(&into.dir)) {
        return Err(cannot(format!(
            "{} is outside of {}",
            dependency.dir.display(),
            module::context(&into.dir).display()
        )));
    }
    if dependency.sdk().is_none() {
        return Err(cannot(format!(
            "module {:?} has no sdk, so there are no functions to use",
            dependency.name()
        )));
    }
    if let Some(sdk) = into.sdk() {
        return Err(cannot(format!(
            "generating {sdk} code for it is not available in this version of bodkin"
        )));
    }
    let name = match install.name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => name.to_owned(),
        None => dependency.name().to_owned(),
    };
    let source = module::way(&into.dir, &dependency.dir);
    into.depend(&name, &source.to_string_lossy());
    into.write()?;
    output::stderr_now(&format!("Installed {name} in {}", into.dir.display()));
    Ok(done())
}
