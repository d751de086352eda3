//! How many connections the streams between two nodes want, and which of them a new stream takes.
//!
//! A connection bears a bounded number of streams, one task encrypts all that it carries, and where the peer's readers
//! stop, what they leave unread can fill its window. So where one is not enough another is dialled, and new streams
//! take the one with the fewest. Both ends hold the connections in the same order, and use no more than they want from
//! its front, so that what is behind falls idle and is closed.

/// Streams on a connection, as a share of the most, from which another is wanted.
const FULL: u64 = 2;
/// The same for keeping one that is there.
const KEPT: u64 = 4;

/// A connection with a peer, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Streams in use that this end opened.
    pub(super) opened: u32,
    /// Streams in use that the peer opened.
    pub(super) accepted: u32,
    /// The peer takes no more bytes on it, of no stream.
    pub(super) blocked: bool,
    /// It carries what keeps a processor busy.
    pub(super) busy: bool,
}

/// What bounds the number of connections with a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Streams that an end may have open on a connection.
    pub(super) streams: u32,
    /// Connections that this end uses.
    pub(super) connections: usize,
    /// Processors of this host.
    pub(super) processors: usize,
}

impl Bounds {
    /// Connections for so many streams of one end, of which each bears a `share`th of the most.
    fn needed(&self, streams: u32, share: u64) -> usize {
        let each = (u64::from(self.streams) / share).max(1);
        usize::try_from(u64::from(streams) / each + 1).unwrap_or(usize::MAX)
    }

    /// How many connections new streams are to be spread over.
    pub(super) fn wanted(&self, loads: &[Load]) -> usize {
        let opened = loads.iter().map(|load| load.opened).sum();
        let blocked = loads.iter().filter(|load| load.blocked).count();
        // One processor is for what the flows do beside. Where there are no more flows there is nothing to spread.
        let busy = loads.iter().take_while(|load| load.busy).count() + 1;
        let busy = busy.min(self.processors.saturating_sub(1)).min(opened as usize);
        self.needed(opened, FULL).max(busy).saturating_add(blocked).clamp(1, self.connections.max(1))
    }

    /// The order in which connections are tried for a new stream.
    pub(super) fn order(&self, loads: &[Load]) -> Vec<usize> {
        let wanted = self.wanted(loads);
        let mut order: Vec<usize> = (0..loads.len()).collect();
        order.sort_by_key(|&index| {
            let load = &loads[index];
            (load.opened >= self.streams, load.blocked, index >= wanted, load.opened, index)
        });
        order
    }

    /// From which on in their order connections are more than either end wants.
    pub(super) fn surplus(&self, loads: &[Load]) -> usize {
        let (opened, accepted) = loads
            .iter()
            .fold((0, 0), |(opened, accepted), load| (opened + load.opened, accepted + load.accepted));
        let needed = self.needed(opened.max(accepted), KEPT);
        needed + loads.iter().filter(|load| load.blocked).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { streams: 1024, connections: 8, processors: 4 };

    fn opened(counts: &[u32]) -> Vec<Load> {
        counts.iter().map(|&opened| Load { opened, ..Load::default() }).collect()
    }

    #[test]
    fn connections_are_wanted_before_the_limit_is_met() {
        for (counts, wanted) in [
            (&[][..], 1),
            (&[0], 1),
            (&[511], 1),
            (&[512], 2),
            (&[400, 300], 2),
            (&[512, 512], 3),
            // What is left behind the front counts as well: it has to go somewhere.
            (&[0, 0, 1000], 2),
            (&[1024, 1024, 1024], 7),
            (&[1024; 8], 8),
        ] {
            assert_eq!(BOUNDS.wanted(&opened(counts)), wanted, "{counts:?}");
        }
        let tiny = Bounds { streams: 1, connections: 0, ..BOUNDS };
        assert_eq!(tiny.wanted(&opened(&[5])), 1);
    }

    #[test]
    fn a_stream_takes_the_connection_with_the_fewest() {
        for (counts, order) in [
            (&[10][..], &[0][..]),
            // Two for a few: the second is to fall idle.
            (&[10, 0], &[0, 1]),
            (&[400, 300], &[1, 0]),
            (&[400, 400], &[0, 1]),
            // A full one comes last, whatever is wanted.
            (&[1024, 600, 700], &[1, 2, 0]),
        ] {
            assert_eq!(BOUNDS.order(&opened(counts)), order, "{counts:?}");
        }
    }

    #[test]
    fn what_a_peer_does_not_read_is_evaded() {
        let mut loads = opened(&[10]);
        loads[0].blocked = true;
        assert_eq!(BOUNDS.wanted(&loads), 2);
        loads.push(Load::default());
        assert_eq!(BOUNDS.order(&loads), [1, 0]);
        assert_eq!(BOUNDS.surplus(&loads), 2);
    }

    #[test]
    fn a_busy_connection_is_relieved_where_there_are_processors() {
        let busy = |count: usize, processors| {
            let load = Load { opened: 5, busy: true, ..Load::default() };
            Bounds { processors, ..BOUNDS }.wanted(&vec![load; count])
        };
        for (count, processors, wanted) in [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 8, 3), (7, 8, 7)] {
            assert_eq!(busy(count, processors), wanted, "{count} on {processors}");
        }
        let idle = [Load { busy: true, ..Load::default() }];
        assert_eq!(BOUNDS.wanted(&idle), 1, "what others send is theirs to spread");
    }

    #[test]
    fn what_neither_end_wants_is_surplus() {
        let load = |opened, accepted| Load { opened, accepted, ..Load::default() };
        for (loads, surplus) in [
            (&[load(0, 0), load(0, 0)][..], 1),
            (&[load(255, 0), load(0, 0)], 1),
            // Kept until there are half as many as it was dialled for.
            (&[load(256, 0), load(0, 0)], 2),
            (&[load(0, 256), load(0, 0)], 2),
            (&[load(600, 0), load(600, 0)], 5),
        ] {
            assert_eq!(BOUNDS.surplus(loads), surplus, "{loads:?}");
        }
    }
}
