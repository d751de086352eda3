//! A flow before it is known to have reached its target.
//!
//! The client's bytes are sent on at once, and kept until the other agent says [`CONNECTED`]: if it
//! refuses instead, nothing of them reached an application, and they are sent again to the next
//! endpoint. If the tunnel is lost meanwhile nobody knows how far they came, and the client must. What is kept is bounded: a client that sends more waits until the target was reached.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::splice::InHand;
use crate::stream::{Broken, Inlet, Outlet};
use crate::wire::{CONNECTED, Code};

/// Most bytes of a client that are kept for another attempt: what a TCP connection of a path of 50 ms
/// and 20 Mbit/s would have in flight.
const MAX_KEPT: usize = 128 << 10;

/// What a client sent so far.
#[derive(Default)]
pub(super) struct Early {
    bytes: Vec<u8>,
    ended: bool,
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The client is gone: no use to try on.
    #[error("the client went away: {0}")]
    Client(io::Error),
    /// The other agent said no.
    #[error("refused: {}", .0.as_str())]
    Refused(Code),
    /// There is no way to the other agent: nothing was sent.
    #[error("{0}")]
    NoWay(String),
    /// The tunnel failed under the flow.
    #[error("{0}")]
    Lost(String),
    /// Nobody answered.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// How long the other host may take over its acknowledgement before a connection on the LAN counts as dead: more than
/// a packet that is lost and sent again, and less than what a caller notices.
const LAN_LIMIT: Duration = Duration::from_millis(300);

/// Why a TCP connection on the LAN did not reach the target.
#[derive(Debug, thiserror::Error)]
pub(super) enum ByLan {
    /// The other agent said no, or does not answer in time: another way would not change that.
    #[error("{0}")]
    Failed(Failed),
    /// It is of no use.
    #[error("{0}")]
    Dead(String),
}

impl Failed {
    /// Whether another attempt is safe: no application can have seen a byte of the client's. A refusal
    /// says so; where nobody said anything, only a client that sent nothing yet is sure.
    pub(super) fn may_try_again(&self, sent: usize) -> bool {
        match self {
            Self::Client(_) => false,
            Self::Refused(_) | Self::NoWay(_) => true,
            Self::Lost(_) | Self::TimedOut(_) => sent == 0,
        }
    }
}

impl Early {
    /// Takes what the client has sent by now, without waiting.
    pub(super) fn take(&mut self, client: &TcpStream) -> io::Result<()> {
        while !self.ended && self.bytes.len() < MAX_KEPT {
            let start = self.bytes.len();
            // Grown by doubling, so that a client that sends a line does not cost the whole bound.
            self.bytes.resize((start * 2).clamp(4 << 10, MAX_KEPT), 0);
            let read = client.try_read(&mut self.bytes[start..]);
            self.bytes.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn takes_more(&self) -> bool {
        !self.ended && self.bytes.len() < MAX_KEPT
    }

    /// Sends preface and bytes, and waits until the other agent has reached the target. `limit` bounds
    /// the silence. What could not be sent yet is in hand then.
    pub(super) async fn reach(
        &mut self,
        client: &TcpStream,
        preface: &[u8],
        outlet: &mut Outlet,
        inlet: &mut Inlet,
        limit: Duration,
    ) -> Result<InHand, Failed> {
        self.take(client).map_err(Failed::Client)?;
        let mut first = Vec::with_capacity(preface.len() + self.bytes.len());
        first.extend_from_slice(preface);
        first.extend_from_slice(&self.bytes);
        let reached = self.exchange(client, first, outlet, inlet);
        timeout(limit, reached).await.unwrap_or(Err(Failed::TimedOut(limit)))
    }

    async fn exchange(
        &mut self,
        client: &TcpStream,
        mut unsent: Vec<u8>,
        outlet: &mut Outlet,
        inlet: &mut Inlet,
    ) -> Result<InHand, Failed> {
        let mut sent = 0;
        let answered = async { inlet.first_byte().await };
        tokio::pin!(answered);
        let answer = loop {
            tokio::select! {
                biased;
                answered = &mut answered => break answered.map_err(refusal)?,
                written = outlet.write(&unsent[sent..]), if sent < unsent.len() => {
                    // A stop says less than the reset that comes with it: wait for that.
                    match written {
                        Ok(count) => sent += count,
                        Err(_) => unsent.truncate(sent),
                    }
                }
                ready = client.readable(), if self.takes_more() => {
                    let known = self.bytes.len();
                    ready.and_then(|()| self.take(client)).map_err(Failed::Client)?;
                    unsent.extend_from_slice(&self.bytes[known..]);
                }
            }
        };
        if answer != Some(CONNECTED) {
            return Err(Failed::Refused(Code::Malformed));
        }
        let for_stream = Bytes::from(unsent).slice(sent..);
        Ok(InHand { for_stream, socket_ended: self.ended, for_socket: Bytes::new() })
    }

    /// Sends the preface by a TCP connection, and waits until the other agent has reached the target. None of the
    /// client's bytes go before that: whatever becomes of the connection, they can be sent by another way. On a LAN
    /// that costs them a fraction of a millisecond.
    ///
    /// A connection is dead where the other host does not acknowledge the preface. Where it does, the endpoint has all
    /// of `limit`: it is being connected to, and by another way it would be a second time.
    pub(super) async fn reach_by_lan(
        preface: &[u8],
        outlet: &mut Outlet,
        inlet: &mut Inlet,
        limit: Duration,
    ) -> Result<(), ByLan> {
        let dead = |_| ByLan::Dead(format!("no acknowledgement within {LAN_LIMIT:?}"));
        let answered = match timeout(LAN_LIMIT, outlet.write_all(preface)).await.map_err(dead)? {
            Ok(()) => Self::answer_by_lan(outlet, inlet, limit).await?,
            Err(broken) => Err(broken),
        };
        match answered {
            Ok(Some(CONNECTED)) => Ok(()),
            Ok(Some(code)) => Err(ByLan::Failed(Failed::Refused(Code::from_number(code.into())))),
            Ok(None) => Err(ByLan::Dead("it ended without an answer".to_owned())),
            Err(broken) => Err(ByLan::Dead(broken.to_string())),
        }
    }

    async fn answer_by_lan(
        outlet: &Outlet,
        inlet: &mut Inlet,
        limit: Duration,
    ) -> Result<Result<Option<u8>, Broken>, ByLan> {
        let mut answer = pin!(inlet.first_byte());
        if let Ok(answered) = timeout(LAN_LIMIT.min(limit), &mut answer).await {
            return Ok(answered);
        }
        if !outlet.is_heard() {
            return Err(ByLan::Dead(format!("no acknowledgement within {LAN_LIMIT:?}")));
        }
        let rest = limit.saturating_sub(LAN_LIMIT);
        timeout(rest, answer).await.map_err(|_| ByLan::Failed(Failed::TimedOut(limit)))
    }

    /// What is in hand where nothing was sent before the target was reached.
    pub(super) fn in_hand(&mut self, client: &TcpStream) -> Result<InHand, Failed> {
        self.take(client).map_err(Failed::Client)?;
        let for_stream = Bytes::copy_from_slice(&self.bytes);
        Ok(InHand { for_stream, socket_ended: self.ended, for_socket: Bytes::new() })
    }

    /// Bytes that the client sent so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Lets go of the bytes: no other attempt will need them.
    pub(super) fn forget(&mut self) {
        self.bytes = Vec::new();
    }

    /// The client's bytes, for a target that is reached without another agent.
    pub(super) fn into_bytes(self) -> (Vec<u8>, bool) {
        (self.bytes, self.ended)
    }
}

fn refusal(error: Broken) -> Failed {
    match error {
        Broken::Peer(code) => Failed::Refused(code),
        other => Failed::Lost(other.to_string()),
    }
}

/// The code for a connect that failed.
pub(super) fn code_of(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Code::Refused,
        _ => Code::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_attempt_only_where_no_byte_can_have_arrived() {
        let lost = || Failed::Lost("gone".to_owned());
        for (failed, sent, want) in [
            (Failed::Refused(Code::Refused), 9, true),
            (Failed::NoWay("no path".to_owned()), 9, true),
            (lost(), 0, true),
            (lost(), 1, false),
            (Failed::TimedOut(Duration::ZERO), 0, true),
            (Failed::TimedOut(Duration::ZERO), 1, false),
            (Failed::Client(io::ErrorKind::ConnectionReset.into()), 0, false),
        ] {
            assert_eq!(failed.may_try_again(sent), want, "{failed}, {sent} bytes sent");
        }
    }
}
