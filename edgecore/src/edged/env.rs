//! A container's environment, and `$(VAR)` in it and in its command.

use edgeloom_api::kind;
use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVarSource};
use serde_json::Value;

use super::cluster::Cluster;
use super::fields::{self, Facts};
use super::objects::{self, Source};
use super::pod::Pod;

/// Variables in order, a later one of a name in the place of an earlier one.
#[derive(Debug, Default)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Sets a variable.
    pub fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }

    /// Replaces `$(NAME)` by the value of the variable, `$$` by `$`; what is not known is left as it is.
    pub fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|body| body.split_once(')')) {
                match self.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        out
    }
}

/// The environment of a container. Errors are in kubelet's words.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    cluster: &dyn Cluster,
) -> Result<Environment, String> {
    let mut environment = Environment::default();
    let services = cluster.list(&kind::SERVICE).map_err(|error| error.to_string())?;
    let links = pod.spec.enable_service_links.unwrap_or(true);
    for (name, value) in
        services.iter().flat_map(|service| service_variables(service, &pod.id.namespace, links))
    {
        environment.set(name, value);
    }
    for source in container.env_from.iter().flatten() {
        add_all(&mut environment, pod, source, cluster)?;
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match from_source(pod, container, source, facts, cluster)? {
                Some(value) => value,
                None => continue,
            },
            (value, None) => environment.expand(value.as_deref().unwrap_or_default()),
        };
        environment.set(variable.name.clone(), value);
    }
    Ok(environment)
}

fn add_all(
    environment: &mut Environment,
    pod: &Pod,
    from: &EnvFromSource,
    cluster: &dyn Cluster,
) -> Result<(), String> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    let config_map = from.config_map_ref.as_ref().map(|r| (Source::ConfigMap, &r.name, r.optional));
    let secret = from.secret_ref.as_ref().map(|r| (Source::Secret, &r.name, r.optional));
    let Some((source, name, optional)) = config_map.or(secret) else { return Ok(()) };
    let Some(data) = objects::data(cluster, source, &pod.id.namespace, name, optional.unwrap_or(false))?
    else {
        return Ok(());
    };
    for (key, value) in data {
        environment.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned());
    }
    Ok(())
}

/// `None` where an optional source is absent.
fn from_source(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    facts: &Facts,
    cluster: &dyn Cluster,
) -> Result<Option<String>, String> {
    if let Some(selector) = &from.field_ref {
        return fields::field(pod, &selector.field_path, facts).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return fields::resource(pod, &container.name, selector, facts).map(Some);
    }
    let config_map =
        from.config_map_key_ref.as_ref().map(|r| (Source::ConfigMap, &r.name, &r.key, r.optional));
    let secret = from.secret_key_ref.as_ref().map(|r| (Source::Secret, &r.name, &r.key, r.optional));
    let Some((source, name, key, optional)) = config_map.or(secret) else { return Ok(None) };
    let optional = optional.unwrap_or(false);
    let Some(mut data) = objects::data(cluster, source, &pod.id.namespace, name, optional)? else {
        return Ok(None);
    };
    match data.remove(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {source} {}/{name}", pod.id.namespace)),
    }
}

/// The variables by which a pod finds a Service without DNS: those of its own namespace, and
/// `kubernetes`, which every client in a pod relies on.
fn service_variables(service: &Value, namespace: &str, links: bool) -> Vec<(String, String)> {
    let meta = &service["metadata"];
    let (of, name) = (meta["namespace"].as_str(), meta["name"].as_str().unwrap_or_default());
    let kubernetes = of == Some("default") && name == "kubernetes";
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    if !(kubernetes || links && of == Some(namespace)) || matches!(address, "" | "None") {
        return Vec::new();
    }
    let name = variable_name(name);
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let mut all = vec![
        (format!("{name}_SERVICE_HOST"), address.to_owned()),
        (format!("{name}_SERVICE_PORT"), first["port"].to_string()),
    ];
    for port in ports {
        if let Some(label) = port["name"].as_str().filter(|label| !label.is_empty()) {
            all.push((format!("{name}_SERVICE_PORT_{}", variable_name(label)), port["port"].to_string()));
        }
    }
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port["port"]);
        if index == 0 {
            all.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port["port"]);
        all.push((prefix.clone(), url));
        all.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
        all.push((format!("{prefix}_PORT"), port["port"].to_string()));
        all.push((format!("{prefix}_ADDR"), address.to_owned()));
    }
    all
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let mut environment = Environment::default();
        environment.set("A".into(), "1".into());
        environment.set("B".into(), "$(A)".into());
        environment.set("A".into(), "2".into());
        for (text, expected) in [
            ("x $(A) y", "x 2 y"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$2"),
            ("$(absent)", "$(absent)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("", ""),
            ("ä$(A)ö", "ä2ö"),
        ] {
            assert_eq!(environment.expand(text), expected, "{text}");
        }
    }

    #[test]
    fn variables_of_services() {
        let service = json!({
            "metadata": {"namespace": "shop", "name": "my-db"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
        });
        let all = service_variables(&service, "shop", true);
        let value = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("MY_DB_SERVICE_HOST"), Some("10.96.0.9"));
        assert_eq!(value("MY_DB_SERVICE_PORT_SQL"), Some("5432"));
        assert_eq!(value("MY_DB_PORT_5432_TCP_ADDR"), Some("10.96.0.9"));
        assert_eq!(value("MY_DB_PORT"), Some("tcp://10.96.0.9:5432"));
        assert!(service_variables(&service, "shop", false).is_empty());
        assert!(service_variables(&service, "other", true).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn text_without_a_dollar_is_left_alone(text in "[^$]*") {
            proptest::prop_assert_eq!(Environment::default().expand(&text), text);
        }
    }
}
