//! A mqttd process of a test's own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for anything: long enough for a busy machine, over as soon as the condition holds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A broker on a free loopback port; killed when dropped.
pub(crate) struct Mqttd {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it had said before the line that was waited for last.
    pub(crate) said: String,
}

impl Mqttd {
    /// Starts mqttd with two cores and `arguments`, in memory only, and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Mqttd {
        let all = [&["--cores", "2", "--ephemeral"], arguments].concat();
        Mqttd::start_as(&all)
    }

    /// Starts mqttd with `arguments`, and waits until it is ready.
    pub(crate) fn start_as(arguments: &[&str]) -> Mqttd {
        Mqttd::start_by(command(), arguments)
    }

    /// Starts mqttd by a command that ends with its name, with `arguments`, and waits until it is ready.
    pub(crate) fn start_by(mut command: Command, arguments: &[&str]) -> Mqttd {
        command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]).args(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary was built with this test");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut mqttd = Mqttd { child, stderr, address, said: String::new() };
        mqttd.address = mqttd.ready();
        mqttd
    }

    /// The address in the line that says that it is ready.
    fn ready(&mut self) -> SocketAddr {
        let line = self.says("mqttd is ready");
        let (_, rest) = line.split_once("\"listen\":\"").expect("the line names the addresses");
        let (address, _) = rest.split_once('"').expect("the text ends");
        address.parse().expect("one address was asked for")
    }

    /// The next line of its log that contains `text`.
    pub(crate) fn says(&mut self, text: &str) -> String {
        self.said.clear();
        loop {
            let mut line = String::new();
            let length = self.stderr.read_line(&mut line).expect("the log is UTF-8");
            assert!(length > 0, "mqttd ended and had not said {text:?}: {}", self.said);
            if line.contains(text) {
                return line;
            }
            self.said.push_str(&line);
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("process ids are small"));
        kill(pid, signal).expect("the process runs");
    }

    /// Its exit code and the rest of its log, once it has ended.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let code = wait(&mut self.child);
        let mut log = String::new();
        self.stderr.read_to_string(&mut log).expect("the log is UTF-8");
        (code, log)
    }
}

impl Drop for Mqttd {
    fn drop(&mut self) {
        // It may have ended already, which is what most tests are about.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqttd"));
    command.stdin(Stdio::null());
    command
}

/// The exit code of `child`, once it has ended by itself.
#[allow(clippy::disallowed_methods, reason = "a deadline for a real process is real time")]
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status.code();
        }
        assert!(start.elapsed() < DEADLINE, "mqttd did not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}
