//! What a new connection's protocol stands on: its socket, or TLS.

use crate::address::Address;
use crate::connect::Unclaimed;
use crate::error::Result;
use crate::event_loop::core::Core;
use crate::event_loop::promise;
use crate::protocol::cell::AnyProtocol;
use crate::transport::Transport;
use crate::transport::stream::Connection;
use socket2::Socket;
use std::sync::Arc;

/// How a connection is to be secured.
#[derive(Clone, Debug, Default)]
pub(crate) enum Over {
    /// Not at all.
    #[default]
    Socket,
    #[cfg(feature = "rustls")]
    Tls(super::Secured),
}

impl Over {
    /// What makes of a protocol the one that a new transport is for.
    pub(crate) fn protocol(
        &self,
        protocol: Arc<dyn AnyProtocol>,
    ) -> Result<impl FnOnce(&Transport) -> Arc<dyn AnyProtocol>> {
        #[cfg(feature = "rustls")]
        let session = match self {
            Over::Socket => None,
            Over::Tls(secured) => Some(secured.session()?),
        };
        #[cfg_attr(not(feature = "rustls"), expect(unused_variables, reason = "only TLS asks"))]
        Ok(move |below: &Transport| -> Arc<dyn AnyProtocol> {
            #[cfg(feature = "rustls")]
            if let Some(session) = session {
                return session.over(below, protocol, false, None);
            }
            protocol
        })
    }

    /// Makes a transport of a connected socket, and waits until the protocol has it. Dropping the
    /// future before closes the connection.
    pub(crate) async fn open(
        &self,
        core: &Arc<Core>,
        socket: Socket,
        protocol: Arc<dyn AnyProtocol>,
    ) -> Result<Transport> {
        let peer = Address::peer(&socket);
        let (opened, waiter) = promise();
        #[cfg(feature = "rustls")]
        if let Over::Tls(secured) = self {
            let session = secured.session()?;
            let (done, handshake) = promise();
            core.act(move |cx| {
                let protocol = |below: &Transport| -> Arc<dyn AnyProtocol> {
                    let tls = session.over(below, protocol, false, Some(done));
                    let transport = below.under(tls.clone());
                    opened.set_result(Unclaimed::new(transport, Transport::close));
                    tls
                };
                Connection::open(cx, socket, peer, protocol, None, drop);
            });
            let transport = waiter.await.map_err(|_| core.refused())?;
            handshake.await.map_err(|_| core.refused())??;
            return transport.claim();
        }
        core.act(move |cx| {
            Connection::open(
                cx,
                socket,
                peer,
                |_| protocol,
                None,
                move |transport| {
                    opened.set_result(Unclaimed::new(transport, Transport::close));
                },
            );
        });
        waiter.await.map_err(|_| core.refused())?.claim()
    }
}
