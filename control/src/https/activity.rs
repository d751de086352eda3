//! What goes on on one connection, so that one on which nothing does is closed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;

use super::Body;

/// The number of requests that a connection is at; clones share it.
#[derive(Clone)]
pub(super) struct Activity(watch::Sender<usize>);

/// One request, from its head to the last byte of its answer.
pub(super) struct Running(watch::Sender<usize>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Running {
        self.0.send_modify(|running| *running += 1);
        Running(self.0.clone())
    }

    /// Returns once no request came within `first`, or since one was done within `later`.
    pub(super) async fn quiet(&self, first: Duration, later: Duration) {
        let mut running = self.0.subscribe();
        let mut limit = if *running.borrow_and_update() == 0 { first } else { later };
        loop {
            let idle = *running.borrow_and_update() == 0;
            let changed = running.changed();
            let over = match idle {
                true => tokio::time::timeout(limit, changed).await.is_err(),
                false => changed.await.is_err(),
            };
            if over {
                return;
            }
            limit = later;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

/// An answer's body that keeps its request running until it is sent.
pub(super) struct Sending {
    pub(super) body: Body,
    pub(super) _running: Running,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
