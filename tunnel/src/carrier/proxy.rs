//! An HTTP proxy on the way out: CONNECT (RFC 9110, section 9.3.6), with basic authentication (RFC 7617).

use std::fmt;
use std::io;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// A proxy that leads outside.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// Value of the `Proxy-Authorization` header.
    authorization: Option<String>,
    except: Vec<Except>,
}

/// What is reached without the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Except {
    All,
    Net(IpNet),
    Address(SocketAddr),
}

/// Why a text names no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no proxy: {reason}; expected http://[USER:PASSWORD@]HOST[:PORT]")]
pub struct ProxyError {
    text: String,
    reason: &'static str,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self}{})", if self.authorization.is_some() { ", with a password" } else { "" })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Proxy {
    /// The proxy at `url`, of the form `http://[USER:PASSWORD@]HOST[:PORT]`, for all but what `except` lists: addresses,
    /// addresses with a port, ranges or `*`, with commas between. Names in it match nothing, since relays are known by
    /// address.
    ///
    /// # Errors
    /// If the text has another form. It shows no password.
    pub fn parse(url: &str, except: &str) -> Result<Self, ProxyError> {
        let (user, place) = match url.rsplit_once('@') {
            Some((user, place)) => (user.split_once("://").map_or(Some(user), |(_, user)| Some(user)), place),
            None => (None, url.split_once("://").map_or(url, |(_, place)| place)),
        };
        let error = |reason| ProxyError { text: place.to_owned(), reason };
        if url.split_once("://").is_some_and(|(scheme, _)| !scheme.eq_ignore_ascii_case("http")) {
            return Err(error("proxies are spoken to by http:// only"));
        }
        let place = place.trim_end_matches('/');
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| error("the port is no number"))?)
            }
            _ => (place, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(error("the host is missing"));
        }
        let user = user.map(|user| decode(user).ok_or_else(|| error("the password is not percent-encoded")));
        let authorization = user.transpose()?.map(|user| format!("Basic {}", STANDARD.encode(user)));
        let except = except.split(',').filter_map(|entry| Except::parse(entry.trim())).collect();
        Ok(Self { host: host.to_owned(), port, authorization, except })
    }

    /// The proxy that `HTTPS_PROXY` names, for all but what `NO_PROXY` lists; their names in small letters count too.
    ///
    /// # Errors
    /// If the variable is set to something else.
    pub fn from_environment() -> Result<Option<Self>, ProxyError> {
        let read = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase()));
            value.ok().filter(|value| !value.trim().is_empty())
        };
        let Some(url) = read("HTTPS_PROXY") else { return Ok(None) };
        Self::parse(url.trim(), &read("NO_PROXY").unwrap_or_default()).map(Some)
    }

    /// Whether `target` is reached by this proxy.
    pub(crate) fn leads_to(&self, target: &SocketAddr) -> bool {
        let named = |except: &Except| match except {
            Except::All => true,
            Except::Net(net) => net.contains(&target.ip()),
            Except::Address(address) => address == target,
        };
        !self.except.iter().any(named)
    }

    /// A connection to `target` through the proxy.
    pub(crate) async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        super::link::tune(&stream);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        match read_answer(&mut stream).await? {
            Some(200..=299) => Ok(stream),
            Some(407) => Err(io::Error::other(format!("the proxy {self} wants another user or password"))),
            Some(code) => Err(io::Error::other(format!("the proxy {self} refused with status {code}"))),
            None => Err(io::Error::other(format!("{self} does not answer as an HTTP proxy"))),
        }
    }
}

impl Except {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Except::All);
        }
        let net = entry.parse::<IpNet>().ok().map(Except::Net);
        let address = || entry.parse::<std::net::IpAddr>().ok().map(|ip| Except::Net(ip.into()));
        net.or_else(address).or_else(|| entry.parse().ok().map(Except::Address))
    }
}

/// Takes the percent-encoding (RFC 3986, section 2.1) off.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    Some(out)
}

/// Reads a proxy's answer to CONNECT to the end of its head, and not a byte more: what follows is the other end's.
/// Returns its status; `None` if it is no answer in HTTP/1.
///
/// # Errors
/// If the stream fails or ends within the head, or the head is longer than 8 KiB.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u16>> {
    head(stream).await.map(|head| status(&head))
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn proxies_are_read_as_people_write_them() {
        let table = [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("proxy.example:3128/", "proxy.example:3128", None),
            ("http://10.0.0.1", "10.0.0.1:80", None),
            ("HTTP://[2001:db8::1]:8080", "[2001:db8::1]:8080", None),
            ("http://user:p%40ss@proxy:1", "proxy:1", Some("Basic dXNlcjpwQHNz")),
        ];
        for (text, place, authorization) in table {
            let proxy = Proxy::parse(text, "").unwrap();
            assert_eq!(proxy.to_string(), place, "{text}");
            assert_eq!(proxy.authorization.as_deref(), authorization, "{text}");
        }
        for bad in ["", "https://proxy:1", "http://proxy:x", "http://u:%4@proxy:1", "socks5://p", "http:///x"]
        {
            let error = Proxy::parse(bad, "").unwrap_err();
            assert!(!error.to_string().contains("%4"), "the password is not shown");
        }
        assert!(!format!("{:?}", Proxy::parse("http://u:secret@p", "").unwrap()).contains("secret"));
    }

    #[test]
    fn exceptions_are_addresses_ranges_or_all() {
        let leads = |except: &str, target: &str| {
            Proxy::parse("http://p", except).unwrap().leads_to(&target.parse().unwrap())
        };
        assert!(leads("", "192.0.2.1:443"));
        assert!(!leads("*", "192.0.2.1:443"));
        assert!(!leads("localhost, 192.0.2.0/24", "192.0.2.1:443"));
        assert!(!leads("192.0.2.1", "192.0.2.1:443"));
        assert!(!leads("192.0.2.1:443", "192.0.2.1:443"));
        assert!(leads("192.0.2.1:80,.example.com", "192.0.2.1:443"));
        assert!(!leads("2001:db8::/32", "[2001:db8::1]:443"));
    }

    async fn answered(answer: &'static str) -> (String, io::Result<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::parse(&format!("http://u:p@{}", listener.local_addr().unwrap()), "").unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = head(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let connected = proxy.connect("192.0.2.1:443".parse().unwrap()).await;
        (serving.await.unwrap(), connected)
    }

    #[tokio::test]
    async fn a_connection_through_a_proxy_begins_behind_its_answer() {
        let (request, connected) = answered("HTTP/1.1 200 OK\r\nVia: x\r\n\r\nfirst").await;
        assert!(
            request.starts_with("CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n"),
            "{request}"
        );
        assert!(request.contains("Proxy-Authorization: Basic dTpw\r\n"), "{request}");
        let mut first = String::new();
        connected.unwrap().read_to_string(&mut first).await.unwrap();
        assert_eq!(first, "first");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_named() {
        for (answer, words) in [
            ("HTTP/1.1 407 No\r\n\r\n", "password"),
            ("HTTP/1.0 403 Forbidden\r\n\r\n", "403"),
            ("SSH-2.0-x\r\n\r\n", "HTTP proxy"),
        ] {
            let (_, connected) = answered(answer).await;
            let error = connected.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
