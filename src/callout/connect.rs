//! A connection to an address: TCP, and TLS where the cluster has it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::encrypted::Encrypted;
use super::failure::{Again, Broken, FailureKind};
use super::settings::Protocol;
use super::stats::count;
use super::target::{Shared, Target};

/// What bytes go through.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

/// One more open connection, until it is dropped.
pub(crate) struct Counted(Arc<Shared>);

impl Counted {
    pub(crate) fn new(shared: &Arc<Shared>) -> Counted {
        count(&shared.counters.connects);
        shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects within the cluster's `connect_timeout`. A failure may always be tried again: nothing was sent.
pub(crate) async fn connect(target: &Target) -> Result<Stream, Broken> {
    let limit = target.shared.settings.connect_timeout;
    timeout(limit, open(target)).await.unwrap_or_else(|_| Err(too_slow(target)))
}

pub(crate) fn too_slow(target: &Target) -> Broken {
    let limit = target.shared.settings.connect_timeout;
    let what = format!("no connection in {limit:?} (connect_timeout)");
    Broken::new(FailureKind::Connect, Again::Always, target.says(what))
}

async fn open(target: &Target) -> Result<Stream, Broken> {
    let failed = |kind, what: String| Broken::new(kind, Again::Always, target.says(what));
    let stream = TcpStream::connect(target.address).await;
    let stream = stream.map_err(|error| failed(FailureKind::Connect, format!("cannot connect: {error}")))?;
    prepare(&stream).map_err(|error| failed(FailureKind::Connect, format!("cannot set up the socket: {error}")))?;
    let (Some(connector), Some(name)) = (&target.shared.tls, &target.server_name) else {
        return Ok(Stream::Plain(stream));
    };
    let stream = connector.connect(name.clone(), stream).await;
    let stream =
        stream.map_err(|error| failed(FailureKind::Tls, format!("TLS as `{}` failed: {error}", name.to_str())))?;
    if target.shared.settings.protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        let what = "the server does not offer HTTP/2 (ALPN h2); give the cluster protocol HTTP/1 or set up the server";
        return Err(failed(FailureKind::Tls, what.to_owned()));
    }
    Ok(Stream::Tls(Box::new(Encrypted::new(stream))))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A peer that vanished without a word is noticed, also where nobody waits with a timeout.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
