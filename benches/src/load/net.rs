//! Non-blocking sockets behind one epoll: everything the load tool asks of the system to move bytes.
//!
//! Invariant: a connection is asked for writability only while bytes wait to be written. Source ports are bound here
//! one after the other: a port chosen by the kernel costs more than the rest of a connect once many are taken.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use mqtt_proto::{Framer, Packet, Version, encode};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes taken from a socket at once.
pub(crate) const READ_LEN: usize = 256 * 1024;
/// Events taken from epoll at once.
const EVENTS: usize = 1024;
/// First source port; the ports below are left to others.
const PORT_FIRST: u16 = 10_000;
const PORT_COUNT: u32 = 50_000;
/// 127.0.0.1 and those that follow it, in use when the broker is on loopback.
const LOOPBACK_ADDRESSES: u32 = 64;

/// How far it goes on where ports are taken: a prime, so that leaps do not meet.
const SOURCE_LEAP: u32 = 100_003;

/// The epoll and the source ports.
pub(crate) struct Net {
    epoll: OwnedFd,
    broker: SocketAddr,
    next_source: u32,
    events: Vec<epoll::Event>,
}

/// What happened to the connection `key`.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) key: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Net {
    /// An epoll for connections to `broker`.
    pub(crate) fn new(broker: SocketAddr) -> io::Result<Net> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Runs of this tool that follow each other begin elsewhere, so that they meet few ports in TIME_WAIT.
        let next_source = std::process::id().wrapping_mul(9_973);
        Ok(Net { epoll, broker, next_source, events: Vec::with_capacity(EVENTS) })
    }

    /// The broker's address.
    pub(crate) const fn broker(&self) -> SocketAddr {
        self.broker
    }

    /// The number of the next source port, over all source addresses.
    pub(crate) const fn next_source(&self) -> u32 {
        self.next_source
    }

    /// The next connection has the source port with this number.
    pub(crate) const fn set_next_source(&mut self, number: u32) {
        self.next_source = number;
    }

    /// Makes events with `key` when there is something to read from `file`.
    pub(crate) fn watch(&self, file: &impl AsFd, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, file, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?)
    }

    /// Opens a connection whose events carry `key`. It may not be established yet, but can be written to.
    pub(crate) fn connect(&mut self, key: u64) -> io::Result<Link> {
        let mut last = None;
        for attempt in 0..1_000 {
            // Others may have taken thousands of ports in a row.
            if attempt % 16 == 15 {
                self.next_source = self.next_source.wrapping_add(SOURCE_LEAP);
            }
            match self.connect_from_next_source() {
                Ok(socket) => {
                    let socket = TcpStream::from(socket);
                    let data = epoll::EventData::new_u64(key);
                    epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
                    return Ok(Link {
                        socket,
                        key,
                        out: Vec::new(),
                        written: 0,
                        wants_out: false,
                        wants_in: true,
                        framer: Framer::default(),
                    });
                }
                Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| ErrorKind::AddrInUse.into()))
    }

    fn connect_from_next_source(&mut self) -> io::Result<Socket> {
        let at = self.next_source;
        self.next_source = at.wrapping_add(1);
        let port = PORT_FIRST + (at % PORT_COUNT) as u16;
        let address = match self.broker.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                let nth = at / PORT_COUNT % LOOPBACK_ADDRESSES;
                IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + nth))
            }
            IpAddr::V6(ip) if ip.is_loopback() => IpAddr::V6(ip),
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        let domain = Domain::for_address(self.broker);
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::new(address, port).into())?;
        match socket.connect(&self.broker.into()) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            result => result?,
        }
        Ok(socket)
    }

    /// Waits until something happens, at most for `timeout`, and puts it into `ready`.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let timeout = Timespec {
            tv_sec: timeout.as_secs().min(3_600) as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let in_flags = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        ready.extend(self.events.iter().map(|event| {
            // The structure is packed: take copies.
            let (flags, data) = (event.flags, event.data);
            Ready {
                key: data.u64(),
                readable: flags.intersects(in_flags),
                writable: flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

/// One connection to the broker, with what waits to be written and what was read of an incomplete packet.
pub(crate) struct Link {
    socket: TcpStream,
    key: u64,
    /// Bytes to be written, the first `written` of them already are.
    pub(crate) out: Vec<u8>,
    written: usize,
    wants_out: bool,
    wants_in: bool,
    /// Cuts what is read into packets.
    pub(crate) framer: Framer,
}

impl Link {
    /// Queues `packet`; [`Link::flush`] sends it.
    pub(crate) fn push(&mut self, packet: &Packet<'_>, version: Version) -> io::Result<()> {
        encode(packet, version, &mut self.out).map_err(io::Error::other)
    }

    /// Whether all that was queued is written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Writes what the socket takes, and asks for writability if that was not all.
    pub(crate) fn flush(&mut self, net: &Net) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let waits = self.written < self.out.len();
        if !waits {
            self.out.clear();
            self.written = 0;
        }
        if waits != self.wants_out {
            self.wants_out = waits;
            self.tell_interest(net)?;
        }
        Ok(())
    }

    /// Lets go of memory that an idle connection does not need.
    pub(crate) fn forget_memory(&mut self) {
        self.out.shrink_to_fit();
    }

    /// Bytes that are queued and not written.
    pub(crate) fn queued_len(&self) -> usize {
        self.out.len() - self.written
    }

    /// Whether arriving bytes make an event. While they do not, they stay with the system, and then with the broker.
    pub(crate) fn set_reading(&mut self, net: &Net, wants_in: bool) -> io::Result<()> {
        self.wants_in = wants_in;
        self.tell_interest(net)
    }

    /// Lets the connection make no more events, not even that of its end.
    pub(crate) fn forget(&self, net: &Net) -> io::Result<()> {
        Ok(epoll::delete(&net.epoll, &self.socket)?)
    }

    fn tell_interest(&self, net: &Net) -> io::Result<()> {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.wants_in);
        flags.set(epoll::EventFlags::OUT, self.wants_out);
        Ok(epoll::modify(&net.epoll, &self.socket, epoll::EventData::new_u64(self.key), flags)?)
    }

    /// Reads into `buffer`: `None` if there is nothing now.
    ///
    /// # Errors
    /// The connection failed; [`ErrorKind::UnexpectedEof`] if the broker closed it.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.read(buffer) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection")),
            Ok(len) => Ok(Some(len)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends our direction of the connection: the broker sees the end of the stream after all that was written.
    pub(crate) fn shut_down_write(&self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }

    /// Makes the close that follows a reset, which destroys what is under way in both directions.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO))
    }
}
