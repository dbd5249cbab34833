//! Properties of connections over TLS: versions, names, certificates of both ends on both sides.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use wasm_remap_tests::{Ask, Http2, Origin, Rule, TrafficServer};

use crate::PROBE;
use crate::support::{Expected, Probed, absent, any, exactly, flag, is};

/// A certificate and its key.
struct Identity {
    pem: String,
    key: String,
    der: CertificateDer<'static>,
    secret: PrivateKeyDer<'static>,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// A certificate for these parts of a subject, in order, and these alternative names.
fn identity(authority: &Authority, subject: &[(DnType, &str)], names: &[&str], uri: Option<&str>) -> Identity {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (part, value) in subject {
        params.distinguished_name.push(part.clone(), DnValue::Utf8String((*value).to_owned()));
    }
    params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().expect("ASCII"))));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    Identity {
        pem: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().clone(),
        secret: PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
    }
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("our own");
    roots
}

/// What a client that names `name`, and maybe shows a certificate, gets for a program.
fn ask(port: u16, name: &str, authority: &Authority, shown: Option<&Identity>, program: &Value) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(roots(authority));
    let config = match shown {
        Some(identity) => config
            .with_client_auth_cert(vec![identity.der.clone()], identity.secret.clone_key())
            .expect("a certificate and its key"),
        None => config.with_no_client_auth(),
    };
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), server).expect("a client");
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
    let mut stream = StreamOwned::new(connection, socket);
    let request = format!("GET /x HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\nx-probe: {program}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut response = Vec::new();
    // Not every server says good-bye.
    let _ = stream.read_to_end(&mut response);
    String::from_utf8_lossy(&response).into_owned()
}

fn results(response: &str) -> BTreeMap<String, Value> {
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let lines = response.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let (callback, results) = name.eq_ignore_ascii_case("x-probe-result").then(|| value.split_once(' '))??;
        Some((callback.to_owned(), serde_json::from_str(results).expect("JSON")))
    });
    lines.collect()
}

/// An origin that speaks TLS, asks for certificates, and answers every request.
fn origin(identity: &Identity, authority: &Authority) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)), Arc::clone(&provider));
    let verifier = verifier.allow_unauthenticated().build().expect("a verifier");
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.der.clone()], identity.secret.clone_key())
        .expect("a certificate and its key");
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let (Ok(socket), Ok(connection)) = (socket, ServerConnection::new(Arc::clone(&config))) else { return };
            thread::spawn(move || {
                let mut stream = StreamOwned::new(connection, socket);
                let mut head = Vec::new();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                        let _ = stream.flush();
                    }
                }
            });
        }
    });
    port
}

fn url_encoded(pem: &str) -> String {
    let mut text = pem.replace("\r\n", "\n");
    for (plain, encoded) in [("\n", "%0A"), (" ", "%20"), ("+", "%2B"), ("/", "%2F"), ("=", "%3D")] {
        text = text.replace(plain, encoded);
    }
    text
}

fn programs(tables: &[(&str, &[(&str, Expected)])]) -> Value {
    let program = |table: &[(&str, Expected)]| -> Vec<Value> {
        table.iter().map(|(path, _)| json!(["get_property", path])).collect()
    };
    json!(tables.iter().map(|(callback, table)| (*callback, program(table))).collect::<BTreeMap<_, _>>())
}

#[test]
fn certificates_on_both_sides() {
    let authority = authority();
    let front = [
        (DnType::CountryName, "DE"),
        (DnType::OrganizationName, "Front, \"Inc\" + Söhne "),
        (DnType::OrganizationalUnitName, "#1"),
        (DnType::CommonName, "front.test"),
        (DnType::CustomDnType(vec![1, 2, 3, 4]), "own"),
    ];
    let front = identity(&authority, &front, &["front.test", "also.test"], Some("spiffe://front/1"));
    let client = [(DnType::OrganizationName, "Clients"), (DnType::CommonName, "client")];
    let client = identity(&authority, &client, &["client.test"], Some("spiffe://client/1"));
    let back =
        identity(&authority, &[(DnType::CommonName, "back")], &["127.0.0.1", "back.test"], Some("spiffe://back/1"));
    let port = origin(&back, &authority);
    let server = TrafficServer::builder()
        .tls()
        .file("tls.pem", &front.pem)
        .file("tls.key", &front.key)
        .file("ca.pem", &authority.pem())
        .file("out.pem", &client.pem)
        .file("out.key", &client.key)
        .file("probe.yaml", PROBE)
        .record("proxy.config.ssl.client.certification_level", 1)
        .record("proxy.config.ssl.CA.cert.filename", "ca.pem")
        .record("proxy.config.ssl.CA.cert.path", "{etc}")
        .record("proxy.config.ssl.client.CA.cert.filename", "ca.pem")
        .record("proxy.config.ssl.client.CA.cert.path", "{etc}")
        .record("proxy.config.ssl.client.cert.filename", "out.pem")
        .record("proxy.config.ssl.client.cert.path", "{etc}")
        .record("proxy.config.ssl.client.private_key.filename", "out.key")
        .record("proxy.config.ssl.client.private_key.path", "{etc}")
        .rule(Rule::new("front.test", &format!("https://127.0.0.1:{port}/")).tls().wasm(["probe.yaml"]))
        .start();
    let digest = engine::Digest::of(&client.der).to_string();
    let back_digest = engine::Digest::of(&back.der).to_string();
    let (pem, back_pem) = (url_encoded(&client.pem), url_encoded(&back.pem));
    let subject = "1.2.3.4=#0C036F776E,CN=front.test,OU=\\#1,O=Front\\, \\\"Inc\\\" \\+ S\\C3\\B6hne\\ ,C=DE";
    let at_request: &[(&str, Expected)] = &[
        ("request.scheme", is("https")),
        ("request.protocol", is("HTTP/1.1")),
        ("connection.mtls", flag(true)),
        ("connection.requested_server_name", is("front.test")),
        ("connection.tls_version", is("TLSv1.3")),
        ("connection.subject_local_certificate", is(subject)),
        ("connection.dns_san_local_certificate", is("front.test")),
        ("connection.uri_san_local_certificate", is("spiffe://front/1")),
        ("connection.subject_peer_certificate", is("CN=client,O=Clients")),
        ("connection.dns_san_peer_certificate", is("client.test")),
        ("connection.uri_san_peer_certificate", is("spiffe://client/1")),
        ("connection.sha256_peer_certificate_digest", is(&digest)),
        ("connection.peer_certificate", is(&pem)),
        ("ats.client.protocols", is("http/1.1,tls/1.3,tcp,ipv4")),
        ("ats.client.tls_cipher", is("TLS_AES_256_GCM_SHA384")),
        ("ats.client.tls_group", any(0)),
        ("ats.client.tls_resumed", flag(false)),
        ("ats.milestones.tls_handshake_end", any(8)),
        ("upstream.tls_version", absent()),
    ];
    let at_response: &[(&str, Expected)] = &[
        ("connection.mtls", flag(true)),
        ("upstream.tls_version", is("TLSv1.3")),
        ("upstream.port", exactly(port.into())),
        ("upstream.subject_local_certificate", is("CN=client,O=Clients")),
        ("upstream.dns_san_local_certificate", is("client.test")),
        ("upstream.uri_san_local_certificate", is("spiffe://client/1")),
        ("upstream.subject_peer_certificate", is("CN=back")),
        ("upstream.dns_san_peer_certificate", is("back.test")),
        ("upstream.uri_san_peer_certificate", is("spiffe://back/1")),
        ("upstream.sha256_peer_certificate_digest", is(&back_digest)),
        ("upstream.peer_certificate", is(&back_pem)),
        ("ats.server.protocols", is("http/1.1,tls/1.3,tcp,ipv4")),
        ("ats.server.tls_cipher", any(0)),
        ("ats.server.tls_resumed", any(1)),
    ];
    let tables = [("on_request_headers", at_request), ("on_response_headers", at_response)];
    for _ in 0..2 {
        let response = ask(server.tls_port(), "front.test", &authority, Some(&client), &programs(&tables));
        let probed = Probed::of(results(&response));
        probed.check("on_request_headers", at_request);
        probed.check("on_response_headers", at_response);
    }
    // A client that shows nothing.
    let unknown: &[(&str, Expected)] = &[
        ("connection.mtls", flag(false)),
        ("connection.requested_server_name", is("also.test")),
        ("connection.tls_version", is("TLSv1.3")),
        ("connection.dns_san_local_certificate", is("front.test")),
        ("connection.subject_peer_certificate", absent()),
        ("connection.dns_san_peer_certificate", absent()),
        ("connection.uri_san_peer_certificate", absent()),
        ("connection.sha256_peer_certificate_digest", absent()),
        ("connection.peer_certificate", absent()),
    ];
    let response = ask(server.tls_port(), "also.test", &authority, None, &programs(&[("on_request_headers", unknown)]));
    Probed::of(results(&response)).check("on_request_headers", unknown);
}

#[test]
fn http2_is_told_from_http1() {
    let origin = Origin::start();
    let server = TrafficServer::builder()
        .origin(&origin)
        .tls()
        .rule(Rule::new("a.test", "http://{origin}/").tls().wasm(["probe.yaml"]))
        .file("probe.yaml", PROBE)
        .start();
    let table: &[(&str, Expected)] = &[
        ("request.protocol", is("HTTP/2")),
        ("request.scheme", is("https")),
        ("request.host", is("a.test")),
        ("request.path", is("/x?y")),
        ("request.headers.:authority", is("a.test")),
        ("connection.tls_version", is("TLSv1.3")),
        ("connection.requested_server_name", is("localhost")),
        ("connection.dns_san_local_certificate", is("localhost")),
        ("connection.mtls", flag(false)),
        ("connection.id", any(8)),
        ("source.port", any(8)),
    ];
    let program = programs(&[("on_request_headers", table)]).to_string();
    let mut client = Http2::connect(server.tls_port());
    for _ in 0..3 {
        let response = client.exchange(&Ask::get("a.test", "/x?y").header("x-probe", &program)).expect("a response");
        Probed::of(crate::support::results(&response)).check("on_request_headers", table);
    }
    // A client that goes away in the middle: what is read of it then is not there, and harms nobody.
    let every: Vec<Value> = crate::read::EVERY.split_whitespace().map(|path| json!(["get_property", path])).collect();
    let program = json!({"on_done": every.clone(), "on_log": every}).to_string();
    origin.route("/slow", wasm_remap_tests::Reply::new(200).delay(std::time::Duration::from_millis(300)));
    let mark = server.mark();
    let exchange = client.open(&Ask::get("a.test", "/slow").header("x-probe", &program)).expect("a stream");
    client.wait(std::time::Duration::from_millis(100));
    client.reset(exchange, 8);
    client.abort();
    server.wait_for_log_since(mark, "probe on_log", std::time::Duration::from_secs(10));
    assert!(server.is_alive());
}
