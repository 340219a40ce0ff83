//! Bars on work that can take long, on a terminal only.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// Shows how far `counter` is, for work of which nobody knows how long it is.
pub(super) fn counting(doing: &'static str, things: &'static str, counter: Arc<AtomicU64>) -> ProgressBar {
    let number = move |_: &ProgressState, out: &mut dyn Write| {
        // Only a formatter that fails could make this fail, and then there is nothing to be shown.
        let _ = write!(out, "{}", HumanCount(counter.load(Ordering::Relaxed)));
    };
    let template = format!("{{spinner}} {doing}: {{number}} {things}, {{elapsed}}");
    let style = ProgressStyle::with_template(&template).expect("the template is right");
    let bar = ProgressBar::new_spinner().with_style(style.with_key("number", number));
    bar.enable_steady_tick(TICK);
    bar
}

/// Shows how much of `bytes` bytes is done.
pub(super) fn bytes(doing: &'static str, bytes: u64) -> ProgressBar {
    let template = format!("{{spinner}} {doing} {{wide_bar}} {{bytes}} of {{total_bytes}}, {{eta}} left");
    let style = ProgressStyle::with_template(&template).expect("the template is right");
    let bar = ProgressBar::new(bytes).with_style(style);
    bar.enable_steady_tick(TICK);
    bar
}
