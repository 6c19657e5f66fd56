//! "loop.subprocess_exec() and SubprocessProtocol" of asyncio's "Transports and Protocols" page:
//! gets the output of a subprocess, and waits for its exit.

use oxloop::{ChildStdio, Error, EventLoop, Promise, Result};
use oxloop::{SubprocessOptions, SubprocessProtocol, SubprocessTransport};
use std::process::Command;

struct DateProtocol {
    exit: Promise<()>,
    output: Vec<u8>,
    pipe_closed: bool,
    exited: bool,
}

impl SubprocessProtocol for DateProtocol {
    fn pipe_connection_lost(&mut self, _: &SubprocessTransport, _fd: i32, _: Option<Error>) {
        self.pipe_closed = true;
        self.check_for_exit();
    }

    fn pipe_data_received(&mut self, _: &SubprocessTransport, _fd: i32, data: &[u8]) {
        self.output.extend_from_slice(data);
    }

    fn process_exited(&mut self, _: &SubprocessTransport) {
        self.exited = true;
        // process_exited() can be called before pipe_connection_lost(): wait until both are.
        self.check_for_exit();
    }
}

impl DateProtocol {
    fn check_for_exit(&self) {
        if self.pipe_closed && self.exited {
            self.exit.set_result(());
        }
    }
}

async fn get_date(event_loop: &EventLoop) -> Result<String> {
    let mut command = Command::new("date");
    command.arg("+%Y-%m-%d %H:%M:%S.%6N");

    // Create the subprocess controlled by DateProtocol; the standard output is a pipe.
    let options = SubprocessOptions::new(command);
    let options = options.stdin(ChildStdio::Inherit).stderr(ChildStdio::Inherit);
    let (exit, exited) = event_loop.create_future();
    let factory = || DateProtocol { exit, output: Vec::new(), pipe_closed: false, exited: false };
    let (transport, protocol) = event_loop.subprocess_exec(factory, options).await?;

    // Wait for the exit, and for the end of the output.
    exited.await?;

    // Close the stdout pipe.
    transport.close();

    // Read the output which was collected by pipe_data_received().
    let date = protocol.with(|protocol| String::from_utf8_lossy(&protocol.output).into_owned())?;
    Ok(date.trim_end().to_owned())
}

fn main() -> Result<()> {
    let event_loop = EventLoop::new()?;
    let date = event_loop.run_until_complete(get_date(&event_loop))??;
    println!("Current date: {date}");
    Ok(())
}
