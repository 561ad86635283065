//! `cargo xtask images`: container images made from Debian packages.
//!
//! A layer is the packages' file archives one after another, with files of ours in place of their maintainer scripts. No
//! chroot, no root, nothing installed; the same packages and recipes give the same digests. The steps: read the recipes
//! (`recipe`), let apt resolve and download (`apt`, `wheel`), write layers (`layer`, `deb`, `system`), name them (`layout`).

mod apt;
mod build;
mod deb;
mod layer;
mod layout;
mod recipe;
mod system;
mod wheel;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub(crate) use layout::{Manifest, blob_path, read_list, referenced};

use crate::{env, workspace};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) groups: BTreeSet<String>,
    pub(crate) out: PathBuf,
    pub(crate) update: bool,
    /// The port of the registry to serve them from.
    pub(crate) serve: Option<u16>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Options {
            groups: BTreeSet::new(),
            out: workspace::target("images"),
            update: false,
            serve: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .with_context(|| format!("`{arg}` needs a value"))
            };
            match arg.as_str() {
                "--group" => options
                    .groups
                    .extend(value()?.split(',').map(str::to_owned)),
                "--out" => {
                    options.out =
                        std::path::absolute(value()?).context("cannot use the folder of `--out`")?
                }
                "--update" => options.update = true,
                "--serve" => options.serve = options.serve.or(Some(env::PORT)),
                "--port" => {
                    options.serve = Some(
                        value()?
                            .parse()
                            .context("`--port` needs a number up to 65535")?,
                    )
                }
                other => bail!("unknown option `{other}` of `images`"),
            }
        }
        if options.groups.is_empty() {
            options.groups.insert("core".to_owned());
        }
        Ok(options)
    }
}

/// `cargo xtask images` with these arguments.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    match options.serve {
        Some(port) => env::serve(&options, port).map(|_| ()),
        None => run(&options).map(|_| ()),
    }
}

/// Makes what is missing; returns the path of `images.json`.
pub(crate) fn run(options: &Options) -> Result<PathBuf> {
    build::run(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_add_up_and_default_to_core() {
        let groups = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            Options::parse(&args).map(|o| o.groups.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(groups(&[]).unwrap(), ["core"]);
        assert_eq!(
            groups(&["--group", "docker,core", "--group", "services"]).unwrap(),
            ["core", "docker", "services"]
        );
        assert_eq!(
            groups(&["--group"]).unwrap_err().to_string(),
            "`--group` needs a value"
        );
    }
}
