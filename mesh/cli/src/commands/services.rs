//! `meshctl services`

use anyhow::Result;
use edgeloom_api::admin::{Health, SERVICES, Service, node_path};
use edgeloom_model::NodeName;
use serde::Serialize;

use super::own_node_only;
use crate::args::Output;
use crate::connect::Source;
use crate::fleet;
use crate::show::{self, Cell, Table, Tone};

/// A Service as callers on one node meet it.
#[derive(Serialize)]
struct Seen {
    from: String,
    #[serde(flatten)]
    service: Service,
}

pub(crate) async fn run(
    source: Source,
    node: Option<&NodeName>,
    namespace: Option<&str>,
    output: Output,
) -> Result<()> {
    let wanted = |service: &Service| namespace.is_none_or(|namespace| service.namespace == namespace);
    let mut services: Vec<Service> = match (source, node) {
        (Source::Daemon(daemon), node) => {
            own_node_only(node, "--node")?;
            daemon.get(SERVICES).await?
        }
        (Source::Control(control), Some(node)) => control.get(&node_path(node.as_str(), SERVICES)).await?,
        (Source::Control(control), None) => {
            let mut nodes = fleet::nodes(&control).await?;
            nodes.retain(|node| node.session.connected && !fleet::is_control(node));
            return from_all(fleet::ask(&control, nodes, SERVICES).await, wanted, namespace, output);
        }
    };
    services.retain(wanted);
    match output {
        Output::Json => show::json(&services),
        Output::Table => table(services.iter().map(|service| (None, service)), namespace),
    }
}

fn from_all(
    answers: Vec<fleet::Answer<Vec<Service>>>,
    wanted: impl Fn(&Service) -> bool,
    namespace: Option<&str>,
    output: Output,
) -> Result<()> {
    let mut seen = Vec::new();
    for answer in answers {
        let from = answer.node.node;
        match answer.answer {
            Ok(services) => {
                let services = services.into_iter().filter(&wanted);
                seen.extend(services.map(|service| Seen { from: from.clone(), service }));
            }
            Err(error) => eprintln!("{from}: {error}"),
        }
    }
    seen.sort_by(|a, b| {
        let key =
            |seen: &Seen| (seen.service.namespace.clone(), seen.service.name.clone(), seen.from.clone());
        key(a).cmp(&key(b))
    });
    match output {
        Output::Json => show::json(&seen),
        Output::Table => table(seen.iter().map(|seen| (Some(seen.from.as_str()), &seen.service)), namespace),
    }
}

fn table<'a>(
    services: impl Iterator<Item = (Option<&'a str>, &'a Service)>,
    namespace: Option<&str>,
) -> Result<()> {
    let mut services = services.peekable();
    let Some((from, _)) = services.peek() else {
        match namespace {
            Some(namespace) => {
                show::line(format_args!("No Service of the namespace {namespace} is known here."))?
            }
            None => show::line("No Service is known here.")?,
        }
        return Ok(());
    };
    const COLUMNS: [&str; 9] =
        ["NAMESPACE", "NAME", "SEEN FROM", "TYPE", "ADDRESSES", "PORTS", "NEAR", "FAR", "HEALTH"];
    let header: Vec<_> = COLUMNS.into_iter().filter(|name| from.is_some() || *name != "SEEN FROM").collect();
    let mut table = Table::new(&header);
    for (from, service) in services {
        let [namespace, name, rest @ ..] = cells(service);
        table.row([namespace, name].into_iter().chain(from.map(Cell::from)).chain(rest));
    }
    table.print()?;
    Ok(())
}

fn cells(service: &Service) -> [Cell; 8] {
    let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(",") };
    let ports = service.ports.iter().map(|port| match port.node_port {
        Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
        None => format!("{}/{}", port.port, port.protocol),
    });
    let (health, tone) = match service.health {
        Health::Ok => ("ok".to_owned(), Tone::Good),
        Health::Degraded => (format!("degraded, {} set aside", service.set_aside), Tone::Warning),
        Health::Unavailable => ("unavailable".to_owned(), Tone::Bad),
        Health::NotServed => ("not served".to_owned(), Tone::Plain),
    };
    [
        service.namespace.as_str().into(),
        service.name.as_str().into(),
        service.kind.as_str().into(),
        list(service.addresses.iter().map(ToString::to_string).collect()).into(),
        list(ports.collect()).into(),
        service.near.into(),
        service.far.into(),
        Cell::new(health, tone),
    ]
}
