//! A chat over a Unix socket: what one member writes is sent to all others, line by line. Takes a
//! path, /tmp/oxloop-chat.sock by default.

use oxloop::{Bytes, Error, EventLoop, Protocol, Result, Transport};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
struct ChatServerProtocol {
    members: Members,
    unfinished: Vec<u8>,
}
