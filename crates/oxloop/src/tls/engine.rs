//! What encrypts: bytes in, bytes out, no I/O.

use super::layer::Progress;
use std::io::IoSlice;

/// How a read of plain text went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decrypted {
    /// So many bytes of the room are filled, at least one.
    Data(usize),
    /// There is none; it goes on when more ciphertext is fed.
    Again,
    /// The peer has sent its closing alert (close_notify), and all before it was read.
    CloseNotify,
}

/// One side of a TLS session, which knows no socket: ciphertext is fed to it and taken from it.
///
/// The order of the calls; all sizes are bytes:
///
/// ```text
/// ( handshake feed* )* until it is done,  ( read feed* | write )*,  ( unwrap feed* )* until it is
/// ```
///
/// Whatever was called, [`take`](Self::take) then what is [`pending`](Self::pending) and send it,
/// after an error as well: there it is the alert that tells the peer. An error is final: all further
/// calls give it again.
pub trait TlsEngine {
    /// Why a step failed.
    type Error;

    /// Takes ciphertext in, and answers how much of it: none where what is decrypted has to be
    /// [read](Self::read) first, and after the peer's closing alert. What is wrong with it is told
    /// by the next step.
    fn feed(&mut self, ciphertext: &[u8]) -> usize;

    /// Takes the handshake as far as it goes.
    fn handshake(&mut self) -> Result<Progress, Self::Error>;

    /// Moves plain text into `room`, which is not empty.
    fn read(&mut self, room: &mut [u8]) -> Result<Decrypted, Self::Error>;

    /// Encrypts the pieces as if they were one, and answers how much of it: less than all where
    /// ciphertext has to be taken, or fed, first.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Self::Error>;

    /// Makes the closing alert, once, and looks for the peer's. Data instead of it is an error.
    fn unwrap(&mut self) -> Result<Progress, Self::Error>;

    /// Decrypted bytes that were not read yet.
    fn unread(&self) -> usize;

    /// Ciphertext to be sent.
    fn pending(&self) -> usize;

    /// Gives that ciphertext out, all of it.
    fn take(&mut self) -> Vec<u8>;
}
