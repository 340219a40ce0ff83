//! What the timer of a Keep Alive costs: each packet moves its deadline, few of them the timer.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

// Nobody's but the shard's, so its source is measured here rather than opened to everybody.
#[path = "../../mqtt-broker/src/shard/wheel.rs"]
#[allow(unused_imports, reason = "its tests run elsewhere")]
mod wheel;

use wheel::Wheel;

/// A power of two, so that what is measured is not a division.
const CONNECTIONS: u32 = 1 << 17;
/// Packets a millisecond, of all connections: about one a second of each.
const PACKETS: u64 = 128;
const KEEP_ALIVE: u64 = 90_000;

struct Timers {
    now: u64,
    wheel: Wheel,
    deadlines: Vec<u64>,
    due: Vec<u32>,
    next: u32,
}

impl Timers {
    fn new() -> Timers {
        let mut wheel = Wheel::new(0);
        // They did not all connect at once.
        let deadlines: Vec<u64> = (0..u64::from(CONNECTIONS)).map(|at| KEEP_ALIVE + at % 1000).collect();
        for (key, &deadline) in (0..).zip(&deadlines) {
            wheel.set(key, deadline);
        }
        Timers { now: 0, wheel, deadlines, due: Vec::new(), next: 0 }
    }

    /// A millisecond passes: packets come, timers fire and are set again where the deadline has moved.
    fn pass(&mut self) {
        self.now += 1;
        for _ in 0..PACKETS {
            // Each connection once in turn, all over the table.
            self.next = self.next.wrapping_add(7919) % CONNECTIONS;
            self.deadlines[self.next as usize] = self.now + KEEP_ALIVE;
        }
        if self.wheel.next().is_some_and(|at| at <= self.now) {
            self.wheel.advance(self.now, &mut self.due);
            for key in self.due.drain(..) {
                let deadline = self.deadlines[key as usize];
                assert!(deadline > self.now, "every connection is heard of");
                self.wheel.set(key, deadline);
            }
        }
    }
}

fn refresh(criterion: &mut Criterion) {
    let mut timers = Timers::new();
    let mut group = criterion.benchmark_group("timers");
    group.throughput(Throughput::Elements(PACKETS));
    group.bench_function("refresh one of 131,072, 128 a millisecond", |bencher| {
        bencher.iter(|| timers.pass());
    });
    group.finish();
    let mut wheel = Wheel::new(0);
    let (mut now, mut key, mut due) = (0, 0u32, Vec::new());
    criterion.bench_function("set a timer and let it fire", |bencher| {
        bencher.iter(|| {
            key = key.wrapping_add(1);
            wheel.set(key % CONNECTIONS, now + 1 + u64::from(key.wrapping_mul(0x9E37_79B1) >> 18));
            if key % 4 == 0 {
                now += 1;
                due.clear();
                wheel.advance(now, &mut due);
            }
        });
    });
}

criterion_group!(benches, refresh);
criterion_main!(benches);
