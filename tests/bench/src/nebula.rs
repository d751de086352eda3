//! nebula between the two edge hosts, with the settings that it comes with.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use edgeloom_lab::Lab;

use crate::system::Child;

/// Addresses within nebula, of edge-a and edge-b.
pub(crate) const ADDRESSES: [&str; 2] = ["172.29.0.1", "172.29.0.2"];
/// UDP port, which the NAT of site B forwards.
pub(crate) const PORT: u16 = 4242;
/// Both ends begin as the programs of other overlays do, so the tunnel takes it for no way of its own.
const DEVICE: &str = "nebula1";

/// What `nebula -version` says; none where it is not installed.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("nebula").arg("-version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().strip_prefix("Version: ").map(str::to_owned)
}

/// Starts it on both hosts; `public` is where site B is reached.
pub(crate) fn start(lab: &Lab, folder: &Path, public: &str) -> Result<Vec<Child>> {
    let certificates = |words: &[&str]| -> Result<()> {
        let done = Command::new("nebula-cert").args(words).current_dir(folder).output()?;
        ensure!(done.status.success(), "nebula-cert: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    certificates(&["ca", "-name", "bench"])?;
    ["edge-a", "edge-b"]
        .into_iter()
        .zip(ADDRESSES)
        .map(|(host, address)| {
            certificates(&["sign", "-name", host, "-ip", &format!("{address}/24")])?;
            let config = folder.join(format!("{host}.yml"));
            fs::write(&config, configuration(folder, host, public))?;
            let mut command = lab.command(host, "nebula")?;
            Child::spawn(command.arg("-config").arg(&config)).context("nebula")
        })
        .collect()
}

fn configuration(folder: &Path, host: &str, public: &str) -> String {
    let folder = folder.display();
    let [_, b] = ADDRESSES;
    format!(
        "pki: {{ca: {folder}/ca.crt, cert: {folder}/{host}.crt, key: {folder}/{host}.key}}\n\
         static_host_map: {{\"{b}\": [\"{public}:{PORT}\"]}}\n\
         lighthouse: {{am_lighthouse: false, interval: 60, hosts: []}}\n\
         listen: {{host: 0.0.0.0, port: {PORT}}}\n\
         punchy: {{punch: true}}\n\
         tun: {{dev: {DEVICE}, mtu: 1300}}\n\
         logging: {{level: warning}}\n\
         firewall:\n  \
         outbound: [{{port: any, proto: any, host: any}}]\n  \
         inbound: [{{port: any, proto: any, host: any}}]\n"
    )
}
