//! A server of gRPC, on tonic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Request as HttpRequest;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{ClientStreamingService, Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Server;
use super::serve::{Answer, Body, Counters, OpenStream};

/// The one message there is, to and from all methods.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Message {
    /// Field 1.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Field 2.
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

/// The service `test.Echo`, over HTTP/2 in cleartext. All its methods take and give [`Message`]s:
///
/// | method | answers |
/// | --- | --- |
/// | `Unary` | the message with `number` one higher, and the metadata `x-asked` as it came |
/// | `ServerStream` | `number` messages with the text, numbered from 0; the text `bytes:N` stands for N characters |
/// | `ClientStream` | one message with the texts joined by commas and the sum of the numbers |
/// | `Bidi` | each message as it comes |
/// | `Fail` | the status `number` with the text, and the metadata `x-why` |
/// | `Slow` | the message after `number` milliseconds; `text` is the `grpc-timeout` that came |
#[derive(Debug)]
pub struct GrpcUpstream {
    server: Server,
}

impl GrpcUpstream {
    /// Starts it on a port of the loopback address.
    #[track_caller]
    pub fn start() -> GrpcUpstream {
        GrpcUpstream { server: Server::start(None, None, Arc::new(answer)) }
    }
}

impl std::ops::Deref for GrpcUpstream {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl std::ops::DerefMut for GrpcUpstream {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

type Later<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Messages = ReceiverStream<Result<Message, Status>>;

fn answer(request: HttpRequest<Incoming>, counters: Arc<Counters>) -> Answer {
    Box::pin(async move {
        let mut grpc = Grpc::new(ProstCodec::<Message, Message>::default());
        let echo = Echo(counters);
        let response = match request.uri().path() {
            "/test.Echo/Unary" => grpc.unary(Unary, request).await,
            "/test.Echo/Fail" => grpc.unary(Fail, request).await,
            "/test.Echo/Slow" => grpc.unary(Slow, request).await,
            "/test.Echo/ServerStream" => grpc.server_streaming(echo, request).await,
            "/test.Echo/ClientStream" => grpc.client_streaming(echo, request).await,
            "/test.Echo/Bidi" => grpc.streaming(echo, request).await,
            _ => Status::unimplemented("test.Echo has no such method").into_http(),
        };
        response.map(|body| -> Body { body.map_err(Into::into).boxed_unsync() })
    })
}

struct Unary;

impl UnaryService<Message> for Unary {
    type Response = Message;
    type Future = Later<Message>;

    fn call(&mut self, request: Request<Message>) -> Later<Message> {
        Box::pin(async move {
            let asked = request.metadata().get("x-asked").cloned();
            let message = request.into_inner();
            let mut response = Response::new(Message { number: message.number.wrapping_add(1), ..message });
            if let Some(asked) = asked {
                response.metadata_mut().insert("x-asked", asked);
            }
            Ok(response)
        })
    }
}

struct Fail;

impl UnaryService<Message> for Fail {
    type Response = Message;
    type Future = Later<Message>;

    fn call(&mut self, request: Request<Message>) -> Later<Message> {
        Box::pin(async move {
            let message = request.into_inner();
            let code = i32::try_from(message.number).map_or(Code::Unknown, Code::from_i32);
            let mut status = Status::new(code, message.text);
            status.metadata_mut().insert("x-why", "asked for".parse().expect("a value"));
            Err(status)
        })
    }
}

struct Slow;

impl UnaryService<Message> for Slow {
    type Response = Message;
    type Future = Later<Message>;

    fn call(&mut self, request: Request<Message>) -> Later<Message> {
        Box::pin(async move {
            let told = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let message = Message { text: told.to_owned(), number: request.get_ref().number };
            tokio::time::sleep(Duration::from_millis(message.number.into())).await;
            Ok(Response::new(message))
        })
    }
}

struct Echo(Arc<Counters>);

impl ServerStreamingService<Message> for Echo {
    type Response = Message;
    type ResponseStream = Messages;
    type Future = Later<Messages>;

    fn call(&mut self, request: Request<Message>) -> Later<Messages> {
        let stream = OpenStream::new(Arc::clone(&self.0));
        Box::pin(async move {
            let Message { text, number } = request.into_inner();
            let length = text.strip_prefix("bytes:").and_then(|length| length.parse().ok());
            let text = length.map(|length| "x".repeat(length)).unwrap_or(text);
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                for number in 0..number {
                    if sender.send(Ok(Message { text: text.clone(), number })).await.is_err() {
                        return;
                    }
                    stream.sent();
                }
            });
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}

impl ClientStreamingService<Message> for Echo {
    type Response = Message;
    type Future = Later<Message>;

    fn call(&mut self, request: Request<Streaming<Message>>) -> Later<Message> {
        Box::pin(async move {
            let mut messages = request.into_inner();
            let (mut texts, mut sum) = (Vec::new(), 0_u32);
            while let Some(message) = messages.next().await {
                let Message { text, number } = message?;
                texts.push(text);
                sum = sum.wrapping_add(number);
            }
            Ok(Response::new(Message { text: texts.join(","), number: sum }))
        })
    }
}

impl StreamingService<Message> for Echo {
    type Response = Message;
    type ResponseStream = Messages;
    type Future = Later<Messages>;

    fn call(&mut self, request: Request<Streaming<Message>>) -> Later<Messages> {
        let stream = OpenStream::new(Arc::clone(&self.0));
        Box::pin(async move {
            let mut messages = request.into_inner();
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                while let Some(message) = messages.next().await {
                    if sender.send(message).await.is_err() {
                        return;
                    }
                    stream.sent();
                }
            });
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}
