//! On one core a message takes nothing: not one that is passed on, not one that is kept until its acknowledgement comes, not
//! one that goes to many, not one that waits for a Client that is a little too slow.

use crate::broker::{Broker, WINDOW, batch};
use crate::{ROUNDS, TRIES, WARM_UP, alone, bytes_taken};

#[test]
fn a_message_takes_nothing_from_the_allocator() {
    let _alone = alone();
    for (what, qos, subscribers, in_flight_max) in [
        ("pair at QoS 0", 0, 1, WINDOW),
        ("pair at QoS 1", 1, 1, WINDOW),
        ("pair at QoS 2", 2, 1, WINDOW),
        ("pair at QoS 1 with one waiting, then none", 1, 1, WINDOW - 1),
        ("pair at QoS 2 with nearly all waiting, then none", 2, 1, 1),
        ("fan-out at QoS 0", 0, 50, WINDOW),
        ("fan-out at QoS 1", 1, 50, WINDOW),
    ] {
        let mut broker = Broker::new(1, false, subscribers + 1, in_flight_max);
        let publisher = broker.connect(0, false);
        for _ in 0..subscribers {
            let subscriber = broker.connect(0, false);
            broker.subscribe(subscriber, "a/b", qos);
        }
        let packets = batch(qos);
        let taken = bytes_taken(|| broker.publish(publisher, &packets));
        assert_eq!(taken, 0, "{what}: bytes allocated");
        let batches = WARM_UP + TRIES * ROUNDS;
        assert_eq!(broker.delivered, batches * usize::from(WINDOW) * subscribers, "{what}: messages");
    }
}
