//! What the datapath counts, for Prometheus. The kernel counts; this reads it now and then.

use std::collections::BTreeMap;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::desired::Frontend;
use crate::status::{Counters, State, Status};

/// Metrics of the datapath. Services are summed: a row for each would be as many as there are Services.
#[derive(Debug)]
pub struct Metrics {
    calls: IntCounterVec,
    frontends: IntGauge,
    features: IntGaugeVec,
    /// What was counted when it was last looked at: a Service that goes takes its counters with it.
    last: BTreeMap<Option<Frontend>, Counters>,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            calls: IntCounterVec::new(
                Opts::new(
                    "edgeloom_datapath_calls_total",
                    "Calls to Services: connects and datagrams pointed at a near backend, calls refused for want \
                     of an endpoint, packets steered to the agent or dropped, look-ups repeated during a change",
                ),
                &["outcome"],
            )?,
            frontends: IntGauge::new(
                "edgeloom_datapath_frontends",
                "Addresses and ports of Services that the kernel knows",
            )?,
            features: IntGaugeVec::new(
                Opts::new(
                    "edgeloom_datapath_feature",
                    "1 where a part of the datapath works on this host, 0 where it does not; the status says why",
                ),
                &["feature"],
            )?,
            last: BTreeMap::new(),
        };
        registry.register(Box::new(metrics.calls.clone()))?;
        registry.register(Box::new(metrics.frontends.clone()))?;
        registry.register(Box::new(metrics.features.clone()))?;
        Ok(metrics)
    }

    /// Takes over what has been counted since the last time.
    pub fn observe(&mut self, status: &Status) {
        self.frontends.set(status.services.len() as i64);
        for feature in &status.features {
            let works = i64::from(feature.state == State::On);
            self.features.with_label_values(&[feature.name]).set(works);
        }
        let rows = status.services.iter().map(|(frontend, counters)| (Some(*frontend), *counters));
        let now: BTreeMap<_, _> = rows.chain([(None, status.other)]).collect();
        for (row, counters) in &now {
            let before = self.last.get(row).copied().unwrap_or_default();
            for ((outcome, value), (_, old)) in outcomes(counters).into_iter().zip(outcomes(&before)) {
                // Less than before: the row was removed and made anew meanwhile.
                let more = value.checked_sub(old).unwrap_or(value);
                self.calls.with_label_values(&[outcome]).inc_by(more);
            }
        }
        self.last = now;
    }
}

fn outcomes(counters: &Counters) -> [(&'static str, u64); 6] {
    let Counters { connects, datagrams, refused, steered, dropped, repeated } = *counters;
    [
        ("connect", connects),
        ("datagram", datagrams),
        ("refused", refused),
        ("steered", steered),
        ("dropped", dropped),
        ("repeated", repeated),
    ]
}

#[cfg(test)]
mod tests {
    use edgeloom_model::Protocol;

    use super::*;

    #[test]
    fn totals_only_grow() {
        let mut metrics = Metrics::register(&Registry::new()).unwrap();
        let frontend = Frontend { addr: [10, 96, 0, 1].into(), port: 80, protocol: Protocol::Tcp };
        let status = |connects| Status {
            services: vec![(frontend, Counters { connects, ..Counters::default() })],
            ..Status::default()
        };
        let total = |metrics: &Metrics| metrics.calls.with_label_values(&["connect"]).get();
        for (connects, want) in [(5, 5), (7, 7), (7, 7), (2, 9)] {
            metrics.observe(&status(connects));
            assert_eq!(total(&metrics), want);
        }
        metrics.observe(&Status::default());
        metrics.observe(&status(1));
        assert_eq!(total(&metrics), 10);
    }
}
