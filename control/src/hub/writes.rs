//! The writes of one session in the order in which they came, with those set aside that the API may do later, and
//! the node's Lease, which is renewed whenever the node says that it is well.

use edgeloom_api::hub::{Write, WriteUp, Written};
use edgeloom_tunnel::identity::Verified;
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Shared;
use super::authorise::Verdict;
use super::parked::{Parked, Waiting};
use super::uplink::{Outcome, Uplink};

/// How long a Lease stands without renewal, in seconds: kubelet's value.
const LEASE_SECONDS: u32 = 40;

pub(super) struct Writes<'a> {
    node: &'a Verified,
    queued: mpsc::Receiver<WriteUp>,
    beaten: watch::Receiver<()>,
    uplink: Uplink<'a>,
    parked: Parked,
}

impl<'a> Writes<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        node: &'a Verified,
        queued: mpsc::Receiver<WriteUp>,
        beaten: watch::Receiver<()>,
    ) -> Self {
        Self { node, queued, beaten, uplink: Uplink::new(shared, node), parked: Parked::default() }
    }

    /// Tries the next write, of the queue or of those set aside. Returns what the node is to be answered by now;
    /// `None` where the queue has ended.
    pub(super) async fn next(&mut self) -> Option<Vec<Written>> {
        tokio::select! {
            beaten = self.beaten.changed() => {
                beaten.ok()?;
                self.renew_lease().await;
                Some(Vec::new())
            }
            next = self.queued.recv() => {
                let WriteUp { id, write } = next?;
                Some(self.first_try(id, write).await)
            }
            () = until(self.parked.due()) => Some(self.next_try().await.into_iter().collect()),
        }
    }

    async fn first_try(&mut self, id: u64, write: Write) -> Vec<Written> {
        let object = write.object();
        let replaced = self.parked.replace(object.as_deref());
        let mut answers: Vec<Written> =
            replaced.into_iter().map(|id| Written { id, refused: None }).collect();
        let outcome = match self.uplink.judge(write).await {
            Verdict::Done => Outcome::Done,
            Verdict::Refuse(reason) => Outcome::Never(reason),
            Verdict::Call(call) => match self.uplink.call(&call).await {
                Outcome::Later(reason) => {
                    tracing::warn!(node = %self.node.node, id, reason, "a node's write is tried again later");
                    let given_up = self.parked.park(Waiting::new(id, object, call, Instant::now()));
                    answers.extend(given_up.map(|id| Written { id, refused: Some(reason) }));
                    return answers;
                }
                outcome => outcome,
            },
        };
        answers.extend(answer(id, outcome));
        answers
    }

    /// Renews the Lease by this host's clock, which is the one that everybody else's Leases go by. What fails is
    /// done at the next beat.
    async fn renew_lease(&mut self) {
        let format =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
        let name = self.node.node.to_string();
        let body = json!({
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": OffsetDateTime::now_utc().format(format).unwrap_or_default(),
        });
        let Verdict::Call(call) = self.uplink.judge(Write::Lease { name, body }).await else { return };
        if let Outcome::Later(reason) | Outcome::Never(reason) = self.uplink.call(&call).await {
            tracing::warn!(node = %self.node.node, reason, "the node's Lease was not renewed");
        }
    }

    async fn next_try(&mut self) -> Option<Written> {
        let waiting = self.parked.take()?;
        let outcome = self.uplink.call(&waiting.call).await;
        let answer = answer(waiting.id, outcome);
        if answer.is_none() {
            self.parked.park_again(waiting, Instant::now());
        }
        answer
    }
}

fn answer(id: u64, outcome: Outcome) -> Option<Written> {
    match outcome {
        Outcome::Done => Some(Written { id, refused: None }),
        Outcome::Never(reason) => Some(Written { id, refused: Some(reason) }),
        Outcome::Later(_) => None,
    }
}

/// Resolves at `due`; never where there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
