//! Puts the published clients into `target/clients`, each in a folder of its own, and builds the programs that use them.
//!
//! A folder is kept for later runs as long as what it was made from is the same: `made-from` in it says what that was.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use super::clients::{Client, Language, programs};
use crate::{files, process, workspace};

/// A client ready to run.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) client: Client,
    pub(super) name: String,
    /// Program and arguments, or why there is none.
    pub(super) program: Result<Vec<String>, String>,
}

/// Installs all of `clients`: one language beside the other, each language's versions one after another.
pub(super) fn all(clients: &[Client]) -> Vec<Installed> {
    let mut groups: Vec<Vec<Client>> = Vec::new();
    for client in clients {
        let same = |g: &&mut Vec<Client>| {
            g.iter().any(|c| {
                std::mem::discriminant(&c.language) == std::mem::discriminant(&client.language)
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(*client),
            None => groups.push(vec![*client]),
        }
    }
    thread::scope(|scope| {
        let start = |group: Vec<Client>| {
            scope.spawn(move || -> Vec<Installed> { group.iter().map(one).collect() })
        };
        let threads: Vec<_> = groups.into_iter().map(start).collect();
        let join = |t: thread::ScopedJoinHandle<'_, _>| {
            t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        };
        threads.into_iter().flat_map(join).collect()
    })
}

fn one(client: &Client) -> Installed {
    let dir = workspace::target("clients").join(client.name());
    let program = match client.language {
        Language::Python { extra } => python(client, extra, &dir),
        Language::Node => node(client, &dir),
        Language::Go { tags } => go_program(client, tags, &programs().join("go"), &dir),
        Language::Rust { project } => rust(project),
    };
    Installed {
        client: *client,
        name: client.name(),
        program: program
            .and_then(texts)
            .map_err(|e: anyhow::Error| format!("{e:#}")),
    }
}

fn texts(words: Vec<PathBuf>) -> Result<Vec<String>> {
    let word = |p: PathBuf| {
        let text = p.into_os_string().into_string();
        text.map_err(|p| anyhow::anyhow!("not UTF-8: {p:?}"))
    };
    words.into_iter().map(word).collect()
}

/// The program of `tests/services` for a client: program and arguments.
pub(super) fn services(installed: &Installed) -> Result<Vec<String>> {
    let Installed {
        client,
        name,
        program,
    } = installed;
    let dir = workspace::target("clients").join(name);
    let sources = workspace::root().join("tests/services");
    let words = match (client.language, program) {
        (_, Err(e)) => bail!("not installed: {e}"),
        (Language::Python { .. }, Ok(_)) => {
            vec![dir.join("bin/python"), sources.join("python/services.py")]
        }
        (Language::Node, Ok(_)) => {
            let program = dir.join("services.mjs");
            files::write(&program, &files::read(&sources.join("node/services.mjs"))?)?;
            vec!["node".into(), program]
        }
        (Language::Go { .. }, Ok(_)) => {
            let minor = client.version.split('.').nth(1).unwrap_or_default();
            let dir = workspace::target("clients").join(format!("services-{name}"));
            go_program(client, &format!("v0_{minor}"), &sources.join("go"), &dir)?
        }
        (Language::Rust { .. }, Ok(_)) => bail!("no program for this language"),
    };
    texts(words)
}

fn python(client: &Client, extra: Option<&str>, dir: &Path) -> Result<Vec<PathBuf>> {
    let wanted = [
        Some(format!("dagger-io=={}", client.version)),
        extra.map(str::to_owned),
    ];
    let wanted: Vec<String> = wanted.into_iter().flatten().collect();
    let version = process::output_text(Command::new("python3").arg("--version"))?;
    let python = dir.join("bin/python");
    cached(dir, &[wanted.join(" "), version], || {
        process::output(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]);
        process::output(pip.args(&wanted)).map(|_| ())
    })?;
    Ok(vec![python, programs().join("python/pipeline.py")])
}

fn node(client: &Client, dir: &Path) -> Result<Vec<PathBuf>> {
    let sources = texts_in(&programs().join("node"))?;
    let mut made_from = vec![client.version.to_owned()];
    made_from.extend(sources.iter().map(|(_, text)| text.clone()));
    cached(dir, &made_from, || {
        let manifest = serde_json::json!({
            "private": true, "type": "module", "dependencies": { "@dagger.io/dagger": client.version },
        });
        files::write(
            &dir.join("package.json"),
            &serde_json::to_vec_pretty(&manifest)?,
        )?;
        // Modules are looked for beside the program's file.
        for (name, text) in &sources {
            files::write(&dir.join(name), text.as_bytes())?;
        }
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--loglevel", "error"]);
        process::output(npm.current_dir(dir)).map(|_| ())
    })?;
    Ok(vec!["node".into(), dir.join("pipeline.mjs")])
}

/// The names and texts of the files in a folder.
fn texts_in(folder: &Path) -> Result<Vec<(OsString, String)>> {
    let mut sources = Vec::new();
    for path in files::list(folder)? {
        let name = path
            .file_name()
            .context("a file without a name")?
            .to_owned();
        sources.push((name, files::read_text(&path)?));
    }
    Ok(sources)
}

/// Builds what is in `from` with the client, in `dir`.
fn go_program(client: &Client, tags: &str, from: &Path, dir: &Path) -> Result<Vec<PathBuf>> {
    let sources = texts_in(from)?;
    let version = process::output_text(Command::new("go").arg("version"))?;
    let mut made_from = vec![client.version.to_owned(), tags.to_owned(), version];
    made_from.extend(sources.iter().map(|(_, text)| text.clone()));
    let program = dir.join("pipeline");
    cached(dir, &made_from, || {
        for (name, text) in &sources {
            files::write(&dir.join(name), text.as_bytes())?;
        }
        let run = |args: &[&str]| {
            process::output(Command::new("go").args(args).current_dir(dir)).map(|_| ())
        };
        run(&["mod", "init", "pipeline"])?;
        run(&[
            "mod",
            "edit",
            &format!("-require=dagger.io/dagger@v{}", client.version),
        ])?;
        run(&["mod", "tidy"])?;
        run(&["build", "-tags", tags, "-o", "pipeline", "."])
    })?;
    Ok(vec![program])
}

/// cargo itself knows what is up to date; the projects share what they have in common.
fn rust(project: &str) -> Result<Vec<PathBuf>> {
    let manifest = programs().join("rust").join(project).join("Cargo.toml");
    let mut cargo = process::cargo();
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--message-format",
        "json",
        "--manifest-path",
    ]);
    cargo
        .arg(&manifest)
        .arg("--target-dir")
        .arg(workspace::target("clients/rust"));
    let messages = process::output_text(&mut cargo)?;
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    match executable {
        Some(path) => Ok(vec![path]),
        None => bail!("cargo named no program for `{}`", manifest.display()),
    }
}

/// Makes `dir` anew with `make`, unless it is there and was made from the same.
fn cached(dir: &Path, made_from: &[String], make: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = dir.join("made-from");
    // Paths of programs are written into what is installed: a folder that was moved is made anew.
    let place = dir.as_os_str().as_encoded_bytes();
    let parts = made_from.iter().map(|p| p.as_bytes());
    let made_from = files::hash_of(parts.chain([place]));
    if fs::read_to_string(&stamp).is_ok_and(|s| s == made_from) {
        return Ok(());
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove `{}`", dir.display()))?;
    }
    files::make_dir(dir)?;
    make()?;
    files::write(&stamp, made_from.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_once_per_contents() {
        let dir = std::env::temp_dir().join(format!("xtask-cached-{}", std::process::id()));
        let mut made = 0;
        for from in ["a", "a", "b"] {
            cached(&dir, &[from.to_owned()], || {
                made += 1;
                Ok(())
            })
            .unwrap();
        }
        cached(&dir, &["c".to_owned()], || bail!("broken")).unwrap_err();
        cached(&dir, &["c".to_owned()], || {
            made += 1;
            Ok(())
        })
        .unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(made, 3);
    }
}
