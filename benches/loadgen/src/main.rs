//! The client side of oxloop's benchmarks: request and reply over many connections at once.
//!
//! ```text
//! loadgen echo 127.0.0.1:8888 --connections 10 --size 1024 --seconds 1 --warm 0.2 --pid 4711
//! loadgen http 127.0.0.1:8000 --connections 50 --seconds 1 --warm 0.2 --pid 4711
//! ```
//!
//! Each connection has one request under way; every reply is checked. After the warm-up the
//! requests of one window are counted, and the CPU time that process `--pid` took meanwhile.
//! Prints `{"ops": requests, "secs": wall clock, "cpu_ns": of the process}`.

mod client;
mod exchange;
mod window;

use exchange::Exchange;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use window::Window;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<String> {
    let [kind, address, options @ ..] = arguments else {
        return Err("usage: loadgen echo|http ADDRESS [--NAME VALUE]...".into());
    };
    let address: SocketAddr = address.parse().map_err(|_| format!("not IP:PORT: {address}"))?;
    let mut options = Options::new(options)?;
    let exchange = match kind.as_str() {
        "echo" => Exchange::echo(options.take("size", 1024)?),
        "http" => Exchange::http(address),
        other => return Err(format!("neither echo nor http: {other}").into()),
    };
    let connections: usize = options.take("connections", 10)?;
    let window = Window::new(
        seconds(options.take("warm", 0.2)?)?,
        seconds(options.take("seconds", 1.0)?)?,
        options.take("pid", 0)?,
    )?;
    options.finish()?;
    client::run(address, connections, &exchange, window)
}

fn seconds(value: f64) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(value)?)
}

/// The `--name value` pairs of the command line.
struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    fn new(arguments: &'a [String]) -> Result<Options<'a>> {
        let pairs = arguments.chunks(2).map(|pair| match pair {
            [name, value] if name.starts_with("--") => Ok((&name[2..], value.as_str())),
            _ => Err(format!("expected --name value, got {}", pair.join(" "))),
        });
        Ok(Options(pairs.collect::<std::result::Result<_, _>>()?))
    }

    /// The value of option `name`, which is then used up.
    fn take<T: FromStr>(&mut self, name: &str, default: T) -> Result<T> {
        let Some(index) = self.0.iter().position(|(key, _)| *key == name) else {
            return Ok(default);
        };
        let (_, value) = self.0.swap_remove(index);
        value.parse().map_err(|_| format!("--{name}: bad value {value}").into())
    }

    fn finish(self) -> Result<()> {
        match self.0.first() {
            Some((name, _)) => Err(format!("no such option: --{name}").into()),
            None => Ok(()),
        }
    }
}
