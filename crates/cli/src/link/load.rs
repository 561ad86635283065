//! Loads an image archive into the container runtime of this machine: `docker load` and its kin read it from their input.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use wire::{LinkError, LinkErrorKind, Status, piece::Piece};

use super::{Broken, export::conclude, reader::Pieces, status_line};

/// Programs that load images, the most usual first.
const RUNTIMES: [&str; 3] = ["docker", "podman", "nerdctl"];
/// How much of what the program says is told.
const SAID_MAX: u64 = 4096;
/// How long the program may take after it has the whole archive.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where programs are looked for.
#[derive(Debug, Clone)]
pub struct Place {
    /// As `PATH`.
    pub path: OsString,
}

impl Place {
    /// As this process's environment says.
    pub fn of_process() -> Self {
        Self {
            path: std::env::var_os("PATH").unwrap_or_default(),
        }
    }

    fn runtime(&self) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        RUNTIMES
            .iter()
            .flat_map(|name| std::env::split_paths(&self.path).map(move |dir| dir.join(name)))
            .find(|file| {
                file.metadata()
                    .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
            })
    }
}

/// Answers a `load_image` request.
///
/// # Errors
/// A broken connection, or why the image was not loaded; the engine is told.
pub fn load(mut conn: File, place: &Place, image: &str) -> Result<(), Broken> {
    let mut program = match start(place, image) {
        Ok(p) => p,
        Err(e) => return super::whole::<()>(&mut conn, Err(e)),
    };
    conn.write_all(&status_line(&Status::Ok(()))?)?;
    let mut pieces = Pieces::new(conn);
    let fed = feed(&mut pieces, &mut program);
    let loaded = match fed {
        // Half an archive must not end like a whole one.
        Err(Fed::Broken(e)) => {
            program.kill();
            Err(e)
        }
        // What it says explains why it reads no more.
        Ok(()) | Err(Fed::Closed) => program.finish(image, fed.is_ok()).map_err(Broken::from),
    };
    conclude(&mut pieces, loaded, &program.file)
}

/// A program that loads an image.
struct Program {
    file: PathBuf,
    child: Child,
    said: Option<JoinHandle<String>>,
}

fn start(place: &Place, image: &str) -> Result<Program, LinkError> {
    let Some(file) = place.runtime() else {
        return Err(LinkError::new(
            LinkErrorKind::NotFound,
            format!(
                "cannot load image {image}: none of {} is in the client's PATH; install one, or use `export` or `publish`",
                RUNTIMES.join(", ")
            ),
        ));
    };
    let mut child = Command::new(&file)
        .arg("load")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| LinkError::io("run", &file, &e))?;
    let said = child.stderr.take().map(|mut err| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.by_ref().take(SAID_MAX).read_to_end(&mut text);
            // The rest is read too, so that the program never waits for a reader.
            let _ = io::copy(&mut err, &mut io::sink());
            String::from_utf8_lossy(&text).trim().to_owned()
        })
    });
    Ok(Program { file, child, said })
}

enum Fed {
    /// The program reads no more.
    Closed,
    Broken(Broken),
}

/// Gives the program the archive.
fn feed(pieces: &mut Pieces, program: &mut Program) -> Result<(), Fed> {
    let Some(mut input) = program.child.stdin.take() else {
        return Err(Fed::Closed);
    };
    loop {
        match pieces.next().map_err(Fed::Broken)? {
            Piece::Data(bytes) => {
                if input.write_all(bytes).is_err() {
                    pieces.discard();
                    return Err(Fed::Closed);
                }
            }
            Piece::Done => return Ok(()),
            _ => {
                let error = LinkError::new(
                    LinkErrorKind::Invalid,
                    "the archive came in an order that makes no sense",
                );
                return Err(Fed::Broken(error.into()));
            }
        }
    }
}

impl Program {
    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    fn finish(&mut self, image: &str, whole: bool) -> Result<(), LinkError> {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => {
                    self.kill();
                    return Err(LinkError::new(
                        LinkErrorKind::Io,
                        format!(
                            "`{} load` did not end within {PATIENCE:?}",
                            self.file.display()
                        ),
                    ));
                }
                Err(e) => return Err(LinkError::io("wait for", &self.file, &e)),
            }
        };
        let said = self
            .said
            .take()
            .and_then(|said| said.join().ok())
            .unwrap_or_default();
        if status.success() && whole {
            return Ok(());
        }
        Err(LinkError::new(
            LinkErrorKind::Io,
            format!(
                "`{} load` did not load image {image} ({status}): {said}",
                self.file.display()
            ),
        ))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_runtime_it_is_said_what_is_missing() {
        let place = Place {
            path: "/nonexistent".into(),
        };
        let Err(error) = start(&place, "app:dev") else {
            panic!("no runtime there");
        };
        assert_eq!(error.kind, LinkErrorKind::NotFound);
        assert!(error.message.contains("none of docker, podman, nerdctl"));
    }
}
