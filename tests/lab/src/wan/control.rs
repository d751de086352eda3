//! What is said to a link's process over its socket: JSON, one question and one answer a connection.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Wan;
use crate::{Error, Result};

/// A process that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a question or an answer at most.
const LONGEST: u64 = 64 << 10;

/// What the process is asked to do; it answers with its [`Counts`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Say what passed.
    Count,
    /// Take these conditions.
    Set(Wan),
}

/// What passed a WAN since it was plugged in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// From the host, or the NAT's outside.
    pub up: Count,
    /// To it.
    pub down: Count,
}

/// What passed one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Frames that arrived.
    pub passed: u64,
    /// Their bytes.
    pub passed_bytes: u64,
    /// Frames lost at random.
    pub lost: u64,
    /// Frames that found the queue full.
    pub overflowed: u64,
    /// Frames larger than the path takes.
    pub too_big: u64,
    /// Frames under way now.
    pub under_way: u64,
}

/// Asks the process behind `socket`.
pub(super) fn ask(socket: &Path, question: &Question) -> Result<Counts> {
    let unreachable = || Error::io("ask the WAN at", socket);
    let mut stream = UnixStream::connect(socket).map_err(unreachable())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable())?;
    let text = serde_json::to_vec(question).expect("a question has no maps");
    stream.write_all(&text).map_err(unreachable())?;
    stream.shutdown(Shutdown::Write).map_err(unreachable())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).map_err(unreachable())?;
    serde_json::from_str(&answer)
        .map_err(|_| Error::Machine(format!("{}: the WAN answers {answer:?}", socket.display())))
}

/// Answers questions for ever; a question that is none gets the complaint and changes nothing.
pub(super) fn serve(listener: &UnixListener, mut answer: impl FnMut(Question) -> Counts) {
    for stream in listener.incoming().flatten() {
        // Whoever hangs up loses the answer, no more.
        let _ = reply(stream, &mut answer);
    }
}

fn reply(stream: UnixStream, answer: &mut impl FnMut(Question) -> Counts) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    (&stream).take(LONGEST).read_to_string(&mut text)?;
    let reply = match serde_json::from_str(&text) {
        Ok(question) => serde_json::to_string(&answer(question))?,
        Err(error) => error.to_string(),
    };
    (&stream).write_all(reply.as_bytes())
}
