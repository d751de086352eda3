//! Making metrics of the tunnel's name, each known to the registry from then on.

use prometheus::core::Collector;
use prometheus::{
    Error, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Where they are registered.
#[derive(Clone, Copy)]
pub(super) struct Families<'a>(pub(super) &'a Registry);

impl Families<'_> {
    fn known<T: Collector + Clone + 'static>(&self, made: T) -> Result<T, Error> {
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.known(IntCounter::new(full(name), help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, Error> {
        self.known(IntCounterVec::new(Opts::new(full(name), help), &[label])?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.known(IntGauge::new(full(name), help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, Error> {
        self.known(IntGaugeVec::new(Opts::new(full(name), help), &[label])?)
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        self.known(Histogram::with_opts(HistogramOpts::new(full(name), help).buckets(buckets.to_vec()))?)
    }
}

fn full(name: &str) -> String {
    format!("edgeloom_tunnel_{name}")
}
