//! What the parts of a test run share: an engine of their own with a fresh store, a folder for temporary files, a filter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context, Result};

use crate::env::{self, Build, Shell};
use crate::registry::Registry;
use crate::{files, images, process, workspace};

/// The images that the suite uses.
const GROUPS: &str = "core,services,docker";

/// How a part ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// More for the summary; may be empty.
    pub(super) note: String,
}

impl Outcome {
    /// Counts one check and says so.
    pub(super) fn count(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                println!("  ok {name}");
                self.passed += 1;
            }
            Err(e) => {
                println!("  failed {name}: {e:#}");
                self.failed += 1;
            }
        }
    }
}

/// The surroundings of one test run.
pub(super) struct Suite {
    dir: PathBuf,
    tmp: PathBuf,
    build: Build,
    filter: Option<String>,
    registry: Registry,
    registry_was_there: bool,
    binary: OnceLock<PathBuf>,
    shell: OnceLock<Shell>,
}

impl Suite {
    /// Makes the folders and forgets what an earlier run left in its store.
    pub(super) fn new(build: Build, filter: Option<String>) -> Result<Self> {
        let dir = workspace::target("test");
        files::make_dir(&dir)?;
        env::wipe(&dir)?;
        // Short: sockets are made below it.
        let name = &files::hash_of([dir.as_os_str().as_encoded_bytes()])[..12];
        let tmp = std::env::temp_dir().join(format!("bodkin-test-{name}"));
        if tmp.exists() {
            fs::remove_dir_all(&tmp)
                .with_context(|| format!("cannot remove `{}`", tmp.display()))?;
        }
        files::make_dir(&tmp)?;
        let registry = Registry::new(env::PORT);
        Ok(Suite {
            registry_was_there: registry.service().running()?.is_some(),
            dir,
            tmp,
            build,
            filter,
            registry,
            binary: OnceLock::new(),
            shell: OnceLock::new(),
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Temporary files of everything that the suite runs.
    pub(super) fn tmp(&self) -> &Path {
        &self.tmp
    }

    /// What the command line narrows the part to.
    pub(super) fn filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The file for the output of `part`.
    pub(super) fn log(&self, part: &str) -> PathBuf {
        self.dir.join(format!("{part}.log"))
    }

    /// `path` as a person in the repository's root types it.
    pub(super) fn shown(&self, path: &Path) -> String {
        let root = workspace::root();
        path.strip_prefix(&root)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// Builds the engine, and the tests if they are run.
    pub(super) fn build(&self) -> Result<&Path> {
        if let Some(binary) = self.binary.get() {
            return Ok(binary);
        }
        let binary = env::build(self.build, &self.dir)?;
        Ok(self.binary.get_or_init(|| binary))
    }

    /// Makes the images that the suite uses and serves them.
    pub(super) fn serve(&self) -> Result<()> {
        let options = images::Options::parse(&["--group".to_owned(), GROUPS.to_owned()])?;
        env::serve(&options, self.registry.port).map(|_| ())
    }

    /// The surroundings of clients; builds and serves what was not yet.
    pub(super) fn shell(&self) -> Result<&Shell> {
        if let Some(shell) = self.shell.get() {
            return Ok(shell);
        }
        self.serve()?;
        let shell = env::shell(&self.dir, &self.registry, self.build()?)?;
        Ok(self.shell.get_or_init(|| shell))
    }

    /// `program` as a client: it finds our engine and no other, whatever the caller's shell says.
    pub(super) fn command(&self, program: &str) -> Result<Command> {
        let shell = self.shell()?;
        let mut command = self.plain(Command::new(program));
        command.envs(shell.variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// `command` in the repository's root, with our folder for temporary files and without variables meant for other runs.
    pub(super) fn plain(&self, mut command: Command) -> Command {
        let ours = [
            "BODKIN_",
            "DAGGER_",
            "_EXPERIMENTAL_DAGGER_",
            "OTEL_",
            "TRACEPARENT",
        ];
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ours.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .env("TMPDIR", &self.tmp)
            .current_dir(workspace::root())
            .stdin(Stdio::null());
        command
    }

    /// cargo, likewise.
    pub(super) fn cargo(&self) -> Command {
        self.plain(process::cargo())
    }

    /// Stops the engine, and the registry if this run started it.
    pub(super) fn stop(&self) -> Result<()> {
        env::stop_engine(&self.dir)?;
        if !self.registry_was_there {
            self.registry.service().stop()?;
        }
        Ok(())
    }

    /// Removes the folder for temporary files if nothing is left in it: the census has looked before.
    pub(super) fn close(&self) {
        fs::remove_dir(&self.tmp).ok();
    }
}

/// Work with a name.
pub(super) struct Job<'a, T> {
    pub(super) name: String,
    work: Box<dyn FnOnce() -> T + Send + 'a>,
}

impl<'a, T> Job<'a, T> {
    pub(super) fn new(name: &str, work: impl FnOnce() -> T + Send + 'a) -> Self {
        Job {
            name: name.to_owned(),
            work: Box::new(work),
        }
    }
}

/// Runs `jobs` two at a time, and `done` with the name and result of each in the order in which they end.
pub(super) fn in_pairs<T: Send>(jobs: Vec<Job<'_, T>>, mut done: impl FnMut(String, T)) {
    let (queue, (send, receive)) = (
        std::sync::Mutex::new(jobs.into_iter()),
        std::sync::mpsc::channel(),
    );
    let next = &|| queue.lock().unwrap_or_else(|e| e.into_inner()).next();
    thread::scope(|scope| {
        for send in [send.clone(), send] {
            scope.spawn(move || {
                while let Some(Job { name, work }) = next() {
                    let result = work();
                    if send.send((name, result)).is_err() {
                        return;
                    }
                }
            });
        }
        for (name, result) in receive {
            done(name, result);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_of_a_pair_is_done_once() {
        let jobs = (0..5).map(|i| Job::new(&i.to_string(), move || i * 2));
        let mut done = Vec::new();
        in_pairs(jobs.collect(), |name, value| done.push((name, value)));
        done.sort();
        let expected: Vec<_> = (0..5).map(|i| (i.to_string(), i * 2)).collect();
        assert_eq!(done, expected);
    }
}
