//! Runs the stored inputs of a target without a fuzzer, for the tests of the crates that the targets look at.

use std::fs;
use std::path::Path;

/// Runs every stored input of `target`; there are `at_least` so many.
pub(crate) fn replay(target: &str, at_least: usize, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= at_least, "{} inputs", paths.len());
    for path in paths {
        let input = fs::read(&path).expect("a readable file");
        // A panic within says what, this says where.
        println!("{}", path.display());
        run(&input);
    }
}
