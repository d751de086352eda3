//! Which upstream servers are asked, and in which order. Pure: the time is passed in.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Failures in a row after which a server is left out: one lost packet changes nothing.
const FAILURES: u32 = 3;
/// How long it is left out at first, and at most.
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// The servers, in the order of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    servers: Vec<Upstream>,
}

#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    failures: u32,
    rests_until: Option<Instant>,
}

impl Upstreams {
    /// Replaces the servers; what is known of those that stay is kept.
    pub(crate) fn set(&mut self, addresses: &[SocketAddr]) {
        let mut old = std::mem::take(&mut self.servers);
        for address in addresses {
            if self.servers.iter().any(|server| server.address == *address) {
                continue;
            }
            let known = old.iter().position(|server| server.address == *address);
            let fresh = || Upstream { address: *address, failures: 0, rests_until: None };
            self.servers.push(known.map_or_else(fresh, |at| old.swap_remove(at)));
        }
    }

    /// Whom to ask now, the first first: those that answered last, and those whose rest is over. None:
    /// a question fails at once, it is not held up by servers that are known to be away.
    pub(crate) fn candidates(&self, now: Instant) -> Vec<SocketAddr> {
        let awake = self.servers.iter().filter(|server| server.rests_until.is_none_or(|until| until <= now));
        let mut awake: Vec<_> = awake.collect();
        awake.sort_by_key(|server| server.rests_until.is_some());
        awake.into_iter().map(|server| server.address).collect()
    }

    /// Notes that a server answered.
    pub(crate) fn succeeded(&mut self, address: SocketAddr) {
        if let Some(server) = self.servers.iter_mut().find(|server| server.address == address) {
            (server.failures, server.rests_until) = (0, None);
        }
    }

    /// Notes that a server did not answer.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(server) = self.servers.iter_mut().find(|server| server.address == address) {
            server.failures = server.failures.saturating_add(1);
            if let Some(beyond) = server.failures.checked_sub(FAILURES) {
                let rest = SHORTEST_REST.saturating_mul(1 << beyond.min(8)).min(LONGEST_REST);
                server.rests_until = Some(now + rest);
            }
        }
    }
}

/// The servers of a resolv.conf(5), without those that are ourselves.
pub(crate) fn parse_resolv_conf(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        // A zone (fe80::1%eth0) is not told apart: such a server cannot be asked by address alone.
        let address: IpAddr = words.next().filter(|_| is_server)?.parse().ok()?;
        Some(SocketAddr::new(address, 53))
    };
    without_own(text.lines().filter_map(address), own)
}

/// Leaves out our own addresses: asking ourselves would never end.
pub(crate) fn without_own(
    servers: impl IntoIterator<Item = SocketAddr>,
    own: &[SocketAddr],
) -> Vec<SocketAddr> {
    let is_own = |server: &SocketAddr| {
        own.iter().any(|own| own == server || (own.ip().is_unspecified() && own.port() == server.port()))
    };
    servers.into_iter().filter(|server| !is_own(server)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 53))
    }

    #[test]
    fn resolv_conf_without_ourselves() {
        let text = "# by hand\nsearch example.com\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \n\
                    nameserver 169.254.96.16\nnameserver nonsense\noptions ndots:5\n";
        let own = [SocketAddr::from(([169, 254, 96, 16], 53))];
        let want = [at(1), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(parse_resolv_conf(text, &own), want);
    }

    #[test]
    fn a_lost_packet_changes_nothing_and_a_dead_server_rests() {
        let (mut servers, now) = (Upstreams::default(), Instant::now());
        servers.set(&[at(1), at(2), at(1)]);
        servers.failed(at(1), now);
        servers.failed(at(1), now);
        assert_eq!(servers.candidates(now), [at(1), at(2)]);
        servers.failed(at(1), now);
        assert_eq!(servers.candidates(now), [at(2)]);
        // After its rest it is tried again, behind the others.
        let later = now + SHORTEST_REST;
        assert_eq!(servers.candidates(later), [at(2), at(1)]);
        servers.succeeded(at(1));
        assert_eq!(servers.candidates(now), [at(1), at(2)]);
    }

    #[test]
    fn when_all_are_away_nobody_is_asked_and_rests_are_bounded() {
        let (mut servers, now) = (Upstreams::default(), Instant::now());
        servers.set(&[at(1)]);
        for _ in 0..100 {
            servers.failed(at(1), now);
        }
        assert!(servers.candidates(now).is_empty());
        assert_eq!(servers.candidates(now + LONGEST_REST), [at(1)]);
        // A configuration that is read again does not wake it.
        servers.set(&[at(2), at(1)]);
        assert_eq!(servers.candidates(now), [at(2)]);
    }
}
