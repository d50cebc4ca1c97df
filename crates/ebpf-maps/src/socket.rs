//! What a socket remembers of the Services that it was brought to: the values of the map `sockets`.
//!
//! Programs write it and user space reads it. The twins are `struct translation` and `struct socket_state` in `service.h`;
//! a change there is one of the layouts of Services, see [`crate::SERVICE_LAYOUT_VERSION`].

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::service::ServiceKey;

/// How many translations a socket remembers.
pub const TRANSLATIONS: usize = 4;
/// Length of a value in bytes.
pub const SOCKET_STATE_BYTES: usize = TRANSLATIONS * TRANSLATION_BYTES + 4;

const TRANSLATION_BYTES: usize = 44;

/// What a socket sends to in the place of what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// What it asked for: address and port; the protocol is the socket's.
    pub frontend: SocketAddr,
    /// What it sends to.
    pub backend: SocketAddr,
    /// Number of the service then.
    pub service: u32,
    /// Number of the endpoint within the service then.
    pub endpoint: u32,
}

impl Translation {
    /// The key of what it asked for.
    #[must_use]
    pub const fn key(&self, protocol: u8) -> ServiceKey {
        ServiceKey::new(self.frontend.ip(), self.frontend.port(), protocol)
    }

    /// Reads one; none where none is remembered.
    fn read(bytes: &[u8]) -> Option<Self> {
        let translation = Self {
            frontend: SocketAddr::new(address(bytes, 0)?, port(bytes, 32)?),
            backend: SocketAddr::new(address(bytes, 16)?, port(bytes, 34)?),
            service: number(bytes, 36)?,
            endpoint: number(bytes, 40)?,
        };
        (translation.backend.port() != 0).then_some(translation)
    }
}

/// Reads what is remembered; nothing in a value of another length.
pub fn translations(value: &[u8]) -> impl Iterator<Item = Translation> {
    let whole = if value.len() == SOCKET_STATE_BYTES { value } else { &[] };
    whole.chunks_exact(TRANSLATION_BYTES).filter_map(Translation::read)
}

fn address(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).to_canonical())
}

fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address_bytes, service::UDP};

    fn bytes(translation: &Translation) -> Vec<u8> {
        let Translation { frontend, backend, service, endpoint } = translation;
        [
            &address_bytes(frontend.ip())[..],
            &address_bytes(backend.ip()),
            &frontend.port().to_be_bytes(),
            &backend.port().to_be_bytes(),
            &service.to_ne_bytes(),
            &endpoint.to_ne_bytes(),
        ]
        .concat()
    }

    /// The same figure stands as `_Static_assert` in `service.h`.
    #[test]
    fn the_length_is_that_of_the_programs() {
        assert_eq!(SOCKET_STATE_BYTES, 180);
    }

    #[test]
    fn what_is_remembered_is_read_and_unused_places_are_not() {
        let one = Translation {
            frontend: "10.96.0.10:53".parse().unwrap(),
            backend: "10.1.0.4:5353".parse().unwrap(),
            service: 7,
            endpoint: 3,
        };
        let two = Translation { backend: "[fd00::4]:5353".parse().unwrap(), endpoint: 4, ..one };
        let mut value = [bytes(&one), vec![0; TRANSLATION_BYTES], bytes(&two)].concat();
        value.resize(SOCKET_STATE_BYTES, 0);
        assert_eq!(translations(&value).collect::<Vec<_>>(), [one, two]);
        assert_eq!(one.key(UDP), ServiceKey::new([10, 96, 0, 10].into(), 53, UDP));
        assert_eq!(translations(&value[4..]).count(), 0, "of another layout");
    }
}
