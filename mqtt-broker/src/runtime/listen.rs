//! Listening sockets: one a core and address, all in one SO_REUSEPORT group.
//!
//! With SO_REUSEPORT the kernel lets a second broker of the same user join the group silently and take a share of the
//! clients. So the first socket of an address listens *without* it, which fails if anybody else listens there. Only
//! then, still open, is it made the first of a group that the other cores' sockets join: at no moment is the port
//! free, and at no moment can a stranger that starts in the same way join.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted on one socket; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Tries to find one free port for both loopback addresses.
const PORT_TRIES: u32 = 32;

/// Why a broker cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Not an address.
    #[error(
        "{text:?} is not an address to listen on: give ADDRESS:PORT, [ADDRESS]:PORT, HOST:PORT or a PORT for loopback only"
    )]
    Address {
        /// What was given.
        text: String,
    },
    /// Another process, maybe another broker, listens there.
    #[error(
        "{address} is in use: another program, or another listener of this one, is there; stop it, or listen on another port"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Ports below 1024 need a privilege.
    #[error(
        "{address} may not be used by this user: listen on a port above 1023, \
         or give the program CAP_NET_BIND_SERVICE"
    )]
    Forbidden {
        /// The address.
        address: SocketAddr,
    },
    /// The machine does not have this address.
    #[error("{address} is not an address of this machine: listen on one that `ip addr` shows")]
    NotLocal {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
}

/// An address to listen on, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// All of them, one port.
    addresses: Vec<SocketAddr>,
    /// Some of the addresses may not exist on this machine: at least one has to.
    some: bool,
}

impl Wish {
    /// Reads `1883` and `localhost:1883` (both loopbacks), `ADDRESS:PORT`, `[ADDRESS]:PORT` and `HOST:PORT`.
    pub(super) fn parse(text: &str) -> Result<Wish, ListenError> {
        let loopbacks = |port| Wish {
            addresses: vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
            some: true,
        };
        if let Ok(port) = text.parse::<u16>() {
            return Ok(loopbacks(port));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Wish { addresses: vec![address], some: false });
        }
        let refused = || ListenError::Address { text: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port: u16 = port.parse().map_err(|_| refused())?;
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(loopbacks(port));
        }
        let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|_| refused())?.collect();
        addresses.dedup();
        if addresses.is_empty() { Err(refused()) } else { Ok(Wish { addresses, some: true }) }
    }

    /// Listens with `cores` sockets on each address.
    pub(super) fn bind(&self, cores: usize) -> Result<Vec<Bound>, ListenError> {
        for left in (0..PORT_TRIES).rev() {
            match self.try_bind(cores) {
                // The port that the kernel chose for the first address was taken on the second.
                Err(ListenError::InUse { .. }) if left > 0 && self.addresses[0].port() == 0 => {}
                result => return result,
            }
        }
        unreachable!("the last try returns")
    }

    fn try_bind(&self, cores: usize) -> Result<Vec<Bound>, ListenError> {
        let mut bound: Vec<Bound> = Vec::new();
        let mut missing = None;
        for &(mut address) in &self.addresses {
            if address.port() == 0
                && let Some(first) = bound.first()
            {
                address.set_port(first.address.port());
            }
            match Bound::new(address, cores) {
                Ok(one) => bound.push(one),
                Err(error @ ListenError::NotLocal { .. }) if self.some => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if bound.is_empty() => Err(error),
            _ => Ok(bound),
        }
    }
}

/// An address that is listened on.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// One a core.
    pub(super) sockets: Vec<TcpListener>,
}

impl Bound {
    fn new(address: SocketAddr, cores: usize) -> Result<Bound, ListenError> {
        let explain = |error: io::Error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => ListenError::InUse { address },
            Some(libc::EACCES | libc::EPERM) => ListenError::Forbidden { address },
            Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => ListenError::NotLocal { address },
            _ => ListenError::Other { address, error },
        };
        let first = alone(address).map_err(explain)?;
        let address = first.local_addr().map_err(explain)?.as_socket().unwrap_or(address);
        let mut sockets = vec![first.into()];
        for _ in 1..cores {
            sockets.push(joining(address).map_err(explain)?.into());
        }
        Ok(Bound { address, sockets })
    }
}

/// Listens where nobody else does, and lets others of our user join from then on.
fn alone(address: SocketAddr) -> io::Result<Socket> {
    let socket = prepared(address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

/// Listens beside those that listen already.
fn joining(address: SocketAddr) -> io::Result<Socket> {
    let socket = prepared(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn prepared(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run in TIME_WAIT do not keep us from starting.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it: no system call a connection.
    socket.set_tcp_nodelay(true)?;
    if let IpAddr::V6(ip) = address.ip() {
        // `[::]` takes IPv4 too.
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn wish(text: &str) -> Wish {
        Wish::parse(text).expect(text)
    }

    #[test]
    fn addresses_are_read_as_operators_write_them() {
        let loopbacks: Vec<SocketAddr> =
            vec!["127.0.0.1:1883".parse().expect("v4"), "[::1]:1883".parse().expect("v6")];
        assert_eq!(wish("1883").addresses, loopbacks);
        assert_eq!(wish("localhost:1883").addresses, loopbacks);
        assert_eq!(wish("[::]:1883").addresses, ["[::]:1883".parse::<SocketAddr>().expect("v6")]);
        assert_eq!(wish("0.0.0.0:0").addresses, ["0.0.0.0:0".parse::<SocketAddr>().expect("v4")]);
        for wrong in ["", "localhost", "localhost:x", "1.2.3.4", "1.2.3.4:99999", ":::1883x"] {
            assert!(matches!(Wish::parse(wrong), Err(ListenError::Address { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_second_broker_cannot_join_the_first() {
        let first = wish("127.0.0.1:0").bind(3).expect("a port");
        let address = first[0].address;
        assert_eq!(first[0].sockets.len(), 3);
        for cores in [1, 3] {
            let second = wish(&address.to_string()).bind(cores).expect_err("in use");
            assert!(second.to_string().contains(&address.to_string()), "{second}");
            assert!(matches!(second, ListenError::InUse { .. }));
        }
        drop(first);
        wish(&address.to_string()).bind(2).expect("free again");
    }

    #[test]
    fn connections_spread_over_the_cores() {
        let bound = wish("127.0.0.1:0").bind(2).expect("a port").remove(0);
        let _clients: Vec<TcpStream> =
            (0..64).map(|_| TcpStream::connect(bound.address).expect("connect")).collect();
        for socket in &bound.sockets {
            socket.set_nonblocking(true).expect("nonblocking");
            let accepted = std::iter::from_fn(|| socket.accept().ok())
                .inspect(|(stream, _)| assert!(stream.nodelay().expect("an option"), "inherited"))
                .count();
            assert!((10..=54).contains(&accepted), "{accepted} of 64 on one of two cores");
        }
    }

    #[test]
    fn both_loopbacks_share_a_port_and_dual_stack_takes_ipv4() {
        let both = wish("localhost:0").bind(2).expect("a port");
        assert!(both.iter().all(|bound| bound.address.port() == both[0].address.port()));
        for bound in &both {
            TcpStream::connect(bound.address).expect("connect");
        }
        if let Ok(dual) = wish("[::]:0").bind(1) {
            TcpStream::connect((Ipv4Addr::LOCALHOST, dual[0].address.port())).expect("IPv4");
        }
    }
}
