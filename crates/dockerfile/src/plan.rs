//! Which stages are needed and in which order; what must be known of images first.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Error, Settings, Source,
    instruction::Instruction,
    mount,
    parse::Line,
    stage::{Base, From, Op, Stage},
    words::expand,
};

pub(crate) mod build;

/// How to build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Stage to stop at, by name or number; empty is the last.
    pub target: String,
    /// Values for `ARG`.
    pub args: Vec<(String, String)>,
    /// `os/arch[/variant]` to build for.
    pub platform: String,
    /// `os/arch[/variant]` of the builder.
    pub build_platform: String,
}

/// An image a Dockerfile names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageKey {
    /// Its name as written.
    pub reference: String,
    /// `os/arch[/variant]`.
    pub platform: String,
}

/// What is known of images.
pub type Images = BTreeMap<ImageKey, Settings>;

/// What planning comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These images must be known first: look them up and plan again.
    Needs(Vec<ImageKey>),
    /// The plan.
    Plan(Box<Plan>),
}

/// What will be built.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The stages that are needed, each after those it needs; the last one is the result.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// The stage that is the result.
    pub fn target(&self) -> Option<&Stage> {
        self.stages.last()
    }
}

/// An instruction and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

/// A stage before it is planned.
#[derive(Debug)]
pub(crate) struct Outline {
    pub(crate) name: Option<String>,
    pub(crate) from: Placed,
    pub(crate) base: Base,
    pub(crate) platform: String,
    pub(crate) body: Vec<Placed>,
}

/// What all stages share.
pub(crate) struct Shared<'a> {
    pub(crate) source: &'a Source,
    pub(crate) options: &'a Options,
    pub(crate) images: &'a Images,
    /// `ARG` before the first `FROM`, with the platforms; `None` has no value.
    pub(crate) globals: Vec<(String, Option<String>)>,
    pub(crate) outlines: Vec<Outline>,
}

/// Plans a build.
///
/// # Errors
/// The first mistake in what is needed, with its place.
pub fn plan(source: &Source, options: &Options, images: &Images) -> Result<Answer, Error> {
    let mut shared = Shared {
        source,
        options,
        images,
        globals: platforms(options),
        outlines: Vec::new(),
    };
    shared.outline()?;
    let target = shared.target()?;
    let (order, missing) = shared.order(target)?;
    if !missing.is_empty() {
        return Ok(Answer::Needs(missing.into_iter().collect()));
    }
    let mut done: BTreeMap<usize, build::Built> = BTreeMap::new();
    for index in &order {
        let built = shared.build(*index, &done)?;
        done.insert(*index, built);
    }
    let stages = order
        .iter()
        .filter_map(|i| done.remove(i))
        .map(|b| b.stage)
        .collect();
    Ok(Answer::Plan(Box::new(Plan { stages })))
}

/// The variables that every Dockerfile has.
fn platforms(options: &Options) -> Vec<(String, Option<String>)> {
    let mut all = Vec::new();
    for (prefix, platform) in [
        ("BUILD", &options.build_platform),
        ("TARGET", &options.platform),
    ] {
        let mut parts = platform.splitn(3, '/');
        let mut part = || Some(parts.next().unwrap_or("").to_owned());
        all.push((format!("{prefix}PLATFORM"), Some(platform.clone())));
        all.push((format!("{prefix}OS"), part()));
        all.push((format!("{prefix}ARCH"), part()));
        all.push((format!("{prefix}VARIANT"), part()));
    }
    let target = if options.target.is_empty() {
        "default"
    } else {
        &options.target
    };
    all.push(("TARGETSTAGE".to_owned(), Some(target.to_owned())));
    for (name, value) in &mut all {
        if let Some(given) = options.arg(name) {
            *value = Some(given.to_owned());
        }
    }
    all
}

impl Options {
    /// The value given for an `ARG`; the last one counts.
    pub(crate) fn arg(&self, name: &str) -> Option<&str> {
        self.args
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

impl Shared<'_> {
    pub(crate) fn error(&self, placed: &Placed, message: impl Into<String>) -> Error {
        Error {
            file: self.source.file.clone(),
            line: placed.line,
            instruction: placed.text.clone(),
            message: message.into(),
        }
    }

    fn whole(&self, message: String) -> Error {
        Error {
            file: self.source.file.clone(),
            line: 0,
            instruction: String::new(),
            message,
        }
    }

    fn place(&self, line: &Line) -> Result<Placed, Error> {
        Ok(Placed {
            line: line.number,
            text: line.shown(),
            instruction: Instruction::read(line, &self.source.file, self.source.escape)?,
        })
    }

    pub(crate) fn global(&self, name: &str) -> Option<String> {
        self.globals
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .and_then(|(_, v)| v.clone())
    }

    /// Reads all instructions into stages.
    fn outline(&mut self) -> Result<(), Error> {
        for line in &self.source.lines {
            let placed = self.place(line)?;
            match &placed.instruction {
                Instruction::From {
                    platform,
                    image,
                    name,
                } => {
                    let (platform, image, name) = (platform.clone(), image.clone(), name.clone());
                    let outline = self.from(placed, platform, &image, name)?;
                    self.outlines.push(outline);
                }
                Instruction::Arg(args) if self.outlines.is_empty() => {
                    for (name, default) in args {
                        let name = self.global_text(&placed, name)?;
                        let value = match (self.options.arg(&name), default) {
                            (Some(given), _) => Some(given.to_owned()),
                            (None, Some(default)) => Some(self.global_text(&placed, default)?),
                            (None, None) => self.global(&name),
                        };
                        self.globals.push((name, value));
                    }
                }
                _ => match self.outlines.last_mut() {
                    Some(outline) => outline.body.push(placed),
                    None => {
                        return Err(self.error(
                            &placed,
                            "no build stage in current context: a Dockerfile begins with FROM",
                        ));
                    }
                },
            }
        }
        if self.outlines.is_empty() {
            return Err(
                self.whole("file with no instructions: a Dockerfile begins with FROM".to_owned())
            );
        }
        Ok(())
    }

    fn global_text(&self, placed: &Placed, text: &str) -> Result<String, Error> {
        expand(text, self.source.escape, &|n| self.global(n))
            .map_err(|e| self.error(placed, e.to_string()))
    }

    fn from(
        &self,
        placed: Placed,
        platform: Option<String>,
        image: &str,
        name: Option<String>,
    ) -> Result<Outline, Error> {
        let base = self.global_text(&placed, image)?;
        if base.is_empty() {
            return Err(self.error(
                &placed,
                format!("base name ({image}) should not be blank: declare its variables with ARG before the first FROM"),
            ));
        }
        let platform = match platform {
            Some(p) => self.global_text(&placed, &p)?,
            None => String::new(),
        };
        let stage = self.outlines.iter().rposition(|o| {
            o.name
                .as_deref()
                .is_some_and(|n| n.eq_ignore_ascii_case(&base))
        });
        let base = match stage {
            Some(index) => From::Stage(index),
            None if base == "scratch" => From::Scratch,
            None => From::Image(ImageKey {
                reference: base,
                platform: if platform.is_empty() {
                    self.options.platform.clone()
                } else {
                    platform.clone()
                },
            }),
        };
        Ok(Outline {
            name,
            from: placed,
            base,
            platform,
            body: Vec::new(),
        })
    }

    fn target(&self) -> Result<usize, Error> {
        let target = self.options.target.as_str();
        if target.is_empty() {
            return Ok(self.outlines.len() - 1);
        }
        let named = self.outlines.iter().rposition(|o| {
            o.name
                .as_deref()
                .is_some_and(|n| n.eq_ignore_ascii_case(target))
        });
        let numbered = || {
            target
                .parse()
                .ok()
                .filter(|n: &usize| *n < self.outlines.len())
        };
        named.or_else(numbered).ok_or_else(|| {
            let names: Vec<&str> = self
                .outlines
                .iter()
                .filter_map(|o| o.name.as_deref())
                .collect();
            let there = if names.is_empty() {
                "no stage has a name".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            self.whole(format!(
                "target stage \"{target}\" could not be found; {there}"
            ))
        })
    }

    /// What `--from=` of stage `own` means.
    pub(crate) fn reference(&self, own: usize, placed: &Placed, from: &str) -> Result<From, Error> {
        if let Ok(n) = from.parse::<usize>() {
            return if n < own {
                Ok(From::Stage(n))
            } else {
                Err(self.error(
                    placed,
                    format!("invalid from value {from}: stage {n} is not before this one, which is stage {own}"),
                ))
            };
        }
        let is = |o: &Outline| {
            o.name
                .as_deref()
                .is_some_and(|n| n.eq_ignore_ascii_case(from))
        };
        // The nearest one before counts; one that comes later is found, too.
        let before = self
            .outlines
            .get(..own)
            .and_then(|all| all.iter().rposition(is));
        if let Some(index) = before.or_else(|| self.outlines.iter().position(is)) {
            return Ok(From::Stage(index));
        }
        if from == "scratch" {
            return Ok(From::Scratch);
        }
        if from.contains('$') {
            return Err(self.error(
                placed,
                format!("variables are not replaced in --from={from}: give the image a name with FROM … AS name"),
            ));
        }
        Ok(From::Image(ImageKey {
            reference: from.to_owned(),
            platform: self.options.platform.clone(),
        }))
    }

    /// The instructions that a stage's base asks for; `None` when the base is not known yet.
    pub(crate) fn triggers(&self, index: usize) -> Result<Option<Vec<Placed>>, Error> {
        let Some(outline) = self.outlines.get(index) else {
            return Ok(Some(Vec::new()));
        };
        let texts: Vec<String> = match &outline.base {
            From::Context | From::Scratch => Vec::new(),
            From::Stage(parent) => {
                let body = self
                    .outlines
                    .get(*parent)
                    .map(|o| o.body.as_slice())
                    .unwrap_or_default();
                body.iter()
                    .filter_map(|p| match &p.instruction {
                        Instruction::Onbuild(text) => Some(text.clone()),
                        _ => None,
                    })
                    .collect()
            }
            From::Image(key) => match self.images.get(key) {
                Some(settings) => settings.onbuild.clone(),
                None => return Ok(None),
            },
        };
        let mut placed = Vec::new();
        for text in texts {
            let bad = |message: String| {
                self.error(
                    &outline.from,
                    format!("ONBUILD of the base, `{}`: {message}", crate::shown(&text)),
                )
            };
            let source = crate::parse(&self.source.file, &text).map_err(|e| bad(e.message))?;
            for line in &source.lines {
                let instruction = Instruction::read(line, &self.source.file, source.escape)
                    .map_err(|e| bad(e.message))?;
                if matches!(
                    instruction,
                    Instruction::From { .. } | Instruction::Onbuild(_) | Instruction::Maintainer(_)
                ) {
                    return Err(bad(format!(
                        "{} isn't allowed as an ONBUILD trigger",
                        line.keyword
                    )));
                }
                placed.push(Placed {
                    line: outline.from.line,
                    text: line.shown(),
                    instruction,
                });
            }
        }
        Ok(Some(placed))
    }

    /// What a stage reads from.
    fn needs(&self, index: usize, triggers: &[Placed]) -> Result<Vec<From>, Error> {
        let Some(outline) = self.outlines.get(index) else {
            return Ok(Vec::new());
        };
        let mut needs = vec![outline.base.clone()];
        for placed in triggers.iter().chain(&outline.body) {
            match &placed.instruction {
                Instruction::Copy(copy) => {
                    if let Some(from) = &copy.from {
                        needs.push(self.reference(index, placed, from)?);
                    }
                }
                Instruction::Run(run) => {
                    for from in run.mounts.iter().filter_map(|m| mount::from_of(m)) {
                        needs.push(self.reference(index, placed, &from)?);
                    }
                }
                _ => {}
            }
        }
        Ok(needs)
    }

    /// The stages that `target` needs, itself last, and the images that are not known yet.
    fn order(&self, target: usize) -> Result<(Vec<usize>, BTreeSet<ImageKey>), Error> {
        let (mut order, mut missing) = (Vec::new(), BTreeSet::new());
        let mut finished = BTreeSet::new();
        // Stages under way and what they still need: no recursion, a file may have thousands of stages.
        let mut path: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut on_path = BTreeSet::new();
        let mut next = Some(target);
        loop {
            if let Some(index) = next.take() {
                let triggers = self.triggers(index)?.unwrap_or_default();
                let mut stages = Vec::new();
                for need in self.needs(index, &triggers)? {
                    match need {
                        From::Stage(i) => stages.push(i),
                        From::Image(key) if !self.images.contains_key(&key) => {
                            missing.insert(key);
                        }
                        _ => {}
                    }
                }
                stages.reverse();
                path.push((index, stages));
                on_path.insert(index);
            }
            let Some((index, needed)) = path.last_mut() else {
                return Ok((order, missing));
            };
            let index = *index;
            match needed.pop() {
                Some(stage) if on_path.contains(&stage) => return Err(self.circle(index, stage)),
                Some(stage) if finished.contains(&stage) => {}
                Some(stage) => next = Some(stage),
                None => {
                    path.pop();
                    on_path.remove(&index);
                    finished.insert(index);
                    order.push(index);
                }
            }
        }
    }

    fn circle(&self, index: usize, stage: usize) -> Error {
        let name = |i: usize| {
            self.outlines
                .get(i)
                .and_then(|o| o.name.clone())
                .unwrap_or_else(|| i.to_string())
        };
        let message = format!(
            "circular dependency detected on stage: {}, which needs `{}`, which needs it again",
            name(index),
            name(stage)
        );
        match self.outlines.get(index) {
            Some(o) => self.error(&o.from, message),
            None => self.whole(message),
        }
    }
}

impl std::fmt::Display for Plan {
    /// One line per stage and step, for people and tests.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for stage in &self.stages {
            writeln!(f, "stage {} from {}", stage.name, stage.base)?;
            for step in &stage.steps {
                write!(f, "  {}: ", step.line)?;
                match &step.op {
                    Op::Run(r) => writeln!(f, "run {:?} as {:?} in {}", r.argv, r.user, r.cwd)?,
                    Op::Copy(c) => {
                        let inline = c.inline.iter().map(|h| format!("<<{}", h.name));
                        let all: Vec<String> = c
                            .sources
                            .iter()
                            .chain(&c.urls)
                            .cloned()
                            .chain(inline)
                            .collect();
                        writeln!(f, "copy {} from {} to {}", all.join(" "), c.from, c.dest)?;
                    }
                    Op::MakeDir { path, owner } => writeln!(f, "make {path} for {owner:?}")?,
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Context => f.write_str("the context"),
            Self::Scratch => f.write_str("scratch"),
            Self::Stage(i) => write!(f, "stage {i}"),
            Self::Image(key) => write!(f, "image {} ({})", key.reference, key.platform),
        }
    }
}
