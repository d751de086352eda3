//! Who has no credential of this cluster, or none that is good, gets nothing of any node.
//!
//! The strangers stand in the NAT of site A, from where the control's public address and a node's on the LAN are
//! reached, each by an interface on which all that passes is taken. First a member comes to every door: it has to get
//! in, and what it says is what is repeated afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use edgeloom_lab::Capture;
use serde_json::{Value, json};

use crate::command::{self, eventually};
use crate::world::{CALL, World};

/// Where the strangers stand, and its interfaces.
const PLACE: &str = "nat-a";
const INTERFACES: [&str; 2] = ["wan", "lan"];
const CONTROL: &str = "203.0.113.10";
const PORT: u16 = 20006;
/// What an agent may take that is started anew.
const RESTARTED: Duration = Duration::from_secs(30);
/// What knocking at every door may take.
const KNOCKING: Duration = Duration::from_secs(120);

/// Every stranger at every door, with captures on both sides.
pub(crate) fn get_nothing(world: &mut World) -> Result<()> {
    let folder = world.lab()?.directory().join("strangers");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let visit = Visit { folder };
    visit.write_authority(world)?;
    visit.revoke(world)?;
    // One door more.
    world.allow_lan_tcp("edge-a")?;
    eventually(RESTARTED, || world.expect_orders())?;
    let token = world.meshctl("token create --site site-a")?;
    let token = token["token"].as_str().context("`meshctl token create -o json` has no token")?.to_owned();
    world.afterwards(|world| {
        world.kubectl("delete edgenode visitor --ignore-not-found")?;
        world.kubectl("delete node visitor --ignore-not-found").map(drop)
    });
    let recordings = visit.come(world, "member", &["--good", &token])?;
    let [wan, lan] = recordings.each_ref().map(|file| file.display().to_string());
    visit.come(world, "strangers", &["--recording", &wan, "--recording", &lan])?;
    world.expect_orders()
}

/// The files of a run.
struct Visit {
    folder: PathBuf,
}

impl Visit {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// The cluster's CA, with which credentials are made that are good, and others that were.
    fn write_authority(&self, world: &World) -> Result<()> {
        let secret = world.kubectl("-n edgeloom-system get secret edgeloom-ca -o json")?;
        let secret: Value = serde_json::from_str(&secret)?;
        let field = |name: &str| -> Result<Vec<u8>> {
            let text = secret["data"][name].as_str().with_context(|| format!("the CA has no {name}"))?;
            Ok(BASE64.decode(text)?)
        };
        let authority = json!({
            "cluster": String::from_utf8(field("cluster")?)?,
            "certificate": hex::encode(field("ca.der")?),
            "key": hex::encode(field("ca.key.der")?),
        });
        let file = self.file("authority.json");
        fs::write(&file, authority.to_string()).with_context(|| file.display().to_string())
    }

    /// An identity that every node knows to be revoked.
    fn revoke(&self, world: &mut World) -> Result<()> {
        let peer = strangers(world, &["identity", &self.path("revoked.identity")], CALL)?;
        world.apply(&format!(
            "apiVersion: edgeloom.io/v1alpha1\nkind: Revocation\nmetadata: {{name: stranger}}\n\
             spec: {{peerId: {}, node: stranger}}\n",
            peer.trim()
        ))
    }

    /// Knocks at every door while all is taken that passes, and judges both. Returns the captures.
    fn come(&self, world: &World, who: &str, how: &[&str]) -> Result<[PathBuf; 2]> {
        let files = INTERFACES.map(|interface| self.file(&format!("{who}-{interface}.pcap")));
        let captures = INTERFACES
            .iter()
            .zip(&files)
            .map(|(interface, file)| Ok(Capture::start(world.lab()?, PLACE, interface, file)?))
            .collect::<Result<Vec<_>>>()?;
        let (authority, revoked, doors) =
            (self.path("authority.json"), self.path("revoked.identity"), self.path(&format!("{who}.json")));
        let control = target(world, CONTROL, "edgeloom-control")?;
        let node = target(world, &lan_address(world)?, "edge-a")?;
        let websocket = format!("{CONTROL}:443");
        let words = [
            "knock",
            "--authority",
            &authority,
            "--revoked",
            &revoked,
            "--doors",
            &doors,
            "--control",
            &control,
            "--node",
            &node,
            "--websocket",
            &websocket,
        ];
        let knocked = strangers(world, &[&words[..], how].concat(), KNOCKING);
        for capture in captures {
            capture.stop()?;
        }
        print(&knocked?);
        let [wan, lan] = files.each_ref().map(|file| file.display().to_string());
        print(&strangers(world, &["judge", "--doors", &doors, &wan, &lan], CALL)?);
        Ok(files)
    }
}

fn print(table: &str) {
    println!("{}", table.lines().map(|line| format!("  | {line}\n")).collect::<String>());
}

/// A node as the strangers are told of it.
fn target(world: &World, address: &str, node: &str) -> Result<String> {
    let peer = world.kubectl(&format!("get edgenode {node} -o jsonpath={{.spec.peerId}}"))?;
    Ok(format!("{address}:{PORT}={}", peer.trim()))
}

/// Address of the client's node on the LAN of its site.
fn lan_address(world: &World) -> Result<String> {
    let hosts = &world.lab()?.topology().hosts;
    let host = hosts.iter().find(|host| host.name == "edge-a").context("the lab has no edge-a")?;
    let addresses = host.interfaces.iter().flat_map(|interface| &interface.addresses);
    let address = addresses.map(|network| network.addr()).find(std::net::IpAddr::is_ipv4);
    Ok(address.context("edge-a has no IPv4 address")?.to_string())
}

/// Runs the strangers' program where they stand.
fn strangers(world: &World, words: &[&str], limit: Duration) -> Result<String> {
    let program = world.program("strangers");
    let program = Path::new(&program).display().to_string();
    let mut command = world.lab()?.command(PLACE, &program)?;
    let done = command::run(command.args(words), "", limit)?;
    if !done.good {
        print(&done.out);
    }
    done.output("strangers")
}
