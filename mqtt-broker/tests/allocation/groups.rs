//! A message of a shared group takes nothing at QoS 0; above that what says in the member's session which group it is of, and
//! where it crosses cores its place in a batch.

use mqtt_broker::shard::home_of;
use mqtt_broker::store::image::Home;

use crate::broker::{Broker, HASH_KEY, WINDOW, batch};
use crate::{ROUNDS, TRIES, WARM_UP, alone, bytes_taken};

/// Room for both. A message of its own would take more than that again.
const PLACE_BYTES: usize = 96;

/// Messages that are measured together.
const MESSAGES: usize = ROUNDS * WINDOW as usize;

/// Bytes that [`ROUNDS`] batches allocate: the group and its publisher are on one core, its members on all. Sessions stay.
fn taken(cores: u16, has_store: bool, qos: u8) -> usize {
    let mut broker = Broker::new(cores, has_store, 5, WINDOW);
    let owner = home_of(HASH_KEY, cores, Home::Group("$share/g/a/b"));
    let publisher = broker.connect(owner, true);
    for number in 0..4 {
        let member = broker.connect((owner + number) % cores, true);
        broker.subscribe(member, "$share/g/a/b", qos);
    }
    let packets = batch(qos);
    let taken = bytes_taken(|| broker.publish(publisher, &packets));
    assert_eq!(broker.delivered, usize::from(WINDOW) * (WARM_UP + TRIES * ROUNDS), "each once");
    taken
}

#[test]
fn a_message_of_a_shared_group_takes_less_than_one_of_its_own_would() {
    let _alone = alone();
    for (cores, has_store) in [(1, false), (1, true), (2, false), (2, true)] {
        let what = format!("{cores} cores, store: {has_store}");
        assert_eq!(taken(cores, has_store, 0), 0, "{what}: bytes allocated at QoS 0");
        for qos in [1, 2] {
            let taken = taken(cores, has_store, qos);
            assert!(taken <= MESSAGES * PLACE_BYTES, "{what}: {taken} bytes allocated at QoS {qos}");
        }
    }
}
