//! TLS on a connection that is there already (asyncio: *TLS Upgrade*).

use super::options::{StartTlsOptions, TlsSession};
use crate::connect::Unclaimed;
use crate::error::{Misuse, Result};
use crate::event_loop::{EventLoop, Handle, Waiter, promise};
use crate::protocol::cell::AnyProtocol;
use crate::protocol::slot::Caller;
use crate::protocol::{Protocol, ProtocolHandle};
use crate::transport::Transport;
use std::sync::Arc;

impl EventLoop {
    /// Secures a connection that is there, in the role that the options are for, and gives the
    /// transport that the protocol uses from then on: the one that was is TLS's own, and may only be
    /// used to abort the connection. The protocol, which may be the one that the connection has had,
    /// hears nothing of the change but that its callbacks come with another transport; its
    /// `connection_made` is not called.
    ///
    /// Nothing that the peer sends meanwhile is lost. What a protocol has read of it already is
    /// handed over with the options ([`received`](StartTlsOptions::received)).
    /// TLS itself can be underneath, too.
    ///
    /// Dropping the future before it is done closes the connection.
    ///
    /// Source: *loop.start_tls*.
    ///
    /// # Errors
    /// [`Error::Tls`](crate::Error::Tls) for what TLS says; [`Error::Io`](crate::Error::Io) of the
    /// connection: ECONNRESET where the peer ends it, `ConnectionAborted` where it took too long.
    /// [`Misuse::NoServerName`] for a client without one, [`Misuse::ServerName`],
    /// [`Misuse::TlsTimeout`]; [`Misuse::StartTlsUnsupported`] for a pipe,
    /// [`Misuse::TransportClosing`]; [`Misuse::LoopClosed`].
    ///
    /// ```no_run
    /// # use oxloop::{EventLoop, Protocol, ProtocolHandle, Result, TlsClientOptions, Transport};
    /// # async fn upgrade<P: Protocol + 'static>(
    /// #     event_loop: EventLoop,
    /// #     transport: Transport,
    /// #     protocol: ProtocolHandle<P>,
    /// #     config: oxloop::rustls::ClientConfig,
    /// # ) -> Result<()> {
    /// // After STARTTLS was agreed on.
    /// let tls = TlsClientOptions::new(config).server_name("mail.example.org");
    /// let transport = event_loop.start_tls(&transport, &protocol, tls).await?;
    /// transport.write("EHLO client.example.org\r\n");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start_tls<P: Protocol + 'static>(
        &self,
        transport: &Transport,
        protocol: &ProtocolHandle<P>,
        tls: impl Into<StartTlsOptions>,
    ) -> Result<Transport> {
        self.core().check_process()?;
        let session = tls.into().session()?;
        if !Arc::ptr_eq(self.core(), transport.core()) {
            return Err(Misuse::StartTlsUnsupported.into());
        }
        let (begun, waiter) = promise();
        let (transport, protocol) = (transport.clone(), protocol.erased());
        self.core().act(move |_| _ = begun.set_result(begin(transport, protocol, session)));
        let Upgrade { above, below, handshake } =
            waiter.await.map_err(|_| Misuse::LoopClosed)??;
        handshake.await.map_err(|_| Misuse::LoopClosed)??;
        below.claim()?;
        Ok(above)
    }
}

/// A connection in its handshake: dropped, it is closed.
struct Upgrade {
    above: Transport,
    below: Unclaimed<Transport>,
    handshake: Waiter<Result<()>>,
}

/// On the loop's thread.
fn begin(below: Transport, protocol: Arc<dyn AnyProtocol>, session: TlsSession) -> Result<Upgrade> {
    if below.is_pipe() {
        return Err(Misuse::StartTlsUnsupported.into());
    }
    if below.is_closing() {
        return Err(Misuse::TransportClosing.into());
    }
    // Nothing is to come in before the handshake has begun.
    below.pause_reading();
    let (done, handshake) = promise();
    let tls = session.over(&below, protocol, true, Some(done));
    let above = below.under(tls.clone());
    below.replace_protocol(tls.clone());
    let (core, transport) = (below.core(), below.clone());
    core.call_soon(Handle::once(core.home, move || {
        if let Err(panic) = tls.connection_made(&transport) {
            transport.report("Fatal error: protocol.connection_made() call failed.", panic);
        }
    }));
    let transport = below.clone();
    core.call_soon(Handle::once(core.home, move || transport.resume_reading()));
    Ok(Upgrade { above, below: Unclaimed::new(below, Transport::close), handshake })
}
