//! What can be written: borrowed bytes, or bytes that are kept without a copy.

use super::gather::Data;
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
    Owned(Bytes),
}

impl Payload<'_> {
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.0 {
            Kind::Borrowed(data) => Bytes::copy_from_slice(data),
            Kind::Owned(data) => data,
        }
    }
}

impl Data<Bytes> for Payload<'_> {
    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Borrowed(data) => data,
            Kind::Owned(data) => data,
        }
    }

    fn keep(&self) -> Option<Bytes> {
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
                Payload(Kind::Owned(data.into()))
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
        Payload(Kind::Owned(data.clone()))
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
            assert_eq!(borrowed.into_bytes(), "abc");
        }
        let bytes = Bytes::from_static(b"abc");
        for owned in [Payload::from(&bytes), vec![97, 98, 99].into(), text.clone().into()] {
            assert_eq!(owned.keep().as_deref(), Some(&b"abc"[..]));
        }
        assert_eq!(Payload::from(&bytes).into_bytes().as_ptr(), bytes.as_ptr(), "no copy");
    }
}
