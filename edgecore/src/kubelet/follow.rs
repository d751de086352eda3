//! `GET /containerLogs`: a log file as a stream, followed while the container runs and across rotation.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::logs::{Filter, Options, tail_offset};
use super::{Context, Refusal, lookup};
use crate::cri::Cri;
use crate::cri::proto::{ContainerId, ContainerState};

/// How often a file that is followed is looked at.
const POLL: Duration = Duration::from_millis(250);
/// How often the runtime is asked whether the container still runs.
const POLLS_A_LOOK: u32 = 8;
const BLOCK: usize = 32 << 10;

/// The query, as the API server sends it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogQuery {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    limit_bytes: Option<i64>,
}

fn is_true(value: Option<&String>) -> bool {
    value.is_some_and(|value| matches!(value.as_str(), "true" | "1"))
}

impl LogQuery {
    fn options(&self, now: OffsetDateTime) -> Result<Options, Refusal> {
        let bad = |text: &str| Refusal(StatusCode::BAD_REQUEST, text.to_owned());
        let since_time = match &self.since_time {
            Some(text) => Some(
                OffsetDateTime::parse(text, &Rfc3339).map_err(|_| bad("sinceTime is no RFC 3339 time"))?,
            ),
            None => None,
        };
        let since_seconds = self.since_seconds.map(|seconds| now - time::Duration::seconds(seconds));
        let not_negative = |value: Option<i64>, name: &str| match value.map(u64::try_from) {
            Some(Err(_)) => Err(bad(&format!("{name} must not be negative"))),
            Some(Ok(value)) => Ok(Some(value)),
            None => Ok(None),
        };
        let tail = not_negative(self.tail_lines, "tailLines")?;
        Ok(Options {
            tail: tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            since: since_time.or(since_seconds),
            timestamps: is_true(self.timestamps.as_ref()),
            follow: is_true(self.follow.as_ref()),
            limit: not_negative(self.limit_bytes, "limitBytes")?,
        })
    }
}

pub(super) async fn container_logs(
    State(context): State<Context>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let options = query.options(OffsetDateTime::now_utc())?;
    let found = lookup::pod(&context, &namespace, &pod).await?;
    let instance = found.logged(&container, is_true(query.previous.as_ref()))?;
    let (log, id) = (PathBuf::from(&instance.log_path), instance.id.clone());
    let opened = tokio::task::spawn_blocking(move || Reader::open(log, options)).await;
    let reader = opened.map_err(io::Error::other).flatten().map_err(|error| {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("the log cannot be read: {error}"))
    })?;
    let following =
        Following { reader: Some(reader), cri: context.node.runtime.cri.clone(), id, polls: 0, ended: false };
    let stream = futures::stream::try_unfold(following, Following::next);
    Ok(([("content-type", "text/plain; charset=utf-8")], Body::from_stream(stream)).into_response())
}

/// A log file and how far it was read.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    file: std::fs::File,
    filter: Filter,
    follow: bool,
    out: Vec<u8>,
}

impl Reader {
    fn open(path: PathBuf, options: Options) -> io::Result<Self> {
        let mut file = std::fs::File::open(&path)?;
        let length = file.metadata()?.len();
        if let Some(lines) = options.tail {
            let offset = tail_offset(length, lines, |at, buffer| file.read_exact_at(buffer, at))?;
            file.seek(SeekFrom::Start(offset))?;
        }
        let follow = options.follow;
        Ok(Self { path, file, filter: Filter::new(options), follow, out: Vec::new() })
    }

    /// Reads until there is something to send; an empty answer at the end of the file.
    fn read(&mut self) -> io::Result<Bytes> {
        let mut buffer = vec![0; BLOCK];
        while self.out.is_empty() && !self.filter.is_full() {
            let n = self.file.read(&mut buffer)?;
            if n == 0 {
                match self.rotated()? {
                    Some(next) => self.file = next,
                    None => break,
                }
            }
            self.filter.feed(&buffer[..n], &mut self.out);
        }
        Ok(Bytes::from(std::mem::take(&mut self.out)))
    }

    /// The new file, where another one has taken this one's place.
    fn rotated(&self) -> io::Result<Option<std::fs::File>> {
        let there = inode(&self.path);
        if there.is_none() || there == Some(self.file.metadata()?.ino()) {
            return Ok(None);
        }
        // What was written between the last read and the rotation comes first.
        let at = (&self.file).stream_position()?;
        if self.file.metadata()?.len() > at {
            return Ok(None);
        }
        std::fs::File::open(&self.path).map(Some)
    }
}

fn inode(path: &FilePath) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| meta.ino())
}

/// A stream over a [`Reader`].
struct Following {
    /// Absent only while a read is under way.
    reader: Option<Reader>,
    cri: Cri,
    id: String,
    polls: u32,
    ended: bool,
}

impl Following {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        loop {
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            let (bytes, reader) = tokio::task::spawn_blocking(move || (reader.read(), reader)).await?;
            let bytes = bytes?;
            let done = reader.filter.is_full() || !reader.follow || self.ended;
            self.reader = Some(reader);
            if !bytes.is_empty() {
                return Ok(Some((bytes, self)));
            }
            if done {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
            self.polls += 1;
            if self.polls.is_multiple_of(POLLS_A_LOOK) {
                // Read to the end once more: it may have written before it ended.
                self.ended = !self.runs().await;
            }
        }
    }

    async fn runs(&self) -> bool {
        let request = ContainerId { container_id: self.id.clone() };
        match self.cri.container_status(request).await {
            Ok(answer) => answer.status.is_some_and(|status| status.state() == ContainerState::Running),
            Err(error) => !error.is_not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        format!("2026-01-01T00:00:00Z stdout F {text}\n")
    }

    #[test]
    fn a_reader_follows_a_rotation() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        std::fs::write(&path, line("a") + &line("b")).unwrap();
        let options = Options { tail: Some(1), follow: true, ..Options::default() };
        let mut reader = Reader::open(path.clone(), options).unwrap();
        assert_eq!(reader.read().unwrap(), "b\n");
        assert_eq!(reader.read().unwrap(), "");
        std::fs::rename(&path, root.path().join("0.log.1")).unwrap();
        assert_eq!(reader.read().unwrap(), "", "between the rename and the new file");
        std::fs::write(&path, line("c")).unwrap();
        assert_eq!(reader.read().unwrap(), "c\n");
    }

    #[test]
    fn queries() {
        let now = OffsetDateTime::from_unix_timestamp(1000).unwrap();
        let query = LogQuery {
            follow: Some("true".into()),
            since_seconds: Some(10),
            tail_lines: Some(5),
            ..LogQuery::default()
        };
        let options = query.options(now).unwrap();
        assert_eq!((options.follow, options.tail), (true, Some(5)));
        assert_eq!(options.since.unwrap().unix_timestamp(), 990);
        assert!(LogQuery { tail_lines: Some(-1), ..LogQuery::default() }.options(now).is_err());
        assert!(LogQuery { since_time: Some("x".into()), ..LogQuery::default() }.options(now).is_err());
    }
}
