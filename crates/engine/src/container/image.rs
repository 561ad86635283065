//! Images: pulled when something needs their files.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use graph::error::{Class, Error};
use oci::{
    Reference,
    blobs::Blobs,
    config::ImageConfig,
    image::{PullError, Stack, pull},
    registry::{Access, Client, Config as ClientConfig, Credentials, Host, Login},
};
use store::Snapshot;

use crate::{
    Ctx,
    config::Config,
    service::{self, Passage, Reached, Service},
    session::Session,
};

/// An image, by everything needed to have its files.
#[derive(Debug, Clone)]
pub struct ImagePin {
    /// Digest of the manifest, as text.
    pub manifest_digest: String,
    /// Its name and layers.
    pub stack: Stack,
    /// Its configuration.
    pub config: Arc<ImageConfig>,
}

/// The registry client for a configuration.
///
/// # Errors
/// None today; the signature leaves room for unreadable certificates.
pub fn client(config: &Config) -> Result<Client, io::Error> {
    let registries = config
        .registries
        .iter()
        .map(|(host, r)| {
            let ca = r.ca.iter().map(PathBuf::from).collect();
            (
                host.clone(),
                Host {
                    mirrors: r.mirrors.clone(),
                    http: r.http,
                    insecure: r.insecure,
                    ca,
                    socket: None,
                },
            )
        })
        .collect();
    Ok(Client::new(ClientConfig {
        registries,
        ..ClientConfig::default()
    }))
}

/// Credentials of a session: what `withRegistryAuth` gave, else what the client's docker configuration knows.
struct SessionCredentials {
    session: std::sync::Weak<Session>,
    client: Arc<crate::session::Client>,
}

impl Credentials for SessionCredentials {
    fn login<'a>(&'a self, host: &'a str) -> futures::future::BoxFuture<'a, Option<Login>> {
        Box::pin(async move {
            let session = self.session.upgrade()?;
            if let Some((username, secret)) = session.registry_auth(host) {
                let secret = String::from_utf8_lossy(secret.reveal()).into_owned();
                return Some(Login { username, secret });
            }
            let request = wire::LinkRequest::DockerAuth {
                host: host.to_owned(),
            };
            let mut stream = self.client.link.open(request).await.ok()?;
            match wire::link::read_status::<Option<wire::link::Credentials>>(&mut stream).await {
                Ok(c) => c.map(|c| Login {
                    username: c.username,
                    secret: c.secret,
                }),
                Err(e) => {
                    session
                        .progress
                        .note(&format!("cannot ask for the credentials of {host}: {e}"));
                    None
                }
            }
        })
    }
}

/// This session's way into registries that have an address of their own.
fn access(ctx: &Ctx) -> Arc<Access> {
    ctx.session.registry_access(|| {
        let access = ctx.engine.registry.access(credentials(ctx));
        access.remembering(ctx.engine.tags.clone())
    })
}

fn credentials(ctx: &Ctx) -> Arc<SessionCredentials> {
    Arc::new(SessionCredentials {
        session: Arc::downgrade(&ctx.session),
        client: ctx.client.user(),
    })
}

/// A way into registries. Services among them run while it lives.
#[derive(Debug)]
pub struct Way {
    access: Arc<Access>,
    _through: Vec<(Passage, Reached)>,
}

impl std::ops::Deref for Way {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

/// Where a registry listens, as image names say it: plain HTTP when it says nothing.
fn host_and_port(domain: &str) -> (&str, u16) {
    match domain.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().unwrap_or(80)),
        None => (domain, 80),
    }
}

/// Remembers that the session reaches a registry through a service, after starting it.
///
/// # Errors
/// It does not start, or the image's name is of another registry.
pub async fn served(ctx: &Ctx, reference: &Reference, service: &Service) -> Result<(), Error> {
    let reached = service::reach(ctx, service).await?;
    let (host, _) = host_and_port(reference.domain());
    if !reached.is_called(host) {
        return Err(Error::user(format!(
            "the image {reference} is of the registry `{}`, and `registryService` is called `{}`: use the service's host name and port in the image's address",
            reference.domain(),
            service.hostname
        )));
    }
    ctx.session
        .set_registry_service(reference.domain(), service.clone());
    Ok(())
}

/// The way to the registries of these images.
///
/// # Errors
/// One of them is a service that does not start or does not listen.
pub async fn way(
    ctx: &Ctx,
    references: impl IntoIterator<Item = &Reference>,
) -> Result<Way, Error> {
    let domains: BTreeSet<&str> = references.into_iter().map(Reference::domain).collect();
    let mut client = None;
    let mut through = Vec::new();
    for domain in domains {
        let Some(service) = ctx.session.registry_service(domain) else {
            continue;
        };
        let reached = service::reach(ctx, &service).await?;
        let (_, port) = host_and_port(domain);
        let passage = reached
            .passage(&ctx.engine.run_dir, port)
            .await
            .map_err(|e| {
                Error::environment(format!("cannot connect to the registry {domain}: {e}"))
            })?;
        let host = Host {
            http: true,
            socket: Some(passage.path().to_owned()),
            ..Host::default()
        };
        let before = client.as_ref().unwrap_or(&ctx.engine.registry);
        client = Some(before.with_host(domain, host));
        through.push((passage, reached));
    }
    let access = match client {
        // A name of a service means another registry in another session: nothing is remembered of it.
        Some(client) => Arc::new(client.access(credentials(ctx))),
        None => access(ctx),
    };
    Ok(Way {
        access,
        _through: through,
    })
}

/// The store as a place for blobs.
pub fn blobs(ctx: &Ctx) -> Arc<dyn Blobs> {
    Arc::new(ctx.engine.store.clone())
}

/// The unpacked root filesystem of an image.
///
/// # Errors
/// Layers that cannot be had, or are not what the image says.
pub async fn unpacked(ctx: &Ctx, pin: &ImagePin) -> Result<Snapshot, Error> {
    let step = ctx
        .session
        .progress
        .step(&format!("pull {}", pin.stack.reference), ctx.span);
    let layers = Arc::new(ctx.engine.store.clone());
    let way = way(ctx, [&pin.stack.reference]).await?;
    let pulled = pull(&way, &pin.stack, &blobs(ctx), &layers, &|_| {})
        .await
        .map_err(|e| {
            let class = match &e {
                PullError::Unpack { .. } | PullError::Uneven { .. } => Class::User,
                _ => Class::Environment,
            };
            Error::from_chain(class, &e)
        });
    match &pulled {
        Ok(_) => step.done(),
        Err(e) => step.failed(e),
    }
    pulled
}
