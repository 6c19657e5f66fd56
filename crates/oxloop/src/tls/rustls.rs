//! The engine of the Rust face: rustls.

use super::engine::{Decrypted, TlsEngine};
use super::layer::Progress;
use crate::memory::append;
use ::rustls::client::ClientConnection;
use ::rustls::pki_types::ServerName;
use ::rustls::server::ServerConnection;
use ::rustls::{ClientConfig, Connection, Error, ServerConfig};
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

/// So much is encrypted at once at most, bytes: memory of rustls' own cannot run out in good order.
const PART: usize = 256 * 1024;

/// Adds to a vector; OutOfMemory if it cannot grow.
struct Fallible<'a>(&'a mut Vec<u8>);

impl Write for Fallible<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        append(self.0, data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A rustls connection.
pub(super) struct Rustls {
    connection: Connection,
    /// Ciphertext, out of rustls at once: nobody else says how much of it there is.
    outgoing: Vec<u8>,
    /// What rustls has decrypted.
    unread: usize,
    /// The peer has sent its closing alert.
    peer_closed: bool,
    failed: Option<Error>,
}

impl Rustls {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Rustls, Error> {
        Ok(Rustls::new(ClientConnection::new(config, name)?.into()))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Rustls, Error> {
        Ok(Rustls::new(ServerConnection::new(config)?.into()))
    }

    fn new(mut connection: Connection) -> Rustls {
        // Flow control is the layer's, and counts what waits here.
        connection.set_buffer_limit(None);
        let mut engine = Rustls {
            connection,
            outgoing: Vec::new(),
            unread: 0,
            peer_closed: false,
            failed: None,
        };
        engine.collect();
        engine
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Moves ciphertext out of rustls.
    fn collect(&mut self) {
        while self.connection.wants_write() {
            if let Err(error) = self.connection.write_tls(&mut Fallible(&mut self.outgoing)) {
                self.fail(error);
                break;
            }
        }
    }

    fn fail(&mut self, error: io::Error) {
        self.failed.get_or_insert_with(|| Error::General(error.to_string()));
    }

    fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }
}

impl TlsEngine for Rustls {
    type Error = Error;

    fn feed(&mut self, ciphertext: &[u8]) -> usize {
        let mut left = ciphertext;
        while !left.is_empty() && self.failed.is_none() && !self.peer_closed {
            match self.connection.read_tls(&mut left) {
                // So much is decrypted that it has to be read first.
                Err(_) if self.unread > 0 => break,
                Err(error) => self.fail(error),
                Ok(_) => match self.connection.process_new_packets() {
                    Ok(state) => {
                        self.unread = state.plaintext_bytes_to_read();
                        self.peer_closed = state.peer_has_closed();
                    }
                    Err(error) => self.failed = Some(error),
                },
            }
        }
        self.collect();
        ciphertext.len() - left.len()
    }

    fn handshake(&mut self) -> Result<Progress, Error> {
        self.check()?;
        Ok(if self.connection.is_handshaking() { Progress::Again } else { Progress::Done })
    }

    fn read(&mut self, room: &mut [u8]) -> Result<Decrypted, Error> {
        if let Connection::Server(server) = &mut self.connection {
            // The config allows data in the client's first flight: it comes before all else.
            let early = server.early_data().map_or(Ok(0), |mut early| early.read(room));
            match early {
                Ok(0) => {}
                Ok(count) => return Ok(Decrypted::Data(count)),
                Err(error) => self.fail(error),
            }
        }
        match self.connection.reader().read(room) {
            Ok(0) => Ok(Decrypted::CloseNotify),
            Ok(count) => {
                // Where the next record was wrong, rustls did not say how much there is.
                self.unread = self.unread.saturating_sub(count);
                Ok(Decrypted::Data(count))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.fail(error);
                }
                // What was decrypted before it went wrong has been read.
                self.check()?;
                Ok(Decrypted::Again)
            }
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Error> {
        self.check()?;
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() <= PART {
            let written = self.connection.writer().write_vectored(pieces);
            self.collect();
            return written.map_err(|error| Error::General(error.to_string()));
        }
        let mut total = 0;
        for piece in pieces {
            for part in piece.chunks(PART) {
                let written = self.connection.writer().write(part);
                self.collect();
                let written = written.map_err(|error| Error::General(error.to_string()))?;
                self.check()?;
                total += written;
                if written < part.len() {
                    return Ok(total);
                }
            }
        }
        Ok(total)
    }

    fn unwrap(&mut self) -> Result<Progress, Error> {
        self.connection.send_close_notify();
        self.collect();
        self.check()?;
        if self.unread > 0 {
            return Err(Error::General("application data after close notify".to_owned()));
        }
        Ok(if self.peer_closed { Progress::Done } else { Progress::Again })
    }

    fn unread(&self) -> usize {
        self.unread
    }

    fn pending(&self) -> usize {
        self.outgoing.len()
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }
}
