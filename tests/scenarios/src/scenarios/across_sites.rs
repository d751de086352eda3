//! A Service that spans two sites: the call, the bytes on the way, and what it fails without.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use edgeloom_lab::{Capture, NatKind};

use crate::command::{self, eventually};
use crate::world::{ORDERS, World};

/// What goes through the tunnel when bytes are counted.
const BULK: u64 = 100_000_000;
/// What may pass the relay beside it: probes and the hub.
const ASIDE: u64 = 1_000_000;
/// How long the bulk may take on a busy machine.
const BULK_TIME: Duration = Duration::from_secs(120);
/// How long the calls may take that are shared.
const CALLS_TIME: Duration = Duration::from_secs(120);
/// How long a path may take to be found.
const PATH_TIME: Duration = Duration::from_secs(30);

/// HTTP, TCP and UDP by the Service's name, each answered by a pod of the other site.
pub(crate) fn call(world: &mut World) -> Result<()> {
    world.expect_orders()?;
    for (protocol, port) in [("tcp", 7000), ("udp", 9000)] {
        let target = format!("{ORDERS}:{port}");
        let answer = world
            .in_client(&["responder", "call", protocol, &target, "across"])?
            .output(&format!("a {protocol} call across sites"))?;
        ensure!(answer.contains("at site-b: across"), "{protocol}: the answer is {answer:?}");
    }
    Ok(())
}

/// Calls one after the other, and the fewest that either pod may get of them. Which pod takes the next call is
/// the other one three times of four: that one gets fewer has a probability of 6e-12.
const CALLS: usize = 100;
const SHARE: usize = 30;

/// Every pod behind the Service gets its share of the calls that a client makes one after the other.
pub(crate) fn shared(world: &mut World) -> Result<()> {
    world.expect_orders()?;
    let container = world.container("edge-a", "client")?;
    let script =
        format!("for i in $(seq {CALLS}); do curl -sS --max-time 5 http://{ORDERS}/ || exit; echo; done");
    let said = world.in_container_for(CALLS_TIME, "edge-a", &container, &["sh", "-c", &script])?;
    let said = said.output(&format!("{CALLS} calls across sites"))?;
    let pods = world.kubectl("-n shop get pods -l app=orders -o jsonpath={.items[*].metadata.name}")?;
    let shares: Vec<_> = pods.split_whitespace().map(|pod| (pod, said.matches(pod).count())).collect();
    let total: usize = shares.iter().map(|(_, share)| share).sum();
    ensure!(shares.len() == 2 && total == CALLS, "not {CALLS} answers of two pods: {shares:?}");
    ensure!(shares.iter().all(|(_, share)| *share >= SHARE), "{CALLS} calls are not shared: {shares:?}");
    Ok(())
}

/// Where the NATs would have to know the other site's ranges, they do not.
pub(crate) fn no_route(world: &mut World) -> Result<()> {
    world.expect_orders()?;
    let pods = world.kubectl("-n shop get pods -l app=orders -o jsonpath={.items[*].status.podIP}")?;
    ensure!(!pods.trim().is_empty(), "the pods of orders have no addresses");
    for address in pods.split_whitespace() {
        let mut command = world.lab()?.command("nat-a", "ip")?;
        let route = command::run(command.args(["route", "get", address]), "", PATH_TIME)?;
        ensure!(!route.good, "the NAT of site A has a route to {address}: {}", route.out);
        let by_host = world.in_host("edge-a", &["ip", "route", "get", address])?.output("ip route get")?;
        let direct = !by_host.contains("local") && !by_host.contains("via 192.168.10.1");
        ensure!(!direct, "edge-a has a route of its own to {address}: {by_host}");
    }
    Ok(())
}

/// Between the NATs there is UDP and nothing readable.
pub(crate) fn capture(world: &mut World) -> Result<()> {
    expect_path(world, "direct")?;
    let file = world.lab()?.directory().join("capture.pcap");
    let capture = Capture::start(world.lab()?, "nat-a", "wan", &file)?;
    let url = format!("http://{ORDERS}/bytes/300000");
    world.in_client(&["curl", "-sS", "--max-time", "10", "-o", "/dev/null", &url])?.output("curl")?;
    world
        .in_client(&["responder", "call", "udp", &format!("{ORDERS}:9000"), "a-word-to-find"])?
        .output("udp")?;
    let packets = capture.stop()?;
    for word in ["edgeloom edgeloom", "GET /bytes", "a-word-to-find", ORDERS] {
        let found = packets.windows(word.len()).any(|window| window == word.as_bytes());
        ensure!(!found, "{word:?} can be read on the way");
    }
    let between = protocols_between(&packets, Ipv4Addr::new(203, 0, 113, 21), Ipv4Addr::new(203, 0, 113, 22));
    // By bytes: a capture shows a batch of datagrams as one packet.
    let bytes: usize = between.iter().map(|(_, length)| length).sum();
    ensure!(bytes > 300_000, "only {bytes} bytes passed between the NATs");
    ensure!(between.iter().all(|(protocol, _)| *protocol == 17), "other protocols than UDP: {between:?}");
    Ok(())
}

/// IP protocol number and captured length of the packets between two hosts in a pcap file of Ethernet frames.
fn protocols_between(pcap: &[u8], one: Ipv4Addr, other: Ipv4Addr) -> Vec<(u8, usize)> {
    let mut found = Vec::new();
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some((header, after)) = rest.split_at_checked(16) {
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, next)) = after.split_at_checked(length) else { break };
        rest = next;
        let Some(ip) = frame.get(14..34).filter(|_| frame[12..14] == [0x08, 0x00]) else { continue };
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let ends = (address(12), address(16));
        if ends == (one, other) || ends == (other, one) {
            found.push((ip[9], length));
        }
    }
    found
}

/// Stops either agent; the same call fails, and works again after.
pub(crate) fn agents_carry_it(world: &mut World) -> Result<()> {
    for host in ["edge-a", "edge-b"] {
        world.expect_orders()?;
        world.freeze(host, "edgecore")?;
        world.expect_no_orders(&format!("the agent on {host} is stopped"))?;
        world.undo()?;
    }
    Ok(())
}

/// 100 MB each way pass between the NATs, and as good as none by the relay.
pub(crate) fn direct_bytes(world: &mut World) -> Result<()> {
    expect_path(world, "direct")?;
    for way in [Way::There, Way::Back] {
        let (between, by_relay) = bulk(world, way)?;
        ensure!(between >= BULK, "{way:?}: only {between} bytes passed between the NATs");
        ensure!(by_relay < ASIDE, "{way:?}: {by_relay} bytes passed the relay");
    }
    Ok(())
}

/// With symmetric NATs on both sides it is the other way round.
pub(crate) fn relayed_bytes(world: &mut World) -> Result<()> {
    world.set_nats(NatKind::SYMMETRIC)?;
    eventually(PATH_TIME, || world.expect_orders())?;
    expect_path(world, "relayed")?;
    for way in [Way::There, Way::Back] {
        let (between, by_relay) = bulk(world, way)?;
        ensure!(by_relay >= BULK, "{way:?}: only {by_relay} bytes passed the relay");
        ensure!(between < ASIDE, "{way:?}: {between} bytes passed between the NATs");
    }
    Ok(())
}

/// From the client's site, or to it.
#[derive(Debug, Clone, Copy)]
enum Way {
    There,
    Back,
}

/// Moves the bulk and returns what NAT a's counters grew by: with NAT b, and with the relay.
fn bulk(world: &mut World, way: Way) -> Result<(u64, u64)> {
    let before = world.lab()?.counters("nat-a")?;
    let container = world.container("edge-a", "client")?;
    let script = match way {
        Way::There => format!(
            "head -c {BULK} /dev/zero >/scratch/bulk && \
             curl -sS --max-time 100 -H Expect: --data-binary @/scratch/bulk http://{ORDERS}/bytes && rm /scratch/bulk"
        ),
        Way::Back => format!("curl -sS --max-time 100 http://{ORDERS}/bytes/{BULK} | wc -c"),
    };
    let said = world.in_container_for(BULK_TIME, "edge-a", &container, &["sh", "-c", &script])?;
    let said = said.output("moving the bytes")?;
    ensure!(said.trim() == BULK.to_string(), "{way:?}: {said:?} of {BULK} bytes arrived");
    let after = world.lab()?.counters("nat-a")?;
    let grown = |peer: &str| -> Result<u64> {
        let (then, now) = (before.get(peer), after.get(peer));
        let (then, now) = then.zip(now).with_context(|| format!("NAT a has no counter of {peer}"))?;
        Ok(match way {
            Way::There => now.sent_bytes - then.sent_bytes,
            Way::Back => now.received_bytes - then.received_bytes,
        })
    };
    Ok((grown("nat-b")?, grown("cloud")?))
}

/// Waits until the agent at site A says that it reaches edge-b by a path of that kind.
pub(crate) fn expect_path(world: &World, wanted: &str) -> Result<()> {
    eventually(PATH_TIME, || {
        world.expect_orders()?;
        let peers = world.meshctl_at("edge-a", "peers")?;
        let list = peers.as_array().context("`meshctl peers -o json` is no list")?;
        let peer =
            list.iter().find(|peer| peer["node"] == "edge-b").context("edge-b is no peer of edge-a")?;
        if peer["path"]["kind"] == wanted {
            return Ok(());
        }
        bail!("edge-a reaches edge-b by {}, not {wanted}", peer["path"])
    })
}
