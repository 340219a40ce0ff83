//! The log: events of the broker as text or JSON on stderr.
//!
//! A thread of its own writes it, behind a bounded queue that drops what does not fit: whoever reads the log slowly,
//! or not at all, holds up neither a core nor the shutdown.

use std::io::IsTerminal as _;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{LogFilter, LogFormat};

/// Lines that wait to be written; more are dropped.
const QUEUED_LINES_MAX: usize = 8192;

/// Sends events and panics to stderr from now on, until the guard is dropped: that writes what still waits, for at most
/// a second.
pub(crate) fn start(filter: &LogFilter, format: LogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES_MAX)
        .thread_name("log")
        .finish(std::io::stderr());
    let registry = tracing_subscriber::registry().with(filter.targets());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            registry.with(layer.with_ansi(colours)).init();
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("(not a text)");
        tracing::error!(thread = thread.name().unwrap_or_default(), place, "panic: {message}");
    }));
    guard
}
