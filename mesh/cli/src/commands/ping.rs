//! `meshctl ping`

use std::time::Duration;

use anyhow::{Context, Result, bail};
use edgeloom_api::admin::{Echo, PING, Path};
use edgeloom_model::NodeName;

use super::asked;
use crate::args::Output;
use crate::connect::Source;
use crate::http::Client;
use crate::show;

/// Pause between two echoes.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) async fn run(
    source: Source,
    node: &NodeName,
    count: u32,
    from: Option<&NodeName>,
    output: Output,
) -> Result<()> {
    let (client, path) = asked(source, PING, node, from).await?;
    let echoes = echoes(&client, &path, node, count, output).await?;
    if output == Output::Json {
        show::json(&echoes)?;
    } else {
        summary(&echoes)?;
    }
    if echoes.iter().all(|echo| echo.rtt_ms.is_none()) {
        bail!("{node} did not answer; `meshctl peers` shows what is known of the path to it");
    }
    Ok(())
}

async fn echoes(
    client: &Client,
    path: &str,
    node: &NodeName,
    count: u32,
    output: Output,
) -> Result<Vec<Echo>> {
    let mut echoes = Vec::new();
    for sequence in 1..=count {
        if sequence > 1 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut answers: Vec<Echo> = client.post(path, None::<&()>).await?;
        let mut echo = answers.pop().context("an answer without an echo")?;
        echo.sequence = sequence;
        if output == Output::Table {
            show::line(line(node, &echo))?;
        }
        echoes.push(echo);
    }
    Ok(echoes)
}

fn line(node: &NodeName, echo: &Echo) -> String {
    match echo.rtt_ms {
        Some(rtt) => {
            let path = match &echo.path {
                Path::Direct { address, by } => format!("direct ({by}) {address}"),
                Path::Relayed { relay } => format!("relay {relay}"),
                Path::None => "an unknown path".to_owned(),
            };
            format!("{node}: echo {} in {}, {path}", echo.sequence, show::milliseconds(rtt))
        }
        None => {
            format!("{node}: no echo {}: {}", echo.sequence, echo.error.as_deref().unwrap_or("no answer"))
        }
    }
}

fn summary(echoes: &[Echo]) -> Result<()> {
    let times: Vec<f64> = echoes.iter().filter_map(|echo| echo.rtt_ms).collect();
    let (count, came) = (echoes.len(), times.len());
    if came == 0 {
        return Ok(());
    }
    let low = times.iter().copied().fold(f64::INFINITY, f64::min);
    let high = times.iter().copied().fold(0.0, f64::max);
    let mean = times.iter().sum::<f64>() / came as f64;
    let [low, mean, high] = [low, mean, high].map(show::milliseconds);
    show::line(format_args!(
        "{came} of {count} came back, round trip lowest {low}, mean {mean}, highest {high}"
    ))?;
    Ok(())
}
