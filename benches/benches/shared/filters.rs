//! A million filters and topics that match them, for the benches of the router and of the digest between cores.

/// How many there are.
pub(crate) const COUNT: u32 = 1_000_000;

/// The filter of subscription `number`. Of ten at each of 1,000 sites, six are exact, three have a wildcard and one is
/// shared by five subscribers.
pub(crate) fn filter(number: u32) -> String {
    let site = number / 10 % 1_000;
    match number % 10 {
        0..6 => format!("site/{site}/device/{number}/command"),
        6 => format!("site/{site}/device/{number}/+"),
        7 => format!("site/{site}/device/{number}/#"),
        8 => format!("site/{site}/+/{number}/state"),
        _ => format!("site/{site}/device/{}/alarm", number / 50_000),
    }
}

/// The topic that subscription `number` is meant for.
pub(crate) fn topic(number: u32) -> String {
    filter(number).replace("/+/", "/device/").replace(['+', '#'], "command")
}

/// Numbers all over the table, each once, so that caches hold nothing by chance.
pub(crate) fn scattered(at: u32) -> u32 {
    (u64::from(at) * 2_654_435_761 % u64::from(COUNT)) as u32
}

/// All numbers in an order that no branch predictor sees through.
pub(crate) fn shuffled() -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..COUNT).collect();
    let mut random = 1u64;
    for at in (1..numbers.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(at, (random >> 33) as usize % (at + 1));
    }
    numbers
}
