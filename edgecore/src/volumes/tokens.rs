//! Service-account tokens of projected volumes: asked for, renewed before they end, and kept on disk so that
//! a pod can be mounted again with the cloud away.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::payload::TokenWish;
use crate::edged::cluster::Cluster;
use crate::edged::pod::Pod;

/// A token and when it must be replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// The token.
    pub token: String,
    /// Unix seconds at which it was asked for.
    pub issued: i64,
    /// Unix seconds at which it ends.
    pub expires: i64,
}

impl Token {
    /// Unix seconds from which a new one is asked for: 80 % of its life, a day at most, as kubelet does.
    pub fn renew_at(&self) -> i64 {
        let life = (self.expires - self.issued).max(0);
        self.issued + (life / 5 * 4).min(24 * 3600)
    }
}

/// The token for `wish`: the kept one while it is fresh, else a new one; an old one is better than none.
pub async fn token(
    pod: &Pod,
    wish: &TokenWish,
    directory: &Path,
    cluster: &dyn Cluster,
    now: OffsetDateTime,
) -> Result<Token, String> {
    let file = file_of(directory, wish);
    let kept = load(&file);
    let seconds = now.unix_timestamp();
    if let Some(kept) = kept.as_ref().filter(|kept| kept.renew_at() > seconds && kept.issued <= seconds + 60)
    {
        return Ok(kept.clone());
    }
    match request(pod, wish, cluster, now).await {
        Ok(token) => {
            save(&file, &token).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(token)
        }
        Err(error) => match kept {
            Some(kept) => {
                tracing::warn!(pod = %pod.id, %error, "service-account token not renewed, the old one stays");
                Ok(kept)
            }
            None => Err(format!("failed to fetch token: {error}")),
        },
    }
}

async fn request(
    pod: &Pod,
    wish: &TokenWish,
    cluster: &dyn Cluster,
    now: OffsetDateTime,
) -> Result<Token, String> {
    let audiences: Vec<&str> = Some(wish.audience.as_str()).filter(|a| !a.is_empty()).into_iter().collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": wish.seconds,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": pod.id.name, "uid": pod.id.uid,
            },
        },
    });
    let account = pod.spec.service_account_name.as_deref().unwrap_or("default");
    let answer =
        cluster.request_token(&pod.id.namespace, account, body).await.map_err(|error| error.to_string())?;
    let token = answer["status"]["token"].as_str().ok_or("the answer holds no token")?;
    let expires = answer["status"]["expirationTimestamp"]
        .as_str()
        .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
        .map_or_else(|| now.unix_timestamp() + wish.seconds, OffsetDateTime::unix_timestamp);
    Ok(Token { token: token.to_owned(), issued: now.unix_timestamp(), expires })
}

fn file_of(directory: &Path, wish: &TokenWish) -> PathBuf {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
    };
    directory.join(format!("{}.{}.{}.json", plain(&wish.path), plain(&wish.audience), wish.seconds))
}

fn load(file: &Path) -> Option<Token> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn save(file: &Path, token: &Token) -> io::Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    let temporary = file.with_extension("new");
    let mut handle =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    handle.write_all(&serde_json::to_vec(token)?)?;
    handle.sync_all()?;
    fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_four_fifths_or_after_a_day() {
        for (life, expected) in [(3600, 2880), (600, 480), (30 * 86_400, 86_400)] {
            let token = Token { token: String::new(), issued: 1000, expires: 1000 + life };
            assert_eq!(token.renew_at(), 1000 + expected, "{life}");
        }
    }

    #[test]
    fn kept_on_disk_for_root_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let wish =
            TokenWish { path: "a/token".into(), audience: "https://x".into(), seconds: 600, mode: 0o644 };
        let file = file_of(&root.path().join("tokens"), &wish);
        let token = Token { token: "t".into(), issued: 1, expires: 2 };
        save(&file, &token).unwrap();
        assert_eq!(load(&file), Some(token));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "torn").unwrap();
        assert_eq!(load(&file), None);
    }
}
