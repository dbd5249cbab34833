//! A TLS stream that says why the peer closed it.
//!
//! With TLS 1.3 a server judges the client's certificate after the handshake: it sends an alert and closes. Whoever
//! writes at that moment gets a broken pipe, and the alert, which says what is wrong, would never be read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) struct Encrypted {
    stream: TlsStream<TcpStream>,
    /// Read while an alert was looked for.
    early: Vec<u8>,
    /// Why nothing more can be written.
    failed: Option<io::Error>,
}

impl Encrypted {
    pub(crate) fn new(stream: TlsStream<TcpStream>) -> Encrypted {
        Encrypted { stream, early: Vec::new(), failed: None }
    }

    /// Writes, unless that failed before. An error is reported when all that came before it is read, for which there is
    /// no long wait: the connection is closed.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.failed.is_none() {
            match write(Pin::new(&mut self.stream), cx) {
                Poll::Ready(Err(error))
                    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
                {
                    self.failed = Some(error);
                }
                written => return written,
            }
        }
        loop {
            let mut scratch = [0; 1024];
            let mut read = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => self.early.extend_from_slice(read.filled()),
                Err(said) if said.kind() == io::ErrorKind::InvalidData => return Poll::Ready(Err(said)),
                _ => {
                    let failed = self.failed.take();
                    return Poll::Ready(Err(failed.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())));
                }
            }
        }
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..count]);
            self.early.drain(..count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
