//! Looking for text in files, as ripgrep does and with its parts.

use std::{
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use graph::{
    error::Error,
    resolve::{Args, Invocation, Memo},
    value::Value,
};
use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};
use ignore::{WalkBuilder, WalkState, overrides::OverrideBuilder};

use super::{Directory, File, Tree, tree_error};
use crate::{Ctx, container::paths, dispatch::Binder, engine::Stop};

type Answer = Result<Value, Error>;

/// Most results of one search; who wants more has to look for less.
const RESULTS_MAX: usize = 1_000_000;

/// A place where text was found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hit {
    path: Arc<str>,
    line: u64,
    offset: u64,
    text: Arc<str>,
    matches: Vec<Submatch>,
}

/// A match in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Submatch {
    text: Arc<str>,
    start: usize,
    end: usize,
}

/// What is looked for.
#[derive(Debug, Clone)]
struct Search {
    paths: Vec<String>,
    globs: Vec<String>,
    pattern: String,
    literal: bool,
    multiline: bool,
    dotall: bool,
    insensitive: bool,
    skip_ignored: bool,
    skip_hidden: bool,
    files_only: bool,
    limit: usize,
}

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.bind("Directory.search", Memo::Session, |inv| async move {
        let tree = inv.this::<Directory>()?.tree.clone();
        let search = Search::of(&inv.args)?;
        run(&inv, tree, search).await
    });
    b.bind("File.search", Memo::Session, |inv| async move {
        let file = inv.this::<File>()?.tree.clone();
        let name = paths::base_name(&file.path).to_owned();
        let mut search = Search::of(&inv.args)?;
        let wanted = search.paths.is_empty()
            || search.paths.iter().any(|p| {
                matches!(paths::join("/", p).trim_start_matches('/'), "" | ".")
                    || paths::join("/", p) == paths::join("/", &name)
            });
        if !wanted {
            return Ok(inv.objects(Vec::<Hit>::new()));
        }
        search.paths = vec![name];
        let parent = Tree {
            path: paths::join(&file.path, "..").into(),
            output: file.output,
        };
        run(&inv, parent, search).await
    });
    b.bind("SearchResult.filePath", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Hit>()?.path.clone()))
    });
    b.bind("SearchResult.lineNumber", Memo::Never, |inv| async move {
        Ok(int(inv.this::<Hit>()?.line))
    });
    b.bind(
        "SearchResult.absoluteOffset",
        Memo::Never,
        |inv| async move { Ok(int(inv.this::<Hit>()?.offset)) },
    );
    b.bind("SearchResult.matchedLines", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Hit>()?.text.clone()))
    });
    b.bind("SearchResult.submatches", Memo::Session, |inv| async move {
        Ok(inv.objects(inv.this::<Hit>()?.matches.clone()))
    });
    b.bind("SearchSubmatch.text", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Submatch>()?.text.clone()))
    });
    b.bind("SearchSubmatch.start", Memo::Never, |inv| async move {
        Ok(int(inv.this::<Submatch>()?.start as u64))
    });
    b.bind("SearchSubmatch.end", Memo::Never, |inv| async move {
        Ok(int(inv.this::<Submatch>()?.end as u64))
    });
}

fn int(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

async fn run(inv: &Invocation<Ctx>, tree: Tree, search: Search) -> Answer {
    let hits = tree
        .with_stop(&inv.ctx, move |tree, path, stop| {
            search.run(tree, path, stop)
        })
        .await?;
    Ok(inv.objects(hits))
}

impl Search {
    fn of(args: &Args) -> Result<Self, Error> {
        let owned = |name: &str| args.strings(name).iter().map(|s| s.to_string()).collect();
        let limit = match args.int("limit") {
            None => RESULTS_MAX,
            Some(n) => usize::try_from(n)
                .map_err(|_| Error::user(format!("limit {n} of a search is negative")))?
                .min(RESULTS_MAX),
        };
        Ok(Self {
            paths: owned("paths"),
            globs: owned("globs"),
            pattern: args.str("pattern").to_owned(),
            literal: args.bool("literal"),
            multiline: args.bool("multiline"),
            dotall: args.bool("dotall"),
            insensitive: args.bool("insensitive"),
            skip_ignored: args.bool("skipIgnored"),
            skip_hidden: args.bool("skipHidden"),
            files_only: args.bool("filesOnly"),
            limit,
        })
    }

    fn matcher(&self) -> Result<RegexMatcher, Error> {
        let mut builder = RegexMatcherBuilder::new();
        builder
            .case_insensitive(self.insensitive)
            .fixed_strings(self.literal)
            .multi_line(true)
            .dot_matches_new_line(self.dotall);
        if !self.multiline {
            builder.line_terminator(Some(b'\n'));
        }
        builder
            .build(&self.pattern)
            .map_err(|e| Error::user(format!("cannot search for {:?}: {e}", self.pattern)))
    }

    /// What is found below a directory, sorted by path and line.
    fn run(&self, tree: &store::Tree, at: &str, stop: &Stop) -> Result<Vec<Hit>, Error> {
        let matcher = self.matcher()?;
        // Walked through its descriptor: nothing but what is below it can be come by, links are not followed.
        let top = tree.dir_fd(at).map_err(|e| tree_error(&e))?;
        let root = PathBuf::from(format!("/proc/self/fd/{}/", top.as_raw_fd()));
        let mut overrides = OverrideBuilder::new(&root);
        for glob in &self.globs {
            overrides
                .add(glob)
                .map_err(|e| Error::user(format!("cannot search in {glob:?}: {e}")))?;
        }
        let overrides = overrides
            .build()
            .map_err(|e| Error::user(format!("cannot search in {:?}: {e}", self.globs)))?;
        let starts = self.starts(tree, at, &root)?;
        let Some((first, rest)) = starts.split_first() else {
            return Ok(Vec::new());
        };
        let mut walk = WalkBuilder::new(first);
        for start in rest {
            walk.add(start);
        }
        walk.standard_filters(false)
            .hidden(self.skip_hidden)
            .ignore(self.skip_ignored)
            .git_ignore(self.skip_ignored)
            .require_git(false)
            .follow_links(false)
            .overrides(overrides)
            .threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(8)));
        let found = Mutex::new(Vec::new());
        let full = AtomicBool::new(false);
        walk.build_parallel().run(|| {
            let mut searcher = SearcherBuilder::new()
                .binary_detection(BinaryDetection::quit(0))
                .line_number(true)
                .multi_line(self.multiline)
                .build();
            let (matcher, found, full, root) = (&matcher, &found, &full, &root);
            Box::new(move |entry| {
                if stop.stopped() {
                    return WalkState::Quit;
                }
                // What cannot be read is passed over, as ripgrep does.
                let Ok(entry) = entry else {
                    return WalkState::Continue;
                };
                if !entry.file_type().is_some_and(|t| t.is_file()) {
                    return WalkState::Continue;
                }
                let mut hits = Vec::new();
                let shown = entry.path().strip_prefix(root).unwrap_or(entry.path());
                let mut sink = Hits {
                    path: shown.to_string_lossy().into(),
                    matcher,
                    only_file: self.files_only,
                    limit: self.limit,
                    hits: &mut hits,
                };
                let _ = searcher.search_path(matcher, entry.path(), &mut sink);
                if hits.is_empty() {
                    return WalkState::Continue;
                }
                let mut found = crate::lock(found);
                found.append(&mut hits);
                if found.len() >= RESULTS_MAX {
                    full.store(true, Ordering::Relaxed);
                    return WalkState::Quit;
                }
                WalkState::Continue
            })
        });
        stop.check()?;
        if full.into_inner() && self.limit >= RESULTS_MAX {
            return Err(Error::user(format!(
                "the search for {:?} has more than {RESULTS_MAX} results: set a limit or look for less",
                self.pattern
            )));
        }
        let mut hits = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        hits.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
        hits.dedup();
        hits.truncate(self.limit);
        Ok(hits)
    }

    /// Where to look: the paths that were given, else the top.
    fn starts(&self, tree: &store::Tree, at: &str, root: &Path) -> Result<Vec<PathBuf>, Error> {
        if self.paths.is_empty() {
            return Ok(vec![root.to_owned()]);
        }
        let mut starts = Vec::new();
        for path in &self.paths {
            let inside = paths::join("/", path);
            let whole = paths::join(at, inside.trim_start_matches('/'));
            match tree.lstat(&whole).map_err(|e| tree_error(&e))? {
                None => return Err(Error::user(format!("{path}: no such file or directory"))),
                // A link on the way could lead out of the tree for a walk by path.
                Some(_) if leads_through_link(tree, &whole).map_err(|e| tree_error(&e))? => {
                    return Err(Error::user(format!(
                        "{path}: cannot search through a symbolic link"
                    )));
                }
                Some(_) => starts.push(root.join(inside.trim_start_matches('/'))),
            }
        }
        Ok(starts)
    }
}

/// Is any part of the path a link?
fn leads_through_link(tree: &store::Tree, path: &str) -> Result<bool, store::TreeError> {
    let mut at = path.to_owned();
    while at != "/" {
        if tree
            .lstat(&at)?
            .is_some_and(|s| s.kind == store::Kind::Symlink)
        {
            return Ok(true);
        }
        at = paths::join(&at, "..");
    }
    Ok(false)
}

/// Takes what is found in one file.
struct Hits<'a> {
    path: Arc<str>,
    matcher: &'a RegexMatcher,
    only_file: bool,
    limit: usize,
    hits: &'a mut Vec<Hit>,
}

impl Sink for Hits<'_> {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        if self.hits.len() >= self.limit {
            return Ok(false);
        }
        if self.only_file {
            self.hits.push(Hit {
                path: self.path.clone(),
                line: 0,
                offset: 0,
                text: "".into(),
                matches: Vec::new(),
            });
            return Ok(false);
        }
        let bytes = found.bytes();
        let mut matches = Vec::new();
        let _ = self.matcher.find_iter(bytes, |m| {
            let text = bytes.get(m.start()..m.end()).unwrap_or_default();
            matches.push(Submatch {
                text: String::from_utf8_lossy(text).into(),
                start: m.start(),
                end: m.end(),
            });
            true
        });
        self.hits.push(Hit {
            path: self.path.clone(),
            line: found.line_number().unwrap_or(0),
            offset: found.absolute_byte_offset(),
            text: String::from_utf8_lossy(bytes).into(),
            matches,
        });
        Ok(true)
    }
}
