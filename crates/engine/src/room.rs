//! A full disk: garbage goes and the work is tried once more, else the error says which disk, and what to do.

use graph::error::{Class, Error};
use store::{Disk, Policy, Rule};

use crate::{Ctx, Engine, gc::Facts};

/// What the kernel says of a full disk, in an error's text.
const NO_SPACE: &str = "No space left on device";
/// In the text of an error that was tried to be helped already.
const TRIED: &str = "after garbage was collected";

/// How a disk without room shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    /// The engine could not write.
    Ours,
    /// A process in a container could not. It may have been on a file system of its own.
    Theirs,
}

impl Shortage {
    fn of(error: &Error) -> Option<Self> {
        let message = error.message();
        let ours = (message.contains(NO_SPACE) && !message.contains(TRIED)).then_some(Self::Ours);
        let Some(extensions) = error.extensions() else {
            return ours;
        };
        // A process that was never started says nothing itself.
        if extensions
            .get("exitCode")
            .and_then(serde_json::Value::as_i64)
            == Some(-1)
        {
            return ours;
        }
        let said = extensions.get("stderr")?.as_str()?;
        said.contains(NO_SPACE).then_some(Self::Theirs)
    }
}

impl Ctx {
    /// Does `work`; when the disk is full, once more after garbage was collected.
    ///
    /// # Errors
    /// What the work answered.
    pub(crate) async fn with_room<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl Fn() -> F,
    ) -> Result<T, Error> {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(shortage) = Shortage::of(&error) else {
            return Err(error);
        };
        let freed = match self.engine.make_room(shortage).await {
            Ok(freed) => freed,
            Err(e) => {
                tracing::warn!("cannot make room on the disk: {e}");
                0
            }
        };
        tracing::warn!(freed, %error, "no room on the disk");
        let error = if shortage == Shortage::Ours || freed > 0 {
            match work().await {
                Ok(done) => return Ok(done),
                Err(again) => again,
            }
        } else {
            error
        };
        let Some(shortage) = Shortage::of(&error) else {
            return Err(error);
        };
        let advice = self.engine.advice();
        match shortage {
            Shortage::Ours => {
                // What was done of it is of no use now, and others need the room.
                if let Err(e) = self.engine.make_room(shortage).await {
                    tracing::warn!("cannot make room on the disk: {e}");
                }
                let full = Error::environment(format!("{}: {advice}", error.message()));
                Err(match error.extensions() {
                    Some(extensions) => full.with_extensions(extensions.clone()),
                    None => full,
                })
            }
            Shortage::Theirs => {
                self.session.progress.note(&format!(
                    "a process found no room: {advice}; or a file system of its own is full"
                ));
                Err(error)
            }
        }
    }
}

impl Engine {
    /// Removes what may go; how many bytes that were.
    async fn make_room(&self, shortage: Shortage) -> Result<u64, Error> {
        let store = self.store.clone();
        let settings = self.gc.settings().clone();
        self.blocking(move || {
            let failed = |e| Error::from_chain(Class::Environment, &e);
            let unfinished = store.drop_unfinished();
            let Disk { total, free, .. } = store.disk().map_err(failed)?;
            let policy = match shortage {
                Shortage::Ours => Policy {
                    rules: vec![Rule {
                        min_free: Some(settings.limits(total).min_free),
                        ..Rule::default()
                    }],
                },
                // What would go at the end of the session anyway.
                Shortage::Theirs => settings.policy(Facts {
                    total,
                    free,
                    used: 0,
                }),
            };
            let report = store.prune(&policy).map_err(failed)?;
            store.empty_trash();
            Ok(unfinished.saturating_add(report.freed))
        })
        .await
    }

    /// Which disk, how much is free, what to do.
    fn advice(&self) -> String {
        const MB: u64 = 1_000_000;
        let room = self.store.disk().map_or(String::new(), |disk| {
            format!(" has {} of {} MB free", disk.free / MB, disk.total / MB)
        });
        format!(
            "the disk of `{}`{room} {TRIED}; make room on it, or set BODKIN_STATE_DIR to a directory on a larger one",
            self.store.dir().display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_is_told_from_other_trouble() {
        let of = |e: Error| Shortage::of(&e);
        let ours = Error::environment("cannot write `x`: No space left on device (os error 28)");
        assert_eq!(of(ours.clone()), Some(Shortage::Ours));
        assert_eq!(
            of(Error::environment(format!("{}: {TRIED}", ours.message()))),
            None,
            "once is enough"
        );
        assert_eq!(of(Error::environment("connection refused")), None);
        let mut ext = serde_json::Map::new();
        ext.insert(
            "stderr".into(),
            "dd: error writing 'x': No space left on device".into(),
        );
        assert_eq!(
            of(Error::user("exit code: 1").with_extensions(ext)),
            Some(Shortage::Theirs)
        );
        assert_eq!(of(Error::user("exit code: 1")), None);
    }
}
