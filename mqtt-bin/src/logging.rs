//! The log: events of the broker as text or JSON on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{LogFilter, LogFormat};

/// Sends events and panics to stderr from now on. A stderr that nobody reads any more stops nothing.
pub(crate) fn start(filter: &LogFilter, format: LogFormat) {
    let registry = tracing_subscriber::registry().with(filter.targets());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
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
}
