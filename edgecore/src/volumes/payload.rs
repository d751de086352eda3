//! What the files of configMap, secret, downwardAPI and projected volumes are to hold.

use std::collections::BTreeMap;

use edgeloom_api::kind;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

use super::atomic::{File, Files};
use crate::edged::cluster::Cluster;
use crate::edged::fields::{self, Facts};
use crate::edged::objects::{self, Source};
use crate::edged::pod::Pod;

const DEFAULT_MODE: i32 = 0o644;

/// A service-account token that a volume wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenWish {
    /// Where it is written.
    pub path: String,
    /// Whom it is for; empty for the API server.
    pub audience: String,
    /// Seconds that it should be valid.
    pub seconds: i64,
    /// Permission bits.
    pub mode: u32,
}

/// The files of a volume, and the tokens to be added to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payload {
    /// Files whose content is known here.
    pub files: Files,
    /// Tokens, which have to be asked for.
    pub tokens: Vec<TokenWish>,
}

/// The payload of a volume; `None` where the volume is of another type. Errors are in kubelet's words.
pub fn payload(
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
    cluster: &dyn Cluster,
) -> Result<Option<Payload>, String> {
    let mut payload = Payload::default();
    let namespace = pod.id.namespace.as_str();
    let mut add = |source, name: &str, items, mode: Option<i32>, optional: Option<bool>| {
        let wanted = Wanted { source, namespace, name, items, mode, optional: optional.unwrap_or(false) };
        wanted.add_to(&mut payload.files, cluster)
    };
    if let Some(v) = &volume.config_map {
        add(Source::ConfigMap, &v.name, v.items.as_deref(), v.default_mode, v.optional)?;
    } else if let Some(v) = &volume.secret {
        let name = v.secret_name.as_deref().unwrap_or_default();
        add(Source::Secret, name, v.items.as_deref(), v.default_mode, v.optional)?;
    } else if let Some(v) = &volume.downward_api {
        downward(pod, v.items.as_deref(), v.default_mode, facts, &mut payload.files)?;
    } else if let Some(v) = &volume.projected {
        for projection in v.sources.iter().flatten() {
            project(pod, projection, v.default_mode, facts, cluster, &mut payload)?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

fn project(
    pod: &Pod,
    source: &VolumeProjection,
    mode: Option<i32>,
    facts: &Facts,
    cluster: &dyn Cluster,
    payload: &mut Payload,
) -> Result<(), String> {
    let namespace = pod.id.namespace.as_str();
    let mut add = |source, name: &str, items, optional: Option<bool>| {
        let wanted = Wanted { source, namespace, name, items, mode, optional: optional.unwrap_or(false) };
        wanted.add_to(&mut payload.files, cluster)
    };
    if let Some(s) = &source.config_map {
        add(Source::ConfigMap, &s.name, s.items.as_deref(), s.optional)?;
    }
    if let Some(s) = &source.secret {
        add(Source::Secret, &s.name, s.items.as_deref(), s.optional)?;
    }
    if let Some(s) = &source.downward_api {
        downward(pod, s.items.as_deref(), mode, facts, &mut payload.files)?;
    }
    if let Some(s) = &source.service_account_token {
        payload.tokens.push(TokenWish {
            path: s.path.clone(),
            audience: s.audience.clone().unwrap_or_default(),
            seconds: s.expiration_seconds.unwrap_or(3600).max(600),
            mode: bits(None, mode),
        });
    }
    Ok(())
}

struct Wanted<'a> {
    source: Source,
    namespace: &'a str,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    mode: Option<i32>,
    optional: bool,
}

impl Wanted<'_> {
    fn add_to(&self, files: &mut Files, cluster: &dyn Cluster) -> Result<(), String> {
        let data = objects::data(cluster, self.source, self.namespace, self.name, self.optional)?;
        let data = data.unwrap_or_default();
        match self.items {
            None | Some([]) => self.add_all(files, data),
            Some(items) => self.add_items(files, items, &data)?,
        }
        Ok(())
    }

    fn add_all(&self, files: &mut Files, data: BTreeMap<String, Vec<u8>>) {
        for (key, content) in data {
            files.insert(key, File { content, mode: bits(None, self.mode), uid: None });
        }
    }

    fn add_items(
        &self,
        files: &mut Files,
        items: &[KeyToPath],
        data: &BTreeMap<String, Vec<u8>>,
    ) -> Result<(), String> {
        for item in items {
            let Some(content) = data.get(&item.key) else {
                if self.optional {
                    continue;
                }
                let (namespace, name) = (self.namespace, self.name);
                let kind = self.source.to_string().to_lowercase();
                return Err(format!(
                    "{kind} {namespace}/{name} references non-existent {kind} key: {}",
                    item.key
                ));
            };
            let file = File { content: content.clone(), mode: bits(item.mode, self.mode), uid: None };
            files.insert(item.path.clone(), file);
        }
        Ok(())
    }
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    facts: &Facts,
    files: &mut Files,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let content = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(pod, &selector.field_path, facts)?,
            (None, Some(selector)) => fields::resource(pod, "", selector, facts)?,
            (None, None) => return Err(format!("downwardAPI item {} has no source", item.path)),
        };
        let file = File { content: content.into_bytes(), mode: bits(item.mode, mode), uid: None };
        files.insert(item.path.clone(), file);
    }
    Ok(())
}

fn bits(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

/// The ConfigMaps and Secrets that a pod refers to, so that their changes reach it.
pub fn references(pod: &Pod) -> Vec<(&'static kind::Kind, String)> {
    let mut all = Vec::new();
    let mut add = |source: Source, name: Option<&String>| {
        let kind = match source {
            Source::ConfigMap => &kind::CONFIG_MAP,
            Source::Secret => &kind::SECRET,
        };
        all.extend(name.map(|name| (kind, name.clone())));
    };
    for volume in pod.spec.volumes.iter().flatten() {
        add(Source::ConfigMap, volume.config_map.as_ref().map(|v| &v.name));
        add(Source::Secret, volume.secret.as_ref().and_then(|v| v.secret_name.as_ref()));
        for source in volume.projected.iter().flat_map(|v| v.sources.iter().flatten()) {
            add(Source::ConfigMap, source.config_map.as_ref().map(|s| &s.name));
            add(Source::Secret, source.secret.as_ref().map(|s| &s.name));
        }
    }
    for (_, container) in pod.containers() {
        for from in container.env_from.iter().flatten() {
            add(Source::ConfigMap, from.config_map_ref.as_ref().map(|r| &r.name));
            add(Source::Secret, from.secret_ref.as_ref().map(|r| &r.name));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            add(Source::ConfigMap, from.config_map_key_ref.as_ref().map(|r| &r.name));
            add(Source::Secret, from.secret_key_ref.as_ref().map(|r| &r.name));
        }
    }
    all
}
