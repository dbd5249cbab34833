//! An authority of our own, and what it signs.

use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// What is wrong with a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is for `wrong.test`.
    WrongName,
    /// Its time is over.
    Expired,
    /// Another authority signed it.
    UnknownAuthority,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// What servers and clients of tests show each other; made once a process.
#[derive(Debug)]
pub struct Identities {
    /// The authority's certificate, in PEM.
    pub ca: String,
    /// For a client.
    pub client: Identity,
    /// For `localhost` and 127.0.0.1.
    server: Identity,
    wrong_name: Identity,
    expired: Identity,
    unknown: Identity,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

fn identity(authority: &Authority, names: &[&str], change: impl Fn(&mut CertificateParams)) -> Identity {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names).expect("names");
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, authority).expect("a certificate").pem();
    Identity { certificate, key: key.serialize_pem() }
}

impl Identities {
    /// The process's own.
    pub fn get() -> &'static Identities {
        static IDENTITIES: OnceLock<Identities> = OnceLock::new();
        IDENTITIES.get_or_init(|| {
            let (ours, other) = (authority("upstreams of tests"), authority("somebody else"));
            let names = ["localhost", "127.0.0.1"];
            Identities {
                client: identity(&ours, &["client.test"], |params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                }),
                server: identity(&ours, &names, |_| {}),
                wrong_name: identity(&ours, &["wrong.test"], |_| {}),
                expired: identity(&ours, &names, |params| {
                    params.not_before = date_time_ymd(2020, 1, 1);
                    params.not_after = date_time_ymd(2021, 1, 1);
                }),
                unknown: identity(&other, &names, |_| {}),
                ca: ours.pem(),
            }
        })
    }
}

pub(super) fn acceptor(fault: Option<Fault>, client_certificate: bool) -> TlsAcceptor {
    let identities = Identities::get();
    let shown = match fault {
        None => &identities.server,
        Some(Fault::WrongName) => &identities.wrong_name,
        Some(Fault::Expired) => &identities.expired,
        Some(Fault::UnknownAuthority) => &identities.unknown,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("TLS versions");
    let builder = if client_certificate {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(identities.ca.as_bytes()).expect("our own certificate");
        roots.add(ca).expect("our own certificate");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_slice(shown.certificate.as_bytes()).expect("our own certificate")];
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("our own key");
    let mut config = builder.with_single_cert(chain, key).expect("a certificate with its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
