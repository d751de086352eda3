//! The wire format: numbered fields, each a varint, a fixed-size number or a length and bytes.

use super::ProtobufError;

/// The content of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Data<'a> {
    pub(super) fn number(self) -> Result<u64, ProtobufError> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(ProtobufError::Malformed),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(ProtobufError::Malformed),
        }
    }

    pub(super) fn text(self) -> Result<String, ProtobufError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| ProtobufError::Malformed)
    }
}

/// Every field of a message, in order.
pub(super) fn fields(mut bytes: &[u8]) -> Result<Vec<(u32, Data<'_>)>, ProtobufError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).map_err(|_| ProtobufError::Malformed)?;
        let data = match key & 7 {
            0 => Data::Number(varint(&mut bytes)?),
            1 => Data::Number(u64::from_le_bytes(fixed(&mut bytes)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| ProtobufError::Malformed)?;
                Data::Bytes(take(&mut bytes, length)?)
            }
            5 => Data::Number(u64::from(u32::from_le_bytes(fixed(&mut bytes)?))),
            _ => return Err(ProtobufError::Malformed),
        };
        found.push((number, data));
    }
    Ok(found)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], ProtobufError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(ProtobufError::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], ProtobufError> {
    take(bytes, N)?.try_into().map_err(|_| ProtobufError::Malformed)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = fixed::<1>(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(ProtobufError::Malformed)
}
