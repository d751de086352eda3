//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use edgeloom_api::admin::{MAX_BENCH_SECONDS, MAX_BENCH_STREAMS};
use edgeloom_model::{NodeName, Site};

const EXAMPLES: &str = "\
Examples:
  meshctl status                                  every node: connected, its peers, direct or relayed
  meshctl peers --node edge-a                     how edge-a reaches the others, round trips, bytes
  meshctl services --node edge-a                  what callers on edge-a meet: near, far, health
  meshctl ping edge-b --from edge-a -c 5          five echoes over the tunnel
  meshctl trace edge-b --from edge-a              every way to it, and why the path is what it is
  meshctl bench edge-b --from edge-a              round trips and throughput between the two
  meshctl token create --site berlin --ttl 24h    a token for a node that joins the site berlin
  meshctl --socket /run/edgeloom/edgecore.sock peers    on the node itself, the control not needed

Without --socket, meshctl reads the kubeconfig as kubectl does and asks the control beside the API
server. Without a kubeconfig it takes the socket of the daemon on this machine, if there is one.

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Shows and tests the mesh: nodes, the paths between them, the Services that span them.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, about, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Ask the daemon behind this Unix socket, such as /run/edgeloom/edgecore.sock
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Kubeconfig to use [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "socket")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "socket")]
    pub(crate) context: Option<String>,
    /// Address of the control's HTTPS [default: $MESHCTL_CONTROL, then the API server's host, port 20007]
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    pub(crate) control: Option<String>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table for people.
    #[default]
    Table,
    /// JSON, with the fields of the admin API.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The nodes: whether each is connected, how many peers it reaches directly or by a relay
    Status {
        /// Only this node
        #[arg(long)]
        node: Option<NodeName>,
    },
    /// The paths between nodes: direct or relayed, round trip, loss, bytes
    Peers {
        /// Seen from this node [default: from every node]
        #[arg(long)]
        node: Option<NodeName>,
    },
    /// The Services as callers on a node meet them: near and far endpoints, health
    Services {
        /// Seen from this node [default: from every node]
        #[arg(long)]
        node: Option<NodeName>,
        /// Only this namespace
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// Echoes over the tunnel to a node: round trip and path of each
    Ping {
        /// The node to reach
        node: NodeName,
        /// Number of echoes
        #[arg(short = 'c', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// The node that sends them [default: with --socket the own one, else one at another site]
        #[arg(long)]
        from: Option<NodeName>,
    },
    /// Every way to a node, probed now: what answers, round trips, packet sizes, NATs, and why the path is what it is
    Trace {
        /// The node to reach
        node: NodeName,
        /// The node that tries [default: with --socket the own one, else one at another site]
        #[arg(long)]
        from: Option<NodeName>,
    },
    /// Round trips and throughput to a node, over the path in use, with real data
    Bench {
        /// The node to reach
        node: NodeName,
        /// The node that measures [default: with --socket the own one, else one at another site]
        #[arg(long)]
        from: Option<NodeName>,
        /// Seconds for each of round trips, sending and receiving
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=MAX_BENCH_SECONDS))]
        seconds: u64,
        /// Streams side by side, as many TCP connections would be
        #[arg(long, default_value_t = 1, value_parser = streams)]
        streams: usize,
    },
    /// Tokens by which nodes join
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token; it is shown this once
    Create {
        /// Site of the nodes that join with it
        #[arg(long)]
        site: Site,
        /// How long it can be used: 30m, 24h, 7d
        #[arg(long, default_value = "24h", value_parser = duration)]
        ttl: Duration,
        /// How many nodes can join with it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// Only a node of this name can join with it
        #[arg(long)]
        node: Option<NodeName>,
        /// Print the token and nothing else
        #[arg(short, long)]
        quiet: bool,
    },
    /// Lists the tokens, those that are used up or over too, without their secrets
    List,
    /// Ends a token; nodes that joined with it stay
    Revoke {
        /// Id of the token, as `meshctl token list` shows it
        id: String,
    },
}

fn streams(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_BENCH_STREAMS).contains(number));
    number.ok_or_else(|| format!("{text:?}: expected 1 to {MAX_BENCH_STREAMS}"))
}

/// A number with a unit: s, m, h or d.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: expected a number with s, m, h or d behind it, such as 24h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let total = number.checked_mul(seconds).filter(|total| *total > 0).ok_or_else(wrong)?;
    Ok(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_option_is_shown_as_wanted_because_the_environment_has_it() {
        let command = Args::command();
        let from_environment = command.get_arguments().find(|option| option.get_env().is_some());
        assert!(from_environment.is_none(), "{from_environment:?} stands in every usage line when it is set");
    }

    #[test]
    fn options_stand_before_and_behind_the_command() {
        for line in ["meshctl -o json --socket /s peers", "meshctl peers --socket /s -o json"] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert_eq!((args.output, args.socket), (Output::Json, Some(PathBuf::from("/s"))), "{line}");
        }
    }

    #[test]
    fn wrong_usage() {
        for line in [
            "meshctl",
            "meshctl ping",
            "meshctl ping edge-b -c 0",
            "meshctl ping Edge_B",
            "meshctl token create",
            "meshctl token create --site a --ttl 24",
            "meshctl token create --site a --uses 0",
            "meshctl status --socket /s --kubeconfig /k",
        ] {
            let error = Args::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn durations() {
        for (text, want) in [("1s", 1), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(want)));
        }
        for text in ["", "h", "24", "-1h", "1.5h", "0s", "1w", "99999999999999999999d", "1ä"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
