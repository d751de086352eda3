//! What comes over TCP, and on streams of messages: records of carriers, WebSockets and their upgrades, the answers of
//! proxies, messages behind their length.

use anyhow::Result;
use edgeloom_tunnel::carrier::record::{self, MAX_FRAME, Records};
use edgeloom_tunnel::carrier::websocket::{self, ByteStream, Purpose};
use edgeloom_tunnel::carrier::{ReadWrite, read_answer, read_frame};
use edgeloom_tunnel::frames;
use tokio::io::AsyncReadExt as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::memory_stream::{MemoryStream, at_once};

type Inputs = Result<Vec<Vec<u8>>>;

/// Longest message that is allowed: far above what the hub takes, so that taking memory for what is announced shows.
const ALLOWED: usize = 1 << 30;
/// Most bytes of a proxy's answer that are read.
const MAX_HEAD: usize = 8 << 10;
const HEAD_END: &[u8] = b"\r\n\r\n";
/// A request for each purpose.
const REQUESTS: [&str; 2] = ["/carrier/1", "/join/1"];
/// Stands for what a response has to say to the request's key, in as many bytes.
const ACCEPT: &[u8; 28] = b"############################";
const KEY: &[u8] = b"Sec-WebSocket-Key: ";
const KEY_LENGTH: usize = 24;

/// Messages of the hub and of joining, each behind its length.
pub(super) fn messages() -> Inputs {
    let stream = |lengths: &[usize]| {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.extend_from_slice(&u32::try_from(*length)?.to_be_bytes());
            bytes.resize(bytes.len() + length, 0xa1);
        }
        anyhow::Ok(bytes)
    };
    Ok(vec![stream(&[40])?, stream(&[300, 0, 7])?])
}

pub(super) fn message(input: &[u8]) -> bool {
    let (mut rest, mut again, mut count) = (input, Vec::new(), 0);
    let whole = loop {
        match at_once(frames::read(&mut rest, ALLOWED)) {
            Ok(Some(message)) => {
                at_once(frames::write(&mut again, &message)).expect("a vector takes all");
                count += 1;
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert!(input.starts_with(&again), "the messages are not those that were sent");
    assert!(!whole || again.len() == input.len(), "bytes were passed over");
    whole && count > 0
}

/// The first byte says how the stream is cut, the rest is the stream.
pub(super) fn records() -> Inputs {
    let stream = |cut: u8, lengths: &[usize]| {
        let mut bytes = vec![cut];
        for length in lengths {
            assert!(record::put(&mut bytes, &vec![0x40; *length]), "a record takes {length} bytes");
        }
        bytes
    };
    Ok(vec![
        stream(0, &[16, 60]),
        stream(9, &[1200, 1200, 300, 1]),
        stream(255, &[MAX_FRAME, MAX_FRAME, 80, 80, 80, 40]),
    ])
}

pub(super) fn record(input: &[u8]) -> bool {
    let Some((cut, stream)) = input.split_first() else { return false };
    let (cut, most) = (usize::from(*cut) * 8 + 1, usize::from(*cut) % 64 + 1);
    let (mut records, mut batch, mut again) = (Records::new(), Vec::new(), Vec::new());
    let mut good = true;
    'stream: for piece in stream.chunks(cut) {
        records.space()[..piece.len()].copy_from_slice(piece);
        records.filled(piece.len());
        loop {
            match records.batch(&mut batch, most) {
                Ok(Some(stride)) => {
                    assert!(batch.len() <= stride * most, "more frames than were wanted");
                    assert!(
                        batch.chunks(stride).all(|frame| record::put(&mut again, frame)),
                        "no such frame"
                    );
                }
                Ok(None) => break,
                Err(_) => {
                    good = false;
                    break 'stream;
                }
            }
        }
    }
    assert!(stream.starts_with(&again), "the frames are not those that were sent");
    let mut rest = &stream[again.len()..];
    assert!(at_once(read_frame(&mut rest)).is_err(), "a whole frame was held back");
    good && !again.is_empty()
}

pub(super) fn answers() -> Inputs {
    let answers = [
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 OK\r\nVia: 1.1 proxy\r\nDate: now\r\n\r\nfirst bytes of the other end",
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n",
        "HTTP/1.1 403\r\n\r\n",
    ];
    Ok(answers.map(|answer| answer.as_bytes().to_vec()).into())
}

pub(super) fn answer(input: &[u8]) -> bool {
    let mut rest = input;
    let status = at_once(read_answer(&mut rest));
    let read = &input[..input.len() - rest.len()];
    assert!(read.len() <= MAX_HEAD, "{} bytes of a head were read", read.len());
    let Ok(status) = status else { return false };
    let end = input.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END);
    assert_eq!(end.map(|end| end + HEAD_END.len()), Some(read.len()), "not the head was read, or more");
    status.is_some()
}

fn upgrade_request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 192.0.2.1:443\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

fn upgrade_response(more: &str) -> Vec<u8> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    [head.as_bytes(), more.as_bytes(), b"Sec-WebSocket-Accept: ", ACCEPT, HEAD_END].concat()
}

pub(super) fn requests() -> Inputs {
    Ok(REQUESTS.map(upgrade_request).into())
}

pub(super) fn request(input: &[u8]) -> bool {
    let mut stream = MemoryStream::new(input, &[]);
    let served = at_once(websocket::server(&mut stream)).map(|(_, purpose)| purpose);
    let status = stream.written.strip_prefix(b"HTTP/1.1 ");
    assert!(status.is_some() || stream.written.is_empty(), "what was said is no answer");
    let Ok(purpose) = served else { return false };
    let path = REQUESTS[usize::from(purpose == Purpose::Join)].as_bytes();
    assert!(input.windows(path.len()).any(|bytes| bytes == path), "nobody asked for it");
    assert!(status.is_some_and(|status| status.starts_with(b"101 ")), "an upgrade without a word");
    true
}

pub(super) fn responses() -> Inputs {
    let first = web(0x82, &[7; 40], false);
    Ok(vec![
        upgrade_response(""),
        upgrade_response("Date: now\r\nVia: 1.1 proxy\r\n"),
        [upgrade_response(""), first].concat(),
    ])
}

/// Puts in what the request's key asks for.
fn accept(response: &mut [u8], request: &[u8]) {
    let key = request.windows(KEY.len()).position(|bytes| bytes == KEY).map(|at| at + KEY.len());
    let key = key.and_then(|at| request.get(at..at + KEY_LENGTH));
    let place = response.windows(ACCEPT.len()).position(|bytes| bytes == ACCEPT);
    if let (Some(key), Some(place)) = (key, place) {
        response[place..place + ACCEPT.len()].copy_from_slice(derive_accept_key(key).as_bytes());
    }
}

pub(super) fn response(input: &[u8]) -> bool {
    let mut stream = MemoryStream::new(input, &[]).answering(accept);
    let upgraded = at_once(websocket::client(&mut stream, "192.0.2.1:443", Purpose::Carry));
    upgraded.is_ok()
}

/// A frame of a WebSocket (RFC 6455, section 5.2).
fn web(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length < 126 => frame.push(mask | length),
        (_, Ok(length)) => {
            frame.push(mask | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    let key = [1, 2, 3, 4];
    if masked {
        frame.extend_from_slice(&key);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    } else {
        frame.extend_from_slice(payload);
    }
    frame
}

/// The first byte says who receives: the relay or the node. Then a binary message, one in two pieces, a ping and a
/// close.
pub(super) fn web_frames() -> Inputs {
    let stream = |to_relay: bool, frames: &[(u8, &[u8])]| {
        let frames = frames.iter().flat_map(|(first, payload)| web(*first, payload, to_relay));
        [u8::from(to_relay)].into_iter().chain(frames).collect()
    };
    let close: (u8, &[u8]) = (0x88, &[3, 232]);
    let pieces = [(0x02, &[1; 30][..]), (0x89, b"ping"), (0x80, &[2; 500]), close];
    let end = [(0x82, &[3; 1200][..]), (0x81, b"text"), close];
    Ok([true, false].into_iter().flat_map(|to| [stream(to, &pieces), stream(to, &end)]).collect())
}

pub(super) fn web_frame(input: &[u8]) -> bool {
    let Some((to, frames)) = input.split_first() else { return false };
    let read = if to % 2 == 1 {
        let mut stream = MemoryStream::new(&upgrade_request(REQUESTS[0]), frames);
        let (socket, _) = at_once(websocket::server(&mut stream)).expect("it is a good request");
        drain(socket)
    } else {
        let mut stream = MemoryStream::new(&upgrade_response(""), frames).answering(accept);
        let upgrading = websocket::client(&mut stream, "192.0.2.1:443", Purpose::Carry);
        drain(at_once(upgrading).expect("it is a good response"))
    };
    assert!(read.is_none_or(|read| read <= frames.len()), "more came out than went in");
    read.is_some_and(|read| read > 0)
}

/// How many bytes come until the end; none if they do not end in order.
fn drain<S: ReadWrite>(mut socket: ByteStream<S>) -> Option<usize> {
    let (mut buffer, mut read) = ([0; 1500], 0);
    loop {
        match at_once(socket.read(&mut buffer)) {
            Ok(0) => return Some(read),
            Ok(count) => read += count,
            Err(_) => return None,
        }
    }
}
