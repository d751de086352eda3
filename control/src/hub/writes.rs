//! The writes of one session in the order in which they came, with those set aside that the API may do later.

use edgeloom_api::hub::{Write, WriteUp, Written};
use edgeloom_tunnel::identity::Verified;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::authorise::Verdict;
use super::parked::{Parked, Waiting};
use super::uplink::{Outcome, Uplink};

pub(super) struct Writes<'a> {
    node: &'a Verified,
    uplink: Uplink<'a>,
    parked: Parked,
}

impl<'a> Writes<'a> {
    pub(super) fn new(shared: &'a Shared, node: &'a Verified) -> Self {
        Self { node, uplink: Uplink::new(shared, node), parked: Parked::default() }
    }

    /// Tries the next write, of the queue or of those set aside. Returns what the node is to be answered by now;
    /// `None` where the queue has ended.
    pub(super) async fn next(&mut self, queued: &mut mpsc::Receiver<WriteUp>) -> Option<Vec<Written>> {
        tokio::select! {
            next = queued.recv() => {
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
