//! A process with a part of the idle connections, told by the lines of [`crate::load::crowd`] what to do.

use std::io::{self, Read, Write};
use std::time::Duration;

use mqtt_proto::{Packet, PacketType, Qos};

use crate::load::crowd::Tally;
use crate::load::fleet::{Fleet, PATIENCE, UNANSWERED_MAX, accept, connect, silent, subscribe};
use crate::load::idle::{PAYLOAD_LEN, topic};
use crate::load::payload;

/// The key of standard input's events.
const INPUT: u64 = u64::MAX;
/// How long it waits at most for something to happen.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The number of the first connection.
    pub(crate) first: usize,
    /// Seconds.
    pub(crate) keep_alive: u16,
}

/// A request to many connections.
#[derive(Clone, Copy, Debug)]
struct Task {
    answer: PacketType,
    next: usize,
    end: usize,
    unanswered: usize,
    /// When the last answer came.
    heard: Duration,
}

/// Serves until the input ends.
pub(crate) fn run(plan: Plan, fleet: Fleet) -> io::Result<()> {
    fleet.net.watch(&io::stdin(), INPUT)?;
    let mut part = Part {
        plan,
        fleet,
        connected: 0,
        subscribed: 0,
        task: None,
        tally: Tally::default(),
        ping_next: 0,
        ping_at: Duration::ZERO,
        input: Vec::new(),
    };
    match part.serve() {
        Err(error) => say(&format!("error {} {error}", part.answered())),
        served => served,
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

struct Part {
    plan: Plan,
    fleet: Fleet,
    connected: usize,
    subscribed: usize,
    task: Option<Task>,
    tally: Tally,
    /// Whose PINGREQ is next, and when: each gets one in half the keep alive.
    ping_next: usize,
    ping_at: Duration,
    /// Of a line that is not complete.
    input: Vec<u8>,
}

impl Part {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            self.request()?;
            let wait = self.ping()?;
            let Part { plan, fleet, task, tally, .. } = self;
            let mut answered = 0;
            let turned = fleet.turn(wait, |at, packet, _| match packet {
                Packet::PingResp => {
                    tally.pongs += 1;
                    Ok(())
                }
                Packet::Publish(publish) => {
                    let at = plan.first + at;
                    let header = payload::read(publish.payload, PAYLOAD_LEN);
                    let own = header.is_some_and(|header| header.stream as usize == at);
                    tally.note(at);
                    tally.wrong += u64::from(!own);
                    Ok(())
                }
                packet => {
                    accept(packet, task.map_or(PacketType::Publish, |task| task.answer))?;
                    answered += 1;
                    Ok(())
                }
            });
            if answered > 0
                && let Some(task) = &mut self.task
            {
                let unanswered = task.unanswered.checked_sub(answered);
                task.unanswered = unanswered.ok_or_else(|| io::Error::other("more answers than requests"))?;
                task.heard = self.fleet.clock.elapsed();
            }
            turned?;
            if self.fleet.ready.iter().any(|ready| ready.key == INPUT) && !self.read()? {
                return Ok(());
            }
        }
    }

    /// Connections that have the answer to what was asked for last.
    fn answered(&self) -> usize {
        self.task.map_or(self.connected, |task| task.next - task.unanswered)
    }

    /// Goes on with the task, if there is one: a bounded number of requests at once.
    fn request(&mut self) -> io::Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let fleet = &mut self.fleet;
        while task.unanswered < UNANSWERED_MAX && task.next < task.end {
            let (at, number) = (task.next, self.plan.first + task.next);
            if task.answer == PacketType::ConnAck {
                let mut link = fleet.net.connect(at as u64)?;
                let client_id = format!("load-{}-{number}", fleet.run);
                let connect = connect(&client_id, self.plan.keep_alive, fleet.version);
                link.push(&Packet::Connect(connect), fleet.version)?;
                fleet.links.push(link);
            } else {
                subscribe(&mut fleet.links[at], &topic(number), Qos::AtMostOnce, fleet.version)?;
            }
            fleet.links[at].flush(&fleet.net)?;
            task.next += 1;
            task.unanswered += 1;
        }
        if task.unanswered > 0 {
            if fleet.clock.elapsed() - task.heard > PATIENCE {
                return Err(silent());
            }
            return Ok(());
        }
        let end = task.end;
        match task.answer {
            PacketType::ConnAck => self.connected = end,
            _ => self.subscribed = end,
        }
        self.task = None;
        for link in &mut fleet.links[..end] {
            link.forget_memory();
        }
        say("done")
    }

    /// Sends the PINGREQs that are due; how long until the next one.
    fn ping(&mut self) -> io::Result<Duration> {
        if self.plan.keep_alive == 0 || self.connected == 0 {
            return Ok(WAIT_MAX);
        }
        let now = self.fleet.clock.elapsed();
        let between = Duration::from_secs(u64::from(self.plan.keep_alive)) / 2 / self.connected as u32;
        if self.ping_at.is_zero() {
            self.ping_at = now + between;
        }
        while self.ping_at <= now {
            let link = &mut self.fleet.links[self.ping_next];
            link.push(&Packet::PingReq, self.fleet.version)?;
            link.flush(&self.fleet.net)?;
            self.tally.pings += 1;
            self.ping_next = (self.ping_next + 1) % self.connected;
            self.ping_at += between;
        }
        Ok((self.ping_at - now).min(WAIT_MAX))
    }

    /// Reads what the parent says; `false` at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 256];
        let len = io::stdin().lock().read(&mut bytes)?;
        self.input.extend_from_slice(&bytes[..len]);
        while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            self.obey(String::from_utf8_lossy(&line).trim_end())?;
        }
        Ok(len > 0)
    }

    fn obey(&mut self, line: &str) -> io::Result<()> {
        let heard = self.fleet.clock.elapsed();
        let task =
            |answer, next, count: usize| Task { answer, next, end: next + count, unanswered: 0, heard };
        match line.split_once(' ').map(|(order, count)| (order, count.parse())) {
            Some(("connect", Ok(count))) => {
                self.task = Some(task(PacketType::ConnAck, self.connected, count));
            }
            Some(("subscribe", Ok(count))) => {
                self.task = Some(task(PacketType::SubAck, self.subscribed, count));
            }
            None if line == "tally" => say(&self.tally.to_string())?,
            _ => return Err(io::Error::other(format!("`{line}` is no order"))),
        }
        Ok(())
    }
}
