//! Callbacks for what came for a plugin context from elsewhere: answers to its calls, items of its queues.

use bytes::Bytes;
use callout::{GrpcEvent, Pairs};

use super::{Vm, size};
use crate::abi::{BufferType, Callback, MapType};
use crate::answer::{Answer, Calls, News, Way, outcome_of, outcome_of_grpc};
use crate::error::Error;
use crate::shared::Subscription;
use crate::state::{Context, VmState};

/// gRPC's status for what should not be.
const GRPC_INTERNAL: u32 = 13;

impl Vm {
    /// Runs the callback for what came for a plugin context. Nothing happens if that is gone, or no longer waits for it.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn deliver(&mut self, root: u32, news: News) -> Result<(), Error> {
        let result = match news {
            News::Http { token, result } => match self.store.data_mut().calls.remove(token) {
                Some(call) => {
                    call.end(outcome_of(&result));
                    self.http_call_response(root, token, Answer::http(result))
                }
                None => Ok(()),
            },
            News::Grpc { token, event } => self.grpc(root, token, event),
            News::Queue(queue) => self.queue_ready(root, queue),
        };
        let state = self.store.data_mut();
        state.answer = Answer::default();
        // The callback may have acted for a stream, whose host it then holds.
        state.return_host();
        result
    }

    fn http_call_response(&mut self, root: u32, token: u32, answer: Answer) -> Result<(), Error> {
        let count = |map| answer.map(map).map_or(0, |pairs| u32::try_from(pairs.len()).unwrap_or(u32::MAX));
        let (headers, trailers) = (count(MapType::HttpCallResponseHeaders), count(MapType::HttpCallResponseTrailers));
        let body = answer.buffer(BufferType::HttpCallResponseBody).map_or(0, |body| size(body));
        self.store.data_mut().answer = answer;
        let budget = self.callback_time;
        self.call(Callback::HttpCallResponse, root, budget, |callbacks, store| {
            let callback = callbacks.http_call_response.as_ref();
            callback.map_or(Ok(()), |callback| callback.call(store, (root, token, headers, body, trailers)))
        })
    }

    /// Of a call the guest is told once: its message, or how it failed. Of a stream it is told everything.
    fn grpc(&mut self, root: u32, token: u32, event: GrpcEvent) -> Result<(), Error> {
        let calls = &mut self.store.data_mut().calls;
        if let Some(Way::GrpcCall(_, message)) = calls.get_mut(token).map(|call| &mut call.way) {
            return match event {
                GrpcEvent::Message(first) => {
                    message.get_or_insert(first);
                    Ok(())
                }
                GrpcEvent::InitialMetadata(_) | GrpcEvent::TrailingMetadata(_) => Ok(()),
                GrpcEvent::Close { status, message: text } => {
                    let message = message.take();
                    end(calls, token, status);
                    match (status, message) {
                        (0, Some(message)) => self.grpc_receive(root, token, message.bytes.clone()),
                        (0, None) => {
                            self.grpc_close(root, token, GRPC_INTERNAL, "the answer has no message".to_owned())
                        }
                        (status, _) => self.grpc_close(root, token, status, text),
                    }
                }
            };
        }
        if calls.get(token).is_none() {
            return Ok(());
        }
        match event {
            GrpcEvent::InitialMetadata(pairs) => {
                self.grpc_metadata(root, token, MapType::GrpcCallInitialMetadata, pairs)
            }
            GrpcEvent::TrailingMetadata(pairs) => {
                self.grpc_metadata(root, token, MapType::GrpcCallTrailingMetadata, pairs)
            }
            // What the message takes of the window goes back when it is dropped, behind the callback.
            GrpcEvent::Message(message) => self.grpc_receive(root, token, message.bytes.clone()),
            GrpcEvent::Close { status, message } => {
                end(calls, token, status);
                self.grpc_close(root, token, status, message)
            }
        }
    }

    fn grpc_metadata(&mut self, root: u32, token: u32, map: MapType, pairs: Pairs) -> Result<(), Error> {
        let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
        self.store.data_mut().answer = Answer::metadata(map, pairs);
        let initial = map == MapType::GrpcCallInitialMetadata;
        let callback =
            if initial { Callback::GrpcReceiveInitialMetadata } else { Callback::GrpcReceiveTrailingMetadata };
        let budget = self.callback_time;
        self.call(callback, root, budget, |callbacks, store| {
            let callback = if initial { &callbacks.grpc_initial_metadata } else { &callbacks.grpc_trailing_metadata };
            callback.as_ref().map_or(Ok(()), |callback| callback.call(store, (root, token, count)))
        })
    }

    fn grpc_receive(&mut self, root: u32, token: u32, message: Bytes) -> Result<(), Error> {
        let size = size(&message);
        self.store.data_mut().answer = Answer::message(message);
        let budget = self.callback_time;
        self.call(Callback::GrpcReceive, root, budget, |callbacks, store| {
            callbacks.grpc_receive.as_ref().map_or(Ok(()), |callback| callback.call(store, (root, token, size)))
        })
    }

    fn grpc_close(&mut self, root: u32, token: u32, status: u32, message: String) -> Result<(), Error> {
        self.store.data_mut().answer = Answer::close(status, message);
        let budget = self.callback_time;
        self.call(Callback::GrpcClose, root, budget, |callbacks, store| {
            callbacks.grpc_close.as_ref().map_or(Ok(()), |callback| callback.call(store, (root, token, status)))
        })
    }

    fn queue_ready(&mut self, root: u32, queue: u32) -> Result<(), Error> {
        // The word may have been on its way when the plugin context ended, and SDKs trap on one that they do not know.
        if subscription(self.store.data(), root, queue).is_none() {
            return Ok(());
        }
        self.store.data_mut().taken = 0;
        let budget = self.callback_time;
        self.call(Callback::QueueReady, root, budget, |callbacks, store| {
            callbacks.queue_ready.as_ref().map_or(Ok(()), |callback| callback.call(store, (root, queue)))
        })?;
        let state = self.store.data_mut();
        let taken = std::mem::take(&mut state.taken);
        if let Some(subscription) = subscription(state, root, queue) {
            subscription.served(taken);
        }
        Ok(())
    }
}

/// A plugin context's part in a queue.
fn subscription(state: &VmState, root: u32, queue: u32) -> Option<&Subscription> {
    match state.contexts.get(&root)? {
        Context::Root(root) => root.own()?.queues.get(&queue),
        Context::Stream { .. } => None,
    }
}

/// A gRPC call or stream is over.
fn end(calls: &mut Calls, token: u32, status: u32) {
    if let Some(call) = calls.remove(token) {
        call.end(outcome_of_grpc(status));
    }
}
