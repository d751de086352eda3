//! What can be made to go wrong in a lab.

use ipnet::Ipv4Net;
use nix::sys::signal::Signal;

use crate::build::Link;
use crate::nat::Egress;
use crate::{Lab, NatKind, Result, Wan};

/// One fault, or the end of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The first link of a host, or the outside link of a NAT, carries nothing.
    Cut {
        /// Host or NAT.
        name: String,
        /// Whether the carrier stays.
        silent: bool,
    },
    /// The link carries again.
    Restore {
        /// Host or NAT.
        name: String,
    },
    /// The host loses power.
    Kill {
        /// Host.
        name: String,
    },
    /// The host starts, with nothing running in it.
    Boot {
        /// Host.
        name: String,
    },
    /// The NAT forgets its mappings, and maps to other ports.
    Rebind {
        /// NAT.
        name: String,
    },
    /// The NAT becomes one of another kind.
    Nat {
        /// NAT.
        name: String,
        /// Its kind from now on.
        kind: NatKind,
    },
    /// The NAT lets out something else.
    Egress {
        /// NAT.
        name: String,
        /// What it lets out from now on.
        egress: Egress,
    },
    /// The outside of the NAT gets another address.
    Readdress {
        /// NAT.
        name: String,
        /// Its address from now on, with the length of its prefix.
        address: Ipv4Net,
    },
    /// The WAN of a host or NAT takes other conditions.
    Wan {
        /// Host or NAT.
        name: String,
        /// Its conditions from now on.
        wan: Wan,
    },
    /// A program gets a signal: SIGSTOP freezes it, SIGCONT lets it go on, SIGKILL ends it.
    Signal {
        /// Host.
        name: String,
        /// Name of the program.
        program: String,
        /// Signal.
        signal: Signal,
    },
}

impl Lab {
    /// Makes a fault happen.
    ///
    /// # Errors
    /// Where nothing has that name, or the kernel refuses.
    pub fn inject(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Cut { name, silent } => {
                self.set_link(name, if *silent { Link::Silent } else { Link::Cut })
            }
            Fault::Restore { name } => self.set_link(name, Link::Whole),
            Fault::Kill { name } => self.host(name)?.kill(),
            Fault::Boot { name } => self.boot(name),
            Fault::Rebind { name } => self.rebind_nat(name),
            Fault::Nat { name, kind } => self.set_nat_kind(name, *kind),
            Fault::Egress { name, egress } => self.set_egress(name, *egress),
            Fault::Readdress { name, address } => self.set_nat_address(name, *address),
            Fault::Wan { name, wan } => self.set_wan(name, wan),
            Fault::Signal { name, program, signal } => self.host(name)?.signal(program, *signal).map(drop),
        }
    }
}
