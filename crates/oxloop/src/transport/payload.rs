//! What can be written: borrowed bytes, or bytes that are kept without a copy.

use super::gather::Data;
use crate::event_loop::owned::{Home, Owned};
use bytes::Bytes;
use std::borrow::Cow;

/// Data for [`Transport::write`](super::Transport::write): anything made of bytes.
///
/// What the kernel takes at once is sent from where it lies. What it does not take has to be
/// kept: borrowed data is copied then, [`Bytes`], `Vec<u8>` and `String` are not.
#[derive(Clone, Debug)]
pub struct Payload<'a>(Kind<'a>);

#[derive(Clone, Debug)]
enum Kind<'a> {
    Borrowed(&'a [u8]),
    Owned(Owned<Bytes>),
}

impl<'a> Payload<'a> {
    fn kept(data: impl Into<Bytes>) -> Payload<'a> {
        Payload(Kind::Owned(Owned::new(Home::NONE, data.into())))
    }

    /// Hands the data over to a loop, which hears of it if its drop panics.
    pub(crate) fn owned_by(mut self, home: Home) -> Payload<'a> {
        if let Kind::Owned(data) = &mut self.0 {
            data.set_home(home);
        }
        self
    }

    /// The same without a borrow: borrowed data is copied.
    pub(crate) fn into_owned(self) -> Payload<'static> {
        match self.0 {
            Kind::Borrowed(data) => Payload::kept(data.to_vec()),
            Kind::Owned(data) => Payload(Kind::Owned(data)),
        }
    }
}

impl Data<Owned<Bytes>> for Payload<'_> {
    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Borrowed(data) => data,
            Kind::Owned(data) => data.as_ref(),
        }
    }

    fn keep(&self) -> Option<Owned<Bytes>> {
        match &self.0 {
            Kind::Borrowed(_) => None,
            Kind::Owned(data) => Some(data.clone()),
        }
    }
}

impl AsRef<[u8]> for Payload<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

macro_rules! borrowed {
    ($($from:ty),*) => {$(
        impl<'a> From<&'a $from> for Payload<'a> {
            fn from(data: &'a $from) -> Payload<'a> {
                Payload(Kind::Borrowed(data.as_ref()))
            }
        }
    )*};
}

macro_rules! owned {
    ($($from:ty),*) => {$(
        impl From<$from> for Payload<'_> {
            fn from(data: $from) -> Self {
                Payload::kept(data)
            }
        }
    )*};
}

borrowed!([u8], str, Vec<u8>, String);
owned!(Bytes, Vec<u8>, String, Box<[u8]>);

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(data: &'a [u8; N]) -> Payload<'a> {
        Payload(Kind::Borrowed(data))
    }
}

impl From<&Bytes> for Payload<'_> {
    fn from(data: &Bytes) -> Self {
        Payload::kept(data.clone())
    }
}

impl<'a> From<Cow<'a, [u8]>> for Payload<'a> {
    fn from(data: Cow<'a, [u8]>) -> Payload<'a> {
        match data {
            Cow::Borrowed(data) => data.into(),
            Cow::Owned(data) => data.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_owned_is_kept() {
        let text = String::from("abc");
        for borrowed in [Payload::from("abc"), (&text).into(), b"abc".into(), b"abc"[..].into()] {
            assert!(borrowed.keep().is_none());
            assert_eq!(borrowed.into_owned().as_ref(), b"abc");
        }
        let bytes = Bytes::from_static(b"abc");
        for owned in [Payload::from(&bytes), vec![97, 98, 99].into(), text.clone().into()] {
            assert_eq!(owned.keep().as_ref().map(AsRef::as_ref), Some(&b"abc"[..]));
        }
        assert_eq!(Payload::from(&bytes).into_owned().as_ref().as_ptr(), bytes.as_ptr(), "no copy");
    }
}
