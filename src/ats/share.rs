//! A continuation's handler, reached from outside of its events.

use std::ops::Deref;
use std::sync::Arc;

use crate::cont::{ContRef, Handler, Inner};

/// Keeps a continuation's handler alive, and reaches it: for a handler that is `Sync` and looks after itself. It
/// keeps neither the continuation alive nor its hooks.
pub struct Shared<T: Handler>(Arc<Inner<T>>);

impl<T: Handler> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Handler + Sync> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.data()
    }
}

impl<T: Handler + Sync> ContRef<'_, T> {
    /// The handler, to be kept. `T: Sync`, since no mutex guards this way to it.
    #[must_use]
    pub fn share(self) -> Shared<T> {
        Shared(Arc::clone(self.inner))
    }
}
