//! Watches: changes of a collection as JSON lines, in the form that the client wants.
//!
//! One task per watch moves events from the store's [`Watch`] into a short channel that is the answer's
//! body. It ends with the client, at `timeoutSeconds`, when the server stops, or when the client has
//! not read for [`STALL`]: what waits for it is bounded by the channel.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::{BodyError, Form, Response, Wanted, respond};
use super::limits::Room;
use super::{Call, Face, objects};
use crate::db::{Watch, WatchEvent, WatchOptions};
use crate::error::{FieldError, Result};
use crate::table::{self, Include};

/// Events that wait for the client.
const QUEUE: usize = 16;
/// How long a client may leave them waiting.
const STALL: Duration = Duration::from_secs(60);
/// Shortest life of a watch whose client did not say; drawn at random up to twice this, so that
/// clients do not all come back at once.
const LIFE: Duration = Duration::from_secs(1800);

/// Starts a watch and answers with its stream.
pub(super) async fn answer(face: &Arc<Face>, call: &Call, room: Room) -> Result<Response> {
    let wanted = Wanted::negotiate(&call.headers, &call.query)?;
    if !call.kind.allows("watch") {
        return Err(super::route::method_not_allowed());
    }
    let options = options(call)?;
    let include = Include::parse(call.query.get("includeObject"))?;
    let life = match objects::number(call, "timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => LIFE.mul_f64(1.0 + rand::random::<f64>()),
    };
    let watch = face.store.watch(&call.kind, options).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let pump =
        Pump { watch, sender, form: wanted.form, include, headers: true, deadline: Instant::now() + life };
    let face_of_task = face.clone();
    face.metrics.watches.inc();
    face.tasks.spawn(async move {
        let stalled = tokio::select! {
            stalled = pump.run() => stalled,
            () = face_of_task.stop.cancelled() => false,
        };
        if stalled {
            face_of_task.metrics.watches_cut.inc();
        }
        face_of_task.metrics.watches.dec();
        drop(room);
    });
    let frames = ReceiverStream::new(receiver).map(|line: Bytes| Ok::<_, BodyError>(Frame::data(line)));
    let mut response = respond(StatusCode::OK, "application/json", Bytes::new());
    *response.body_mut() = StreamBody::new(frames).boxed_unsync();
    Ok(response)
}

fn options(call: &Call) -> Result<WatchOptions> {
    let (labels, fields) = objects::selectors(call)?;
    let send_initial_events = call.query.flag("sendInitialEvents");
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let matched = call.query.get("resourceVersionMatch");
    let forbidden = |field: &str, why: &str| Err(objects::invalid_options(FieldError::forbidden(field, why)));
    let unsupported = matched
        .filter(|one| *one != "NotOlderThan")
        .map(|one| FieldError::not_supported("resourceVersionMatch", &json!(one), &["NotOlderThan"]));
    if send_initial_events && matched.is_none() {
        return forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    if send_initial_events && !bookmarks {
        return forbidden("sendInitialEvents", "sendInitialEvents requires allowWatchBookmarks");
    }
    if matched.is_some() && call.query.get("sendInitialEvents").is_none() {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        let mut causes = vec![FieldError::forbidden("resourceVersionMatch", why)];
        causes.extend(unsupported);
        return Err(objects::invalid_meta("ListOptions", causes));
    }
    if let Some(cause) = unsupported {
        return Err(objects::invalid_options(cause));
    }
    Ok(WatchOptions {
        namespace: objects::scope(call),
        labels,
        fields,
        resource_version: call.query.get("resourceVersion").map(str::to_owned),
        bookmarks,
        send_initial_events,
    })
}

/// Moves events from the store to the client.
struct Pump {
    watch: Watch,
    sender: mpsc::Sender<Bytes>,
    form: Form,
    include: Include,
    /// Whether the next table describes its columns.
    headers: bool,
    deadline: Instant,
}

impl Pump {
    /// Runs until one side ends; true if the client did not read.
    async fn run(mut self) -> bool {
        loop {
            let event = tokio::select! {
                event = self.watch.next() => event,
                () = tokio::time::sleep_until(self.deadline) => return false,
                () = self.sender.closed() => return false,
            };
            let Some(event) = event else { return false };
            let line = Bytes::from(self.shown(&event).to_string() + "\n");
            match tokio::time::timeout(STALL, self.sender.send(line)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return false,
                Err(_) => return true,
            }
        }
    }

    fn shown(&mut self, event: &WatchEvent) -> Value {
        let kind = self.watch.kind().clone();
        let mut shown = event.to_json(&kind);
        if matches!(event, WatchEvent::Error(_)) {
            return shown;
        }
        let object = shown["object"].take();
        shown["object"] = match self.form {
            Form::Object => object,
            Form::Partial => table::partial(&object),
            Form::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let headers = std::mem::take(&mut self.headers);
                table::table(&kind, metadata, [&object], self.include, headers, OffsetDateTime::now_utc())
            }
        };
        shown
    }
}
