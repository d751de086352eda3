//! What goes on on one connection, so that one on which nothing does is closed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;

use super::Body;

/// The requests of a connection; clones share them.
#[derive(Clone)]
pub(super) struct Activity(watch::Sender<Requests>);

#[derive(Clone, Copy, Default)]
struct Requests {
    running: usize,
    /// Whether there ever was one.
    begun: bool,
}

/// One request, from its head to the last byte of its answer.
pub(super) struct Running(watch::Sender<Requests>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Requests::default()))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Running {
        self.0.send_modify(|requests| (requests.running, requests.begun) = (requests.running + 1, true));
        Running(self.0.clone())
    }

    /// Returns once no request came within `first`, or since one was done within `later`.
    pub(super) async fn quiet(&self, first: Duration, later: Duration) {
        let mut requests = self.0.subscribe();
        loop {
            // The first may be over before anybody asks here.
            let Requests { running, begun } = *requests.borrow_and_update();
            let changed = requests.changed();
            let over = match running {
                0 => tokio::time::timeout(if begun { later } else { first }, changed).await.is_err(),
                _ => changed.await.is_err(),
            };
            if over {
                return;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|requests| requests.running -= 1);
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_over_at_once_counts() {
        let activity = Activity::new();
        let (first, later) = (Duration::from_secs(10), Duration::from_secs(100));
        let before = Instant::now();
        activity.quiet(first, later).await;
        assert_eq!(before.elapsed(), first);
        drop(activity.begin());
        activity.quiet(first, later).await;
        assert_eq!(before.elapsed(), first + later);
    }
}
