//! The ranges of the cluster's Services, which no route of a host may overlap.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Client;
use kube::api::{Api, ListParams};

/// Where the ranges of Services are known from.
#[derive(Clone, Debug)]
pub enum ServiceRanges {
    /// The control gives the addresses itself.
    Own(Vec<IpNet>),
    /// The cluster's ServiceCIDRs (`networking.k8s.io/v1`, since Kubernetes 1.33) say it; what is configured
    /// here counts where they are not served.
    Cluster(Vec<IpNet>),
}

impl ServiceRanges {
    /// The ranges as they are now.
    ///
    /// # Errors
    /// When the API server does not answer; one that does not serve ServiceCIDRs is no error.
    pub(super) async fn now(&self, client: &Client) -> Result<Vec<IpNet>, kube::Error> {
        let configured = match self {
            Self::Own(ranges) => return Ok(ranges.clone()),
            Self::Cluster(configured) => configured,
        };
        match Api::<ServiceCIDR>::all(client.clone()).list(&ListParams::default()).await {
            Ok(served) => Ok(served.items.iter().flat_map(ranges).collect()),
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                if configured.is_empty() {
                    tracing::warn!(
                        reason = status.message,
                        "the routes of a host that joins are not held against the range of Services, which the \
                         cluster does not say: run `edgeloom-control install` if that is forbidden, or set \
                         join.serviceCidrs"
                    );
                }
                Ok(configured.clone())
            }
            Err(error) => Err(error),
        }
    }
}

fn ranges(object: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let given = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    given.iter().filter_map(|range| range.parse().ok())
}
