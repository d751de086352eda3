//! Two sites that share a network: what flows between them go over, and what becomes of them when it fails.

use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use edgeloom_lab::{NatKind, Topology};
use edgeloom_tunnel::PeerId;
use edgeloom_tunnel::identity::{Authority, Claims, Guard, Identity, Role, Trust};
use serde_json::Value;

use crate::command::eventually;
use crate::world::{ORDERS, World};

/// A lab of this scenario's own: its sites share a network.
const NAME: &str = "samelan";
/// Where the other node is on that network, and by which interface.
const ADDRESS: &str = "192.168.50.2:20006";
const INTERFACE: &str = "eth1";
/// Bytes after which the ways are compared, with some beyond, and those that are counted then.
const WORTH: u64 = 48 << 20;
const COUNTED: u64 = 100_000_000;
/// What may pass beside them by UDP: probes, the hub, and what a measurement takes.
const ASIDE: u64 = 20_000_000;
/// How long bytes may take on a busy machine.
const BULK_TIME: Duration = Duration::from_secs(60);
/// How long a path may take to be found, and a measurement to be made.
const FOUND: Duration = Duration::from_secs(60);
/// How long a flow may hang on a network that is gone: 9 s, and what a busy machine adds.
const NOTICED: Duration = Duration::from_secs(20);
/// How long calls may fail then.
const CALLS: Duration = Duration::from_secs(5);

/// Flows over TCP, strangers, and the network cut beneath a flow.
pub(crate) fn over_tcp(world: &mut World) -> Result<()> {
    let mut lan = world.another(NAME, &Topology::two_sites_on_one_lan(NatKind::default()))?;
    let result = tried(&mut lan);
    // What was broken goes with the lab, whole or not.
    lan.quickstart("down").and_then(|done| done.output("quickstart.sh down")).and(result)
}

fn tried(lan: &mut World) -> Result<()> {
    lan.bring_up()?;
    for host in ["edge-a", "edge-b"] {
        lan.allow_lan_tcp(host)?;
    }
    eventually(FOUND, || lan.expect_orders()).context("after the agents were started again")?;
    eventually(FOUND, || expect(lan, "lan", None)).context("the path is not the LAN's")?;
    download(lan, WORTH)?;
    eventually(FOUND, || expect(lan, "lan", Some("tcp"))).context("flows do not go over TCP")?;
    let trace = lan.meshctl_at("edge-a", "trace edge-b")?;
    println!("  TCP connections go by {}", trace["flows"]);
    bytes_go_over_tcp(lan)?;
    ends_are_whole(lan)?;
    strangers_get_nothing(lan)?;
    port_is_shut(lan)?;
    cut(lan)
}

/// What `meshctl peers` at site A says of the node at site B.
fn peer(lan: &World) -> Result<Value> {
    let peers = lan.meshctl_at("edge-a", "peers")?;
    let found = peers.as_array().and_then(|peers| peers.iter().find(|peer| peer["node"] == "edge-b"));
    found.cloned().context("edge-b is no peer of edge-a")
}

fn expect(lan: &World, by: &str, carrier: Option<&str>) -> Result<()> {
    let peer = peer(lan)?;
    let is = carrier.is_none_or(|carrier| peer["carrier"] == carrier);
    ensure!(peer["path"]["by"] == by && is, "meshctl says {peer}");
    Ok(())
}

/// A pod at site A reads so many bytes of a pod at site B.
fn download(lan: &World, bytes: u64) -> Result<()> {
    let url = format!("http://{ORDERS}/bytes/{bytes}");
    let limit = BULK_TIME.as_secs().to_string();
    let words = ["curl", "-sS", "--max-time", &limit, "-o", "/dev/null", "-w", "%{size_download}", &url];
    let container = lan.container("edge-a", "client")?;
    let done = lan.in_container_for(BULK_TIME, "edge-a", &container, &words)?;
    let read = done.output("reading from the pod at the other site")?;
    ensure!(read.trim() == bytes.to_string(), "{read} of {bytes} bytes arrived");
    Ok(())
}

/// Bytes by TCP and by UDP from port 20006 that leave edge-b on the LAN.
fn counted(lan: &World) -> Result<[u64; 2]> {
    let rules = lan.in_host("edge-b", &["nft", "list", "table", "inet", "counted"])?.output("nft")?;
    let of = |protocol: &str| -> Result<u64> {
        let line = rules.lines().find(|line| line.contains(&format!("{protocol} sport")));
        let words: Vec<&str> = line.context("no counter")?.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "bytes").context("no bytes")?;
        Ok(words.get(at + 1).context("no number")?.parse()?)
    };
    Ok([of("tcp")?, of("udp")?])
}

fn bytes_go_over_tcp(lan: &World) -> Result<()> {
    let rules = format!(
        "add table inet counted; add chain inet counted out {{ type filter hook output priority 0; }}; \
         add rule inet counted out oifname {INTERFACE} tcp sport 20006 counter; \
         add rule inet counted out oifname {INTERFACE} udp sport 20006 counter"
    );
    lan.in_host("edge-b", &["nft", &rules])?.output("nft")?;
    download(lan, COUNTED)?;
    let [tcp, udp] = counted(lan)?;
    println!("  of {COUNTED} bytes {tcp} went over TCP and {udp} over UDP");
    ensure!(tcp >= COUNTED && udp < ASIDE, "of {COUNTED} bytes {tcp} went over TCP, {udp} over UDP");
    Ok(())
}

/// Half-closed from the client's side, answered after that; and bytes the other way.
fn ends_are_whole(lan: &World) -> Result<()> {
    let target = format!("{ORDERS}:7000");
    let before = flows(lan)?;
    for _ in 0..4 {
        let answer = lan.in_client(&["responder", "call", "tcp", &target, "across"])?.output("a call")?;
        ensure!(answer.contains("at site-b: across"), "the answer is {answer:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
    let script = format!("head -c 20000000 /dev/zero | curl -sS --data-binary @- http://{ORDERS}/bytes");
    let counted = lan.in_client(&["sh", "-c", &script])?.output("sending to the pod at the other site")?;
    ensure!(counted.trim() == "20000000", "{counted:?} of 20000000 bytes arrived");
    let over_tcp = flows(lan)? - before;
    ensure!(over_tcp >= 4.0, "of five calls {over_tcp} went over TCP");
    Ok(())
}

/// Flows over TCP that the agent at site A began.
fn flows(lan: &World) -> Result<f64> {
    let text = lan.in_host("edge-a", &["curl", "-sS", "http://127.0.0.1:20008/metrics"])?;
    let text = text.output("the agent's metrics")?;
    let is = |line: &&str| {
        line.starts_with("edgeloom_mesh_flows_total{")
            && line.contains(r#"carrier="tcp""#)
            && line.contains("outgoing")
    };
    let line = text.lines().find(is).context("no flow over TCP is counted")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// Whoever has no credential, or another cluster's, is not let in, though it knows whom it speaks to and whom to believe;
/// a member is answered at the same door.
fn strangers_get_nothing(lan: &World) -> Result<()> {
    let peer: PeerId = peer(lan)?["peerId"].as_str().context("no peer id")?.parse()?;
    let secret = lan.kubectl("-n edgeloom-system get secret edgeloom-ca -o json")?;
    let secret: Value = serde_json::from_str(&secret)?;
    let field = |name: &str| -> Result<Vec<u8>> {
        let text = secret["data"][name].as_str().with_context(|| format!("the CA has no {name}"))?;
        Ok(BASE64.decode(text)?)
    };
    let cluster = String::from_utf8(field("cluster")?)?;
    let own = Authority::from_parts(field("ca.der")?, field("ca.key.der")?)?;
    let other = Authority::generate(&cluster, SystemTime::now())?;
    let trust = Trust::new(&cluster, [own.certificate()])?;
    for (who, authority, answered) in [
        ("no credential", None, false),
        ("another CA's credential", Some(&other), false),
        ("a good one", Some(&own), true),
    ] {
        let identity = Arc::new(Identity::generate()?);
        let credential =
            authority.map(|authority| authority.sign(&claims(&cluster, &identity))).transpose()?;
        let guard = Guard::new(identity, credential, Some(trust.clone()))?;
        let knocked = lan.lab()?.within("edge-a", || knock(&guard, peer))??;
        ensure!(knocked == answered, "who comes with {who} is answered: {knocked}");
    }
    Ok(())
}

fn claims(cluster: &str, identity: &Identity) -> Claims {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Claims {
        cluster: cluster.to_owned(),
        node: "visitor".to_owned(),
        node_uid: "visitor".to_owned(),
        peer: identity.peer_id().to_bytes().into(),
        site: "site-a".to_owned(),
        roles: [Role::Edge].into_iter().collect(),
        not_before: now - 60,
        expires: now + 3600,
        serial: 1,
    }
}

/// Whether a byte comes back of what is sent for a measurement.
fn knock(guard: &Guard, peer: PeerId) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let Ok(stream) = edgeloom_tunnel::lan::dial(guard, peer, ADDRESS.parse()?).await else {
            return Ok(false);
        };
        let (mut send, mut recv) = stream.split();
        // The header of a measurement that sends back what comes, and something to send back.
        if send.write_all(&[1, 3, 0, 1, 1, 7, 7, 7, 7]).await.is_err() {
            return Ok(false);
        }
        let answer = tokio::time::timeout(Duration::from_secs(5), recv.read(64)).await;
        Ok(answer.is_ok_and(|read| read.is_ok_and(|read| !read.is_empty())))
    })
}

/// A firewall shuts the port, without a word: no call fails for it, and when it opens flows come back.
fn port_is_shut(lan: &World) -> Result<()> {
    let rules = format!(
        "add table inet shut; add chain inet shut in {{ type filter hook input priority -10; }}; \
         add rule inet shut in iifname {INTERFACE} tcp dport 20006 drop"
    );
    lan.in_host("edge-b", &["nft", &rules])?.output("nft")?;
    for _ in 0..5 {
        lan.expect_orders().context("with the TCP port shut")?;
    }
    let peer = peer(lan)?;
    ensure!(peer["carrier"].is_null() && peer["path"]["by"] == "lan", "with the port shut: {peer}");
    lan.in_host("edge-b", &["nft", "delete table inet shut"])?.output("nft")?;
    let again = || -> Result<()> {
        let before = flows(lan)?;
        lan.expect_orders()?;
        ensure!(flows(lan)? > before, "flows go by QUIC");
        Ok(())
    };
    eventually(FOUND, again).context("with the port open again")
}

/// The LAN goes beneath a flow: it ends, and is no riddle for whoever made it; calls go another way.
fn cut(lan: &mut World) -> Result<()> {
    let url = format!("http://{ORDERS}/bytes/500000000");
    let mut flow = lan.start_in_client(&["curl", "-sS", "--limit-rate", "4M", "-o", "/dev/null", &url])?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(flow.try_wait()?.is_none(), "the flow ended by itself");
    let rules = format!(
        "add table inet cut; add chain inet cut in {{ type filter hook input priority -10; }}; \
         add chain inet cut out {{ type filter hook output priority -10; }}; \
         add rule inet cut in iifname {INTERFACE} drop; add rule inet cut out oifname {INTERFACE} drop"
    );
    lan.in_host("edge-b", &["nft", &rules])?.output("nft")?;
    let begun = Instant::now();
    eventually(CALLS, || lan.expect_orders()).context("a new call while the LAN is cut")?;
    println!("  a new call works {:?} after the LAN was cut", begun.elapsed());
    let ended = wait(&mut flow)?;
    println!("  the flow over it ended {:?} after", begun.elapsed());
    ensure!(!ended, "a flow over a network that is cut came to an orderly end");
    let peer = peer(lan)?;
    ensure!(peer["path"]["by"] != "lan", "the path is the LAN's still: {peer}");
    lan.in_host("edge-b", &["nft", "delete table inet cut"])?.output("nft")?;
    eventually(FOUND, || expect(lan, "lan", None)).context("the LAN is back")
}

/// Whether it ended well; an error if it does not end.
fn wait(flow: &mut Child) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < NOTICED {
        if let Some(status) = flow.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    flow.kill()?;
    bail!("a flow hangs {NOTICED:?} on a network that is cut")
}
