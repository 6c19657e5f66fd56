//! Names to addresses (asyncio: *DNS*).

use crate::error::Result;
use crate::event_loop::EventLoop;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

impl EventLoop {
    /// The addresses of a host, in the resolver's order. A numeric address is read here and now,
    /// a name is looked up on the executor, by getaddrinfo(3).
    ///
    /// Source: *loop.getaddrinfo*, for stream sockets.
    ///
    /// # Errors
    /// What the resolver says of the name.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let addresses = event_loop.run_until_complete(event_loop.getaddrinfo("127.0.0.1", 80))??;
    /// assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap()]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn getaddrinfo(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        if let Some(address) = numeric(host, port) {
            return Ok(vec![address]);
        }
        let host = host.to_owned();
        let lookup = move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        let addresses: Vec<SocketAddr> = self.run_in_executor(lookup).await??;
        if addresses.is_empty() {
            let message = "getaddrinfo() returned empty list";
            return Err(io::Error::new(io::ErrorKind::NotFound, message).into());
        }
        Ok(addresses)
    }
}

/// A numeric host's address: no resolver needs to be asked. Scoped ones (`fe80::1%eth0`) are
/// the resolver's.
fn numeric(host: &str, port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_addresses_need_no_resolver() {
        assert_eq!(numeric("127.0.0.1", 80), "127.0.0.1:80".parse().ok());
        assert_eq!(numeric("::1", 80), "[::1]:80".parse().ok());
        for name in ["localhost", "", "127.1", "[::1]", "fe80::1%lo"] {
            assert_eq!(numeric(name, 80), None, "{name}");
        }
    }
}
