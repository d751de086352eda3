//! Answers of upstream servers, kept for as long as they allow. Pure: the time is passed in.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

/// A positive answer is kept no longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(3600);
/// A negative answer is kept no longer (RFC 2308 leaves the limit open).
const LONGEST_NEGATIVE: Duration = Duration::from_secs(60);

/// What tells one answer from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    name: Name,
    kind: RecordType,
    /// The client wants DNSSEC records.
    dnssec: bool,
}

impl Key {
    pub(crate) fn new(name: &Name, kind: RecordType, dnssec: bool) -> Self {
        Self { name: name.to_lowercase(), kind, dnssec }
    }
}

#[derive(Debug)]
struct Entry {
    message: Message,
    stored: Instant,
    until: Instant,
}

/// A bounded number of answers; beyond it the one stored first is forgotten.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: HashMap<Key, Entry>,
    order: VecDeque<Key>,
    capacity: usize,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), capacity }
    }

    /// Answers that are held.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The answer, with the time that it has been here taken off its records.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let entry = self.entries.get(key).filter(|entry| entry.until > now)?;
        let age = u32::try_from(now.duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        let mut message = entry.message.clone();
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    /// Keeps an answer, if it may be kept.
    pub(crate) fn put(&mut self, key: Key, message: &Message, now: Instant) {
        let Some(life) = life(message).filter(|life| !life.is_zero()) else { return };
        let entry = Entry { message: message.clone(), stored: now, until: now + life };
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        while self.entries.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

/// How long an answer may be kept; `None` for failures and for negative answers without a SOA record.
fn life(message: &Message) -> Option<Duration> {
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    let is_negative = message.answers.is_empty() || message.metadata.response_code == ResponseCode::NXDomain;
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if !message.metadata.truncation => {}
        _ => return None,
    }
    let shortest = message.answers.iter().map(|record| record.ttl).min();
    if !is_negative {
        return shortest.map(|ttl| seconds(ttl).min(LONGEST));
    }
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    })?;
    Some(seconds(shortest.map_or(soa, |ttl| ttl.min(soa))).min(LONGEST_NEGATIVE))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::SOA;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn key(text: &str) -> Key {
        Key::new(&name(text), RecordType::A, false)
    }

    fn answer(ttls: &[u32]) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        for ttl in ttls {
            let data = RData::A(Ipv4Addr::LOCALHOST.into());
            message.add_answer(Record::from_rdata(name("a.example."), *ttl, data));
        }
        message
    }

    fn negative(ttl: u32, minimum: u32) -> Message {
        let mut message = Message::error_msg(1, OpCode::Query, ResponseCode::NXDomain);
        let soa = SOA::new(name("ns.example."), name("h.example."), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(name("example."), ttl, RData::SOA(soa)));
        message
    }

    #[test]
    fn answers_age_and_end_with_their_shortest_record() {
        let (mut cache, start) = (Cache::new(10), Instant::now());
        cache.put(key("A.example."), &answer(&[30, 90]), start);
        let got = cache.get(&key("a.EXAMPLE."), start + Duration::from_secs(10)).unwrap();
        assert_eq!(got.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [20, 80]);
        assert!(cache.get(&key("a.example."), start + Duration::from_secs(30)).is_none());
        let other = Key::new(&name("a.example."), RecordType::A, true);
        assert!(cache.get(&other, start).is_none());
    }

    #[test]
    fn negative_answers_live_as_their_soa_says() {
        assert_eq!(life(&negative(300, 20)), Some(Duration::from_secs(20)));
        assert_eq!(life(&negative(10, 20)), Some(Duration::from_secs(10)));
        assert_eq!(life(&negative(3000, 3000)), Some(LONGEST_NEGATIVE));
        assert_eq!(life(&Message::error_msg(1, OpCode::Query, ResponseCode::NXDomain)), None);
    }

    #[test]
    fn what_must_not_be_kept_is_not() {
        assert_eq!(life(&Message::error_msg(1, OpCode::Query, ResponseCode::ServFail)), None);
        let mut cut = answer(&[30]);
        cut.metadata.truncation = true;
        assert_eq!(life(&cut), None);
        let (mut cache, now) = (Cache::new(10), Instant::now());
        cache.put(key("a.example."), &answer(&[0]), now);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn the_number_is_bounded_and_the_oldest_goes() {
        let (mut cache, now) = (Cache::new(2), Instant::now());
        for text in ["a.", "b.", "a.", "c."] {
            cache.put(key(text), &answer(&[30]), now);
        }
        assert_eq!((cache.len(), cache.order.len()), (2, 2));
        assert!(cache.get(&key("a."), now).is_none());
        assert!(cache.get(&key("b."), now).is_some() && cache.get(&key("c."), now).is_some());
    }
}
