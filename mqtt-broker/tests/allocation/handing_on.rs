//! A QoS 2 message that goes to another core under a number takes its place in a batch and nothing else: not while it waits
//! for the store, not while it is kept for the other core, not there.

use crate::broker::{Broker, WINDOW, batch};
use crate::{ROUNDS, TRIES, WARM_UP, alone, bytes_taken};

/// Room for a message in a batch. A batch has a buffer, which goes over with it; a message of its own would take as much
/// once more.
const ENVELOPE_BYTES: usize = 96;

#[test]
fn a_message_handed_on_takes_its_place_in_a_batch_and_nothing_else_from_the_allocator() {
    let _alone = alone();
    let mut broker = Broker::new(2, true, 2, WINDOW);
    let (publisher, subscriber) = (broker.connect(0, true), broker.connect(1, true));
    broker.subscribe(subscriber, "a/b", 2);
    let packets = batch(2);
    let taken = bytes_taken(|| broker.publish(publisher, &packets));
    let all = usize::from(WINDOW) * (WARM_UP + TRIES * ROUNDS);
    assert_eq!((broker.delivered, broker.numbered()), (all, all as u64));
    let buffers = ROUNDS * usize::from(WINDOW) * ENVELOPE_BYTES;
    assert!(taken <= buffers, "{taken} bytes allocated, {buffers} for batches");
}
