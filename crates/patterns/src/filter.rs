//! Include and exclude lists together, as a walk uses them.

use crate::{Matched, Matcher, PatternError};

/// What a filter says of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It belongs to the result.
    Include,
    /// It does not, except as the parent of something included.
    Exclude,
}

/// Include and exclude lists: a path is included when the include list is empty or matches, and the exclude list does not.
///
/// Directories are emitted like files, when they are included themselves; one that is excluded is emitted only if something
/// in it is included, just before the first such entry. So excluding `docs/*` keeps an empty `docs`, and including
/// `**/*.md` does not list directories without such files.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Option<Matcher>,
    exclude: Option<Matcher>,
}

/// A filter's knowledge about a directory, from which it decides about the directory's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirState {
    include: Matched,
    exclude: Matched,
}

/// A filter's answer about one entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Whether the entry belongs to the result.
    pub decision: Decision,
    /// For a directory: whether to look into it. `false` only when nothing in it can be included.
    pub descend: bool,
    /// For a directory: what deciding about its entries needs.
    pub state: DirState,
}

impl Filter {
    /// Compiles both lists. An empty include list includes everything.
    ///
    /// # Errors
    /// The first pattern that is malformed.
    pub fn new<I: AsRef<str>, E: AsRef<str>>(
        include: &[I],
        exclude: &[E],
    ) -> Result<Filter, PatternError> {
        Ok(Filter {
            include: list(include)?,
            exclude: list(exclude)?,
        })
    }

    /// Whether the filter has no lists at all, so that everything is included.
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Decides about a path, relative and clean. The root itself is always included. A walk is faster with [`Filter::step`].
    ///
    /// The kind does not matter: no pattern is for directories only, not even one with a trailing slash.
    pub fn decide(&self, path: impl AsRef<[u8]>, _is_dir: bool) -> Decision {
        match path.as_ref() {
            b"" => Decision::Include,
            path => self.state_of(path).decision(self),
        }
    }

    /// Whether something below this directory may be included.
    pub fn may_contain(&self, dir: impl AsRef<[u8]>) -> bool {
        let dir = dir.as_ref();
        self.looks_into(&self.state_of(dir), dir)
    }

    /// Decides about `path`, an entry of the directory that `parent` is about; the root's state is `DirState::default()`.
    pub fn step(&self, parent: &DirState, path: &[u8], is_dir: bool) -> Step {
        let step = |matcher: &Option<Matcher>, parent: &Matched| match matcher {
            Some(matcher) => matcher.step(parent, path),
            None => Matched::default(),
        };
        let state = DirState {
            include: step(&self.include, &parent.include),
            exclude: step(&self.exclude, &parent.exclude),
        };
        Step {
            decision: state.decision(self),
            descend: is_dir && self.looks_into(&state, path),
            state,
        }
    }

    fn state_of(&self, path: &[u8]) -> DirState {
        let walk = |matcher: &Option<Matcher>| {
            matcher
                .as_ref()
                .map(|m| m.walk_down(path))
                .unwrap_or_default()
        };
        DirState {
            include: walk(&self.include),
            exclude: walk(&self.exclude),
        }
    }

    fn looks_into(&self, state: &DirState, dir: &[u8]) -> bool {
        // At the root nothing has matched yet, whatever the lists say.
        if dir.is_empty() {
            return true;
        }
        let included = self
            .include
            .as_ref()
            .is_none_or(|m| state.include.matched || m.may_change_below(&state.include, dir));
        let excluded = self
            .exclude
            .as_ref()
            .is_some_and(|m| state.exclude.matched && !m.may_change_below(&state.exclude, dir));
        included && !excluded
    }
}

impl DirState {
    fn decision(&self, filter: &Filter) -> Decision {
        let included = filter.include.is_none() || self.include.matched;
        if included && !self.exclude.matched {
            Decision::Include
        } else {
            Decision::Exclude
        }
    }
}

fn list<S: AsRef<str>>(patterns: &[S]) -> Result<Option<Matcher>, PatternError> {
    if patterns.is_empty() {
        Ok(None)
    } else {
        Matcher::new(patterns).map(Some)
    }
}

#[cfg(test)]
mod tests;
