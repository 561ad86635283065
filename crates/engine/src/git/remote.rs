//! A repository on another machine: how it is reached, with which credentials, and which references it has.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::Engine as _;
use graph::error::{Class, Error};
use store::Volume;
use wire::{LinkRequest, link::Credentials};

use super::{
    address::{Address, Transport},
    command::{Failure, Git},
    refs::Refs,
};
use crate::{
    Ctx,
    flight::Flights,
    host::{Socket, SocketProxy},
    lock,
    node::{Key, KeyHasher},
    secret::{Plaintext, Secret},
    service::{self, Door, Service, Use},
    session::Client,
};

/// The user that goes with a token when none is named.
const TOKEN_USER: &str = "x-access-token";
/// How long the client's machine may take to find credentials: its helpers have half a minute.
const CREDENTIALS: Duration = Duration::from_secs(40);
/// Listings remembered per session.
const REFS_MAX: usize = 1024;

/// A repository, as pipelines pass it around.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Where it is.
    pub address: Address,
    /// Trees get a `.git` folder.
    pub keep_git_dir: bool,
    /// Lines of a `known_hosts` file; empty trusts a server's key when it is first seen.
    pub known_hosts: Arc<str>,
    /// The SSH agent that was given.
    pub socket: Option<Socket>,
    /// The user that goes with the token.
    pub username: Arc<str>,
    /// Sent as a password.
    pub token: Option<Secret>,
    /// The value of an `Authorization` header.
    pub header: Option<Secret>,
    /// What stood in the address.
    pub login: Option<(String, Plaintext)>,
    /// Who serves it.
    pub service: Option<Service>,
    /// Whose helpers and agent may be asked.
    pub client: Arc<Client>,
}

/// What a session knows of repositories.
#[derive(Debug, Default)]
pub struct Known {
    refs: Mutex<HashMap<Key, Arc<Refs>>>,
    running: Flights<Key, Result<Arc<Refs>, Error>>,
    /// What the helpers of a client answered: by client and origin.
    logins: Mutex<HashMap<(u64, String), (String, Plaintext)>>,
}

impl Known {
    /// Lets go of everything.
    pub fn forget(&self) {
        lock(&self.refs).clear();
        lock(&self.logins).clear();
    }
}

impl Repository {
    /// How failures of it begin.
    pub(super) fn tried(&self) -> String {
        format!("failed to fetch remote {}", self.address)
    }

    /// Who asks for it and how, for what a session remembers.
    fn question(&self) -> Key {
        let id = |s: &Option<Secret>| s.as_ref().map(|s| s.id.to_string()).unwrap_or_default();
        let mut h = KeyHasher::new("git refs");
        h.str(&self.address.url())
            .str(&id(&self.token))
            .str(&id(&self.header))
            .str(&self.username)
            .str(&self.known_hosts)
            .num(self.client.key);
        if let Some(socket) = &self.socket {
            h.str(&socket.id.to_string());
        }
        if let Some(service) = &self.service {
            h.str(&service.id.to_string());
        }
        if let Some((user, password)) = &self.login {
            h.str(user).bytes(password.reveal());
        }
        h.finish()
    }

    /// The same way to a submodule: tokens and headers stay with their host.
    pub(super) fn submodule(&self, address: Address, login: Option<(String, Plaintext)>) -> Self {
        let same = address.transport == self.address.transport
            && address.host_port() == self.address.host_port();
        Self {
            token: self.token.clone().filter(|_| same),
            header: self.header.clone().filter(|_| same),
            login: login.or_else(|| self.login.clone().filter(|_| same)),
            address,
            ..self.clone()
        }
    }

    /// The agent to use: what was given, else the one of the user's own client.
    fn agent(&self) -> Option<Socket> {
        if self.socket.is_some() {
            return self.socket.clone();
        }
        if self.client.is_nested() {
            return None;
        }
        let path = self.client.info.env.get("SSH_AUTH_SOCK")?;
        path.starts_with('/')
            .then(|| Socket::of_client(path, self.client.clone()))
    }

    /// Where the store keeps what is known of it.
    pub(super) async fn volume(&self, ctx: &Ctx) -> Result<Volume, Error> {
        let (store, key) = (ctx.engine.store.clone(), self.volume_key());
        ctx.engine
            .blocking(move || {
                store
                    .volume(&key)
                    .map_err(|e| Error::from_chain(Class::Environment, &e))
            })
            .await
    }

    /// No cache volume of a user has such a key.
    pub(super) fn volume_key(&self) -> String {
        match &self.service {
            // The name of a service means another machine elsewhere.
            Some(service) => format!("git mirror\0{}\0{}", self.address.url(), service.id),
            None => format!("git mirror\0{}", self.address.url()),
        }
    }

    /// The references of the repository: asked for once per session.
    pub(super) async fn refs(&self, ctx: &Ctx) -> Result<Arc<Refs>, Error> {
        let question = self.question();
        if let Some(refs) = lock(&ctx.session.repositories.refs).get(&question) {
            return Ok(refs.clone());
        }
        let (work, repository) = (ctx.clone(), self.clone());
        let outcome = ctx
            .session
            .repositories
            .running
            .join(question, move || async move {
                let refs = Arc::new(repository.list(&work).await?);
                let mut known = lock(&work.session.repositories.refs);
                if known.len() < REFS_MAX {
                    known.insert(question, refs.clone());
                }
                Ok(refs)
            })
            .await;
        outcome.unwrap_or_else(|| Err(Error::internal("a listing ended without an answer")))
    }

    async fn list(&self, ctx: &Ctx) -> Result<Refs, Error> {
        let step = ctx
            .session
            .progress
            .step(&format!("git ls-remote {}", self.address), ctx.span);
        let listed = self.list_in(ctx).await;
        match &listed {
            Ok(_) => step.done(),
            Err(e) => step.failed(e),
        }
        listed
    }

    async fn list_in(&self, ctx: &Ctx) -> Result<Refs, Error> {
        let mut access = Access::open(ctx, self).await?;
        loop {
            let url = self.address.url();
            let git = Git::new(
                &access.home,
                ["ls-remote", "--symref", "--quiet", "--", &url],
            );
            match access.apply(git).run(None).await {
                Ok(answer) => {
                    self.admitted(ctx, &access).await?;
                    return Ok(Refs::parse(&String::from_utf8_lossy(&answer)));
                }
                Err(e) if e.is_denied() && access.ask(ctx, self).await => {}
                Err(e) => return Err(e.into_error(&self.tried())),
            }
        }
    }
}

/// A way to one repository, held open.
pub(super) struct Access {
    /// An empty directory.
    pub(super) home: PathBuf,
    used: Option<Use>,
    agent: Option<SocketProxy>,
    ssh: Option<String>,
    hosts: Option<HostsFile>,
    settings: Vec<(String, String)>,
    env: Vec<(&'static str, String)>,
    secrets: Vec<Vec<u8>>,
    /// Who asks, for telling askers apart: never written down.
    pub(super) credentials: Vec<u8>,
    origin: String,
    /// Helpers have been asked.
    asked: bool,
    _volume: Option<Volume>,
}

/// A file of host keys, removed when dropped.
struct HostsFile(PathBuf);

impl Drop for HostsFile {
    fn drop(&mut self) {
        // The scratch directory is emptied at the next start as well.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An empty directory as a home.
pub(super) fn home(ctx: &Ctx) -> Result<PathBuf, Error> {
    let home = ctx.engine.run_dir.join(super::strays::HOME);
    std::fs::create_dir_all(&home)
        .map_err(|e| Error::environment(format!("cannot make `{}`: {e}", home.display())))?;
    Ok(home)
}

impl Access {
    /// Starts the service, forwards the agent, takes the credentials that are known.
    pub(super) async fn open(ctx: &Ctx, repository: &Repository) -> Result<Self, Error> {
        let address = &repository.address;
        let mut access = Self {
            home: home(ctx)?,
            used: None,
            agent: None,
            ssh: None,
            hosts: None,
            settings: Vec::new(),
            env: Vec::new(),
            secrets: Vec::new(),
            credentials: b"none".to_vec(),
            origin: address.origin(),
            asked: false,
            _volume: None,
        };
        if let Some(query) = address.query().filter(|q| !q.is_empty()) {
            access.secrets.push(query.as_bytes().to_vec());
        }
        let mut ssh_host = None;
        if let Some(service) = &repository.service {
            let used = ctx.session.services.acquire(ctx, service).await?;
            if service::is_meant(&service.hostname, &used.running().hostname, &address.host) {
                let Some(door) = used.running().door.clone() else {
                    return Err(Error::user(format!(
                        "the service `{}` has no address",
                        service.hostname
                    )));
                };
                let ip = door.address().to_string();
                match address.transport {
                    Transport::Http | Transport::Https => access.settings.push((
                        "http.curloptResolve".to_owned(),
                        format!("{}:{}:{ip}", address.host, address.effective_port()),
                    )),
                    Transport::Git => access.settings.push((
                        format!("url.git://{ip}:{}/.insteadOf", address.effective_port()),
                        format!("{}/", address.origin()),
                    )),
                    Transport::Ssh => ssh_host = Some(ip),
                }
                access.used = Some(used);
            }
        }
        match address.transport {
            Transport::Ssh => access.open_ssh(ctx, repository, ssh_host).await?,
            Transport::Http | Transport::Https => access.log_in(ctx, repository).await?,
            Transport::Git => {}
        }
        Ok(access)
    }

    async fn open_ssh(
        &mut self,
        ctx: &Ctx,
        repository: &Repository,
        service: Option<String>,
    ) -> Result<(), Error> {
        if let Some(socket) = repository.agent() {
            // Keys do not leave an agent: the user and the socket stand for them.
            let user = &repository.client.info;
            self.credentials =
                format!("ssh\0{}\0{}\0{}", user.stable_id, user.uid, socket.id).into_bytes();
            self.agent = Some(SocketProxy::listen(ctx, &socket, (0, 0)).await?);
        }
        let (hosts, policy) = if repository.known_hosts.trim().is_empty() {
            let volume = repository.volume(ctx).await?;
            let hosts = volume.path().join("known_hosts");
            self._volume = Some(volume);
            (hosts, "accept-new")
        } else {
            let name = format!("known-hosts-{}", uuid::Uuid::new_v4().simple());
            let path = ctx.engine.run_dir.join(name);
            let mut text = repository.known_hosts.to_string();
            text.push('\n');
            std::fs::write(&path, text).map_err(|e| {
                Error::environment(format!("cannot write `{}`: {e}", path.display()))
            })?;
            self.hosts = Some(HostsFile(path.clone()));
            (path, "yes")
        };
        let agent = match &self.agent {
            Some(agent) => quoted(agent.path()),
            None => "none".to_owned(),
        };
        let mut command = format!(
            "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4 \
             -o ForwardAgent=no -o ForwardX11=no -o ControlMaster=no -o ControlPath=none -o PermitLocalCommand=no \
             -o IdentityFile=none -o IdentityAgent={agent} -o PreferredAuthentications=publickey -o HashKnownHosts=no \
             -o UpdateHostKeys=no -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={} -o StrictHostKeyChecking={policy}",
            quoted(&hosts)
        );
        if let Some(ip) = service {
            let host = &repository.address.host;
            command.push_str(&format!(" -o HostName={ip} -o HostKeyAlias={host}"));
        }
        self.ssh = Some(command);
        Ok(())
    }

    async fn log_in(&mut self, ctx: &Ctx, repository: &Repository) -> Result<(), Error> {
        if let Some(header) = &repository.header {
            let value = header.fetch(ctx).await?;
            let text = std::str::from_utf8(value.reveal().trim_ascii())
                .ok()
                .filter(|t| !t.chars().any(char::is_control))
                .ok_or_else(|| {
                    Error::user(format!(
                        "the secret `{}` has characters that no header may have",
                        header.name
                    ))
                })?;
            self.secrets.push(text.as_bytes().to_vec());
            self.credentials = format!("header\0{text}").into_bytes();
            // `Basic abc`: the second word alone is as secret.
            self.secrets
                .extend(text.split_once(' ').map(|(_, t)| t.as_bytes().to_vec()));
            self.settings.push((
                format!("http.{}/.extraHeader", self.origin),
                format!("Authorization: {text}"),
            ));
            // Another host must not get the header.
            self.settings
                .push(("http.followRedirects".to_owned(), "false".to_owned()));
            self.asked = true;
        } else if let Some(token) = &repository.token {
            let value = token.fetch(ctx).await?;
            let user = match &*repository.username {
                "" => TOKEN_USER,
                user => user,
            };
            self.use_login(user, &value)?;
            self.settings
                .push(("http.proactiveAuth".to_owned(), "basic".to_owned()));
            self.asked = true;
        } else if let Some((user, password)) = &repository.login {
            self.use_login(user, password)?;
            self.asked = true;
        } else {
            let key = (repository.client.key, self.origin.clone());
            let known = lock(&ctx.session.repositories.logins).get(&key).cloned();
            if let Some((user, password)) = known {
                self.use_login(&user, &password)?;
            }
        }
        Ok(())
    }

    /// Lets `git` find the credentials when this host asks for them. They travel in the environment of the program.
    fn use_login(&mut self, user: &str, password: &Plaintext) -> Result<(), Error> {
        let secret = std::str::from_utf8(password.reveal().trim_ascii())
            .ok()
            .filter(|t| !t.chars().any(char::is_control) && !user.chars().any(char::is_control))
            .ok_or_else(|| {
                Error::user(format!(
                    "the credentials for {} have characters that no password over HTTP may have",
                    self.origin
                ))
            })?;
        self.secrets.push(secret.as_bytes().to_vec());
        // As it travels: a server may send back what it was sent.
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{secret}"));
        self.secrets.push(basic.into_bytes());
        self.credentials = format!("login\0{user}\0{secret}").into_bytes();
        self.env
            .retain(|(name, _)| !name.starts_with("BODKIN_GIT_"));
        self.env.push(("BODKIN_GIT_USER", user.to_owned()));
        self.env.push(("BODKIN_GIT_PASSWORD", secret.to_owned()));
        let name = format!("credential.{}.helper", self.origin);
        let helper = r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$BODKIN_GIT_USER" "$BODKIN_GIT_PASSWORD"; }; f"#;
        self.settings.retain(|(n, _)| *n != name);
        self.settings.push((name, helper.to_owned()));
        Ok(())
    }

    /// After a denial: asks the helpers of the user's own machine, once. False when there is nothing new to try with.
    pub(super) async fn ask(&mut self, ctx: &Ctx, repository: &Repository) -> bool {
        let address = &repository.address;
        if self.asked || !address.transport.is_http() || repository.client.is_nested() {
            return false;
        }
        self.asked = true;
        let request = LinkRequest::GitCredential {
            protocol: address.scheme().to_owned(),
            host: address.host_port(),
            path: address.path.trim_start_matches('/').to_owned(),
        };
        let asking = async {
            let mut stream = repository.client.link.open(request).await?;
            wire::link::read_status::<Option<Credentials>>(&mut stream).await
        };
        let note = |why: String| {
            ctx.session.progress.note(&format!(
                "cannot ask the client's machine for credentials of {}: {why}",
                address.origin()
            ));
        };
        let found = match tokio::time::timeout(CREDENTIALS, asking).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => {
                note(e.message);
                None
            }
            Err(_) => {
                note(format!("no answer within {} s", CREDENTIALS.as_secs()));
                None
            }
        };
        let Some(found) = found else { return false };
        let user = match found.username.as_str() {
            "" => TOKEN_USER,
            user => user,
        };
        let password = Plaintext::new(found.secret.into_bytes());
        if self.use_login(user, &password).is_err() {
            return false;
        }
        let key = (repository.client.key, self.origin.clone());
        lock(&ctx.session.repositories.logins).insert(key, (user.to_owned(), password));
        true
    }

    /// A run of `git` that may use this way.
    pub(super) fn apply(&self, mut git: Git) -> Git {
        for (name, value) in &self.settings {
            git = git.setting(name, value);
        }
        for (name, value) in &self.env {
            git = git.env(name, value);
        }
        for secret in &self.secrets {
            git = git.secret(secret);
        }
        if let Some(ssh) = &self.ssh {
            git = git.env("GIT_SSH_COMMAND", ssh);
        }
        git.within(self.door())
    }

    fn door(&self) -> Option<Door> {
        self.used.as_ref()?.running().door.clone()
    }
}

/// For a shell, and in it for the option of a program that takes words apart.
fn quoted(path: &Path) -> String {
    format!(
        "'\"{}\"'",
        path.display().to_string().replace('\'', "'\\''")
    )
}

impl From<Failure> for Error {
    fn from(e: Failure) -> Self {
        e.into_error("cannot check out")
    }
}
