//! From a question to its answer: the zone first, then the cache, then upstream servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, Query, ResponseCode};

use crate::forward::Forwarder;
use crate::message::{self, Follow, Local, Request};
use crate::metrics::{Answerer, Metrics};
use crate::zone::Zone;

/// Aliases followed in one answer, at most: a circle of them must end.
const ALIASES: usize = 8;

/// Answers questions.
#[derive(Debug)]
pub(crate) struct Resolver {
    zone: Arc<ArcSwap<Zone>>,
    forwarder: Forwarder,
    metrics: Metrics,
    turn: AtomicUsize,
}

/// An answer that needs somebody else: what there is of it, and what is still to be asked.
#[derive(Debug)]
pub(crate) struct Pending {
    so_far: Option<Box<Message>>,
    question: Query,
}

impl Resolver {
    pub(crate) fn new(zone: Arc<ArcSwap<Zone>>, forwarder: Forwarder, metrics: Metrics) -> Self {
        Self { zone, forwarder, metrics, turn: AtomicUsize::new(0) }
    }

    /// The answer, if the zone or the cache has it.
    pub(crate) fn at_once(&self, request: &Request) -> Result<Message, Pending> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match request.look_up(&self.zone.load(), turn) {
            Local::Answer(answer) => {
                self.metrics.answered(Answerer::Cluster, answer.metadata.response_code);
                Ok(answer)
            }
            Local::Alias { so_far, question } => Err(Pending { so_far: Some(Box::new(so_far)), question }),
            Local::Foreign => match self.forwarder.cached(&request.question, request.dnssec()) {
                Some(answer) => {
                    self.metrics.answered(Answerer::Cache, answer.metadata.response_code);
                    Ok(request.relay(answer))
                }
                None => Err(Pending { so_far: None, question: request.question.clone() }),
            },
        }
    }

    /// Completes an answer: follows aliases of the zone, and asks upstream for what is not in it.
    pub(crate) async fn follow(&self, request: &Request, pending: Pending) -> Message {
        let Pending { so_far, mut question } = pending;
        let Some(mut answer) = so_far else {
            let got = self.forwarder.ask(&question, request.dnssec()).await;
            return self.count(got.map_or_else(
                || request.failure(ResponseCode::ServFail),
                |upstream| request.relay(upstream),
            ));
        };
        for _ in 0..ALIASES {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            match message::extend(&mut answer, &self.zone.load(), &question, turn) {
                None => {
                    self.metrics.answered(Answerer::Cluster, answer.metadata.response_code);
                    return *answer;
                }
                Some(Follow::Alias(next)) => question = next,
                Some(Follow::Elsewhere) => {
                    let cached = self.forwarder.cached(&question, request.dnssec());
                    let got = match cached {
                        Some(got) => Some(got),
                        None => self.forwarder.ask(&question, request.dnssec()).await,
                    };
                    let Some(got) = got else { break };
                    answer.metadata.response_code = got.metadata.response_code;
                    answer.add_answers(got.answers);
                    answer.add_authorities(got.authorities);
                    return self.count(*answer);
                }
            }
        }
        self.count(request.failure(ResponseCode::ServFail))
    }

    fn count(&self, answer: Message) -> Message {
        let code = answer.metadata.response_code;
        let by = if code == ResponseCode::ServFail { Answerer::Nobody } else { Answerer::Upstream };
        self.metrics.answered(by, code);
        answer
    }
}
