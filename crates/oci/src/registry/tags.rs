//! What tags meant when their registry last said so: what is gone by when the registry says nothing at all.

use std::{sync::Arc, time::SystemTime};

use super::{
    Access, Login, ResolveError, Resolved,
    config::Endpoint,
    error::{Attempts, ContentError},
};
use crate::{blobs::Blobs, digest::Digest, platform::Platform, reference::Reference};

/// Somebody, as a place knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The place: what a reference begins with, or a mirror's address.
    pub host: String,
    /// What proves it there.
    pub login: Login,
}

/// A tag's meaning at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// What it meant.
    pub digest: Digest,
    /// When.
    pub seen: SystemTime,
}

/// How an image was had although nobody answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// When its registry last said what the name means.
    pub seen: SystemTime,
    /// What was tried now.
    pub tried: String,
}

/// A memory of tags. What it keeps of a login must not give it away.
pub trait Tags: Send + Sync {
    /// `tag` means `digest`: that was said to `who`, or to somebody who showed nothing and so to anybody.
    fn remember(&self, tag: &Reference, digest: Digest, who: Option<&Known>);

    /// What was last said to one of `who`, or to anybody.
    fn recall(&self, tag: &Reference, who: &[Known]) -> Option<Sighting>;

    /// `who` were told that there is no such image for them; nobody stands for anybody.
    fn forget(&self, tag: &Reference, who: &[Known]);
}

impl Access {
    /// Keeps what tags mean, and goes by it while their registry cannot be reached.
    #[must_use]
    pub fn remembering(mut self, tags: Arc<dyn Tags>) -> Self {
        self.tags = Some(tags);
        self
    }

    pub(super) async fn remember(&self, reference: &Reference, digest: Digest, place: &Endpoint) {
        if let Some(tags) = &self.tags {
            let who = self.shown_to(place).await;
            tags.remember(reference, digest, who.as_ref());
        }
    }

    /// The image that a tag was when it was last seen, now that it cannot be looked up because of `attempts`.
    ///
    /// # Errors
    /// The places' answers, where there was one; that nothing can be remembered, where there was none.
    pub(super) async fn recalled(
        &self,
        reference: &Reference,
        platform: &Platform,
        places: &[Endpoint],
        attempts: Attempts,
        blobs: &Arc<dyn Blobs>,
    ) -> Result<Resolved, ResolveError> {
        let answered = |attempts| ResolveError::Content {
            reference: reference.clone(),
            source: ContentError::Attempts(attempts),
        };
        let (refused, unanswered) = (attempts.refused(), attempts.unanswered());
        if !refused && !unanswered {
            return Err(answered(attempts));
        }
        let mut sighting = None;
        if let Some(tags) = &self.tags {
            let mut who = Vec::new();
            for place in places {
                if let Some(login) = self.credentials.login(&place.name).await {
                    let host = place.name.clone();
                    who.push(Known { host, login });
                }
            }
            if refused {
                tags.forget(reference, &who);
            } else {
                sighting = tags.recall(reference, &who);
            }
        }
        if refused {
            return Err(answered(attempts));
        }
        let Some(Sighting { digest, seen }) = sighting else {
            return Err(ResolveError::Unseen {
                reference: reference.clone(),
                source: attempts,
            });
        };
        let image = match self.document(&[], "manifests", digest, blobs).await {
            Ok(first) => self.image(reference, platform, &[], first, blobs).await,
            Err(_) => Err(answered(Attempts::default())),
        };
        match image {
            Ok(image) => Ok(Resolved {
                remembered: Some(Remembered {
                    seen,
                    tried: attempts.told(),
                }),
                ..image
            }),
            Err(ResolveError::Content {
                source: ContentError::Attempts(_),
                ..
            }) => Err(ResolveError::Pruned {
                reference: reference.clone(),
                digest,
                source: attempts,
            }),
            Err(error) => Err(error),
        }
    }
}
