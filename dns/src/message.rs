//! From packets to questions and from answers to packets. Pure.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::forward::matching;
use crate::zone::{Lookup, Zone};

/// Largest datagram sent where the client allows it: passes every path unfragmented (DNS flag day 2020).
pub(crate) const MAX_DATAGRAM: u16 = 1232;
/// Largest datagram to a client that says nothing about it (RFC 1035).
const PLAIN_DATAGRAM: u16 = 512;
/// Bytes of a message's header.
const HEADER: usize = 12;

/// What a packet asks.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A question to be answered.
    Query(Box<Request>),
    /// To be answered with this, which says what is wrong with it.
    Wrong(Box<Message>),
    /// Not a question at all: an answer to it could start a storm.
    Nothing,
}

/// A question, checked, with what its answer depends on.
#[derive(Debug)]
pub(crate) struct Request {
    message: Message,
    pub(crate) question: Query,
}

/// What the zone makes of a question.
#[derive(Debug)]
pub(crate) enum Local {
    Answer(Message),
    /// The name is not the cluster's.
    Foreign,
    /// The answer begins with an alias; `question` asks for the rest.
    Alias {
        so_far: Message,
        question: Query,
    },
}

/// A packet's message. One that announces more than one question is none: nobody asks two, and the decoder would take
/// memory for as many as are announced, megabytes for a packet of a few bytes.
pub(crate) fn decode(packet: &[u8]) -> Option<Message> {
    let questions = packet.get(4..6)?;
    if !matches!(questions, [0, 0 | 1]) {
        return None;
    }
    Message::from_vec(packet).ok()
}

/// Reads a packet. Never panics, whatever it holds.
pub(crate) fn read(packet: &[u8]) -> Asked {
    // The third byte's first bit tells an answer, the next four the operation.
    let Some([first, second, flags]) = packet.first_chunk::<3>().filter(|_| packet.len() >= HEADER) else {
        return Asked::Nothing;
    };
    let id = u16::from_be_bytes([*first, *second]);
    if flags & 0x80 != 0 {
        return Asked::Nothing;
    }
    let wrong = |code| Asked::Wrong(Box::new(Message::error_msg(id, OpCode::Query, code)));
    let Some(message) = decode(packet) else { return wrong(ResponseCode::FormErr) };
    if message.metadata.message_type != MessageType::Query {
        return Asked::Nothing;
    }
    if message.metadata.op_code != OpCode::Query {
        return wrong(ResponseCode::NotImp);
    }
    let [question] = &message.queries[..] else { return wrong(ResponseCode::FormErr) };
    let request = Request { question: question.clone(), message };
    let refused = |code| Asked::Wrong(Box::new(request.failure(code)));
    if request.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refused(ResponseCode::BADVERS);
    }
    let kind = request.question.query_type();
    if matches!(kind, RecordType::AXFR | RecordType::IXFR) || request.question.query_class() != DNSClass::IN {
        return refused(ResponseCode::Refused);
    }
    Asked::Query(Box::new(request))
}

/// The packet that answers a datagram, where the zone alone can. None to what asks nothing, and where somebody else has
/// to be asked, for the whole or for the rest.
pub fn answer(packet: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let request = match read(packet) {
        Asked::Query(request) => request,
        Asked::Wrong(answer) => return Some(write(&answer, MAX_DATAGRAM.into())),
        Asked::Nothing => return None,
    };
    match request.look_up(zone, 0) {
        Local::Answer(answer) => Some(write(&answer, request.datagram_limit())),
        Local::Foreign | Local::Alias { .. } => None,
    }
}

/// The packet that answers the question in `packet` where an upstream server said `upstream`; none if that does not
/// answer it.
pub fn passed_on(packet: &[u8], upstream: &[u8]) -> Option<Vec<u8>> {
    let Asked::Query(request) = read(packet) else { return None };
    let answer = matching(&request.message, upstream)?;
    Some(write(&request.relay(answer), request.datagram_limit()))
}

impl Request {
    /// An empty answer.
    pub(crate) fn answer(&self) -> Message {
        let mut answer = Message::response(self.message.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = self.message.metadata.recursion_desired;
        answer.metadata.checking_disabled = self.message.metadata.checking_disabled;
        answer.metadata.recursion_available = true;
        answer.add_query(self.question.clone());
        if let Some(asked) = &self.message.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM).set_dnssec_ok(asked.flags().dnssec_ok);
            answer.set_edns(edns);
        }
        answer
    }

    /// An answer that says what is wrong.
    pub(crate) fn failure(&self, code: ResponseCode) -> Message {
        let mut answer = self.answer();
        answer.metadata.response_code = code;
        answer
    }

    /// What an upstream server said, as the answer to this question.
    pub(crate) fn relay(&self, upstream: Message) -> Message {
        let mut answer = self.failure(upstream.metadata.response_code);
        answer.metadata.authentic_data = upstream.metadata.authentic_data;
        answer.answers = upstream.answers;
        answer.authorities = upstream.authorities;
        answer.additionals = upstream.additionals;
        answer
    }

    /// Whether the client wants DNSSEC records.
    pub(crate) fn dnssec(&self) -> bool {
        self.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// Bytes that the client takes in a datagram.
    pub(crate) fn datagram_limit(&self) -> usize {
        self.message.edns.as_ref().map_or(PLAIN_DATAGRAM, |edns| edns.max_payload().min(MAX_DATAGRAM)).into()
    }

    /// Looks a question up in the zone. `turn` moves the first record, so that clients that take the
    /// first spread over all.
    pub(crate) fn look_up(&self, zone: &Zone, turn: usize) -> Local {
        let mut answer = self.answer();
        answer.metadata.authoritative = true;
        match extend(&mut answer, zone, &self.question, turn) {
            Some(Follow::Elsewhere) => Local::Foreign,
            Some(Follow::Alias(question)) => Local::Alias { so_far: answer, question },
            None => Local::Answer(answer),
        }
    }
}

/// Where the rest of an answer is.
#[derive(Debug)]
pub(crate) enum Follow {
    Elsewhere,
    Alias(Query),
}

/// Adds to an answer what the zone has for a question.
pub(crate) fn extend(answer: &mut Message, zone: &Zone, question: &Query, turn: usize) -> Option<Follow> {
    match zone.lookup(question.name(), question.query_type()) {
        Lookup::Foreign => return Some(Follow::Elsewhere),
        Lookup::NoName => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(zone.soa());
        }
        Lookup::NoData => {
            answer.add_authority(zone.soa());
        }
        Lookup::Found { mut records, additional } => {
            let count = records.len().max(1);
            records.rotate_left(turn % count);
            answer.add_answers(records);
            answer.add_additionals(additional);
        }
        Lookup::Alias { record, target } => {
            answer.add_answer(*record);
            let kind = question.query_type();
            if kind != RecordType::CNAME && kind != RecordType::ANY {
                return Some(Follow::Alias(Query::query(target, kind)));
            }
        }
    }
    None
}

/// The packet of an answer, of `limit` bytes at most: additional records go first, then all of it, and
/// the client is told to ask again over TCP.
pub(crate) fn write(answer: &Message, limit: usize) -> Vec<u8> {
    let fits = |message: &Message| message.to_vec().ok().filter(|packet| packet.len() <= limit);
    let without_additional = || {
        let mut shorter = answer.clone();
        shorter.additionals.clear();
        fits(&shorter)
    };
    fits(answer).or_else(without_additional).or_else(|| fits(&answer.truncate())).unwrap_or_else(|| {
        let mut failure = Message::error_msg(answer.metadata.id, OpCode::Query, ResponseCode::ServFail)
            .to_vec()
            .unwrap_or_default();
        failure.truncate(limit);
        failure
    })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
