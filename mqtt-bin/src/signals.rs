//! SIGTERM and SIGINT ask for a graceful shutdown, the second one ends at once; SIGHUP ends nothing.
//!
//! The signals are blocked in `main` before any thread exists, so every thread of the broker inherits that and none
//! is interrupted in a system call; one thread takes them as they come.

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// The signals that mqttd answers, blocked in all threads.
pub(crate) struct Signals(SigSet);

impl Signals {
    /// Blocks the signals in this thread and in all that it starts from now on.
    ///
    /// # Errors
    /// The system refuses it.
    pub(crate) fn block() -> io::Result<Signals> {
        let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        set.thread_block()?;
        Ok(Signals(set))
    }

    /// Calls `shutdown` at the first SIGTERM or SIGINT; at the second the process ends with 128 + its number.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn watch(self, mut shutdown: impl FnMut() + Send + 'static) -> io::Result<()> {
        let watch = move || {
            let mut asked = false;
            loop {
                match self.0.wait() {
                    Ok(Signal::SIGHUP) => tracing::info!("SIGHUP: settings are read at the start only"),
                    Ok(signal) if asked => std::process::exit(128 + signal as i32),
                    Ok(signal) => {
                        asked = true;
                        shutdown();
                        tracing::info!(%signal, "shutting down; a second signal ends at once");
                    }
                    // Only an invalid set makes waiting fail, and this one was valid for blocking.
                    Err(error) => return tracing::error!(%error, "signals are no longer seen"),
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
        Ok(())
    }
}
