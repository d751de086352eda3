//! `meshctl trace`

use anyhow::Result;
use edgeloom_api::admin::{Attempt, TRACE, Trace};
use edgeloom_model::NodeName;

use super::asked;
use crate::args::Output;
use crate::connect::Source;
use crate::show::{self, Cell, Table, Tone};

pub(crate) async fn run(
    source: Source,
    node: &NodeName,
    from: Option<&NodeName>,
    output: Output,
) -> Result<()> {
    let (client, path) = asked(source, TRACE, node, from).await?;
    let progress = show::spinner("probing every way to it, with packets small and large");
    let trace: Result<Trace, _> = client.post(&path, None::<&()>).await;
    progress.finish_and_clear();
    let trace = trace?;
    match output {
        Output::Json => show::json(&trace),
        Output::Table => print(node, &trace),
    }
}

fn print(node: &NodeName, trace: &Trace) -> Result<()> {
    let path = match trace.path.via() {
        "" => trace.path.word().to_owned(),
        via => format!("{} {via}", trace.path.word()),
    };
    let mut facts = Table::bare();
    facts.row([format!("path to {node}").into(), path.into()]);
    facts.row(["why".into(), trace.why.as_str().into()]);
    facts.row(["NAT here".into(), trace.nat.as_str().into()]);
    for sighting in &trace.seen_at {
        facts.row([format!("seen by {}", sighting.by).into(), sighting.address.as_str().into()]);
    }
    if let Some(bytes) = trace.datagram_bytes {
        facts.row(["open connection".into(), format!("sends packets of up to {bytes} bytes").into()]);
    }
    if let Some(flows) = &trace.flows {
        facts.row(["TCP connections go by".into(), flows.as_str().into()]);
    }
    facts.print()?;
    if trace.attempts.is_empty() {
        return Ok(());
    }
    show::line("")?;
    let mut table = Table::new(&["PATH", "VIA", "STANDING", "RTT", "LOSS", "BYTES", "ANSWERS", "LEARNT"]);
    for attempt in &trace.attempts {
        table.row(cells(attempt));
    }
    Ok(table.print()?)
}

fn cells(attempt: &Attempt) -> [Cell; 8] {
    let tone = match attempt.standing.as_str() {
        "in use" => Tone::Good,
        "no answer now" => Tone::Warning,
        _ => Tone::Plain,
    };
    [
        attempt.path.word().into(),
        attempt.path.via().into(),
        Cell::new(&attempt.standing, tone),
        attempt.rtt_ms.map_or_else(|| "-".to_owned(), show::milliseconds).into(),
        format!("{:.0}%", attempt.loss * 100.0).into(),
        attempt.datagram_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()).into(),
        attempt.answers.into(),
        attempt.learnt.as_str().into(),
    ]
}
