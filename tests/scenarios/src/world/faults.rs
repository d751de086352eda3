//! What scenarios and sabotage do to the system; each is undone when the scenario is over.

use anyhow::{Context, Result, bail};
use edgeloom_lab::{Fault, NatKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::World;
use crate::mechanism::signal;

/// What a node keeps of its cluster, its CA among it.
const MEMBERSHIP: &str = "/var/lib/edgeloom/edgecore/membership.json";

/// What the agent of a host is told.
const AGENT_CONFIG: &str = "/etc/edgeloom/edgecore.yaml";

/// Faults by a word.
pub(crate) mod fault {
    use edgeloom_lab::Fault;

    pub(crate) fn cut(name: &str) -> Fault {
        Fault::Cut { name: name.into(), silent: false }
    }

    pub(crate) fn restore(name: &str) -> Fault {
        Fault::Restore { name: name.into() }
    }
}

impl World {
    /// Makes a fault happen, and `mend` when the scenario is over.
    pub(crate) fn inject(&mut self, fault: Fault, mend: Fault) -> Result<()> {
        self.lab_mut()?.inject(&fault)?;
        self.undo.push(Box::new(move |world| Ok(world.lab_mut()?.inject(&mend)?)));
        Ok(())
    }

    /// Makes a fault happen.
    pub(crate) fn inject_for_good(&mut self, fault: &Fault) -> Result<()> {
        Ok(self.lab_mut()?.inject(fault)?)
    }

    /// Stops a program of a host until the scenario is over.
    pub(crate) fn freeze(&mut self, host: &str, program: &str) -> Result<()> {
        self.inject(signal(host, program, Signal::SIGSTOP), signal(host, program, Signal::SIGCONT))
    }

    /// Stops a program in the pods of a host until the scenario is over.
    pub(crate) fn freeze_pods(&mut self, host: &str, program: &str) -> Result<()> {
        let found = self.host(host)?.processes().into_iter().filter(|p| p.in_pod && p.name == program);
        let pids: Vec<_> = found.map(|process| Pid::from_raw(process.pid)).collect();
        if pids.is_empty() {
            bail!("no pod on {host} runs {program}");
        }
        pids.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP))?;
        self.undo.push(Box::new(move |_| {
            // One that has ended meanwhile needs no signal.
            for pid in pids {
                let _ = kill(pid, Signal::SIGCONT);
            }
            Ok(())
        }));
        Ok(())
    }

    /// Gives both NATs a kind until the scenario is over.
    pub(crate) fn set_nats(&mut self, kind: NatKind) -> Result<()> {
        for name in ["nat-a", "nat-b"] {
            let mend = Fault::Nat { name: name.into(), kind: NatKind::default() };
            self.inject(Fault::Nat { name: name.into(), kind }, mend)?;
        }
        Ok(())
    }

    /// Detaches the sk_lookup program of a host; its agent is restarted when the scenario is over.
    pub(crate) fn detach_sk_lookup(&mut self, host: &str) -> Result<()> {
        let detached = self.lab()?.detach_sk_lookup(host)?;
        if detached == 0 {
            bail!("no sk_lookup program is attached on {host}");
        }
        let host = host.to_owned();
        self.undo.push(Box::new(move |world| {
            world.inject_for_good(&signal(&host, "edgecore", Signal::SIGKILL))?;
            world.bring_up()
        }));
        Ok(())
    }

    /// Drops what is sent to the DNS server of a host until the scenario is over.
    pub(crate) fn drop_dns(&mut self, host: &str) -> Result<()> {
        let rule = "add table inet sabotage; \
                    add chain inet sabotage input { type filter hook input priority -300; }; \
                    add rule inet sabotage input meta l4proto { tcp, udp } th dport 53 drop";
        self.in_host(host, &["nft", rule])?.output("nft")?;
        let host = host.to_owned();
        self.undo.push(Box::new(move |world| {
            world.in_host(&host, &["nft", "delete table inet sabotage"])?.output("nft").map(drop)
        }));
        Ok(())
    }

    /// Lets flows of a host go over TCP on its LAN until the scenario is over.
    pub(crate) fn allow_lan_tcp(&mut self, host: &str) -> Result<()> {
        let path = self.host(host)?.path(AGENT_CONFIG)?;
        let told = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        self.replace_file(host, AGENT_CONFIG, &format!("{told}overlay:\n  lanTcp: auto\n"))?;
        let host = host.to_owned();
        self.undo.push(Box::new(move |world| world.replace_file(&host, AGENT_CONFIG, &told)));
        Ok(())
    }

    /// Lets a host trust another CA than its cluster's until the scenario is over.
    pub(crate) fn exchange_authority(&mut self, host: &str) -> Result<()> {
        let path = self.host(host)?.path(MEMBERSHIP)?;
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut membership: serde_json::Value = serde_json::from_str(&text)?;
        membership["authorities"] = serde_json::json!([hex::encode(another_authority()?)]);
        self.replace_file(host, MEMBERSHIP, &membership.to_string())?;
        let host = host.to_owned();
        self.undo.push(Box::new(move |world| world.replace_file(&host, MEMBERSHIP, &text)));
        Ok(())
    }

    /// Gives the agent of a host another file, and starts it anew.
    fn replace_file(&mut self, host: &str, path: &str, text: &str) -> Result<()> {
        self.inject_for_good(&signal(host, "edgecore", Signal::SIGKILL))?;
        std::fs::write(self.host(host)?.path(path)?, text)?;
        self.start_edge(host)
    }
}

/// A CA certificate (DER) of the form that Edgeloom's own has, and nothing to do with it.
fn another_authority() -> Result<Vec<u8>> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Edgeloom");
    params.distinguished_name.push(rcgen::DnType::CommonName, "edgeloom elsewhere");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
    Ok(params.self_signed(&key)?.der().to_vec())
}
