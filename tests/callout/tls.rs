//! TLS: who is trusted, and what an operator is told.

use std::path::PathBuf;

use callout::{ClusterSettings, Endpoint, FailureKind, Protocol, Tls};
use wasm_remap_tests::Upstream;
use wasm_remap_tests::harness::upstream::Fault;

use crate::support::*;

fn with(protocol: Protocol, upstream: &Upstream, tls: Tls) -> ClusterSettings {
    ClusterSettings { tls: Some(tls), ..settings(protocol, upstream.port()) }
}

#[test]
fn a_certificate_that_holds() {
    let upstream = Upstream::builder().tls().start();
    for protocol in BOTH {
        let by_address = with(protocol, &upstream, trusting(&upstream.ca_file()));
        assert_eq!(get(&cluster(&by_address), "/status/200").status, 200);
        let endpoints = vec![Endpoint { host: "localhost".to_owned(), port: upstream.port() }];
        let by_name = cluster(&ClusterSettings { endpoints, retries: 1, ..by_address });
        assert_eq!(get(&by_name, "/status/200").status, 200);
        let echo = text(&get(&by_name, "/echo"));
        assert!(
            echo.contains(if protocol == Protocol::Http1 { "HTTP/1.1" } else { "https://asked.test/echo HTTP/2.0" }),
            "{echo}"
        );
    }
}

#[test]
fn certificates_that_do_not_hold() {
    for (fault, said) in [
        (Fault::WrongName, "not valid for name"),
        (Fault::Expired, "expired"),
        (Fault::UnknownAuthority, "UnknownIssuer"),
    ] {
        let upstream = Upstream::builder().fault(fault).start();
        for protocol in BOTH {
            let verifying = cluster(&with(protocol, &upstream, trusting(&upstream.ca_file())));
            let message = fails(&verifying, "/status/200", FailureKind::Tls);
            assert!(message.contains(said), "{message}");
            assert_eq!(upstream.requests(), 0);
        }
    }
}

#[test]
fn the_systems_store_does_not_know_us() {
    let upstream = Upstream::builder().tls().start();
    match callouts().cluster(&with(Protocol::Http1, &upstream, Tls::default())) {
        Ok(cluster) => {
            let message = fails(&cluster, "/status/200", FailureKind::Tls);
            assert!(message.contains("UnknownIssuer"), "{message}");
        }
        // A machine without ca-certificates is told what it lacks.
        Err(error) => assert!(error.to_string().contains("ca-certificates"), "{error}"),
    }
}

#[test]
fn verification_can_be_turned_off_and_the_log_says_so() {
    keep_log();
    let upstream = Upstream::builder().fault(Fault::UnknownAuthority).start();
    let mut careless = with(Protocol::Http1, &upstream, Tls { verify: false, ..Tls::default() });
    careless.name = "careless".to_owned();
    assert_eq!(get(&cluster(&careless), "/status/200").status, 200);
    assert!(logged("cluster `careless`: certificates are not verified"));
}

#[test]
fn another_name_may_be_expected() {
    let upstream = Upstream::builder().fault(Fault::WrongName).start();
    let tls = Tls { server_name: Some("wrong.test".to_owned()), ..trusting(&upstream.ca_file()) };
    assert_eq!(get(&cluster(&with(Protocol::Http2, &upstream, tls)), "/status/200").status, 200);
}

#[test]
fn a_client_certificate_is_demanded() {
    let upstream = Upstream::builder().require_client_certificate().start();
    for protocol in BOTH {
        let without = cluster(&with(protocol, &upstream, trusting(&upstream.ca_file())));
        let message = fails(&without, "/status/200", FailureKind::Tls);
        assert!(message.to_lowercase().contains("certificate"), "{message}");
        let tls = Tls {
            certificate_file: Some(upstream.client_certificate_file()),
            key_file: Some(upstream.client_key_file()),
            ..trusting(&upstream.ca_file())
        };
        assert_eq!(get(&cluster(&with(protocol, &upstream, tls)), "/status/200").status, 200);
    }
}

#[test]
fn a_server_without_tls_and_a_client_without() {
    let plain = Upstream::start();
    let encrypted = Upstream::builder().tls().start();
    fails(&cluster(&with(Protocol::Http1, &plain, trusting(&plain.ca_file()))), "/status/200", FailureKind::Tls);
    let answer = call(&cluster(&settings(Protocol::Http1, encrypted.port())), request("GET", "/", ""), Some(PATIENCE));
    assert!(matches!(answer.expect_err("no HTTP").kind, FailureKind::Protocol | FailureKind::Reset));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let upstream = Upstream::builder().tls().start();
    let told = |tls: Tls| callouts().cluster(&with(Protocol::Http1, &upstream, tls)).expect_err("an error").to_string();
    let missing = PathBuf::from("/nowhere/ca.pem");
    assert!(told(trusting(&missing)).contains("/nowhere/ca.pem cannot be read"));
    let message = told(trusting(&upstream.client_key_file()));
    assert!(message.contains("client.key: expected certificates in PEM, found none"), "{message}");
    let alone = Tls { certificate_file: Some(upstream.client_certificate_file()), ..trusting(&upstream.ca_file()) };
    assert!(told(alone).contains("go together"));
    let swapped = Tls {
        certificate_file: Some(upstream.client_certificate_file()),
        key_file: Some(upstream.ca_file()),
        ..trusting(&upstream.ca_file())
    };
    assert!(told(swapped).contains("ca.pem: expected a private key in PEM"));
    let mismatched = Tls {
        certificate_file: Some(upstream.ca_file()),
        key_file: Some(upstream.client_key_file()),
        ..trusting(&upstream.ca_file())
    };
    let message = told(mismatched);
    assert!(message.contains("does not fit certificate_file"), "{message}");
}
