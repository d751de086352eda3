//! The same question to many nodes, by way of the control.

use std::io::IsTerminal;
use std::time::Duration;

use edgeloom_api::admin::{FleetNode, NODES, STATUS, node_path};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use crate::http::{CallError, Client};

/// Nodes that are asked at a time.
const AT_ONCE: usize = 16;

/// A node with its answer.
pub(crate) struct Answer<T> {
    pub(crate) node: FleetNode,
    pub(crate) answer: Result<T, CallError>,
}

/// All nodes that the control knows.
pub(crate) async fn nodes(control: &Client) -> Result<Vec<FleetNode>, CallError> {
    control.get(NODES).await
}

/// Whether a node is the control itself, which answers for itself.
pub(crate) fn is_control(node: &FleetNode) -> bool {
    node.roles.iter().any(|role| role == "control")
}

/// Asks every node of the list, and shows how many have answered.
pub(crate) async fn ask<T: DeserializeOwned>(
    control: &Client,
    nodes: Vec<FleetNode>,
    path: &str,
) -> Vec<Answer<T>> {
    let progress = progress(nodes.len());
    let asked = nodes.into_iter().map(|node| {
        let progress = &progress;
        async move {
            let own = is_control(&node) && path == STATUS;
            let path = if own { STATUS.to_owned() } else { node_path(&node.node, path) };
            let answer = control.get(&path).await;
            progress.inc(1);
            Answer { node, answer }
        }
    });
    // In order: a table that changes its order from call to call cannot be compared.
    let answers = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
    progress.finish_and_clear();
    answers
}

/// A bar on the terminal; nothing where the output is no terminal's.
fn progress(length: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} asking nodes {pos}/{len} {bar:20}");
    let bar = ProgressBar::new(length as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
