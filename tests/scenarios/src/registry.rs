//! The promises, in the order in which they are run: those that disturb most come last.

use crate::mechanism::Mechanism::{
    Authority, ClientAgent, Dns, Punching, Relay, Server, ServerAgent, SkLookup,
};
use crate::promise::Need::{Capture, ControlPlane, Root, System};
use crate::promise::Promise;
use crate::scenarios::{
    across_sites, bad_input, datapath, lab, offline, operators, own_cluster, same_lan, sites, strangers,
    tunnel, wan,
};

/// All promises.
pub(crate) fn promises() -> Vec<Promise> {
    [LAB, TUNNEL, MAIN, DATAPATH, OPERATORS, BAD_INPUT, OFFLINE, END].concat()
}

const LAB: &[Promise] = &[
    Promise {
        name: "lab-nats",
        sentence: "each kind of NAT in the lab maps, filters and rebinds as RFC 4787 describes it",
        needs: &[Root],
        rests_on: &[],
        scenario: lab::nat_kinds,
    },
    Promise {
        name: "lab-wan",
        sentence: "a WAN in the lab delays, loses, reorders, paces and cuts as it is told, from one packet to the next",
        needs: &[Root],
        rests_on: &[],
        scenario: wan::conditions,
    },
    Promise {
        name: "lab-leaves-nothing",
        sentence: "a lab can be brought up twice, lose a host, come down half gone, and leave nothing",
        needs: &[Root],
        rests_on: &[],
        scenario: lab::leaves_nothing,
    },
];

const MAIN: &[Promise] = &[
    Promise {
        name: "cross-site-call",
        sentence: "a pod at one site calls a Service by name whose pods run at another, over HTTP, TCP and UDP",
        needs: &[System],
        rests_on: &[SkLookup, ClientAgent, ServerAgent, Dns, Server, Authority],
        scenario: across_sites::call,
    },
    Promise {
        name: "calls-are-shared",
        sentence: "of 100 calls across sites, one after the other, each of the two pods gets 30 or more",
        needs: &[System],
        rests_on: &[ServerAgent, Server],
        scenario: across_sites::shared,
    },
    Promise {
        name: "no-route-between-sites",
        sentence: "neither site has a route to the other's ranges",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: across_sites::no_route,
    },
    Promise {
        name: "encrypted-on-the-way",
        sentence: "between the NATs there is UDP and no plain text",
        needs: &[System, Capture],
        rests_on: &[Punching],
        scenario: across_sites::capture,
    },
    Promise {
        name: "agents-carry-it",
        sentence: "stop either agent and the same call fails; let it go on and it works again",
        needs: &[System],
        rests_on: &[SkLookup, Server],
        scenario: across_sites::agents_carry_it,
    },
    Promise {
        name: "direct-is-direct",
        sentence: "100 MB each way pass from NAT to NAT, and less than 1 MB by the relay",
        needs: &[System],
        rests_on: &[Punching, ServerAgent],
        scenario: across_sites::direct_bytes,
    },
    Promise {
        name: "sites-are-told",
        sentence: "a site that is told so with kubectl leaves direct paths, or sends no more than a rate, and both end with the word",
        needs: &[System],
        rests_on: &[Punching],
        scenario: sites::told,
    },
    Promise {
        name: "symmetric-is-relayed",
        sentence: "between two symmetric NATs 100 MB each way pass the relay, and less than 1 MB from NAT to NAT",
        needs: &[System],
        rests_on: &[Relay],
        scenario: across_sites::relayed_bytes,
    },
];

const DATAPATH: &[Promise] = &[
    Promise {
        name: "near-is-in-the-kernel",
        sentence: "with the agent stopped a near TCP and a near UDP call still work, over IPv4 and IPv6",
        needs: &[System],
        rests_on: &[],
        scenario: datapath::near_without_agent,
    },
    Promise {
        name: "far-is-sk-lookup",
        sentence: "with sk_lookup detached the call across sites fails",
        needs: &[System],
        rests_on: &[Server],
        scenario: datapath::far_by_sk_lookup,
    },
];

const OPERATORS: &[Promise] = &[
    Promise {
        name: "kubectl",
        sentence: "kubectl creates, gets, describes, edits, labels, scales, waits, watches and deletes as on a cluster",
        needs: &[System],
        rests_on: &[],
        scenario: operators::kubectl_verbs,
    },
    Promise {
        name: "logs-and-exec",
        sentence: "kubectl logs and exec reach a pod behind a NAT, with standard input and exit code",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: operators::logs_and_exec,
    },
    Promise {
        name: "volumes",
        sentence: "ConfigMaps, Secrets, tokens and the downward API are mounted, and a changed ConfigMap arrives",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: operators::volumes,
    },
    Promise {
        name: "meshctl",
        sentence: "meshctl shows status, peers and services and pings a node, on the node and from anywhere",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: operators::meshctl,
    },
    Promise {
        name: "metrics",
        sentence: "every daemon has Prometheus metrics, each explained and named by its unit",
        needs: &[System],
        rests_on: &[ClientAgent],
        scenario: operators::metrics,
    },
];

const BAD_INPUT: &[Promise] = &[
    Promise {
        name: "unknown-field",
        sentence: "a daemon refuses a field of its configuration that it does not know, and names it",
        needs: &[],
        rests_on: &[],
        scenario: bad_input::unknown_field,
    },
    Promise {
        name: "bad-token",
        sentence: "a wrong, another cluster's, another node's, a used or an expired token is refused for what it is",
        needs: &[System],
        rests_on: &[],
        scenario: bad_input::tokens,
    },
    Promise {
        name: "strangers-get-nothing",
        sentence: "whose credential is missing, revoked, expired or another's, or who repeats a member's handshake, gets not a byte",
        needs: &[System, Capture],
        rests_on: &[ClientAgent, Relay],
        scenario: strangers::get_nothing,
    },
    Promise {
        name: "name-taken",
        sentence: "a node with a name that is taken is refused, and the one that has it goes on",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: bad_input::name_taken,
    },
    Promise {
        name: "range-overlaps",
        sentence: "a node whose routes overlap the pods' range is refused, and the range is named",
        needs: &[System],
        rests_on: &[],
        scenario: bad_input::range_overlaps,
    },
    Promise {
        name: "bad-manifest",
        sentence: "a manifest with a mistake is refused, and the field is named",
        needs: &[System],
        rests_on: &[],
        scenario: bad_input::manifests,
    },
    Promise {
        name: "no-image",
        sentence: "a pod whose image is not there says so in its status",
        needs: &[System],
        rests_on: &[ClientAgent],
        scenario: bad_input::image_not_there,
    },
];

const TUNNEL: &[Promise] = &[
    Promise {
        name: "mangled-input",
        sentence: "10 million random and mangled frames find no panic and no growth of memory, and a flooded node still answers",
        needs: &[],
        rests_on: &[],
        scenario: tunnel::mangled_input,
    },
    Promise {
        name: "idle-edge",
        sentence: "an edge that nobody wants anything of, with its session and a peer's path, passes at most 2 MB a day",
        needs: &[Root],
        rests_on: &[],
        scenario: tunnel::idle,
    },
    Promise {
        name: "every-nat",
        sentence: "two nodes behind any NATs, without UDP or behind a proxy end on the path that RFC 4787 predicts",
        needs: &[Root],
        rests_on: &[],
        scenario: tunnel::matrix,
    },
    Promise {
        name: "no-byte-lost",
        sentence: "a transfer arrives whole, and never stands still for a second, while relay, NAT, uplink and direct path fail",
        needs: &[Root],
        rests_on: &[],
        scenario: tunnel::ordeal,
    },
    Promise {
        name: "relays-are-fair",
        sentence: "a node that floods a relay on three connections leaves half of it to another with one",
        needs: &[Root],
        rests_on: &[],
        scenario: tunnel::fair,
    },
];

const OFFLINE: &[Promise] = &[
    Promise {
        name: "silent-node-returns",
        sentence: "a node that was silent for 60 s is Ready within 10 s of its return, with the containers it had",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: offline::silent_node_returns,
    },
    Promise {
        name: "link-returns",
        sentence: "a node whose link was down for 60 s is Ready within 10 s of its return, and so are its pods",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: offline::link_returns,
    },
    Promise {
        name: "cloud-gone",
        sentence: "with the cloud gone for longer than every lease, new calls and new names work, the agent killed or not",
        needs: &[System],
        // Not on sk_lookup: the scenario adds a Service first, upon which the agent attaches the program again.
        rests_on: &[Punching, ClientAgent, ServerAgent, Dns, Server, Authority],
        scenario: offline::cloud_gone,
    },
    Promise {
        name: "control-returns",
        sentence: "what was deleted, scaled and changed while the links were down is agreed upon within 10 s",
        needs: &[System],
        rests_on: &[ServerAgent],
        scenario: offline::control_returns,
    },
];

const END: &[Promise] = &[
    Promise {
        name: "quickstart-again",
        sentence: "the quickstart can be run again at any time, and starts what is down",
        needs: &[System],
        rests_on: &[],
        scenario: operators::quickstart_again,
    },
    Promise {
        name: "quickstart-down",
        sentence: "quickstart.sh down leaves no process, cgroup, eBPF program, mount, link, namespace or file",
        needs: &[System],
        rests_on: &[],
        scenario: operators::quickstart_down,
    },
    Promise {
        name: "same-lan",
        sentence: "on a LAN flows go over TCP where both nodes allow it, strangers get nothing there, and calls go on when it is cut",
        needs: &[Root],
        rests_on: &[],
        scenario: same_lan::over_tcp,
    },
    Promise {
        name: "own-cluster",
        sentence: "on a real control plane the same example runs on the same two sites, logs and exec included",
        needs: &[Root, ControlPlane],
        rests_on: &[],
        scenario: own_cluster::example,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::BTreeSet<_> = promises().iter().map(|promise| promise.name).collect();
        assert_eq!(names.len(), promises().len());
    }

    #[test]
    fn every_mechanism_is_claimed() {
        for mechanism in crate::mechanism::Mechanism::ALL {
            let claimed = promises().iter().any(|promise| promise.rests_on.contains(mechanism));
            assert!(claimed, "nothing rests on {mechanism:?}");
        }
    }
}
