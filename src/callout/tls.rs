//! TLS of a cluster: what is trusted, what is shown, what is spoken.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::settings::{ClusterError, ClusterSettings, Protocol};

/// The contents of a cluster's files, which are part of what it is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Files {
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Files {
    pub(crate) fn read(settings: &ClusterSettings) -> Result<Files, ClusterError> {
        let Some(tls) = &settings.tls else { return Ok(Files::default()) };
        let read = |path: &Option<std::path::PathBuf>| {
            let read = path.as_ref().map(|path| std::fs::read(path).map_err(|error| (path, error)));
            read.transpose().map_err(|(path, error)| ClusterError::File {
                cluster: settings.name.clone(),
                path: path.display().to_string(),
                error,
            })
        };
        Ok(Files { ca: read(&tls.ca_file)?, certificate: read(&tls.certificate_file)?, key: read(&tls.key_file)? })
    }
}

/// rustls's configuration for a cluster; `None` is cleartext.
pub(crate) fn configure(settings: &ClusterSettings, files: &Files) -> Result<Option<Arc<ClientConfig>>, ClusterError> {
    let Some(tls) = &settings.tls else { return Ok(None) };
    let content = |path: &Option<std::path::PathBuf>, what: String| ClusterError::Content {
        cluster: settings.name.clone(),
        path: path.as_deref().unwrap_or(Path::new("")).display().to_string(),
        what,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| settings.wrong(error.to_string()))?;
    let builder = if tls.verify {
        let roots = match &files.ca {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).map_err(|what| content(&tls.ca_file, what))? {
                    let added = roots.add(certificate);
                    added.map_err(|error| content(&tls.ca_file, format!("a certificate cannot be used: {error}")))?;
                }
                roots
            }
            None => system_roots(settings)?,
        };
        builder.with_root_certificates(roots)
    } else {
        log::warn!(
            "cluster `{}`: certificates are not verified (verify: false); whoever is in between can read and change \
             what is sent",
            settings.name
        );
        let verifier = Anybody(provider.signature_verification_algorithms);
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    };
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate).map_err(|what| content(&tls.certificate_file, what))?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| content(&tls.key_file, format!("expected a private key in PEM: {error}")))?;
            let with = builder.with_client_auth_cert(chain, key);
            with.map_err(|error| {
                let files = format!("does not fit certificate_file: {error}");
                content(&tls.key_file, files)
            })?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(settings.wrong("certificate_file and key_file go together; one is missing")),
    };
    config.alpn_protocols = match settings.protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(Some(Arc::new(config)))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("expected certificates in PEM, found none".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("expected certificates in PEM: {error}")),
    }
}

fn system_roots(settings: &ClusterSettings) -> Result<RootCertStore, ClusterError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let why = loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        return Err(settings.wrong(format!(
            "the system has no trusted certificates{why}; install them (Debian: ca-certificates) or name a ca_file"
        )));
    }
    Ok(roots)
}

/// The name that an endpoint's certificate must carry.
pub(crate) fn server_name(settings: &ClusterSettings, host: &str) -> Result<ServerName<'static>, ClusterError> {
    let name = settings.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).unwrap_or(host);
    ServerName::try_from(name.to_owned())
        .map_err(|_| settings.wrong(format!("`{name}` cannot stand in a certificate; set server_name")))
}

/// Accepts whoever answers. Signatures are checked all the same: the server does hold the key that it shows.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
