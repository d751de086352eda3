//! What pods send off the node leaves under the node's address, unless it goes to a pod or a Service. One
//! nftables table of our own, replaced whole.

use std::io;
use std::process::Stdio;

use ipnet::IpNet;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::cni::BRIDGE;

const TABLE: &str = "edgeloom_masquerade";

/// Why the rules are not there.
#[derive(Debug, thiserror::Error)]
pub enum MasqueradeError {
    /// `nft` could not be run.
    #[error(
        "cannot run nft ({0}); install it (apt-get install nftables), or set network.masquerade to false"
    )]
    Missing(#[source] io::Error),
    /// It refused.
    #[error("nft refused the masquerade rules: {0}")]
    Refused(String),
}

/// The table as `nft -f` reads it.
pub fn rules(pods: &[IpNet], inside: &[IpNet]) -> String {
    let mut lines = String::new();
    for (family, is_v4) in [("ip", true), ("ip6", false)] {
        let of_family = |ranges: &[IpNet]| {
            let texts: Vec<String> = ranges
                .iter()
                .filter(|range| matches!(range, IpNet::V4(_)) == is_v4)
                .map(ToString::to_string)
                .collect();
            texts.join(", ")
        };
        let own = of_family(pods);
        if own.is_empty() {
            continue;
        }
        let multicast = if is_v4 { "224.0.0.0/4" } else { "ff00::/8" };
        let stay = [of_family(inside), multicast.to_owned()].join(", ");
        let stay = stay.trim_start_matches(", ");
        lines.push_str(&format!(
            "    oifname != \"{BRIDGE}\" {family} saddr {{ {own} }} {family} daddr != {{ {stay} }} masquerade\n"
        ));
    }
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority srcnat; policy accept;\n{lines}  }}\n}}\n"
    )
}

/// Puts the table in place.
pub async fn apply(pods: &[IpNet], inside: &[IpNet]) -> Result<(), MasqueradeError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(MasqueradeError::Missing)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules(pods, inside).as_bytes()).await.map_err(MasqueradeError::Missing)?;
    }
    let output = child.wait_with_output().await.map_err(MasqueradeError::Missing)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(MasqueradeError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_inside_keeps_its_address() {
        let pods: Vec<IpNet> =
            ["10.244.1.0/24", "fd00:10:244:1::/64"].iter().map(|r| r.parse().unwrap()).collect();
        let inside: Vec<IpNet> =
            ["10.244.0.0/16", "10.96.0.0/12"].iter().map(|r| r.parse().unwrap()).collect();
        let text = rules(&pods, &inside);
        assert!(text.contains(
            "oifname != \"edgeloom0\" ip saddr { 10.244.1.0/24 } ip daddr != { 10.244.0.0/16, 10.96.0.0/12, 224.0.0.0/4 } masquerade\n"
        ), "{text}");
        assert!(
            text.contains("ip6 saddr { fd00:10:244:1::/64 } ip6 daddr != { ff00::/8 } masquerade\n"),
            "{text}"
        );
        assert!(!rules(&pods[..1], &inside).contains("ip6"));
    }
}
