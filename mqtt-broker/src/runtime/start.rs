//! Starting: one thread a core, each a glommio executor with one task that runs the turn.
//!
//! Nothing is bound before every core has said that it is ready, so a machine that cannot run the broker is told so
//! first. Whatever goes wrong, all threads are gone when the error is returned.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};
use tracing::debug;

use super::builder::StartError;
use super::clock;
use super::core::{Core, Turn};
use super::handle::{Handle, Running};
use super::listen::Wish;
use super::shared::{BrokerError, Command, Shared};
use super::store::{self, Disk, Jobs, Restored, StoreConfig, Stored};
use crate::config::{CoreId, Limits};
use crate::ports::{PortsFactory, Reply, Responder};
use crate::ring::{self, Ring, Room, monotonic_millis, random_words};
use crate::shard::{Shard, ShardConfig};
use crate::transport::LayerFactory;

/// Memory that glommio sets aside for its own I/O on each core; the broker's sockets do not use it.
const EXECUTOR_MEMORY: usize = 64 * 1024;

/// Locked memory without which glommio does not start an executor.
const LOCKED_MEMORY_MIN: u64 = 512 * 1024;

/// Milliseconds after which a busy turn lets glommio look at its own work.
const SLICE_MILLIS: u64 = 1;

/// File descriptors of a core beside its connections: two rings of glommio and ours, eventfds, timers.
const FILES_A_CORE: u64 = 16;

/// File descriptors of the process beside the cores: standard streams, log, configuration, ports.
const FILES_RESERVED: u64 = 64;

/// What the builder decided.
pub(super) struct Plan {
    /// One a core: the CPU it is pinned to.
    pub(super) cpus: Vec<Option<usize>>,
    pub(super) limits: Limits,
    pub(super) ports: PortsFactory,
    pub(super) store: Option<StoreConfig>,
    pub(super) listeners: Vec<(Wish, Option<LayerFactory>)>,
}

/// Starts all cores, then listens.
pub(super) fn start(mut plan: Plan) -> Result<Handle, StartError> {
    plan.limits.check()?;
    let room = check_files(&mut plan)?;
    let locked = ring::raise_locked_memory_limit();
    if locked < LOCKED_MEMORY_MIN {
        return Err(StartError::LockedMemory { limit_kib: locked / 1024 });
    }
    let cores = plan.cpus.len();
    let limits = Arc::new(plan.limits);
    let layers: Arc<[_]> = plan.listeners.iter().map(|(_, layer)| layer.clone()).collect();
    let system = |error| StartError::System { error };
    let mut hash_key = random_words().map_err(system)?;
    let stored = match &plan.store {
        Some(config) => Some(store::open(config, cores as u16, random_words().map_err(system)?)?),
        None => None,
    };
    let shared = Shared::new(cores).map_err(system)?;
    let (mut restored, mut keeper) = (Vec::new(), None);
    if let Some(Stored { directory, cores, cold }) = stored {
        hash_key = directory.hash_key();
        restored = cores;
        keeper = Some(store::keep(directory, cold, Arc::clone(&shared)).map_err(system)?);
    }
    let (ready, readiness) = channel();
    // From here on the threads end when this is dropped; what they wait for is dropped before it.
    let running = Running::new(Arc::clone(&shared));
    let mut restored = restored.into_iter();
    let jobs = keeper.map(|(jobs, thread)| {
        running.push(thread);
        jobs
    });
    for (index, cpu) in plan.cpus.iter().copied().enumerate() {
        let core = CoreId(index as u16);
        let [seed] = random_words().map_err(system)?;
        let setup = Setup {
            shard: ShardConfig { core, cores: cores as u16, limits: Arc::clone(&limits), hash_key, seed },
            cpu,
            room,
            ports: Arc::clone(&plan.ports),
            store: restored.next().zip(jobs.clone()),
            layers: Arc::clone(&layers),
            shared: Arc::clone(&shared),
        };
        match spawn(setup, ready.clone()) {
            Ok(thread) => running.push(thread),
            Err(error) => {
                for missing in index..cores {
                    shared.core_ended(CoreId(missing as u16));
                }
                shared.fail(None);
                return Err(system(error));
            }
        }
    }
    drop((ready, jobs));
    // Every core answers, or its sender is dropped.
    let answers: Vec<Result<(), StartError>> = readiness.iter().collect();
    let failure = answers.into_iter().find_map(Result::err);
    let bound = match failure {
        Some(error) => Err(error),
        None if plan.store.is_some() && !shared.wait_settled() => {
            shared.fail(None);
            let ended = shared.wait().err();
            Err(ended.map_or_else(|| system(std::io::Error::other("a core ended")), StartError::Core))
        }
        None => listen(&plan.listeners, &shared),
    };
    match bound {
        Ok(addresses) => {
            debug!(cores, ?addresses, connections_max = limits.connections_max, "broker started");
            let before_tables = room.before_tables().map(|sockets| sockets * cores as u64);
            Ok(Handle::new(running, addresses, limits, before_tables))
        }
        Err(error) => {
            shared.fail(None);
            Err(error)
        }
    }
}

/// Raises the limit of open files, makes the number of connections agree with it, and says how each core keeps them.
fn check_files(plan: &mut Plan) -> Result<Room, StartError> {
    let limit = ring::raise_file_limit();
    let cores = plan.cpus.len() as u64;
    let reserved = FILES_RESERVED + cores * (FILES_A_CORE + plan.listeners.len() as u64 * 2);
    let files = limit.saturating_sub(reserved).min(u64::from(u32::MAX));
    let wanted = plan.limits.connections_max;
    if wanted == 0 {
        plan.limits.connections_max = files as u32;
    }
    if u64::from(wanted) <= files && files > 0 {
        return Ok(Room::plain());
    }
    let has_tables = ring::has_tables();
    let room = if has_tables { Room::with_tables(files / cores, limit) } else { Room::plain() };
    if files == 0 || u64::from(wanted) > cores * room.in_tables() {
        let connections = u64::from(wanted.max(1));
        let with_tables = files_with_tables(connections, cores, reserved);
        let without_tables = connections + reserved;
        return Err(StartError::Files { wanted, limit, without_tables, with_tables, has_tables });
    }
    Ok(room)
}

/// The lowest limit of open files with which tables take so many connections, if it is lower than it has to be without
/// tables.
fn files_with_tables(connections: u64, cores: u64, reserved: u64) -> Option<u64> {
    let is_enough =
        |limit: u64| connections <= cores * Room::with_tables((limit - reserved) / cores, limit).in_tables();
    let without_tables = reserved + connections;
    // The higher the limit the more room there is. No connection without a file that it can begin as.
    let (mut low, mut high) = (reserved + 1, without_tables);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_enough(middle) { high = middle } else { low = middle + 1 }
    }
    (low < without_tables).then_some(low)
}

fn listen(
    listeners: &[(Wish, Option<LayerFactory>)],
    shared: &Shared,
) -> Result<Vec<std::net::SocketAddr>, StartError> {
    let mut addresses = Vec::new();
    let mut sockets: Vec<Vec<_>> = shared.cores.iter().map(|_| Vec::new()).collect();
    for (layer, (wish, _)) in listeners.iter().enumerate() {
        for bound in wish.bind(shared.cores.len())? {
            addresses.push(bound.address);
            for (core, socket) in bound.sockets.into_iter().enumerate() {
                sockets[core].push((socket, layer));
            }
        }
    }
    for (core, sockets) in shared.cores.iter().zip(sockets) {
        core.command(Command::Listen(sockets));
    }
    Ok(addresses)
}

/// What a core's thread is made of.
struct Setup {
    shard: ShardConfig,
    cpu: Option<usize>,
    room: Room,
    ports: PortsFactory,
    store: Option<(Restored, Jobs)>,
    layers: Arc<[Option<LayerFactory>]>,
    shared: Arc<Shared>,
}

fn spawn(setup: Setup, ready: Sender<Result<(), StartError>>) -> std::io::Result<JoinHandle<()>> {
    let name = format!("mqtt-core-{}", setup.shard.core);
    std::thread::Builder::new().name(name).spawn(move || {
        let (core, shared) = (setup.shard.core, Arc::clone(&setup.shared));
        let mut ready = Some(ready);
        let ended = catch_unwind(AssertUnwindSafe(|| run(setup, &mut ready)));
        let ended = ended.unwrap_or_else(|panic| Err(panicked(core, &*panic)));
        if let Err(error) = ended {
            shared.fail(Some(error.clone()));
            if let Some(ready) = ready.take() {
                let _ = ready.send(Err(StartError::Core(error)));
            }
        }
        debug!(%core, "core ended");
        shared.core_ended(core);
    })
}

/// The life of a core. An error before it is ready goes to `ready`.
fn run(setup: Setup, ready: &mut Option<Sender<Result<(), StartError>>>) -> Result<(), BrokerError> {
    let placement = setup.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement).io_memory(EXECUTOR_MEMORY).make();
    let mut answer = |answer| {
        if let Some(ready) = ready.take() {
            // Nobody listens any more when another core has failed to start.
            let _ = ready.send(answer);
        }
    };
    let id = setup.shard.core;
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => {
            answer(Err(StartError::Executor { core: id, message: error.to_string() }));
            return Ok(());
        }
    };
    executor.run(async move {
        // The panic of a turn ends here and does not unwind through the executor.
        let made = catch_unwind(AssertUnwindSafe(|| make(setup)));
        let mut core = match made {
            Ok(Ok(core)) => core,
            Ok(Err(error)) => {
                answer(Err(error));
                return Ok(());
            }
            Err(panic) => {
                let error = panicked(id, &*panic);
                answer(Err(StartError::Core(error.clone())));
                return Err(error);
            }
        };
        answer(Ok(()));
        let mut slice = monotonic_millis();
        loop {
            match catch_unwind(AssertUnwindSafe(|| core.turn())) {
                Ok(Ok(Turn::Next)) => {}
                Ok(Ok(Turn::Ended)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(panic) => return Err(panicked(id, &*panic)),
            }
            let now = monotonic_millis();
            if now >= slice + SLICE_MILLIS {
                core.flush()?;
                glommio::executor().yield_task_queue_now().await;
                slice = now;
            }
        }
    })
}

fn make(setup: Setup) -> Result<Core, StartError> {
    let Setup { shard: config, room, ports, store, layers, shared, .. } = setup;
    let (id, seed, limits) = (config.core, config.seed, Arc::clone(&config.limits));
    let wake = Arc::clone(shared.core(id).bell.wake());
    let ring = Ring::new(wake, u64::from(limits.close_timeout_seconds) * 1000, room)
        .map_err(|error| StartError::Ring { core: id, error })?;
    let responder = Responder::new({
        let shared = Arc::clone(&shared);
        move |reply| {
            let core = match &reply {
                Reply::Answer(ticket, _) => ticket.core,
                Reply::Committed(core, _) => *core,
            };
            shared.core(core).command(Command::Reply(reply));
        }
    });
    let mut ports = ports(id, responder);
    let now = clock::now();
    let Some((restored, jobs)) = store else {
        let shard = Shard::new(config, ports, now);
        return Ok(Core::new(id, shared, ring, shard, seed, layers, &limits));
    };
    let (disk, image) = Disk::new(id, restored, jobs);
    ports.store = Box::new(disk.store());
    let mut shard = Shard::new(config, ports, now);
    shard.restore(image, now);
    Ok(Core::new(id, shared, ring, shard, seed, layers, &limits).with_disk(disk))
}

fn panicked(core: CoreId, panic: &(dyn Any + Send)) -> BrokerError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    BrokerError::Panicked { core, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_open_files_are_those_with_which_the_check_passes() {
        for (connections, cores, reserved) in
            [(50_000, 1, 82), (50_000, 4, 136), (1_000_000, 2, 100), (300, 1, 82)]
        {
            let least = files_with_tables(connections, cores, reserved).expect("tables take fewer files");
            let room = |limit| cores * Room::with_tables((limit - reserved) / cores, limit).in_tables();
            assert!(room(least) >= connections && room(least - 1) < connections, "{least}");
            assert!(least < connections);
        }
        // There is nothing to save for one, and no table for four billion on one core.
        assert_eq!(files_with_tables(1, 1, 82), None);
        assert_eq!(files_with_tables(u64::from(u32::MAX), 1, 82), None);
    }
}
