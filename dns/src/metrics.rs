//! What the server counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Who answered a question.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answerer {
    Cluster,
    Cache,
    Upstream,
    Nobody,
}

impl Answerer {
    fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Cache => "cache",
            Self::Upstream => "upstream",
            Self::Nobody => "nobody",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    queries: IntCounterVec,
    pub(crate) forward_seconds: Histogram,
    pub(crate) upstream_failures: IntCounter,
    pub(crate) cached: IntGauge,
    pub(crate) connections: IntGauge,
    pub(crate) rejected: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let queries = IntCounterVec::new(
            Opts::new("edgeloom_dns_queries_total", "Questions, by who answered and the code of the answer"),
            &["answerer", "code"],
        )?;
        let forward_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "edgeloom_dns_forward_seconds",
                "Time that upstream servers took for a question",
            )
            .buckets(vec![0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0]),
        )?;
        let metrics = Self {
            queries,
            forward_seconds,
            upstream_failures: IntCounter::new(
                "edgeloom_dns_upstream_failures_total",
                "Questions that an upstream server did not answer in time",
            )?,
            cached: IntGauge::new("edgeloom_dns_cache_entries", "Answers of upstream servers in the cache")?,
            connections: IntGauge::new("edgeloom_dns_tcp_connections", "Open TCP connections of clients")?,
            rejected: IntCounter::new(
                "edgeloom_dns_rejected_total",
                "Questions and connections turned away because too many were under way",
            )?,
        };
        registry.register(Box::new(metrics.queries.clone()))?;
        registry.register(Box::new(metrics.forward_seconds.clone()))?;
        registry.register(Box::new(metrics.upstream_failures.clone()))?;
        registry.register(Box::new(metrics.cached.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.rejected.clone()))?;
        Ok(metrics)
    }

    /// Counts an answer. The code is the kernel of RFC 6895's names, a closed set.
    pub(crate) fn answered(&self, by: Answerer, code: hickory_proto::op::ResponseCode) {
        use hickory_proto::op::ResponseCode;
        let code = match code {
            ResponseCode::NoError => "noerror",
            ResponseCode::NXDomain => "nxdomain",
            ResponseCode::ServFail => "servfail",
            ResponseCode::Refused => "refused",
            ResponseCode::FormErr => "formerr",
            _ => "other",
        };
        self.queries.with_label_values(&[by.label(), code]).inc();
    }
}
