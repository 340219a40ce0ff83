//! More connections than one process may have open files: other processes of this program have them, and this one tells
//! them what to do, a line at a time over their standard input and output.
//!
//! | line | what the process does | its answer |
//! |---|---|---|
//! | `connect N` | opens N more connections, until all have their CONNACK | `done` |
//! | `subscribe N` | subscribes the next N connections, each to its own topic | `done` |
//! | `tally` | nothing | `tally MESSAGES SUM WRONG PINGS PONGS` |
//!
//! Between lines it sends the PINGREQs. It ends when its input does, or once something has gone wrong: then it says, asked or
//! not, `error N TEXT`, where N of its connections had the answer to what was asked for last.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;

use mqtt_proto::{PacketType, Version};

use crate::load::clock::Random;
use crate::load::fleet::{Fleet, but_only};
use crate::load::observe;

/// Open files of a process beside its connections.
const FILES_RESERVED: u64 = 64;
/// Connections of a process at most.
const CONNECTIONS_MAX: u64 = 50_000;
/// Connections told of in one line: as often the parent can say how far it is.
const AT_ONCE: usize = 500;

/// What the connections have received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    /// The same for the same connections with a message each, in any order.
    pub(crate) sum: u64,
    /// Messages that were not those of the connection that got them.
    pub(crate) wrong: u64,
    pub(crate) pings: u64,
    pub(crate) pongs: u64,
}

impl Tally {
    /// Connection `at` has its message.
    pub(crate) fn note(&mut self, at: usize) {
        self.messages += 1;
        self.sum = self.sum.wrapping_add(Random(at as u64).next());
    }

    fn add(&mut self, other: &Tally) {
        self.messages += other.messages;
        self.sum = self.sum.wrapping_add(other.sum);
        self.wrong += other.wrong;
        self.pings += other.pings;
        self.pongs += other.pongs;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tally {} {} {} {} {}", self.messages, self.sum, self.wrong, self.pings, self.pongs)
    }
}

impl FromStr for Tally {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Tally> {
        let numbers = line.strip_prefix("tally ").map(|numbers| numbers.split(' ').map(str::parse).collect());
        match numbers {
            Some(Ok::<Vec<u64>, _>(numbers)) if numbers.len() == 5 => Ok(Tally {
                messages: numbers[0],
                sum: numbers[1],
                wrong: numbers[2],
                pings: numbers[3],
                pongs: numbers[4],
            }),
            _ => Err(io::Error::other(format!("`{line}` is no tally"))),
        }
    }
}

/// The key of the events of the processes' outputs: what they say, they say because something went wrong, unless they
/// were asked.
pub(crate) const SAID: u64 = u64::MAX;

/// One of the other processes.
struct Helper {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    connected: usize,
    subscribed: usize,
}

impl Helper {
    /// Says `line` and waits for the answer; an error comes with the number of its connections that were answered.
    fn ask(&mut self, line: &str) -> Result<String, (io::Error, usize)> {
        // One that has ended does not listen; what it said before is still there.
        let told = writeln!(self.input, "{line}");
        let mut answer = String::new();
        let heard = self.output.read_line(&mut answer).and(told);
        let answer = answer.trim_end();
        if let Some((answered, text)) = answer.strip_prefix("error ").and_then(|error| error.split_once(' '))
        {
            return Err((io::Error::other(text.to_owned()), answered.parse().unwrap_or(0)));
        }
        match heard {
            Ok(()) if !answer.is_empty() => Ok(answer.to_owned()),
            _ => Err((io::Error::other("a process with connections has ended"), 0)),
        }
    }

    /// Asks for something that is merely done.
    fn order(&mut self, line: &str) -> Result<(), (io::Error, usize)> {
        match self.ask(line)?.as_str() {
            "done" => Ok(()),
            other => Err((io::Error::other(format!("`{other}` instead of `done`")), 0)),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All of them. Connections are numbered from 1 through the processes.
pub(crate) struct Crowd {
    helpers: Vec<Helper>,
    /// Connections of a process.
    each: usize,
    /// What every process is started with.
    arguments: Vec<String>,
    first_source: u32,
}

impl Crowd {
    /// No process yet, for connections like those of `fleet`.
    pub(crate) fn new(fleet: &Fleet, keep_alive: u16) -> io::Result<Crowd> {
        let limit = observe::raise_file_limit()?;
        let each = limit.saturating_sub(FILES_RESERVED).clamp(1, CONNECTIONS_MAX) as usize;
        let version = if fleet.version == Version::V5 { "5.0" } else { "3.1.1" };
        let arguments = [
            "idle-part",
            "--broker",
            &fleet.net.broker().to_string(),
            "--mqtt",
            version,
            "--run",
            &fleet.run,
            "--keep-alive",
            &keep_alive.to_string(),
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        Ok(Crowd { helpers: Vec::new(), each, arguments, first_source: fleet.net.next_source() })
    }

    pub(crate) fn processes(&self) -> usize {
        self.helpers.len()
    }

    /// Opens `count` more connections, with as many processes as it takes.
    pub(crate) fn connect(&mut self, count: usize, fleet: &mut Fleet) -> io::Result<()> {
        fleet.progress.begin(fleet.clock, "connecting", Some(count as u64));
        let before: usize = self.helpers.iter().map(|helper| helper.connected).sum();
        let mut done = 0;
        while done < count {
            let room = self.helpers.last().map_or(0, |last| self.each - last.connected);
            if room == 0 {
                self.start_helper(fleet)?;
                continue;
            }
            let Some(last) = self.helpers.last_mut() else { continue };
            let part = room.min(count - done).min(AT_ONCE);
            last.order(&format!("connect {part}")).map_err(|(error, answered)| {
                let others = before + done - last.connected;
                but_only(error, others + answered, before + count, PacketType::ConnAck)
            })?;
            last.connected += part;
            done += part;
            fleet.progress.note(fleet.clock.elapsed(), done as u64);
        }
        Ok(())
    }

    /// Subscribes the `count` connections that were opened last.
    pub(crate) fn subscribe(&mut self, count: usize, fleet: &mut Fleet) -> io::Result<()> {
        fleet.progress.begin(fleet.clock, "subscribing", Some(count as u64));
        let connected: usize = self.helpers.iter().map(|helper| helper.connected).sum();
        let mut done = 0;
        for helper in &mut self.helpers {
            while helper.subscribed < helper.connected {
                let part = (helper.connected - helper.subscribed).min(AT_ONCE);
                helper.order(&format!("subscribe {part}")).map_err(|(error, answered)| {
                    let others = connected - count + done - helper.subscribed;
                    but_only(error, others + answered, connected, PacketType::SubAck)
                })?;
                helper.subscribed += part;
                done += part;
                fleet.progress.note(fleet.clock.elapsed(), done as u64);
            }
        }
        Ok(())
    }

    /// What all of them have received.
    pub(crate) fn tally(&mut self) -> io::Result<Tally> {
        let mut all = Tally::default();
        for helper in &mut self.helpers {
            all.add(&helper.ask("tally").map_err(|(error, _)| error)?.parse()?);
        }
        Ok(all)
    }

    /// CPU that the processes have used.
    pub(crate) fn cpu_ns(&self) -> io::Result<u64> {
        self.helpers.iter().map(|helper| observe::cpu_ns(helper.process.id())).sum()
    }

    fn start_helper(&mut self, fleet: &Fleet) -> io::Result<()> {
        let before = self.helpers.len() * self.each;
        // Each has its own range of source ports, with some to spare for those that are taken.
        let source = self.first_source.wrapping_add((before + before / 16) as u32);
        let mut process = Command::new(std::env::current_exe()?)
            .args(&self.arguments)
            .args(["--first", &(before + 1).to_string(), "--source", &source.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(io::Error::other("the pipes to a process are missing"));
        };
        fleet.net.watch(&output, SAID)?;
        let output = BufReader::new(output);
        self.helpers.push(Helper { process, input, output, connected: 0, subscribed: 0 });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_survives_its_line_and_tells_who_got_a_message() {
        let mut tally = Tally { wrong: 3, pings: 20, pongs: 19, ..Tally::default() };
        tally.note(7);
        tally.note(12);
        assert_eq!(tally.to_string().parse::<Tally>().expect("a tally"), tally);
        assert!("tally 1 2".parse::<Tally>().is_err() && "done".parse::<Tally>().is_err());
        let sum = |connections: &[usize]| {
            let mut tally = Tally::default();
            connections.iter().for_each(|&at| tally.note(at));
            tally.sum
        };
        assert_eq!(sum(&[12, 7]), tally.sum);
        assert!(sum(&[7, 7]) != tally.sum && sum(&[7, 13]) != tally.sum);
    }
}
