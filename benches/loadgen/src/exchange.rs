//! What is sent, and what counts as its reply.

use std::net::SocketAddr;

/// One request, sent again and again, and the check of its replies.
pub enum Exchange {
    /// The reply is the request.
    Echo(Vec<u8>),
    /// A GET request; the reply is `200 OK` with a content-length.
    Http(Vec<u8>),
}

impl Exchange {
    /// A message of `size` bytes (at least one) that has to come back.
    pub fn echo(size: usize) -> Exchange {
        // No two neighbouring stretches are alike, so that a lost or doubled piece shows.
        Exchange::Echo((0..size.max(1)).map(|index| (index % 251) as u8).collect())
    }

    /// A keep-alive request for `/`.
    pub fn http(host: SocketAddr) -> Exchange {
        Exchange::Http(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes())
    }

    /// What to send.
    pub fn request(&self) -> &[u8] {
        match self {
            Exchange::Echo(bytes) | Exchange::Http(bytes) => bytes,
        }
    }

    /// Whether `received` is the whole reply.
    ///
    /// # Errors
    /// When it is something else.
    pub fn is_complete(&self, received: &[u8]) -> Result<bool, String> {
        let expected = match self {
            Exchange::Echo(request) => Some(request.len()),
            Exchange::Http(_) => http_length(received)?,
        };
        match expected {
            Some(length) if received.len() > length => {
                Err(format!("{} bytes too many in a reply", received.len() - length))
            }
            Some(length) if received.len() == length => self.check(received).map(|()| true),
            _ => Ok(false),
        }
    }

    fn check(&self, reply: &[u8]) -> Result<(), String> {
        match self {
            Exchange::Echo(request) if reply != request => Err("the echo differs".into()),
            _ => Ok(()),
        }
    }
}

/// The length of an HTTP reply with its head; `None` while the head is incomplete.
fn http_length(received: &[u8]) -> Result<Option<usize>, String> {
    let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("http/1.1 200") {
        return Err(format!("reply: {status}"));
    }
    let body: usize = lines
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse().ok())
        .ok_or("a reply without content-length")?;
    Ok(Some(head + 4 + body))
}

#[cfg(test)]
mod tests {
    use super::Exchange;

    #[test]
    fn an_echo_is_complete_when_all_came_back() {
        let exchange = Exchange::echo(1000);
        let mut reply = exchange.request().to_vec();
        assert_eq!(exchange.is_complete(&reply[..999]), Ok(false));
        assert_eq!(exchange.is_complete(&reply), Ok(true));
        reply.push(0);
        assert!(exchange.is_complete(&reply).is_err());
    }

    #[test]
    fn an_echo_with_another_content_is_refused() {
        let exchange = Exchange::echo(8);
        assert!(exchange.is_complete(b"whatever").is_err());
    }

    #[test]
    fn an_http_reply_is_as_long_as_it_says() {
        let exchange = Exchange::http(([127, 0, 0, 1], 80).into());
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for end in 0..reply.len() {
            assert_eq!(exchange.is_complete(&reply[..end]), Ok(false));
        }
        assert_eq!(exchange.is_complete(reply), Ok(true));
    }

    #[test]
    fn other_http_replies_are_refused() {
        let exchange = Exchange::http(([127, 0, 0, 1], 80).into());
        for reply in ["HTTP/1.1 500 Oh\r\n\r\n", "HTTP/1.1 200 OK\r\nserver: x\r\n\r\n"] {
            assert!(exchange.is_complete(reply.as_bytes()).is_err());
        }
    }
}
