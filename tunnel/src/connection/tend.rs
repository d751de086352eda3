//! What is done for open connections now and then: they get more to hold where they need it, those that nobody wants
//! any more are closed, and what is in use is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::VarInt;

use super::holding::{Change, Use};
use super::spread::Load;
use super::windows::Buffers;
use super::{Connections, Entry, Key, code};

/// How often connections are looked at: so long other streams stand still when readers that stopped have filled their
/// connection's window.
const EVERY: Duration = Duration::from_millis(200);
/// How long a connection beyond those that are wanted is without a stream before it is closed. The other end does not
/// use it by then either.
const SURPLUS: Duration = Duration::from_secs(60);

/// How long a connection without a stream sends nothing for any before all of it has arrived: what has not is sent
/// again before, and where no path works the connection ends.
const SENT: Duration = Duration::from_secs(30);

impl Entry {
    pub(super) fn is_usable(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(super) fn load(&self) -> Load {
        let (opened, accepted) = (self.usage.opened(), self.usage.accepted());
        Load { opened, accepted, blocked: self.watch.blocked, busy: self.watch.busy }
    }

    /// Has the connection hold what it needs, as far as there is room.
    fn hold(&mut self, buffers: Buffers, now: Instant) {
        let streams = u64::from(self.usage.opened() + self.usage.accepted());
        if streams == 0 && self.holding.is_first() {
            self.watch.rest();
            return;
        }
        let stats = self.connection.stats();
        let blocked = self.watch.look(now, stats.into());
        let read = self.usage.has_read();
        let fits =
            self.usage.fits() || streams == 0 && now.saturating_duration_since(self.watch.sent) >= SENT;
        let usage = Use { streams, blocked, rate: self.watch.rate, rtt: stats.path.rtt, read, fits };
        let mut change = Change::default();
        let holding = &mut self.holding;
        self.usage.lease.change(|room| {
            change = holding.look(buffers, usage, room);
            holding.total()
        });
        if let Some(window) = change.window {
            self.connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
        }
        if let Some(sending) = change.sending {
            self.usage.take(sending);
        }
    }
}

impl Connections {
    /// Looks at the connections until the end.
    pub(crate) async fn tend(self: Arc<Self>) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(every.tick()).await.is_some() {
            self.look(Instant::now());
        }
    }

    pub(super) fn look(&self, now: Instant) {
        let mut open = self.lock();
        let buffers = self.ledger.buffers();
        for (key, entries) in open.iter_mut() {
            entries.iter_mut().for_each(|entry| entry.hold(buffers, now));
            self.close_surplus(key, entries, now);
        }
        self.tell(&open);
    }

    /// Closes what neither end wants, has no streams and was dialled by this end.
    fn close_surplus(&self, key: &Key, entries: &mut [Entry], now: Instant) {
        let loads: Vec<Load> = entries.iter().filter(|entry| entry.is_usable()).map(Entry::load).collect();
        let wanted = self.bounds.surplus(&loads);
        let usable = entries.iter_mut().filter(|entry| entry.is_usable());
        for (position, (entry, load)) in usable.zip(loads).enumerate() {
            let surplus = position >= wanted && load.opened == 0 && load.accepted == 0;
            entry.surplus_since = surplus.then(|| entry.surplus_since.unwrap_or(now));
            if entry.dialled && entry.surplus_since.is_some_and(|since| now - since >= SURPLUS) {
                tracing::debug!(peer = %key.0, alpn = %key.1, "a connection is closed that nobody wants any more");
                entry.connection.close(code::SURPLUS, b"wanted no more");
            }
        }
    }

    /// Tells what is in use of what is bounded: of each bound the most that anybody has.
    fn tell(&self, open: &HashMap<Key, Vec<Entry>>) {
        let entries = || open.values().flatten();
        let streams = entries().map(|entry| entry.usage.opened().max(entry.usage.accepted())).max();
        let accepted = |entries: &Vec<Entry>| entries.iter().filter(|entry| !entry.dialled).count();
        let connections = open.values().map(accepted).max();
        self.metrics.in_use("streams_per_connection", streams.unwrap_or_default().into());
        self.metrics.in_use("connections_per_peer", connections.unwrap_or_default() as u64);
        self.metrics.in_use("lan_tcp_connections_per_peer", self.lan.most() as u64);
        self.metrics
            .in_use("rate_bytes_per_second", entries().map(|entry| entry.watch.rate).sum::<f64>() as u64);
        self.metrics.in_use("buffer_bytes", self.ledger.held());
        let window = entries().map(|entry| entry.holding.window).max();
        self.metrics.in_use("connection_window_bytes", window.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::Stream;
    use crate::alpn::Alpn;
    use crate::connection::testing::{Bench, passes};

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn until(bench: &Bench, connections: usize) {
        let there = async {
            while (bench.a.connections(), bench.b.connections()) != (connections, connections) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let counts = || (bench.a.connections(), bench.b.connections());
        tokio::time::timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("{:?} connections", counts()));
    }

    fn look(bench: &Bench, now: Instant) {
        for node in [&bench.a, &bench.b] {
            node.tunnel.parts().0.look(now);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_wants_any_more_is_closed() {
        let mut bench = Bench::new(Limits { streams: 4, ..Limits::default() }).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(bench.stream().await);
        }
        until(&bench, 2).await;
        let datagrams = |bench: &Bench| {
            let (connections, ..) = bench.a.tunnel.parts();
            connections.for_datagrams(&bench.b.tunnel.peer_id()).map(|connection| connection.stable_id())
        };
        let before = datagrams(&bench);
        for _ in 0..2 {
            streams.push(bench.stream().await);
        }
        until(&bench, 3).await;
        assert_eq!(datagrams(&bench), before, "they keep their order");
        look(&bench, Instant::now());
        look(&bench, Instant::now() + SURPLUS * 2);
        assert_eq!(bench.a.connections(), 3, "as long as they have streams");
        let mut last = streams.pop().unwrap();
        drop(streams);
        look(&bench, Instant::now());
        look(&bench, Instant::now() + SURPLUS / 2);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bench.a.connections(), 3);
        look(&bench, Instant::now() + SURPLUS);
        let (connections, ..) = bench.a.tunnel.parts();
        let key = (bench.b.tunnel.peer_id(), Alpn::Mesh);
        let left = connections.open.lock().unwrap()[&key].iter().filter(|entry| entry.is_usable()).count();
        assert!(left <= 2, "that of the last stream and the first in order: {left}");
        until(&bench, left).await;
        assert!(passes(&mut last).await);
        let mut another = bench.stream().await;
        assert!(passes(&mut another).await);
    }

    /// Writes to the stream until nothing more is taken for a while, and says how much was.
    async fn fill(stream: &mut Stream) -> u64 {
        let (mut taken, chunk) = (0, vec![7; 16 << 10]);
        while let Ok(Ok(bytes)) =
            tokio::time::timeout(Duration::from_secs(1), stream.send.write(&chunk)).await
        {
            taken += bytes as u64;
        }
        taken
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn readers_that_stop_on_many_connections_hold_no_more_than_all_may() {
        let mut bench = Bench::new(Limits { streams: 1, buffers_mib: Some(2), ..Limits::default() }).await;
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(bench.stream().await);
        }
        let filling = streams.iter_mut().map(|(near, _)| fill(near));
        let taken: u64 = futures::future::join_all(filling).await.into_iter().sum();
        assert!((256 << 10..=4 << 20).contains(&taken), "{taken} bytes, on two nodes of 2 MiB");
        for node in [&bench.a, &bench.b] {
            assert!(node.tunnel.parts().0.ledger.held() <= 2 << 20);
        }
        drop(streams);
        let mut another = bench.stream().await;
        assert!(passes(&mut another).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_read_is_counted_however_it_is_read() {
        let mut bench = Bench::new(Limits::default()).await;
        let (mut near, mut far) = bench.stream().await;
        let read = |bench: &Bench| {
            let open = bench.b.tunnel.parts().0.lock();
            open.values().flatten().map(|entry| entry.usage.has_read()).sum::<u64>()
        };
        // What the stream began with was read exactly.
        assert_eq!(read(&bench), 5);
        near.send.write_all(&[7; 100]).await.unwrap();
        far.recv.read(&mut [0; 10]).await.unwrap();
        assert_eq!(read(&bench), 15);
        far.recv.read_chunk(20, true).await.unwrap();
        assert_eq!(read(&bench), 35);
        let mut chunks = Vec::new();
        far.recv.read_chunks(&mut chunks).await.unwrap();
        assert_eq!((read(&bench), chunks.concat().len()), (105, 70));
        near.send.write_all(&[7; 50]).await.unwrap();
        near.send.finish().unwrap();
        far.recv.read_to_end(100).await.unwrap();
        assert_eq!(read(&bench), 155);
        far.recv.read_chunks(&mut chunks).await.unwrap();
        assert!(chunks.is_empty());
    }
}
