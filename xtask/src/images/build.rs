//! Turning recipes into images: resolve, download, write the layers that changed, list everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use super::Options;
use super::apt::{self, Apt, Deb};
use super::deb::{self, Kept, Rules};
use super::layer::{Attributes, Kind, Layer, Stored};
use super::layout::{Layout, Listed, Made, State, referenced};
use super::recipe::{Compression, Image, Part, Recipes, System, repository_name};
use super::system::{self, Accounts};
use super::wheel;
use crate::files::{self, hash_of};
use crate::workspace;

/// The code that decides what is in a layer: when it changes, layers are written again.
const SOURCES: [&[u8]; 6] = [
    include_bytes!("build.rs"),
    include_bytes!("deb.rs"),
    include_bytes!("layer.rs"),
    include_bytes!("layout.rs"),
    include_bytes!("system.rs"),
    include_bytes!("wheel.rs"),
];

pub(super) fn run(options: &Options) -> Result<PathBuf> {
    let started = Instant::now();
    let cache = workspace::cache()?;
    let _lock = files::lock(&cache.join("lock"))?;
    let dir = workspace::root().join("images");
    let recipes = Recipes::load(&dir.join("images.toml"))?;
    let wanted = recipes.of_groups(&options.groups)?;
    let groups: BTreeSet<String> = wanted.values().map(|i| i.group.clone()).collect();
    let mut apt = Apt::open(&cache.join("apt"), &recipes.suite, options.update)?;
    let layout = Layout::open(&options.out)?;
    let mut state = layout.state();
    let own = own_files(&dir)?;

    let key = everything_key(&apt, &own);
    if state.key == key && groups.is_subset(&state.groups) && complete(&layout, &state, &wanted) {
        eprintln!(
            "images are up to date ({:.1} s)",
            started.elapsed().as_secs_f64()
        );
        return Ok(layout.list());
    }

    let mut plans = plan(&recipes, &wanted, &apt)?;
    if let Err(error) = download(&apt, &plans) {
        if options.update {
            return Err(error);
        }
        eprintln!("{error:#}\nthe package indexes may be old: trying again with new ones");
        apt.update()?;
        plans = plan(&recipes, &wanted, &apt)?;
        download(&apt, &plans)?;
    }
    let wheels = wanted
        .iter()
        .filter_map(|(n, i)| i.part.wheel.as_ref().map(|w| (*n, w)));
    let wheels = wheels.map(|(n, w)| Ok((n, wheel::fetch(w, &cache.join("wheels"))?)));
    let wheels: BTreeMap<&str, PathBuf> = wheels.collect::<Result<_>>()?;

    let architecture = apt::architecture()?;
    let build = Build {
        recipes: &recipes,
        apt: &apt,
        layout: &layout,
        own: &own,
        plans: &plans,
        wheels: &wheels,
    };
    build.layers(&wanted, &mut state)?;
    let key = everything_key(&apt, &own);
    if state.key != key {
        state.groups.clear();
    }
    state.key = key;
    state.groups.extend(groups);
    state.images.retain(|name, listed| {
        recipes
            .image
            .get(name)
            .is_some_and(|i| build.recipe_key(i) == listed.recipe)
    });
    for (name, image) in &wanted {
        let listed = build.list(name, image, &state, &architecture)?;
        state.images.insert((*name).to_owned(), listed);
    }
    layout.commit(&state, &architecture)?;
    let names: usize = state.images.values().map(|i| i.names.len()).sum();
    eprintln!(
        "{} images under {names} names in `{}` ({:.1} s)",
        state.images.len(),
        options.out.display(),
        started.elapsed().as_secs_f64()
    );
    Ok(layout.list())
}

/// The files of `images`: path below it and contents.
fn own_files(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut own = BTreeMap::new();
    for path in files::list(&dir.join("files"))? {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .context("a file name in `images/files` is not UTF-8")?;
        own.insert(name.to_owned(), files::read(&path)?);
    }
    own.insert(
        "../images.toml".to_owned(),
        files::read(&dir.join("images.toml"))?,
    );
    Ok(own)
}

fn everything_key(apt: &Apt, own: &BTreeMap<String, Vec<u8>>) -> String {
    let own = own
        .iter()
        .flat_map(|(name, contents)| [name.as_bytes(), contents]);
    hash_of(
        SOURCES
            .into_iter()
            .chain([apt.index_key.as_bytes()])
            .chain(own),
    )
}

/// Whether all blobs of all images that are wanted are there.
fn complete(layout: &Layout, state: &State, wanted: &BTreeMap<&str, &Image>) -> bool {
    wanted.keys().all(|name| {
        state.images.get(*name).is_some_and(|listed| {
            listed.names.values().all(|manifest| {
                layout.has(&manifest.digest)
                    && referenced(&layout.blobs(), &manifest.digest)
                        .is_ok_and(|parts| parts.iter().all(|p| layout.has(p)))
            })
        })
    })
}

/// The packages of one layer.
struct Plan {
    debs: Vec<Deb>,
    /// Stanzas of what is left out on purpose.
    left_out: String,
}

/// Resolves the bases and images. The plan of a base is named `base.NAME`.
fn plan(
    recipes: &Recipes,
    wanted: &BTreeMap<&str, &Image>,
    apt: &Apt,
) -> Result<BTreeMap<String, Plan>> {
    let bases: Vec<&str> = wanted
        .values()
        .map(|i| i.base.as_str())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let base_plans = parallel(&bases, |base| {
        let part = &recipes.base[*base];
        let debs = apt
            .resolve(&part.packages, "")
            .with_context(|| format!("cannot resolve the packages of base `{base}`"))?;
        let names: Vec<&str> = debs.iter().map(Deb::name).collect();
        let installed = if part.bare {
            String::new()
        } else {
            apt.installed(&names)?
        };
        Ok((
            *base,
            Plan {
                debs,
                left_out: String::new(),
            },
            installed,
        ))
    })?;
    let installed: BTreeMap<&str, &str> = base_plans
        .iter()
        .map(|(b, _, i)| (*b, i.as_str()))
        .collect();
    let in_base = |base: &str, package: &str| {
        base_plans
            .iter()
            .any(|(name, plan, _)| *name == base && plan.debs.iter().any(|d| d.name() == package))
    };
    let images: Vec<(&str, &Image)> = wanted.iter().map(|(n, i)| (*n, *i)).collect();
    let image_plans = parallel(&images, |(name, image)| {
        let part = &image.part;
        if let Some(twice) = part
            .leave_out
            .iter()
            .find(|n| !part.standalone && in_base(&image.base, n))
        {
            bail!(
                "image `{name}` leaves out `{twice}`, which its base `{}` has",
                image.base
            );
        }
        let left_out = apt.left_out(&part.leave_out)?;
        let below = if part.standalone {
            ""
        } else {
            installed[image.base.as_str()]
        };
        let debs = apt.resolve(&part.packages, &format!("{below}\n{left_out}"));
        let debs =
            debs.with_context(|| format!("cannot resolve the packages of image `{name}`"))?;
        Ok(((*name).to_owned(), Plan { debs, left_out }))
    })?;
    let mut plans: BTreeMap<String, Plan> = image_plans.into_iter().collect();
    plans.extend(
        base_plans
            .into_iter()
            .map(|(base, plan, _)| (format!("base.{base}"), plan)),
    );
    Ok(plans)
}

fn download(apt: &Apt, plans: &BTreeMap<String, Plan>) -> Result<()> {
    let debs: Vec<&Deb> = plans.values().flat_map(|p| &p.debs).collect();
    apt.download(&debs)
}

/// What writing the layers needs to look at.
struct Build<'a> {
    recipes: &'a Recipes,
    apt: &'a Apt,
    layout: &'a Layout,
    own: &'a BTreeMap<String, Vec<u8>>,
    plans: &'a BTreeMap<String, Plan>,
    wheels: &'a BTreeMap<&'a str, PathBuf>,
}

/// One layer to write.
struct Job<'a> {
    name: String,
    part: &'a Part,
    compression: Compression,
    below: Option<Made>,
    wheel: Option<&'a Path>,
}

impl Build<'_> {
    /// Writes the layers that are missing or changed, bases first, into `state`.
    fn layers(&self, wanted: &BTreeMap<&str, &Image>, state: &mut State) -> Result<()> {
        let bases: BTreeSet<&str> = wanted.values().map(|i| i.base.as_str()).collect();
        let jobs = bases.into_iter().map(|base| Job {
            name: format!("base.{base}"),
            part: &self.recipes.base[base],
            compression: Compression::Gzip,
            below: None,
            wheel: None,
        });
        self.run_jobs(jobs.collect(), state)?;
        let mut jobs = Vec::new();
        for (name, image) in wanted.iter().filter(|(_, i)| i.has_layer()) {
            let below = state.layers.get(&format!("base.{}", image.base)).cloned();
            let wheel = self.wheels.get(name).map(PathBuf::as_path);
            jobs.push(Job {
                name: (*name).to_owned(),
                part: &image.part,
                compression: image.compression,
                below,
                wheel,
            });
        }
        self.run_jobs(jobs, state)?;
        for (name, image) in wanted {
            for edition in image.editions.keys() {
                let made = self.edition(name, image, edition, state)?;
                state.layers.insert(format!("{name}@{edition}"), made);
            }
        }
        Ok(())
    }

    fn run_jobs(&self, mut jobs: Vec<Job<'_>>, state: &mut State) -> Result<()> {
        let current = |job: &Job<'_>| {
            let made = state.layers.get(&job.name);
            made.is_some_and(|m| m.key == self.layer_key(job) && self.layout.has(&m.stored.digest))
        };
        jobs.retain(|job| !current(job));
        // The longest first, so that none is left alone at the end.
        jobs.sort_by_key(|job| std::cmp::Reverse(self.weight(job)));
        let made = parallel(&jobs, |job| {
            let started = Instant::now();
            let made = self
                .write_layer(job)
                .with_context(|| format!("cannot make layer `{}`", job.name))?;
            let (megabytes, seconds) = (
                made.stored.size as f64 / 1e6,
                started.elapsed().as_secs_f64(),
            );
            eprintln!("layer {:<14} {megabytes:6.1} MB {seconds:5.1} s", job.name);
            Ok(made)
        })?;
        state
            .layers
            .extend(jobs.into_iter().map(|j| j.name).zip(made));
        Ok(())
    }

    fn weight(&self, job: &Job<'_>) -> u64 {
        let wheel = job
            .wheel
            .and_then(|p| p.metadata().ok())
            .map_or(0, |m| m.len());
        wheel
            + self
                .plans
                .get(&job.name)
                .map_or(0, |p| p.debs.iter().map(|d| d.size).sum())
    }

    /// Changes when anything that the layer is made of does.
    fn layer_key(&self, job: &Job<'_>) -> String {
        let plan = self.plans.get(&job.name);
        let debs = plan.map(|p| {
            p.debs
                .iter()
                .map(|d| format!("{} {}\n", d.file, d.size))
                .collect::<String>()
        });
        let below = job.below.as_ref().map(|b| b.key.as_str());
        let texts = [
            serde_json::to_string(&(job.part, job.compression, &self.recipes.drop))
                .unwrap_or_default(),
            debs.unwrap_or_default(),
            plan.map(|p| p.left_out.clone()).unwrap_or_default(),
            below.unwrap_or_default().to_owned(),
            if job.part.system.is_some() {
                self.apt.source.clone()
            } else {
                String::new()
            },
        ];
        hash_of(
            SOURCES
                .into_iter()
                .chain(texts.iter().map(String::as_bytes))
                .chain(self.contents(job.part)),
        )
    }

    /// Changes when an image's recipe does, whatever the packages' versions.
    fn recipe_key(&self, image: &Image) -> String {
        let base = self.recipes.base.get(&image.base);
        let text = serde_json::to_string(&(image, base, &self.recipes.drop, &self.recipes.suite))
            .unwrap_or_default();
        let base_files = base.into_iter().flat_map(|b| self.contents(b));
        hash_of(
            SOURCES
                .into_iter()
                .chain([text.as_bytes()])
                .chain(self.contents(&image.part))
                .chain(base_files),
        )
    }

    fn contents<'b>(&'b self, part: &'b Part) -> impl Iterator<Item = &'b [u8]> {
        part.files
            .values()
            .filter_map(|name| self.own.get(name))
            .map(Vec::as_slice)
    }

    fn write_layer(&self, job: &Job<'_>) -> Result<Made> {
        let part = job.part;
        let dirs = job
            .below
            .as_ref()
            .map(|b| b.stored.dirs.clone())
            .unwrap_or_default();
        let mut layer = Layer::create(&self.layout.blobs(), &job.name, job.compression, dirs)?;
        let merged_usr = part.system.map_or(!part.bare, |s| s != System::Busybox);
        let drop = self
            .recipes
            .drop
            .iter()
            .chain(&part.drop)
            .map(String::as_str)
            .collect();
        let rules = Rules {
            drop,
            merged_usr,
            database: !part.bare,
        };
        let mut kept = Kept {
            wanted: part.system.map(system::wanted).unwrap_or_default(),
            ..Kept::default()
        };

        if let Some(system) = part.system {
            system::before(system, &mut layer)?;
        }
        self.write_own(&mut layer, part)?;
        let mut stanzas = Vec::new();
        if let Some(plan) = self.plans.get(&job.name) {
            for file in &plan.debs {
                stanzas.push(deb::pour(
                    &mut layer,
                    &self.apt.path(file),
                    &rules,
                    &mut kept,
                )?);
            }
        }
        if let (Some(recipe), Some(path)) = (&part.wheel, job.wheel) {
            wheel::pour(&mut layer, path, recipe, &part.executable)?;
        }
        let below = job.below.as_ref();
        let mut accounts: Option<Accounts> = None;
        if let Some(system) = part.system {
            accounts = system::after(
                system,
                &mut layer,
                &kept,
                &self.apt.source,
                &self.layout.blobs(),
            )?;
        }
        let accounts = accounts.or_else(|| below.and_then(|b| b.accounts.clone()));
        if let Some(base) = accounts
            .as_ref()
            .filter(|_| below.is_none() || !part.users.is_empty())
        {
            base.with(&part.users).write(&mut layer)?;
        }
        let mut status = stanzas.join("\n");
        if !part.bare {
            let left_out = self
                .plans
                .get(&job.name)
                .map(|p| p.left_out.as_str())
                .unwrap_or_default();
            let texts = [below.map_or("", |b| b.status.as_str()), &status, left_out];
            let texts: Vec<&str> = texts.into_iter().filter(|t| !t.is_empty()).collect();
            status = texts.join("\n");
            layer.file("var/lib/dpkg/status", &status, 0o644)?;
            for id in deb::stanza_ids(left_out) {
                // dpkg complains about an installed package without a list of files.
                layer.file(&format!("var/lib/dpkg/info/{id}.list"), "/.\n", 0o644)?;
                layer.file(&format!("var/lib/dpkg/info/{id}.md5sums"), "", 0o644)?;
            }
            layer.file(
                "var/lib/dpkg/arch",
                format!("{}\n", apt::architecture()?),
                0o644,
            )?;
        }
        Ok(Made {
            key: self.layer_key(job),
            stored: layer.finish()?,
            status,
            accounts,
        })
    }

    /// Our own folders, links and files. They come before the packages and so win over theirs.
    fn write_own(&self, layer: &mut Layer, part: &Part) -> Result<()> {
        for dir in &part.dirs {
            layer.dir(&dir.path, dir.mode, dir.owner)?;
        }
        for (path, target) in &part.links {
            layer.link(path, target)?;
        }
        for (path, name) in &part.files {
            let mut contents = self
                .own
                .get(name)
                .with_context(|| format!("no file `images/files/{name}`"))?
                .as_slice();
            let mode = if contents.starts_with(b"#!") {
                0o755
            } else {
                0o644
            };
            let kind = Kind::File {
                size: contents.len() as u64,
                data: &mut contents,
            };
            layer.add(path, kind, Attributes::ours(mode))?;
        }
        Ok(())
    }

    /// The small layer that makes one edition of an image differ from the others.
    fn edition(&self, name: &str, image: &Image, edition: &str, state: &State) -> Result<Made> {
        let layer_name = format!("{name}@{edition}");
        let mut dirs = BTreeSet::new();
        for below in [format!("base.{}", image.base), name.to_owned()] {
            dirs.extend(
                state
                    .layers
                    .get(&below)
                    .into_iter()
                    .flat_map(|m| m.stored.dirs.clone()),
            );
        }
        let mut layer = Layer::create(&self.layout.blobs(), &layer_name, image.compression, dirs)?;
        for (path, text) in &image.edition_files {
            layer.file(path, text.replace("{edition}", edition), 0o644)?;
        }
        Ok(Made {
            key: String::new(),
            stored: layer.finish()?,
            status: String::new(),
            accounts: None,
        })
    }

    /// Writes the manifests of an image, one an edition, and names them.
    fn list(&self, name: &str, image: &Image, state: &State, architecture: &str) -> Result<Listed> {
        let layer = |name: String| -> Result<(String, Stored)> {
            let made = state
                .layers
                .get(&name)
                .with_context(|| format!("layer `{name}` was not made"))?;
            Ok((name, made.stored.clone()))
        };
        let mut layers = vec![layer(format!("base.{}", image.base))?];
        if image.has_layer() {
            layers.push(layer(name.to_owned())?);
        }
        let mut names = BTreeMap::new();
        if !image.names.is_empty() {
            let manifest = self.layout.put_image(image, &layers, architecture)?;
            names.extend(
                image
                    .names
                    .iter()
                    .map(|n| (repository_name(n), manifest.clone())),
            );
        }
        for (edition, aliases) in &image.editions {
            let layers = [layers.clone(), vec![layer(format!("{name}@{edition}"))?]].concat();
            let manifest = self.layout.put_image(image, &layers, architecture)?;
            names.extend(
                aliases
                    .iter()
                    .map(|n| (repository_name(n), manifest.clone())),
            );
        }
        Ok(Listed {
            recipe: self.recipe_key(image),
            names,
        })
    }
}

/// Runs `work` on all items, as many at once as the machine has cores; the first error ends it. Results keep the order.
fn parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = Mutex::new(items.iter().enumerate());
    let done: Mutex<BTreeMap<usize, Result<R>>> = Mutex::new(BTreeMap::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) = next.lock().ok().and_then(|mut n| n.next()) {
                    let result = work(item);
                    let failed = result.is_err();
                    if let Ok(mut done) = done.lock() {
                        done.insert(index, result);
                    }
                    if failed && let Ok(mut next) = next.lock() {
                        next.by_ref().for_each(drop);
                    }
                }
            });
        }
    });
    let done = done
        .into_inner()
        .map_err(|_| anyhow!("a worker thread panicked"))?;
    done.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_items() {
        let items: Vec<usize> = (0..50).collect();
        assert_eq!(
            parallel(&items, |i| Ok(i * 2)).unwrap(),
            (0..100).step_by(2).collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_error_ends_the_work() {
        let items: Vec<usize> = (0..50).collect();
        let error = parallel(&items, |i| {
            if *i == 3 {
                Err(anyhow!("no {i}"))
            } else {
                Ok(())
            }
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "no 3");
    }
}
