//! What a command line's values stand for: objects made in the session, secrets read on this machine.

use std::{io::Read, path::Path, process::Stdio};

use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, process::Command};

use crate::{
    answer::Api,
    error::Failure,
    functions::{
        model::ObjectKind,
        object::{self, Here, SecretPlace, Source},
        plan,
    },
};

/// Longest secret.
const SECRET: u64 = 512_000;

/// The IDs of the objects that texts stand for.
///
/// # Errors
/// A text that stands for none, a secret that is not there, what the engine says.
pub async fn ids(
    api: &Api<'_>,
    here: &Here<'_>,
    objects: &[(ObjectKind, &str)],
) -> Result<Vec<String>, Failure> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let mut selections = Vec::with_capacity(objects.len());
    for (kind, text) in objects {
        let source = object::source(*kind, text, here).map_err(Failure::new)?;
        selections.push(match source {
            Source::Query(selection) => selection,
            Source::Secret(place) => {
                let value = secret(here, place).await?;
                let name: String = Sha256::digest(value.as_bytes())
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                object::set_secret(&name, &value)
            }
        });
    }
    let answer = api.ask(&plan::ids_query(&selections)).await;
    let data = answer.map_err(|failure| Failure {
        message: plan::without_aliases(&failure.message, &selections),
        ..failure
    })?;
    let ids = plan::ids(&data, selections.len());
    if ids.len() == selections.len() {
        Ok(ids)
    } else {
        Err(Failure::new("the engine gave no ID for an argument"))
    }
}

async fn secret(here: &Here<'_>, place: SecretPlace) -> Result<String, Failure> {
    let (what, bytes) = match place {
        SecretPlace::Env(name) => {
            // The name may be a secret's value, given by mistake: only its beginning is told.
            let shown = match name.char_indices().nth(3) {
                Some((end, _)) => format!("{}...", name.get(..end).unwrap_or_default()),
                None => name.clone(),
            };
            let value = std::env::var_os(&name)
                .ok_or_else(|| Failure::new(format!("secret env var not found: {shown:?}")))?;
            (
                format!("secret env var {shown:?}"),
                value.into_encoded_bytes(),
            )
        }
        SecretPlace::File(path) => {
            let what = format!("secret file {path:?}");
            let real = here.path(&path);
            let read = tokio::task::spawn_blocking(move || read(Path::new(&real)));
            let bytes = read.await.map_err(std::io::Error::other).flatten();
            let bytes = bytes
                .map_err(|e| Failure::new(format!("failed to read secret file {path:?}: {e}")))?;
            (what, bytes)
        }
        SecretPlace::Command(command) => {
            let bytes = output(&command).await.map_err(|why| {
                Failure::new(format!("failed to run secret command {command:?}: {why}"))
            })?;
            (format!("output of secret command {command:?}"), bytes)
        }
    };
    if bytes.len() as u64 > SECRET {
        return Err(Failure::new(format!(
            "{what} is longer than {SECRET} bytes"
        )));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(format!("{what} is not UTF-8 text")))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(SECRET + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a shell command writes. It may ask the user something, so it may take as long as the user lets it; what it says on
/// standard error is for the user too.
async fn output(command: &str) -> Result<Vec<u8>, String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = stdout.take(SECRET + 1);
        let read = stdout.read_to_end(&mut bytes).await;
        read.map_err(|e| e.to_string())?;
    }
    if bytes.len() as u64 > SECRET {
        // Dropping the child ends it.
        return Ok(bytes);
    }
    let status = child.wait().await.map_err(|e| e.to_string())?;
    if status.success() {
        Ok(bytes)
    } else {
        Err(status.to_string())
    }
}
