//! What an [`Upstream`](super::Upstream) answers.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio_stream::StreamExt as _;

use super::serve::{Answer, Body, Counters, Fault};

/// A body is sent in pieces of so many bytes.
const PIECE: usize = 64 * 1024;

pub(super) fn answer(request: Request<Incoming>, counters: Arc<Counters>) -> Answer {
    Box::pin(async move {
        let path = request.uri().path().to_owned();
        let (route, argument) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let number = argument.parse::<usize>().unwrap_or_default();
        match route {
            "status" => Response::builder()
                .status(u16::try_from(number).unwrap_or_default())
                .body(text(if matches!(number, 204 | 304) { String::new() } else { format!("status {number}") }))
                .unwrap_or_else(|_| missing()),
            "slow" => {
                tokio::time::sleep(Duration::from_millis(number as u64)).await;
                Response::new(text(format!("after {number} ms")))
            }
            "hang" => std::future::pending().await,
            "hold" => {
                if let Ok(permit) = counters.held.0.acquire().await {
                    permit.forget();
                }
                Response::new(text("released".to_owned()))
            }
            "reset" => {
                let broken =
                    [Ok(Frame::data(Bytes::from(vec![b'x'; 1000]))), Err(Fault::from(io::Error::other("reset")))];
                Response::builder().header("content-length", 2000).body(stream(broken)).unwrap_or_else(|_| missing())
            }
            "stall" => {
                let begun = tokio_stream::iter([Ok(Frame::data(Bytes::from("begun")))]);
                let body = StreamBody::new(begun.chain(tokio_stream::pending())).boxed_unsync();
                Response::builder().header("content-length", 10).body(body).unwrap_or_else(|_| missing())
            }
            "body" => {
                // HTTP/2's side of hyper would send it all the same.
                let sent = if request.method() == Method::HEAD { 0 } else { number };
                let sizes = (0..sent).step_by(PIECE).map(move |at| PIECE.min(sent - at));
                let body = stream(sizes.map(|size| Ok(Frame::data(Bytes::from(vec![b'x'; size])))));
                Response::builder().header("content-length", number).body(body).unwrap_or_else(|_| missing())
            }
            "echo" => echo(request).await,
            "trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "1".parse().expect("a value"));
                trailers.append("x-more", "2".parse().expect("a value"));
                let frames = [Ok(Frame::data(Bytes::from("before the trailers"))), Ok(Frame::trailers(trailers))];
                Response::builder()
                    .header("trailer", "x-sum, x-more")
                    .body(stream(frames))
                    .unwrap_or_else(|_| missing())
            }
            _ => missing(),
        }
    })
}

fn stream<I>(frames: I) -> Body
where
    I: IntoIterator<Item = Result<Frame<Bytes>, Fault>>,
    I::IntoIter: Send + 'static,
{
    // What comes before a fault is sent before it.
    let frames = tokio_stream::iter(frames).then(|frame| async {
        if frame.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        frame
    });
    StreamBody::new(frames).boxed_unsync()
}

fn text(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

fn missing() -> Response<Body> {
    let mut response = Response::new(text("no such route".to_owned()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut lines = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    let list = |lines: &mut String, kind: &str, map: &HeaderMap| {
        for (name, value) in map {
            let _ = writeln!(lines, "{kind} {name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
    };
    list(&mut lines, "header", &head.headers);
    let Ok(body) = body.collect().await else { return missing() };
    let trailers = body.trailers().cloned().unwrap_or_default();
    let body = body.to_bytes();
    let _ = writeln!(lines, "body {}", String::from_utf8_lossy(&body));
    list(&mut lines, "trailer", &trailers);
    let trailers: Vec<_> =
        trailers.iter().map(|(name, value)| format!("{name}:{}", value.as_bytes().escape_ascii())).collect();
    Response::builder()
        .header("content-type", "text/plain")
        .header("x-upstream", format!("{}:{}:{}", head.method, body.len(), trailers.join(",")))
        .header("x-twice", "first")
        .header("x-twice", "second")
        .body(text(lines))
        .unwrap_or_else(|_| missing())
}
