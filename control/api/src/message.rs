//! Messages between nodes on `hub/1` and `join/1`: how they become bytes, pure and bounded.
//!
//! A message is one byte that names its type and a CBOR map. A type or a field that this release does not know
//! is passed over, so that two releases understand each other as far as the older one goes. On a stream a
//! message is preceded by its length (4 bytes, big endian).

/// Largest message in bytes: above the largest object that Kubernetes stores (1.5 MiB in etcd).
pub const MAX_MESSAGE: usize = 4 << 20;

/// Why bytes are no message, or a message has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// There is not even a type.
    #[error("the message is empty")]
    Empty,
    /// Larger than [`MAX_MESSAGE`].
    #[error("the message has {0} bytes, {MAX_MESSAGE} are allowed")]
    TooLarge(usize),
    /// The body is not what its type demands.
    #[error("message of type {message}: {reason}")]
    Body {
        /// Number of the type.
        message: u8,
        /// What the decoder said.
        reason: String,
    },
}

/// Declares an enum of messages, each a struct with a number on the wire, with `encode` and `decode`.
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $number:literal = $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($variant),)*
            /// A type that only a newer release knows; to be passed over.
            Unknown(u8),
        }

        impl $name {
            /// The message as bytes, without the length in front.
            pub fn encode(&self) -> Result<Vec<u8>, crate::message::MessageError> {
                match self {
                    $(Self::$variant(body) => crate::message::encode($number, body),)*
                    Self::Unknown(number) => Ok(vec![*number]),
                }
            }

            /// Reads a message from all of `bytes`.
            pub fn decode(bytes: &[u8]) -> Result<Self, crate::message::MessageError> {
                let (number, body) = crate::message::split(bytes)?;
                Ok(match number {
                    $($number => Self::$variant(crate::message::decode(number, body)?),)*
                    other => Self::Unknown(other),
                })
            }
        }

        $(impl From<$variant> for $name {
            fn from(body: $variant) -> Self {
                Self::$variant(body)
            }
        })*
    };
}
pub(crate) use messages;

pub(crate) fn encode<T: serde::Serialize>(number: u8, body: &T) -> Result<Vec<u8>, MessageError> {
    let mut bytes = vec![number];
    ciborium::into_writer(body, &mut bytes)
        .map_err(|error| MessageError::Body { message: number, reason: error.to_string() })?;
    if bytes.len() > MAX_MESSAGE {
        return Err(MessageError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

pub(crate) fn split(bytes: &[u8]) -> Result<(u8, &[u8]), MessageError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(MessageError::TooLarge(bytes.len()));
    }
    bytes.split_first().map(|(number, body)| (*number, body)).ok_or(MessageError::Empty)
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(number: u8, body: &[u8]) -> Result<T, MessageError> {
    let error = |reason| MessageError::Body { message: number, reason };
    let mut rest = body;
    let decoded = ciborium::from_reader(&mut rest).map_err(|failure| error(failure.to_string()))?;
    if !rest.is_empty() {
        return Err(error(format!("{} bytes behind its end", rest.len())));
    }
    Ok(decoded)
}
