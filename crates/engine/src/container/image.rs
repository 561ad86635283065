//! Images: pulled when something needs their files.

use std::{io, path::PathBuf, sync::Arc};

use graph::error::{Class, Error};
use oci::{
    blobs::Blobs,
    config::ImageConfig,
    image::{PullError, Stack, pull},
    registry::{Access, Client, Config as ClientConfig, Credentials, Host, Login},
};
use store::Snapshot;

use crate::{Ctx, config::Config, session::Session};

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

/// This session's way into registries.
pub fn access(ctx: &Ctx) -> Arc<Access> {
    ctx.session.registry_access(|| {
        let credentials = SessionCredentials {
            session: Arc::downgrade(&ctx.session),
            client: ctx.client.user(),
        };
        ctx.engine.registry.access(Arc::new(credentials))
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
    let pulled = pull(&access(ctx), &pin.stack, &blobs(ctx), &layers, &|_| {})
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
