//! `source.*`, `destination.*`, `connection.*`, `upstream.*`: who is at the ends of the two connections.

use ats::certificate;
use ats::session::NetConnection;
use ats::txn::{Milestone, Txn};
use engine::Error;

use super::{absent, bytes, nanoseconds, number, text, truth};
use crate::host::TxnHost;

pub(super) fn is_known(scope: &[u8], name: &[u8]) -> bool {
    match (scope, name) {
        (b"source" | b"destination" | b"upstream", b"address" | b"port") => true,
        (b"connection", b"id" | b"mtls" | b"requested_server_name" | b"termination_details") => true,
        (b"upstream", b"local_address" | b"local_port" | b"cx_pool_ready_duration") => true,
        (b"connection" | b"upstream", b"transport_failure_reason") => true,
        (b"upstream", b"num_endpoints" | b"request_attempt_count" | b"locality") => true,
        (b"connection" | b"upstream", name) => name == b"tls_version" || Fact::find(name).is_some(),
        _ => false,
    }
}

pub(super) fn read(host: &mut TxnHost, scope: &[u8], name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (messages, ..) = host.parts()?;
    let txn = messages.txn();
    match scope {
        b"connection" => return client(txn, name, out),
        b"upstream" => return upstream(txn, name, out),
        _ => {}
    }
    let address = if scope == b"source" { txn.client_addr() } else { txn.incoming_addr() };
    match name {
        b"address" => text(out, address),
        b"port" => number(out, address.map(|at| at.port().into())),
        _ => Err(absent()),
    }
}

fn client(txn: Txn<'_>, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let connection = txn.client_connection();
    match name {
        b"id" => number(out, txn.session_id()),
        b"mtls" => truth(out, connection.and_then(NetConnection::tls).is_some_and(|tls| tls.has_peer_certificate())),
        b"requested_server_name" => bytes(out, connection.ok_or_else(absent)?.server_name()),
        b"termination_details" => bytes(out, txn.aborted().then_some(b"aborted")),
        _ => secured(connection, name, out),
    }
}

fn upstream(txn: Txn<'_>, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    match name {
        b"address" => text(out, txn.next_hop_addr()),
        b"port" => number(out, txn.next_hop_addr().map(|at| at.port().into())),
        b"local_address" => text(out, txn.outgoing_addr()),
        b"local_port" => number(out, txn.outgoing_addr().map(|at| at.port().into())),
        b"cx_pool_ready_duration" => {
            let begin = txn.milestone(Milestone::SERVER_FIRST_CONNECT);
            let end = txn.milestone(Milestone::SERVER_CONNECT_END);
            nanoseconds(out, begin.zip(end).map(|(begin, end)| (end - begin).max(0)))
        }
        _ => secured(txn.server_connection(), name, out),
    }
}

/// What there is over TLS alone.
fn secured(connection: Option<NetConnection<'_>>, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let connection = connection.ok_or_else(absent)?;
    if name == b"tls_version" {
        return bytes(out, connection.tls_version());
    }
    let fact = Fact::find(name).ok_or_else(absent)?;
    let tls = connection.tls().ok_or_else(absent)?;
    let der = if fact.of_peer { tls.peer_certificate() } else { tls.local_certificate() };
    let value = der.and_then(|der| (fact.read)(&der)).ok_or_else(absent)?;
    bytes(out, Some(value.as_bytes()))
}

/// Something that a certificate, in DER, says.
type Reading = fn(&[u8]) -> Option<String>;

struct Fact {
    of_peer: bool,
    read: Reading,
}

impl Fact {
    fn find(name: &[u8]) -> Option<Self> {
        let (of_peer, read): (bool, Reading) = match name {
            b"subject_local_certificate" => (false, certificate::subject),
            b"subject_peer_certificate" => (true, certificate::subject),
            b"dns_san_local_certificate" => (false, certificate::dns_name),
            b"dns_san_peer_certificate" => (true, certificate::dns_name),
            b"uri_san_local_certificate" => (false, certificate::uri),
            b"uri_san_peer_certificate" => (true, certificate::uri),
            b"sha256_peer_certificate_digest" => (true, |der| Some(certificate::sha256(der))),
            b"peer_certificate" => (true, |der| Some(certificate::url_encoded_pem(der))),
            _ => return None,
        };
        Some(Fact { of_peer, read })
    }
}
