//! Query parameters, and percent-encoding of URLs.

/// The decoded parameters of a URL, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`; what is no valid encoding is taken as it stands.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or("").split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter; an empty one counts as none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(one, _)| one == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Every value of a parameter.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_str()).collect()
    }

    /// A switch: `true`, `1`, or the bare name.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(one, value)| one == name && !matches!(value.as_str(), "false" | "0"))
    }

    /// The parameters whose names are listed, encoded again.
    pub(crate) fn only(&self, names: &[&str]) -> String {
        let kept = self.0.iter().filter(|(name, _)| names.contains(&name.as_str()));
        kept.map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect::<Vec<_>>().join("&")
    }
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes everything but what is never special in a URL.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse(Some("a=1&b=x%3Dy+z&command=sh&command=-c&watch&e="));
        assert_eq!(query.get("b"), Some("x=y z"));
        assert_eq!(query.all("command"), ["sh", "-c"]);
        assert!(query.flag("watch") && !query.flag("a2") && query.get("e").is_none());
        assert_eq!(query.only(&["b"]), "b=x%3Dy%20z");
    }

    #[test]
    fn bad_encodings_stay() {
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert_eq!(decode("a%2Fb"), "a/b");
    }
}
