//! What a broker is made of, and why it could not be made.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::handle::Handle;
use super::listen::{ListenError, Wish};
use super::shared::BrokerError;
use super::start::{self, Plan};
use super::store::{StoreConfig, StoreError};
use crate::config::{CoreId, LimitError, Limits};
use crate::ports::{Ports, PortsFactory, Responder};
use crate::ring::{RingError, allowed_cpus};
use crate::transport::LayerFactory;

/// Why a broker could not start. Each message is one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A limit has a value that cannot work.
    #[error(transparent)]
    Limits(#[from] LimitError),
    /// More connections than the open files of the process are enough for.
    #[error("{}", too_few_files(*wanted, *limit, *without_tables, *with_tables, *has_tables))]
    Files {
        /// `connections_max`, 0 if it was left to the broker.
        wanted: u32,
        /// The limit of open files after it was raised as far as allowed.
        limit: u64,
        /// Open files with which each connection can be one.
        without_tables: u64,
        /// Open files that do where most connections are kept in tables of io_urings, if that can be less.
        with_tables: Option<u64>,
        /// Whether this kernel has tables that serve.
        has_tables: bool,
    },
    /// Too little memory may be locked.
    #[error(
        "this process may lock {limit_kib} KiB of memory, each core needs 512 KiB: \
         allow it with `ulimit -l 65536` or LimitMEMLOCK=64M in the systemd unit"
    )]
    LockedMemory {
        /// The limit in KiB after it was raised as far as allowed.
        limit_kib: u64,
    },
    /// The wish for cores cannot be met.
    #[error("{0}")]
    Cores(String),
    /// io_uring cannot be used.
    #[error("core {core} cannot start: {error}")]
    Ring {
        /// Which core met it first.
        core: CoreId,
        /// The cause and the remedy.
        error: RingError,
    },
    /// The executor of a core cannot start.
    #[error(
        "the executor of core {core} cannot start ({message}): allow io_uring, more locked memory and more open files"
    )]
    Executor {
        /// Which.
        core: CoreId,
        /// What it said.
        message: String,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A core failed while it started.
    #[error("the broker failed while starting: {0}")]
    Core(BrokerError),
    /// The machine lacks something basic.
    #[error("cannot start threads or descriptors ({error}): raise `ulimit -u` and `ulimit -n`")]
    System {
        /// What the kernel said.
        error: io::Error,
    },
}

/// What to do about [`StartError::Files`].
fn too_few_files(
    wanted: u32,
    limit: u64,
    without_tables: u64,
    with_tables: Option<u64>,
    has_tables: bool,
) -> String {
    let connections =
        if wanted == 0 { "the first connection".into() } else { format!("{wanted} connections") };
    let lower = if wanted == 0 { "" } else { "lower connections_max, or " };
    let fewer = match with_tables {
        Some(files) if has_tables => {
            format!("; from {files} on the broker starts, and keeps most connections in tables of io_uring")
        }
        Some(files) => {
            format!(
                "; Linux 6.13 or newer can keep most connections in tables of io_uring, and needs {files}"
            )
        }
        None => String::new(),
    };
    format!(
        "this process may have {limit} open files, too few for {connections}: {lower}allow more with \
         `ulimit -n {without_tables}` or LimitNOFILE={without_tables} in the systemd unit{fewer}"
    )
}

/// Which CPUs the cores of a broker run on.
#[derive(Clone, Debug)]
enum Cores {
    /// One for each CPU that the process may use.
    All,
    Number(usize),
    Cpus(Vec<usize>),
}

/// A broker is made by its builder and lives in its [`Handle`].
#[derive(Debug)]
pub enum Broker {}

impl Broker {
    /// A broker without listeners, on all CPUs of the process, with the default limits, open to everyone.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }
}

/// Makes a broker: see [`Broker::builder`].
#[must_use = "a builder does nothing until `start`"]
pub struct BrokerBuilder {
    listeners: Vec<(String, Option<LayerFactory>)>,
    cores: Cores,
    limits: Limits,
    ports: PortsFactory,
    store: Option<StoreConfig>,
}

impl fmt::Debug for BrokerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners: Vec<_> = self.listeners.iter().map(|(address, _)| address).collect();
        f.debug_struct("BrokerBuilder")
            .field("listeners", &listeners)
            .field("cores", &self.cores)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl BrokerBuilder {
    fn new() -> BrokerBuilder {
        BrokerBuilder {
            listeners: Vec::new(),
            cores: Cores::All,
            limits: Limits::default(),
            ports: Arc::new(|_, _| Ports::allow_all()),
            store: None,
        }
    }

    /// Listens for plain TCP on `address`: `ADDRESS:PORT`, `[ADDRESS]:PORT`, `HOST:PORT`, or `PORT` alone for both
    /// loopback addresses, as `localhost:PORT`. `[::]:PORT` takes IPv6 and IPv4. Port 0 lets the kernel choose:
    /// [`Handle::addresses`] tells. Without any listener only clients inside the process can connect.
    pub fn listen(mut self, address: impl fmt::Display) -> BrokerBuilder {
        self.listeners.push((address.to_string(), None));
        self
    }

    /// Listens on `address`, as [`BrokerBuilder::listen`], with a byte layer between TCP and MQTT.
    pub fn listen_with(mut self, address: impl fmt::Display, layer: LayerFactory) -> BrokerBuilder {
        self.listeners.push((address.to_string(), Some(layer)));
        self
    }

    /// Runs on `number` cores, pinned to CPUs if the process has that many, else free. Without this call: one for each
    /// CPU that the process may use.
    pub fn cores(mut self, number: usize) -> BrokerBuilder {
        self.cores = Cores::Number(number);
        self
    }

    /// Runs one core on each of these CPUs.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> BrokerBuilder {
        self.cores = Cores::Cpus(cpus.into_iter().collect());
        self
    }

    /// The bounds of the broker.
    pub fn limits(mut self, limits: Limits) -> BrokerBuilder {
        self.limits = limits;
        self
    }

    /// Who may connect, publish and subscribe, what is kept, and who is told. Without this call everyone may do
    /// everything and nothing outlives the broker. Called once a core, on its thread.
    pub fn ports(
        mut self,
        factory: impl Fn(CoreId, Responder) -> Ports + Send + Sync + 'static,
    ) -> BrokerBuilder {
        self.ports = Arc::new(factory);
        self
    }

    /// Keeps sessions, their messages and retained messages in the files of a directory: what is acknowledged is on the
    /// disk. Takes the place of the [`Ports::store`] that the ports bring. Without this call nothing outlives the broker,
    /// unless the ports see to it.
    pub fn store(mut self, store: StoreConfig) -> BrokerBuilder {
        self.store = Some(store);
        self
    }

    /// Starts the broker and returns once every core runs and every address is listened on.
    ///
    /// # Errors
    /// One sentence that says what is wrong and what to do about it. Nothing is left running.
    pub fn start(self) -> Result<Handle, StartError> {
        let listeners = self
            .listeners
            .into_iter()
            .map(|(address, layer)| Ok((Wish::parse(&address)?, layer)))
            .collect::<Result<Vec<_>, ListenError>>()?;
        let cpus = place(&self.cores, &allowed_cpus())?;
        start::start(Plan { cpus, limits: self.limits, ports: self.ports, store: self.store, listeners })
    }
}

/// The CPU of each core.
fn place(cores: &Cores, allowed: &[usize]) -> Result<Vec<Option<usize>>, StartError> {
    let placed: Vec<Option<usize>> = match cores {
        Cores::All if allowed.is_empty() => vec![None],
        Cores::All => allowed.iter().copied().take(CoreId::MAX).map(Some).collect(),
        Cores::Number(number) if *number <= allowed.len() => {
            allowed[..*number].iter().copied().map(Some).collect()
        }
        // No more than are looked at below.
        Cores::Number(number) => vec![None; (*number).min(CoreId::MAX + 1)],
        Cores::Cpus(cpus) => {
            for (position, cpu) in cpus.iter().enumerate() {
                if !allowed.contains(cpu) {
                    return Err(StartError::Cores(format!(
                        "CPU {cpu} is not one that this process may use: choose from {allowed:?}"
                    )));
                }
                if cpus[..position].contains(cpu) {
                    return Err(StartError::Cores(format!("CPU {cpu} is listed twice: give each CPU once")));
                }
            }
            cpus.iter().copied().map(Some).collect()
        }
    };
    if placed.is_empty() || placed.len() > CoreId::MAX {
        return Err(StartError::Cores(format!("a broker has 1 to {} cores: change the number", CoreId::MAX)));
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_pinned_while_there_are_cpus() {
        let allowed = [1, 3, 5];
        let placed = |cores| place(&cores, &allowed);
        assert_eq!(placed(Cores::All).expect("all"), [Some(1), Some(3), Some(5)]);
        assert_eq!(placed(Cores::Number(2)).expect("two"), [Some(1), Some(3)]);
        assert_eq!(placed(Cores::Number(4)).expect("four"), [None; 4]);
        assert_eq!(placed(Cores::Cpus(vec![5, 1])).expect("listed"), [Some(5), Some(1)]);
        for wrong in [Cores::Number(0), Cores::Number(129), Cores::Cpus(vec![2]), Cores::Cpus(vec![1, 1])] {
            assert!(matches!(placed(wrong.clone()), Err(StartError::Cores(_))), "{wrong:?}");
        }
    }
}
