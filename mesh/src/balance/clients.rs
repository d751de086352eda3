//! Clients that keep their endpoint: session affinity.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use edgeloom_model::ServiceKey;

use super::EndpointId;

/// Clients that are remembered; when there are more, the one whose time is out first is forgotten.
const MAX_CLIENTS: usize = 65_536;
/// The longest that a client keeps its endpoint: what Kubernetes allows a Service to ask for.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A client of a Service port with session affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// The Service.
    pub service: ServiceKey,
    /// The Service's port.
    pub port: u16,
}

/// When a client is forgotten; the number tells those of one instant apart.
type Expiry = (Instant, u64);

#[derive(Debug)]
struct Bound {
    id: EndpointId,
    used: Instant,
    expiry: Expiry,
}

/// Which endpoint each client keeps. A change costs the depth of a tree, however many clients there are.
#[derive(Debug, Default)]
pub(super) struct Clients {
    bound: HashMap<Client, Bound>,
    by_expiry: BTreeMap<Expiry, Client>,
    binds: u64,
}

impl Clients {
    /// The endpoint that a client keeps, if it used it within `life`.
    pub(super) fn get(&self, client: &Client, life: Duration, now: Instant) -> Option<&EndpointId> {
        let bound = self.bound.get(client)?;
        (now.saturating_duration_since(bound.used) < life).then_some(&bound.id)
    }

    /// Lets a client keep an endpoint for `life` from now on.
    pub(super) fn bind(&mut self, client: &Client, id: &EndpointId, life: Duration, now: Instant) {
        self.expire(now);
        self.binds += 1;
        let expiry = (now + life.min(LONGEST_LIFE), self.binds);
        let bound = Bound { id: id.clone(), used: now, expiry };
        match self.bound.insert(client.clone(), bound) {
            Some(before) => drop(self.by_expiry.remove(&before.expiry)),
            None if self.bound.len() > MAX_CLIENTS => drop(self.forget_first()),
            None => {}
        }
        self.by_expiry.insert(expiry, client.clone());
    }

    /// Forgets those whose time is out.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.by_expiry.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) -> Option<Client> {
        let (_, client) = self.by_expiry.pop_first()?;
        self.bound.remove(&client);
        Some(client)
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.bound.len(), self.by_expiry.len(), "each client has one place in the queue");
        self.bound.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeloom_model::NodeName;

    fn client(number: u32) -> Client {
        Client { ip: IpAddr::V4(number.into()), service: ServiceKey::new("shop", "orders"), port: 80 }
    }

    fn id(last: u8) -> EndpointId {
        EndpointId { node: Some(NodeName::new("b").unwrap()), address: ([10, 244, 1, last], 80).into() }
    }

    #[test]
    fn those_whose_time_is_out_go_though_there_is_room() {
        let (mut clients, start) = (Clients::default(), Instant::now());
        for number in 0..1000 {
            let life = Duration::from_secs(if number % 2 == 0 { 10 } else { 1000 });
            clients.bind(&client(number), &id(1), life, start);
        }
        assert_eq!(clients.len(), 1000);
        clients.bind(&client(1000), &id(1), Duration::from_secs(10), start + Duration::from_secs(10));
        assert_eq!(clients.len(), 501, "half of them and the new one");
        clients.expire(start + Duration::from_secs(1000));
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn a_client_that_comes_again_has_one_place_and_stays() {
        let (mut clients, start) = (Clients::default(), Instant::now());
        let life = Duration::from_secs(10);
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            clients.bind(&client(1), &id(1), life, now);
            assert_eq!((clients.len(), clients.get(&client(1), life, now)), (1, Some(&id(1))));
        }
    }

    #[test]
    fn when_full_the_one_goes_whose_time_is_out_first() {
        let (mut clients, start) = (Clients::default(), Instant::now());
        let most = u32::try_from(MAX_CLIENTS).unwrap();
        let life = Duration::from_secs(1000);
        for number in 0..most {
            clients.bind(&client(number), &id(1), life, start + Duration::from_micros(number.into()));
        }
        // The first comes again: the second is the next to go then.
        let now = start + Duration::from_secs(1);
        clients.bind(&client(0), &id(1), life, now);
        clients.bind(&client(most), &id(2), life, now);
        assert_eq!(clients.len(), MAX_CLIENTS);
        let kept = |number| clients.get(&client(number), life, now);
        assert_eq!((kept(0), kept(1), kept(2)), (Some(&id(1)), None, Some(&id(1))));
        assert_eq!(kept(most), Some(&id(2)));
    }
}
