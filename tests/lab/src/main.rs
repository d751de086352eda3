//! `lab`: hosts, NATs, links and faults on one machine.

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use edgeloom_lab::nat::Egress;
use edgeloom_lab::{Conditions, Fault, Lab, NatKind, Topology, Wan, containerd, wan};
use nix::sys::signal::Signal;

/// Several hosts on one machine: network namespaces with their own mounts, cgroups and NATs.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Cli {
    /// Name of the lab: 1 to 10 of a-z and 0-9.
    #[arg(long = "name", global = true, default_value = "lab", env = "LAB_NAME")]
    lab: String,
    /// Directory of all labs.
    #[arg(long, global = true, default_value = "/var/lib/edgeloom-lab", env = "LAB_ROOT")]
    root: PathBuf,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the lab up, or make it whole.
    Up {
        /// YAML file; without it, a cloud host and two sites behind a NAT each.
        #[arg(long)]
        topology: Option<PathBuf>,
        /// Kind of every NAT: cone, restricted, port-restricted, symmetric, or MAPPING-FILTER-PORT.
        #[arg(long)]
        nat: Option<NatKind>,
        /// Make the way from every NAT to the internet a WAN: delay, jitter (ms), loss, reorder (%), rate
        /// (Mbit/s), queue (ms), mtu (bytes), as delay=10,loss=0.5,rate=200; each direction has these.
        #[arg(long)]
        wan: Option<Conditions>,
    },
    /// Remove everything of the lab.
    Down,
    /// Show hosts, their processes and the NATs, as JSON.
    Status,
    /// Show the topology as YAML.
    Topology,
    /// Print where the machine reaches a host.
    Address {
        /// Host.
        host: String,
    },
    /// Print where the machine finds a file of a host.
    Path {
        /// Host.
        host: String,
        /// Path as the host sees it.
        path: String,
    },
    /// Print the ids of a host's own processes of a program.
    Pids {
        /// Host.
        host: String,
        /// Program.
        program: String,
    },
    /// Show what each NAT, or one, saw on its outside, as JSON.
    Counters {
        /// NAT.
        nat: Option<String>,
    },
    /// Show what passed the WAN of a host or NAT, as JSON.
    Wan {
        /// Host or NAT.
        name: String,
    },
    /// Be the process of a WAN; the lab starts it.
    #[command(hide = true)]
    Emulate {
        /// What it does, as JSON.
        emulation: String,
    },
    /// Run a command in a host, a NAT or a segment.
    Exec(Exec),
    /// Start containerd in a host and give it images.
    Containerd {
        /// Host.
        host: String,
        /// OCI layouts packed as tar.
        #[arg(long = "image")]
        images: Vec<PathBuf>,
    },
    /// Make something go wrong, or right again.
    #[command(subcommand)]
    Fault(FaultVerb),
}

#[derive(Args)]
struct Exec {
    /// Leave it running, without a tie to this terminal.
    #[arg(short, long, requires = "log")]
    detach: bool,
    /// File for its output.
    #[arg(long, requires = "detach")]
    log: Option<PathBuf>,
    /// File for its process id.
    #[arg(long, requires = "detach")]
    pidfile: Option<PathBuf>,
    /// Host, NAT or segment.
    host: String,
    /// Command with its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Subcommand)]
enum FaultVerb {
    /// Cut the link of a host, or the outside link of a NAT.
    Cut {
        /// Host or NAT.
        name: String,
        /// Leave the carrier: nothing passes, and nothing says so.
        #[arg(long)]
        silent: bool,
    },
    /// Undo a cut.
    Restore {
        /// Host or NAT.
        name: String,
    },
    /// Take the power from a host.
    Kill {
        /// Host.
        name: String,
    },
    /// Start a host again, with nothing running in it.
    Boot {
        /// Host.
        name: String,
    },
    /// Let a NAT forget its mappings and take other ports.
    Rebind {
        /// NAT.
        name: String,
    },
    /// Change a NAT's kind.
    Nat {
        /// NAT.
        name: String,
        /// Kind.
        kind: NatKind,
    },
    /// Change what a NAT lets out: all, no-udp, https (TCP to port 443), none.
    Egress {
        /// NAT.
        name: String,
        /// What it lets out.
        #[arg(value_parser = parse_egress)]
        egress: Egress,
    },
    /// Give the outside of a NAT another IPv4 address.
    Readdress {
        /// NAT.
        name: String,
        /// Address with the length of its prefix.
        address: ipnet::Ipv4Net,
    },
    /// Change the WAN of a host or NAT: both directions, or each.
    Wan {
        /// Host or NAT.
        name: String,
        /// Conditions, as delay=10,loss=0.5,rate=200; none of them for none.
        conditions: Conditions,
        /// Other conditions for what comes to it.
        #[arg(long)]
        down: Option<Conditions>,
    },
    /// Send a signal to a program of a host: STOP, CONT, TERM, KILL.
    Signal {
        /// Host.
        name: String,
        /// Program.
        program: String,
        /// Name of the signal, without SIG.
        #[arg(value_parser = parse_signal)]
        signal: Signal,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to the standard output; its reader may leave early, as `head` does.
fn show(line: impl Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

fn reader_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let open = || Lab::open(&cli.root, &cli.lab);
    match cli.command {
        Verb::Up { topology, nat, wan } => up(&cli.root, &cli.lab, topology, nat, wan)?,
        Verb::Down => Lab::down(&cli.root, &cli.lab)?,
        Verb::Status => show(serde_json::to_string_pretty(&open()?.status())?)?,
        Verb::Topology => show(serde_yaml_ng::to_string(open()?.topology())?.trim_end())?,
        Verb::Address { host } => show(open()?.machine_address(&host)?)?,
        Verb::Path { host, path } => show(open()?.host(&host)?.path(&path)?.display())?,
        Verb::Pids { host, program } => {
            open()?.host(&host)?.processes_named(&program).iter().try_for_each(|found| show(found.pid))?;
        }
        Verb::Counters { nat } => counters(&open()?, nat)?,
        Verb::Wan { name } => show(serde_json::to_string_pretty(&open()?.wan_counts(&name)?)?)?,
        Verb::Emulate { emulation } => wan::emulate(&serde_json::from_str(&emulation)?)?,
        Verb::Exec(exec) => execute(&open()?, &exec)?,
        Verb::Containerd { host, images } => {
            let host = open()?.host(&host)?;
            containerd::start(&host)?;
            images.iter().try_for_each(|image| containerd::import(&host, image))?;
        }
        Verb::Fault(verb) => open()?.inject(&fault(verb))?,
    }
    Ok(())
}

fn up(
    root: &std::path::Path,
    name: &str,
    file: Option<PathBuf>,
    nat: Option<NatKind>,
    wan: Option<Conditions>,
) -> anyhow::Result<()> {
    let mut topology = match file {
        Some(path) => {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Topology::from_yaml(&text).with_context(|| path.display().to_string())?
        }
        None => Topology::two_sites(NatKind::default()),
    };
    if let Some(kind) = nat {
        topology.nats.iter_mut().for_each(|nat| nat.kind = kind);
    }
    if let Some(conditions) = wan {
        topology.set_wans(&Wan::both(conditions));
    }
    Lab::up(root, name, &topology)?;
    Ok(())
}

fn counters(lab: &Lab, nat: Option<String>) -> anyhow::Result<()> {
    let all = lab.topology().nats.iter().map(|nat| nat.name.clone()).collect();
    let names: Vec<_> = nat.map_or(all, |name| vec![name]);
    let counters = names
        .into_iter()
        .map(|name| Ok((name.clone(), lab.counters(&name)?)))
        .collect::<edgeloom_lab::Result<std::collections::BTreeMap<_, _>>>()?;
    show(serde_json::to_string_pretty(&counters)?)?;
    Ok(())
}

fn execute(lab: &Lab, exec: &Exec) -> anyhow::Result<()> {
    let words: Vec<_> = exec.command.iter().map(String::as_str).collect();
    if let Some(log) = &exec.log {
        let pid = lab.host(&exec.host)?.start(&words, log)?;
        return match &exec.pidfile {
            Some(file) => fs::write(file, format!("{pid}\n"))
                .with_context(|| format!("cannot write {}", file.display())),
            None => {
                show(pid)?;
                Ok(())
            }
        };
    }
    let mut command = lab.command(&exec.host, words[0])?;
    let error = command.args(&words[1..]).exec();
    bail!("cannot run {} in {}: {error}", words[0], exec.host)
}

fn fault(verb: FaultVerb) -> Fault {
    match verb {
        FaultVerb::Cut { name, silent } => Fault::Cut { name, silent },
        FaultVerb::Restore { name } => Fault::Restore { name },
        FaultVerb::Kill { name } => Fault::Kill { name },
        FaultVerb::Boot { name } => Fault::Boot { name },
        FaultVerb::Rebind { name } => Fault::Rebind { name },
        FaultVerb::Nat { name, kind } => Fault::Nat { name, kind },
        FaultVerb::Egress { name, egress } => Fault::Egress { name, egress },
        FaultVerb::Readdress { name, address } => Fault::Readdress { name, address },
        FaultVerb::Wan { name, conditions, down } => {
            Fault::Wan { name, wan: Wan { down: down.unwrap_or(conditions), ..Wan::both(conditions) } }
        }
        FaultVerb::Signal { name, program, signal } => Fault::Signal { name, program, signal },
    }
}

fn parse_egress(text: &str) -> Result<Egress, String> {
    serde_yaml_ng::from_str(text).map_err(|_| format!("{text:?}: known are all, no-udp, https, none"))
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    format!("SIG{}", name.trim_start_matches("SIG"))
        .parse()
        .map_err(|_| format!("no signal named {text:?}; known are STOP, CONT, TERM, KILL, INT, HUP"))
}
