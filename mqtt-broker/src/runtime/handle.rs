//! A running broker, as its owner holds it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mqtt_proto::packet::Connect;

use super::client::{ClientError, LocalClient};
use super::shared::{BrokerError, Command, Shared};
use crate::config::Limits;
use crate::shard::Stats;

/// The threads of a broker: they end, and are waited for, when this is dropped.
pub(super) struct Running {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Running {
    pub(super) fn new(shared: Arc<Shared>) -> Running {
        Running { shared, threads: Mutex::new(Vec::new()) }
    }

    /// Waits for this thread too.
    pub(super) fn push(&self, thread: JoinHandle<()>) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    fn wait(&self) -> Result<(), BrokerError> {
        let ended = self.shared.wait();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic was caught on the thread and is in `ended`.
            let _ = thread.join();
        }
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.shut_down();
        let _ = self.wait();
    }
}

struct Inner {
    running: Running,
    addresses: Vec<SocketAddr>,
    limits: Arc<Limits>,
    before_tables: Option<u64>,
}

/// A running broker. Clones are the same broker; it shuts down when the last one is dropped.
///
/// Not to be dropped last on one of the broker's own threads, in a port for instance: it would wait for itself.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

/// The counters of a broker at about one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStats {
    /// The sum over all cores.
    pub total: Stats,
    /// Each core's own, in order. Empty when the broker has ended.
    pub cores: Vec<Stats>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("addresses", &self.0.addresses).finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) fn new(
        running: Running,
        addresses: Vec<SocketAddr>,
        limits: Arc<Limits>,
        before_tables: Option<u64>,
    ) -> Handle {
        Handle(Arc::new(Inner { running, addresses, limits, before_tables }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.running.shared
    }

    /// The addresses that the broker listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0.addresses
    }

    /// The bounds in force: `connections_max` as derived from the limit of open files if it was 0.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Connections that are open files of the process; more than these are kept in tables of io_urings. `None` if each
    /// connection is an open file, because there are enough of them for `connections_max`.
    pub fn connections_before_tables(&self) -> Option<u64> {
        self.0.before_tables
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.shared().cores.len()
    }

    /// The counters of every core and their sum.
    pub fn stats(&self) -> BrokerStats {
        let (asker, answers) = channel();
        for core in &self.shared().cores {
            core.command(Command::Stats(asker.clone()));
        }
        drop(asker);
        let mut cores: Vec<_> = answers.iter().collect();
        cores.sort_by_key(|(core, _)| *core);
        let mut stats = BrokerStats::default();
        for (_, core) in cores {
            stats.total += &core;
            stats.cores.push(core);
        }
        stats
    }

    /// A Client inside the process, connected as `client_id` with a clean session.
    ///
    /// # Errors
    /// Why it is not connected.
    pub fn client(&self, client_id: &str) -> Result<LocalClient, ClientError> {
        LocalClient::with_client_id(self.shared(), client_id)
    }

    /// A Client inside the process, connected as `connect` says.
    ///
    /// # Errors
    /// Why it is not connected.
    pub fn connect(&self, connect: &Connect<'_>) -> Result<LocalClient, ClientError> {
        LocalClient::connect(self.shared(), connect)
    }

    /// Begins a graceful end and returns at once: no more connections, 5.0 Clients are sent DISCONNECT 0x8B, what is
    /// left to send is sent, for at most `shutdown_timeout_seconds`. A second call changes nothing.
    pub fn shutdown(&self) {
        self.shared().shut_down();
    }

    /// Waits until the broker has ended, after [`Handle::shutdown`] or by itself.
    ///
    /// # Errors
    /// A core has failed, and the whole broker with it.
    pub fn wait(&self) -> Result<(), BrokerError> {
        self.0.running.wait()
    }
}
