//! Questions that are not the cluster's: from the cache, else from an upstream server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::cache::{Cache, Key};
use crate::message::{self, MAX_DATAGRAM};
use crate::metrics::Metrics;
use crate::transport;
use crate::upstream::{Upstreams, parse_resolv_conf, without_own};

/// How long one server may take for one try.
const TRY: Duration = Duration::from_secs(1);
/// How long a question may take in all: shorter than the resolvers of the C libraries wait (5 s).
const PATIENCE: Duration = Duration::from_secs(4);
/// How often the file that names the servers is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Answers kept, about 1 KiB each.
const CACHED: usize = 4096;

/// Where the names of upstream servers come from.
#[derive(Debug)]
enum Source {
    Fixed,
    File { path: PathBuf, looked: Option<Instant>, modified: Option<SystemTime> },
}

/// Asks upstream servers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    own: Vec<SocketAddr>,
    source: Mutex<Source>,
    upstreams: Mutex<Upstreams>,
    cache: Mutex<Cache>,
    metrics: Metrics,
}

impl Forwarder {
    /// Asks `servers`, or those that the file names where there are none; never `own`.
    pub(crate) fn new(
        servers: Vec<SocketAddr>,
        file: PathBuf,
        own: Vec<SocketAddr>,
        metrics: Metrics,
    ) -> Self {
        let mut upstreams = Upstreams::default();
        let is_fixed = !servers.is_empty();
        upstreams.set(&without_own(servers, &own));
        let file = Source::File { path: file, looked: None, modified: None };
        Self {
            own,
            source: Mutex::new(if is_fixed { Source::Fixed } else { file }),
            upstreams: Mutex::new(upstreams),
            cache: Mutex::new(Cache::new(CACHED)),
            metrics,
        }
    }

    /// What the cache has for a question.
    pub(crate) fn cached(&self, question: &Query, dnssec: bool) -> Option<Message> {
        let key = Key::new(question.name(), question.query_type(), dnssec);
        lock(&self.cache).get(&key, Instant::now())
    }

    /// Asks one server after the other until one answers; `None` when none did.
    pub(crate) async fn ask(&self, question: &Query, dnssec: bool) -> Option<Message> {
        self.look_at_file(Instant::now());
        let timer = self.metrics.forward_seconds.start_timer();
        let answer = timeout(PATIENCE, self.ask_all(question, dnssec)).await.ok().flatten();
        timer.observe_duration();
        let answer = answer?;
        let mut cache = lock(&self.cache);
        let key = Key::new(question.name(), question.query_type(), dnssec);
        cache.put(key, &answer, Instant::now());
        self.metrics.cached.set(cache.len() as i64);
        Some(answer)
    }

    async fn ask_all(&self, question: &Query, dnssec: bool) -> Option<Message> {
        let mut refusal = None;
        // Each is asked twice: a packet may be lost.
        for _ in 0..2 {
            let servers = lock(&self.upstreams).candidates(Instant::now());
            for server in servers {
                match timeout(TRY, exchange(server, question, dnssec)).await {
                    Ok(Ok(answer)) => {
                        lock(&self.upstreams).succeeded(server);
                        // Another may know better than one that cannot or will not say.
                        let code = answer.metadata.response_code;
                        if code != ResponseCode::ServFail && code != ResponseCode::Refused {
                            return Some(answer);
                        }
                        refusal = Some(answer);
                    }
                    failed => {
                        let reason = failed.map_or("no answer in time".to_owned(), |r| {
                            r.err().map(|error| error.to_string()).unwrap_or_default()
                        });
                        tracing::debug!(%server, reason, "an upstream DNS server did not answer");
                        self.metrics.upstream_failures.inc();
                        lock(&self.upstreams).failed(server, Instant::now());
                    }
                }
            }
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }

    /// Takes over what has changed in the file, now and then.
    fn look_at_file(&self, now: Instant) {
        let mut source = lock(&self.source);
        let Source::File { path, looked, modified } = &mut *source else { return };
        if looked.is_some_and(|at| now.duration_since(at) < LOOK) {
            return;
        }
        *looked = Some(now);
        let version = std::fs::metadata(&*path).and_then(|file| file.modified()).ok();
        if version.is_some() && version == *modified {
            return;
        }
        match std::fs::read_to_string(&*path) {
            Ok(text) => {
                let servers = parse_resolv_conf(&text, &self.own);
                tracing::info!(file = %path.display(), ?servers, "upstream DNS servers");
                lock(&self.upstreams).set(&servers);
                *modified = version;
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read the upstream DNS servers; keeping those known");
            }
        }
    }
}

/// No invariant spans a panic here: what is inside is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One question to one server: by datagram, and by TCP if the answer does not fit.
async fn exchange(server: SocketAddr, question: &Query, dnssec: bool) -> io::Result<Message> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_DATAGRAM).set_dnssec_ok(dnssec);
    query.set_edns(edns);
    let packet = query.to_vec().map_err(io::Error::other)?;
    let answer = by_datagram(server, &query, &packet).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    transport::write_frame(&mut stream, &packet).await?;
    let frame = transport::read_frame(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    matching(&query, &frame).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the answer"))
}

/// A socket of its own for each question: its port, chosen by the kernel, is half of what a forger would
/// have to guess, the message's number is the other.
async fn by_datagram(server: SocketAddr, query: &Message, packet: &[u8]) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = matching(query, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

/// The message, if it is the answer to the query.
pub(crate) fn matching(query: &Message, packet: &[u8]) -> Option<Message> {
    let answer = message::decode(packet)?;
    let is_answer = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == query.metadata.id
        // A server that cannot read the question may leave it out.
        && (answer.queries == query.queries
            || (answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError));
    is_answer.then_some(answer)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use prometheus::Registry;

    use super::*;

    #[test]
    fn the_file_is_read_again_when_it_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let own = vec!["169.254.96.16:53".parse().unwrap()];
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let forwarder = Forwarder::new(Vec::new(), path.clone(), own, metrics);
        let start = Instant::now();
        let servers = |now| {
            forwarder.look_at_file(now);
            lock(&forwarder.upstreams).candidates(now).iter().map(|at| at.to_string()).collect::<Vec<_>>()
        };
        // Not there yet, as before a lease of the LAN.
        assert!(servers(start).is_empty());
        fs::write(&path, "nameserver 169.254.96.16\nnameserver 192.0.2.1\n").unwrap();
        assert!(servers(start + LOOK / 2).is_empty());
        assert_eq!(servers(start + LOOK), ["192.0.2.1:53"]);
        fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + LOOK).unwrap();
        assert_eq!(servers(start + LOOK * 2), ["192.0.2.2:53"]);
        // Gone for a moment while it is written: what is known stays.
        fs::remove_file(&path).unwrap();
        assert_eq!(servers(start + LOOK * 3), ["192.0.2.2:53"]);
    }
}
