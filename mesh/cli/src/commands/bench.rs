//! `meshctl bench`

use anyhow::Result;
use edgeloom_api::admin::{BENCH, Measurement, Phase};
use edgeloom_model::NodeName;

use super::asked;
use crate::args::Output;
use crate::connect::Source;
use crate::show::{self, Table};

/// What is measured, one after the other.
const PHASES: [Phase; 3] = [Phase::Latency, Phase::Send, Phase::Receive];

pub(crate) async fn run(
    source: Source,
    node: &NodeName,
    from: Option<&NodeName>,
    seconds: u64,
    streams: usize,
    output: Output,
) -> Result<()> {
    let (client, path) = asked(source, BENCH, node, from).await?;
    let mut measured = Vec::new();
    for phase in PHASES {
        // Round trips are a matter of one stream.
        let streams = if phase == Phase::Latency { 1 } else { streams };
        let progress = show::spinner(&format!("{}, {seconds} s", label(phase, node)));
        let query = format!("{path}?phase={}&seconds={seconds}&streams={streams}", phase.as_str());
        let measurement: Result<Measurement, _> = client.post(&query, None::<&()>).await;
        progress.finish_and_clear();
        measured.push(measurement?);
    }
    match output {
        Output::Json => show::json(&measured),
        Output::Table => print(node, &measured),
    }
}

fn label(phase: Phase, node: &NodeName) -> String {
    match phase {
        Phase::Latency => "64 B there and back".to_owned(),
        Phase::Send => format!("bytes to {node}"),
        Phase::Receive => format!("bytes from {node}"),
    }
}

fn print(node: &NodeName, measured: &[Measurement]) -> Result<()> {
    let mut table = Table::new(&["MEASURED", "RESULT", "BYTES", "STREAMS", "PATH"]);
    for measurement in measured {
        table.row([
            label(measurement.phase, node).into(),
            result(measurement).into(),
            show::bytes(measurement.bytes).into(),
            measurement.streams.into(),
            measurement.path.word().into(),
        ]);
    }
    Ok(table.print()?)
}

fn result(measurement: &Measurement) -> String {
    match &measurement.round_trips {
        Some(times) => {
            let [p50, p90, p99] = [times.p50_ms, times.p90_ms, times.p99_ms].map(show::milliseconds);
            format!("p50 {p50}, p90 {p90}, p99 {p99}")
        }
        None => {
            let rate = measurement.bytes as f64 * 8.0 / measurement.seconds.max(f64::EPSILON);
            format!("{:.1} Mbit/s", rate / 1e6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeloom_api::admin::{Path, RoundTrips};

    #[test]
    fn figures_have_units() {
        let mut measurement = Measurement {
            phase: Phase::Send,
            path: Path::None,
            streams: 1,
            seconds: 2.0,
            bytes: 25_000_000,
            round_trips: None,
        };
        assert_eq!(result(&measurement), "100.0 Mbit/s");
        measurement.round_trips = Some(RoundTrips { count: 3, p50_ms: 20.04, p90_ms: 21.0, p99_ms: 0.5 });
        assert_eq!(result(&measurement), "p50 20.0 ms, p90 21.0 ms, p99 0.50 ms");
    }
}
