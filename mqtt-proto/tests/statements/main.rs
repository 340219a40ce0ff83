//! Holds `tests/statements.toml`, the code's citations, the tests of the workspace and `CONFORMANCE.md` together.
//!
//! `UPDATE_CONFORMANCE=1 cargo test -p mqtt-proto --test statements` writes the tables of `CONFORMANCE.md` anew.
//! Packaged alone, without the other crates beside it, there is nothing to compare and the tests pass.

mod breaks;
mod conformance;
mod sources;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use table::{Proof, Side, Statement, Version};

/// Statements that one test may stand for in one version of the standard.
const STATEMENTS_PER_TEST: usize = 4;
/// Chapters about conformance as such and about WebSocket, which the broker does not speak yet.
const CHAPTERS_WAIVED: [&str; 3] = ["5", "6", "7"];

/// The repository, if this crate is in it.
fn repository() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    root.join("mqtt-broker").is_dir().then(|| root.to_owned())
}

/// Fails with all of `faults`, one a line.
#[track_caller]
fn none(what: &str, faults: impl IntoIterator<Item = String>) {
    let faults: Vec<_> = faults.into_iter().collect();
    assert!(faults.is_empty(), "{} {what}:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_entry_is_complete() {
    let statements = table::read();
    let mut seen = BTreeSet::new();
    none(
        "entries are wrong",
        statements.iter().filter_map(|entry| {
            let fault = if !seen.insert((entry.version, entry.id.clone())) {
                "is there twice"
            } else if entry.says.is_empty() || entry.says.chars().count() > 110 {
                "says nothing, or more than a line"
            } else if !entry.has_valid_id() {
                "is neither a statement's id nor begins with a section's number"
            } else {
                return None;
            };
            Some(format!("{entry}: {fault}"))
        }),
    );
}

#[test]
fn statements_stand_in_the_order_of_the_standard() {
    let statements = table::read();
    let order: Vec<_> = statements.iter().map(Statement::order).collect();
    none(
        "entries are out of order",
        order
            .windows(2)
            .zip(&statements[1..])
            .filter(|(pair, _)| pair[0] > pair[1])
            .map(|(_, entry)| entry.to_string()),
    );
}

#[test]
fn every_cited_id_is_known() {
    let Some(root) = repository() else { return };
    let known: BTreeSet<_> = table::read().into_iter().map(|entry| (entry.version, entry.id)).collect();
    none(
        "citations of statements that there are not",
        sources::citations(&root)
            .into_iter()
            .filter(|citation| !known.contains(&(citation.version, citation.id.clone())))
            .map(|citation| format!("{}: {} of {}", citation.place, citation.id, citation.version)),
    );
}

#[test]
fn every_proof_is_a_test() {
    let Some(root) = repository() else { return };
    let tests = sources::tests(&root);
    let unknown = |entry: &Statement| {
        entry
            .proofs()
            .iter()
            .filter(|test| !tests.contains_key(*test))
            .map(|test| format!("{entry}: {test}"))
            .collect::<Vec<_>>()
    };
    none("proofs are no tests", table::read().iter().flat_map(unknown));
}

#[test]
fn every_duty_of_a_server_is_proved() {
    let open = |entry: &Statement| {
        let ours = entry.side != Side::Client && !CHAPTERS_WAIVED.contains(&entry.chapter());
        match &entry.proof {
            Proof::Tests(tests) if tests.is_empty() => true,
            Proof::Waived(_) => ours,
            Proof::Tests(_) => false,
        }
    };
    none(
        "statements without a proof",
        table::read().iter().filter(|entry| open(entry)).map(Statement::to_string),
    );
}

#[test]
fn no_test_stands_for_many_statements() {
    let mut stands_for: BTreeMap<(Version, String), Vec<String>> = BTreeMap::new();
    for entry in table::read() {
        for test in entry.proofs() {
            stands_for.entry((entry.version, test.clone())).or_default().push(entry.id.clone());
        }
    }
    none(
        "tests stand for too much",
        stands_for
            .into_iter()
            .filter(|(_, ids)| ids.len() > STATEMENTS_PER_TEST)
            .map(|((version, test), ids)| format!("{test} ({version}): {}", ids.join(", "))),
    );
}

#[test]
fn conformance_says_what_the_table_says() {
    let Some(root) = repository() else { return };
    let path = root.join("CONFORMANCE.md");
    let document = std::fs::read_to_string(&path).expect("CONFORMANCE.md can be read");
    let current = conformance::with_tables(&document, &table::read(), &sources::tests(&root));
    if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
        std::fs::write(&path, current).expect("CONFORMANCE.md can be written");
    } else {
        let fresh = "UPDATE_CONFORMANCE=1 cargo test -p mqtt-proto --test statements";
        assert!(document == current, "CONFORMANCE.md is not that of statements.toml; write it by\n{fresh}");
    }
}
