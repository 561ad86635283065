//! `Container.from`: from a name to a pinned image.

use graph::{
    call::{Call, Literal},
    error::{Class, Error},
    resolve::Invocation,
    value::{Object, Value},
};
use oci::{Digest, Platform, Reference, image::Stack, registry::Remembered, time::rfc3339};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Config, Container,
    image::{ImagePin, blobs, served, way},
};
use crate::{Ctx, directory::Tree, node::Node};

/// Reads a platform argument and writes it in its normal form.
///
/// # Errors
/// `unknown operating system or architecture`, or what is wrong with it.
pub(crate) fn parse_platform(text: &str) -> Result<String, Error> {
    text.parse::<Platform>()
        .map(|p| p.to_string())
        .map_err(|e| Error::from_chain(Class::User, &e))
}

/// The registry host an address of `withRegistryAuth` means.
pub(super) fn auth_host(address: &str) -> Result<String, Error> {
    // A host alone (`docker.io`, `localhost:5000`) or a whole image name.
    let looks_like_host = !address.contains('/')
        && (address.contains('.') || address.contains(':') || address == "localhost");
    let domain = if looks_like_host {
        address.to_owned()
    } else {
        named(address)?.domain().to_owned()
    };
    Ok(
        if domain == "index.docker.io" || domain == "registry-1.docker.io" {
            "docker.io".to_owned()
        } else {
            domain
        },
    )
}

/// An image as a registry has it now.
pub(crate) struct Resolved {
    /// Its name with digest.
    pub(crate) pinned: String,
    /// Which of its platforms it is.
    pub(crate) platform: String,
    /// The `config` object of its configuration.
    pub(crate) config: serde_json::Map<String, serde_json::Value>,
    /// Its root filesystem, to be pulled when something needs it.
    pub(crate) rootfs: Tree,
}

/// The name of an image.
///
/// # Errors
/// It is none.
pub(super) fn named(address: &str) -> Result<Reference, Error> {
    Reference::parse(address).map_err(|e| Error::from_chain(Class::User, &e))
}

/// Looks an image up.
///
/// # Errors
/// A malformed name, no such image or platform, a registry that does not answer.
pub(crate) async fn resolve(ctx: &Ctx, address: &str, platform: &str) -> Result<Resolved, Error> {
    let reference = named(address)?.or_latest();
    let platform: Platform = platform
        .parse::<Platform>()
        .map_err(|e| Error::from_chain(Class::User, &e))?;
    let (way, blobs) = (way(ctx, [&reference]).await?, blobs(ctx));
    let resolve = async || {
        way.resolve(&reference, &platform, &blobs)
            .await
            .map_err(|e| Error::from_chain(Class::Environment, &e))
    };
    let resolved = ctx.with_room(resolve).await?;
    if let Some(note) = unfit(&platform, &resolved.platform, &reference) {
        ctx.session.progress.note(&note);
    }
    if let Some(remembered) = &resolved.remembered {
        let note = stale(&reference, &resolved.digest, remembered, SystemTime::now());
        ctx.session.progress.note(&note);
    }
    let pinned = resolved.reference.to_string();
    let run = serde_json::to_value(&resolved.config.config)
        .map_err(|e| Error::internal(format!("cannot read an image's configuration: {e}")))?;
    let pin = ImagePin {
        manifest_digest: resolved.manifest_digest.to_string(),
        stack: Stack::from(&resolved),
        config: Arc::new(resolved.config.clone()),
    };
    Ok(Resolved {
        pinned,
        platform: resolved.platform.to_string(),
        config: run.as_object().cloned().unwrap_or_default(),
        rootfs: Tree::root(Node::image(pin)),
    })
}

pub(super) async fn from(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let c = inv.this::<Container>()?;
    let address = inv.args.str("address");
    let service = inv.args.id("registryService");
    if let Some(id) = service {
        served(&inv.ctx, &named(address)?, &inv.ctx.load(id).await?).await?;
    }
    let resolved = resolve(&inv.ctx, address, &c.platform).await?;
    let (pinned, image_config) = (resolved.pinned, Config::from_oci(&resolved.config));
    let mut after = c.with_rootfs(resolved.rootfs);
    after.platform = resolved.platform.into();
    after.config = Arc::new(c.config.merged_from(&image_config));
    after.image_ref = Some(pinned.as_str().into());
    after.last_exec = None;
    // The recipe of the result names the digest: the same image has the same ID, whatever tag led to it.
    let receiver = inv.this.as_ref().map(|o| o.call.clone());
    let mut args = vec![("address".into(), Literal::String(pinned.into()))];
    if let Some(id) = service {
        args.push(("registryService".into(), Literal::Call(id.clone())));
    }
    let call = Call::new(receiver, "from", args, "Container");
    Ok(Value::Object(Object::new("Container", call, after)))
}

/// What is said when an image is for another platform than asked for: an image without an index is taken whatever it is for,
/// as it always was.
fn unfit(wanted: &Platform, found: &Platform, image: &Reference) -> Option<String> {
    (wanted.preference(found).is_none()).then(|| {
        format!(
            "{image} is an image for {found}, not for {wanted}, and there is no other by that name"
        )
    })
}

/// What is said when a tag is taken for what it was.
fn stale(tag: &Reference, digest: &Digest, how: &Remembered, now: SystemTime) -> String {
    let seen = how.seen.duration_since(UNIX_EPOCH).unwrap_or_default();
    let when = rfc3339(i64::try_from(seen.as_secs()).unwrap_or(i64::MAX));
    let ago = now.duration_since(how.seen).unwrap_or_default().as_secs();
    let ago = match ago {
        0..120 => format!("{ago} s"),
        120..7200 => format!("{} min", ago / 60),
        7200..172_800 => format!("{} h", ago / 3600),
        _ => format!("{} days", ago / 86_400),
    };
    format!(
        "the registry of {tag} does not answer: taken for {digest}, which it was when last seen, at {when}, {ago} ago ({})",
        how.tried
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tag_that_may_have_moved_is_told() {
        let tag = Reference::parse("alpine:3").expect("a reference");
        let digest = Digest::of(b"");
        let how = Remembered {
            seen: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            tried: "registry `docker.io`: no".to_owned(),
        };
        let said = |after: u64| stale(&tag, &digest, &how, how.seen + Duration::from_secs(after));
        assert_eq!(
            said(7300),
            format!(
                "the registry of docker.io/library/alpine:3 does not answer: taken for {digest}, which it was when last seen, \
                 at 2023-11-14T22:13:20Z, 2 h ago (registry `docker.io`: no)"
            )
        );
        assert!(said(5).contains(" 5 s ago") && said(200_000).contains(" 2 days ago"));
    }

    #[test]
    fn an_image_for_another_platform_is_told() {
        let image = Reference::parse("alpine:3").expect("a reference");
        let said = |wanted: &str, found: &str| {
            let platform = |text: &str| text.parse::<Platform>().expect("a platform");
            unfit(&platform(wanted), &platform(found), &image)
        };
        assert_eq!(said("linux/amd64", "linux/amd64"), None);
        assert_eq!(said("linux/arm64", "linux/arm/v7"), None);
        assert_eq!(
            said("linux/arm64", "linux/amd64").as_deref(),
            Some(
                "docker.io/library/alpine:3 is an image for linux/amd64, not for linux/arm64, and there is no other by that name"
            )
        );
        assert!(said("foo/bar", "linux/amd64").is_some());
    }

    #[test]
    fn credentials_are_for_hosts() {
        for (address, host) in [
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("registry.example/a/b:c", "registry.example"),
            ("alpine", "docker.io"),
        ] {
            assert_eq!(auth_host(address).expect("a host"), host, "{address}");
        }
    }
}
