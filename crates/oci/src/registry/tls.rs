//! Connections: one pool per way of verifying the other side.

use std::{
    fs,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Client, error::RequestError};

/// Where distributions keep the authorities a machine trusts.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How to verify and reach a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Profile {
    /// Accept any certificate.
    pub(super) insecure: bool,
    /// Further authorities.
    pub(super) authorities: Vec<PathBuf>,
    /// Never through a proxy.
    pub(super) direct: bool,
    /// All connections lead to this unix socket.
    pub(super) socket: Option<PathBuf>,
}

impl Client {
    /// The connection pool for a profile; `secure` false makes one that cannot speak TLS and loads no authorities.
    pub(super) fn connections(
        &self,
        profile: &Profile,
        secure: bool,
    ) -> Result<reqwest::Client, RequestError> {
        let key = if secure {
            profile.clone()
        } else {
            Profile {
                insecure: true,
                authorities: Vec::new(),
                ..profile.clone()
            }
        };
        let mut pools = self
            .shared
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key) {
            return Ok(pool.clone());
        }
        let patience = &self.shared.config.patience;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&key)?)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(patience.connect)
            .pool_max_idle_per_host(patience.downloads)
            .pool_idle_timeout(std::time::Duration::from_secs(60))
            .user_agent(concat!("bodkin/", env!("CARGO_PKG_VERSION")));
        if key.direct {
            builder = builder.no_proxy();
        }
        if let Some(socket) = &key.socket {
            builder = builder.unix_socket(socket.clone());
        }
        let pool = builder.build().map_err(RequestError::Setup)?;
        pools.insert(key, pool.clone());
        Ok(pool)
    }
}

/// How connections are verified that lead to no registry: the machine's authorities and further ones, read now.
///
/// # Errors
/// Files of authorities that cannot be read.
pub fn trust(authorities: &[PathBuf]) -> Result<ClientConfig, RequestError> {
    tls(&Profile {
        insecure: false,
        authorities: authorities.to_vec(),
        socket: None,
        direct: false,
    })
}

fn tls(profile: &Profile) -> Result<ClientConfig, RequestError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(RequestError::Tls)?;
    Ok(if profile.insecure {
        let verifier = Arc::new(AnyCertificate(provider));
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth()
    } else {
        builder
            .with_root_certificates(roots(&profile.authorities)?)
            .with_no_client_auth()
    })
}

/// The machine's authorities (Mozilla's where it has none) and the configured ones.
fn roots(extra: &[PathBuf]) -> Result<RootCertStore, RequestError> {
    let mut store = RootCertStore::empty();
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let bundle = named
        .into_iter()
        .chain(BUNDLES.iter().map(PathBuf::from))
        .find(|path| path.is_file());
    // A bundle always has some certificate nobody can read; that must not cost the others.
    match bundle.map(|path| certificates(&path)) {
        Some(Ok(certificates)) if !certificates.is_empty() => {
            store.add_parsable_certificates(certificates);
        }
        _ => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    for path in extra {
        let bad = |source| RequestError::Authority {
            path: path.clone(),
            source,
        };
        let certificates = certificates(path).map_err(bad)?;
        if certificates.is_empty() {
            return Err(bad(io::Error::new(
                io::ErrorKind::InvalidData,
                "no certificate in the file",
            )));
        }
        for certificate in certificates {
            store
                .add(certificate)
                .map_err(|e| bad(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        }
    }
    Ok(store)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    rustls_pemfile::certs(&mut BufReader::new(fs::File::open(path)?)).collect()
}

/// For registries configured as insecure: the handshake must be sound, the certificate may be anybody's.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
