//! A cursor over a message that never reads past its end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::WireError;

pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Short(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    pub(super) fn port(&mut self) -> Result<u16, WireError> {
        match self.u16("the port")? {
            0 => Err(WireError::Unknown("the port")),
            port => Ok(port),
        }
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, WireError> {
        let length = self.u8(what)?;
        std::str::from_utf8(self.take(length.into(), what)?).map_err(|_| WireError::Name(what))
    }

    pub(super) fn name(&mut self, what: &'static str) -> Result<&'a str, WireError> {
        Some(self.text(what)?).filter(|text| !text.is_empty()).ok_or(WireError::Name(what))
    }

    pub(super) fn address(&mut self) -> Result<Option<IpAddr>, WireError> {
        const WHAT: &str = "the endpoint's address";
        match self.u8(WHAT)? {
            0 => Ok(None),
            4 => Ok(Some(Ipv4Addr::from(self.array::<4>(WHAT)?).into())),
            6 => Ok(Some(Ipv6Addr::from(self.array::<16>(WHAT)?).into())),
            _ => Err(WireError::Unknown(WHAT)),
        }
    }
}

/// Appends a text of at most 255 bytes, which every Kubernetes name is; a longer one is cut, and then
/// means nothing to the other side.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let cut =
        (0..=text.len().min(usize::from(u8::MAX))).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    bytes.push(u8::try_from(cut).expect("cut to 255 bytes above"));
    bytes.extend_from_slice(&text.as_bytes()[..cut]);
}
