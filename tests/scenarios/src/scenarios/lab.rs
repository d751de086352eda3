//! The lab itself: its hosts are apart, its NATs are what they say, and it leaves nothing behind.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use edgeloom_lab::nat::{Filter, Mapping};
use edgeloom_lab::{Lab, NatKind, Topology};

use crate::world::World;

const ROOT: &str = "/var/lib/edgeloom-lab";
/// A lab of these scenarios' own.
const NAME: &str = "labcheck";
/// How long a datagram may take through a NAT.
const PATIENCE: Duration = Duration::from_millis(300);
/// Every kind that the lab can make.
const KINDS: [&str; 12] = [
    "eim-eif-kept",
    "eim-adf-kept",
    "eim-apdf-kept",
    "eim-eif-remapped",
    "eim-adf-remapped",
    "eim-apdf-remapped",
    "adm-eif-kept",
    "adm-adf-kept",
    "adm-apdf-kept",
    "adm-eif-remapped",
    "adm-adf-remapped",
    "adm-apdf-remapped",
];

/// Brings a lab up, runs `work`, and takes it down whatever came of it.
pub(super) fn with_lab(topology: &Topology, work: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let mut lab = Lab::up(Path::new(ROOT), NAME, topology)?;
    let result = work(&mut lab);
    let down = Lab::down(Path::new(ROOT), NAME);
    result.and(down.context("the lab does not go down"))
}

/// Every kind maps and filters as RFC 4787 describes it, measured from outside.
pub(crate) fn nat_kinds(_: &mut World) -> Result<()> {
    with_lab(&Topology::two_sites(NatKind::default()), |lab| {
        for text in KINDS {
            let kind: NatKind = text.parse()?;
            lab.set_nat_kind("nat-a", kind)?;
            check_kind(lab, kind).with_context(|| format!("NAT {text}"))?;
        }
        rebind(lab)
    })
}

fn check_kind(lab: &Lab, kind: NatKind) -> Result<()> {
    let inside = socket(lab, "edge-a", 20006)?;
    let (first, second) = (socket(lab, "cloud", 0)?, socket(lab, "cloud", 0)?);
    let stranger_there = socket(lab, "cloud", 0)?;
    let stranger_elsewhere = socket(lab, "edge-b", 0)?;
    let one = mapped(&inside, &first)?;
    let other = mapped(&inside, &second)?;
    ensure!(
        (one.port() == other.port()) == (kind.mapping == Mapping::EndpointIndependent),
        "two destinations see ports {} and {}",
        one.port(),
        other.port()
    );
    ensure!((one.port() == 20006) == kind.port_kept, "the outside port is {}", one.port());
    ensure!(arrives(&first, &inside, one)?, "an answer does not come in");
    let here = kind.filter != Filter::AddressAndPortDependent;
    ensure!(arrives(&stranger_there, &inside, one)? == here, "another port of a known address: not {here}");
    let anyone = kind.filter == Filter::EndpointIndependent;
    ensure!(arrives(&stranger_elsewhere, &inside, one)? == anyone, "a stranger's address: not {anyone}");
    Ok(())
}

/// A rebind moves the outside port, and what was sent to the old one no longer arrives.
fn rebind(lab: &mut Lab) -> Result<()> {
    lab.set_nat_kind("nat-a", NatKind::default())?;
    let (inside, outside) = (socket(lab, "edge-a", 20006)?, socket(lab, "cloud", 0)?);
    let before = mapped(&inside, &outside)?;
    lab.rebind_nat("nat-a")?;
    ensure!(!arrives(&outside, &inside, before)?, "the old mapping outlives a rebind");
    let after = mapped(&inside, &outside)?;
    ensure!(before != after, "a rebind leaves the port at {}", before.port());
    Ok(())
}

pub(super) fn socket(lab: &Lab, host: &str, port: u16) -> Result<UdpSocket> {
    let socket = lab.within(host, || UdpSocket::bind(("0.0.0.0", port)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Where `outside`, on the cloud host, sees `inside`.
fn mapped(inside: &UdpSocket, outside: &UdpSocket) -> Result<SocketAddr> {
    inside.send_to(b"out", ("203.0.113.10", outside.local_addr()?.port()))?;
    let (_, from) = outside.recv_from(&mut [0; 16]).context("nothing comes out of the NAT")?;
    Ok(from)
}

fn arrives(from: &UdpSocket, inside: &UdpSocket, mapped: SocketAddr) -> Result<bool> {
    from.send_to(b"in", mapped)?;
    match inside.recv_from(&mut [0; 16]) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Up, up again, a power cut, down: each does what it says, and nothing is left.
pub(crate) fn leaves_nothing(_: &mut World) -> Result<()> {
    let topology = Topology::two_sites(NatKind::default());
    with_lab(&topology, |lab| {
        let host = lab.host("edge-a")?;
        host.start(&["sleep", "1000"], &host.path("/var/log/sleep.log")?)?;
        fs::write(host.path("/var/lib/kept")?, "x")?;
        *lab = Lab::up(Path::new(ROOT), NAME, &topology)?;
        ensure!(host.run(&["hostname"])?.trim() == "edge-a", "a host has another's hostname");
        ensure!(!host.processes_named("sleep").is_empty(), "a second `up` ended what runs");
        host.kill()?;
        ensure!(host.processes().is_empty(), "a process outlives the power cut");
        lab.boot("edge-a")?;
        ensure!(host.path("/var/lib/kept")?.exists(), "the disk does not outlive a restart");
        mapped(&socket(lab, "edge-a", 20006)?, &socket(lab, "cloud", 0)?).context("after a restart")?;
        // Half of it gone, as after a failure in the middle.
        host.kill()?;
        fs::remove_file(lab.directory().join("lab.json"))?;
        Ok(())
    })?;
    let remains: Vec<_> = [Path::new(ROOT).join(NAME), format!("/run/netns/{NAME}-edge-a").into()]
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    ensure!(remains.is_empty(), "left behind: {remains:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(mount) = mounts.lines().find(|line| line.contains(&format!("{ROOT}/{NAME}"))) {
        bail!("still mounted: {mount}");
    }
    Ok(())
}
