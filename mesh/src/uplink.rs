//! Settings of a node's way out where UDP is blocked: the section `overlay.carriers` of a daemon's configuration.

use std::fmt;

use edgeloom_tunnel::Proxy;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What stands for a password where a configuration is printed.
const HIDDEN: &str = "hidden";

/// What the overlay does where UDP does not reach its relays. Every field has a default.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Carriers {
    /// Reach relays over TCP: TLS at the overlay's port, then a WebSocket over TLS.
    pub enabled: bool,
    /// TCP port at which relays are dialled for a WebSocket.
    pub websocket_port: u16,
    /// HTTP proxy on the way to WebSockets, as `http://[USER:PASSWORD@]HOST[:PORT]`. By default what `HTTPS_PROXY`
    /// and `NO_PROXY` in the environment say.
    #[serde(deserialize_with = "proxy", serialize_with = "without_password")]
    pub proxy: Option<String>,
    /// Addresses and ranges that are reached without the proxy of this file.
    pub no_proxy: Vec<String>,
}

impl fmt::Debug for Carriers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carriers")
            .field("enabled", &self.enabled)
            .field("websocket_port", &self.websocket_port)
            .field("proxy", &self.proxy.as_deref().map(shown))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl Default for Carriers {
    fn default() -> Self {
        let websocket_port = edgeloom_api::names::WEBSOCKET_PORT;
        Self { enabled: true, websocket_port, proxy: None, no_proxy: Vec::new() }
    }
}

impl Carriers {
    /// What the tunnel is told.
    pub fn settings(&self) -> edgeloom_tunnel::Carriers {
        let configured = self.proxy.as_ref().map(|url| Proxy::parse(url, &self.no_proxy.join(",")));
        let proxy = configured.map_or_else(Proxy::from_environment, |proxy| proxy.map(Some));
        let proxy = proxy.unwrap_or_else(|error| {
            tracing::warn!(%error, "HTTPS_PROXY is passed over; set overlay.carriers.proxy if a proxy is needed");
            None
        });
        edgeloom_tunnel::Carriers {
            dial: self.enabled,
            websocket_port: self.websocket_port,
            proxy,
            ..edgeloom_tunnel::Carriers::default()
        }
    }
}

fn proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let url = Option::<String>::deserialize(deserializer)?;
    if let Some(url) = &url {
        Proxy::parse(url, "").map_err(D::Error::custom)?;
    }
    Ok(url)
}

/// What is printed is read by others than what is written in the file.
fn without_password<S: Serializer>(proxy: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    proxy.as_deref().map(shown).serialize(serializer)
}

/// A proxy's URL without its password.
fn shown(url: &str) -> String {
    match url.split_once("://").and_then(|(s, rest)| Some((s, rest.rsplit_once('@')?))) {
        Some((scheme, (login, host))) => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:{HIDDEN}@{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let text = |proxy: &str| {
            let carriers = Carriers { proxy: Some(proxy.to_owned()), ..Carriers::default() };
            serde_yaml_ng::to_string(&carriers).unwrap()
        };
        let printed = text("http://user:s3cr:e@t@10.0.0.1:3128");
        assert!(printed.contains("http://user:hidden@10.0.0.1:3128"), "{printed}");
        assert!(!printed.contains("s3cr") && !printed.contains("e@t"), "{printed}");
        assert!(text("http://10.0.0.1:3128").contains("proxy: http://10.0.0.1:3128"));
        let proxy = Some("http://user:s3cret@10.0.0.1".to_owned());
        let logged = format!("{:?}", Carriers { proxy, ..Carriers::default() });
        assert!(logged.contains("user:hidden@") && !logged.contains("s3cret"), "{logged}");
        // It can be read back, as all that is printed.
        assert!(serde_yaml_ng::from_str::<Carriers>(&printed).is_ok());
    }

    #[test]
    fn a_proxy_is_read_and_a_bad_one_refused() {
        let carriers: Carriers =
            serde_yaml_ng::from_str("{proxy: 'http://u:p@10.0.0.1:3128', noProxy: [192.0.2.0/24]}").unwrap();
        let settings = carriers.settings();
        assert_eq!(settings.proxy.unwrap().to_string(), "10.0.0.1:3128");
        assert!(settings.dial);
        let error = serde_yaml_ng::from_str::<Carriers>("{proxy: 'socks5://10.0.0.1'}").unwrap_err();
        assert!(error.to_string().contains("http://"), "{error}");
    }
}
