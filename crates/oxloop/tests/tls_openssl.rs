//! TLS with OpenSSL's programs on the other side. Without them nothing is tested here, which the
//! output says.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/tls.rs"]
mod tls;
mod util;

use oxloop::rustls::ProtocolVersion;
use oxloop::{ServerOptions, Transport};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use tls::*;
use util::*;

const VERSIONS: [(&str, ProtocolVersion); 2] =
    [("-tls1_2", ProtocolVersion::TLSv1_2), ("-tls1_3", ProtocolVersion::TLSv1_3)];

/// A program that is ended with the test.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Option<Program> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match piped.spawn() {
            Ok(child) => Some(Program(child)),
            Err(error) => {
                eprintln!("NOT TESTED: openssl: {error}");
                None
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn its_client() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let authority = folder.join("authority.pem");
    fs::write(&authority, &AUTHORITY.pem).unwrap();
    for (version, number) in VERSIONS {
        run(&event_loop, async {
            let log = Log::default();
            let seen = log.clone();
            let factory = move || {
                let answer = |transport: &Transport, data: Vec<u8>| {
                    transport.write(data);
                    transport.close();
                };
                let seen = seen.clone();
                let versions = seen.clone();
                let made = move |transport: &Transport| {
                    versions.add(format!("{:?}", transport.protocol_version()));
                };
                Recorder::new(&seen).on_made(made).on_data(answer)
            };
            let options = ServerOptions::new(ANY).tls(server_config());
            let server = event_loop.create_server(factory, options).await.unwrap();
            let mut command = Command::new("openssl");
            command.args(["s_client", "-quiet", "-verify_return_error", version, "-connect"]);
            command.arg(server.local_addrs()[0].to_string());
            command.args(["-servername", "localhost", "-verify_hostname", "localhost", "-CAfile"]);
            let Some(mut client) = Program::start(command.arg(&authority)) else { return };
            let mut input = client.0.stdin.take().unwrap();
            input.write_all(b"hello\n").unwrap();
            let output = BufReader::new(client.0.stdout.take().unwrap());
            let reader = thread::spawn(move || output.lines().next().unwrap().unwrap());
            until(&event_loop, || reader.is_finished() && log.has("lost")).await;
            assert_eq!(reader.join().unwrap(), "hello");
            assert_eq!(
                log.lines(),
                ["made", &format!("{:?}", Some(number)), "data", "eof", "lost"]
            );
        });
    }
}

#[test]
fn its_server() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let (certificate, key) = (folder.join("server.der"), folder.join("server.key"));
    fs::write(&certificate, &AUTHORITY.server.chain[0]).unwrap();
    fs::write(&key, AUTHORITY.server.key.secret_der()).unwrap();
    for (version, number) in VERSIONS {
        let mut command = Command::new("openssl");
        // Answers each line with its reverse.
        command.args(["s_server", "-rev", version, "-accept", "127.0.0.1:0"]);
        command.args(["-certform", "DER", "-keyform", "DER"]);
        command.arg("-cert").arg(&certificate).arg("-key").arg(&key);
        let Some(mut server) = Program::start(&mut command) else { return };
        let output = BufReader::new(server.0.stdout.take().unwrap());
        let address: SocketAddr = output
            .lines()
            .find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(|it| it.parse().unwrap()))
            .unwrap();
        run(&event_loop, async {
            let to = secured(address, client_config());
            let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
            assert_eq!(client.transport.protocol_version(), Some(number));
            client.transport.write("hello\n");
            until(&event_loop, || client.log.has("data")).await;
            let data = client.protocol.with(|recorder| recorder.data.clone()).unwrap();
            assert_eq!(data, b"olleh\n");
            client.transport.close();
            until(&event_loop, || client.log.has("lost")).await;
            assert_eq!(client.error(), "None");
        });
    }
}
