//! The tables of `CONFORMANCE.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::table::{Proof, Side, Statement, Version};

const START: &str = "<!-- Written from mqtt-proto/tests/statements.toml; do not edit below. -->\n";

/// The document with its tables written anew.
pub(crate) fn with_tables(
    document: &str,
    statements: &[Statement],
    tests: &BTreeMap<String, PathBuf>,
) -> String {
    let (prose, _) = document.split_once(START).expect("CONFORMANCE.md has the mark where the tables begin");
    let mut text = format!("{prose}{START}");
    for version in [Version::V5, Version::V3_1_1] {
        let of_version: Vec<_> = statements.iter().filter(|entry| entry.version == version).collect();
        let (with_id, without): (Vec<_>, Vec<_>) = of_version.into_iter().partition(|entry| entry.has_id());
        let proved = with_id.iter().filter(|entry| !entry.proofs().is_empty()).count();
        let waived = with_id.len() - proved;
        writeln!(text, "\n## Statements of MQTT {version}\n").expect("a String takes it");
        writeln!(text, "{} statements: {proved} proved by tests, {waived} not ours.", with_id.len())
            .expect("a String takes it");
        section(&mut text, &with_id, tests);
        if !without.is_empty() {
            writeln!(text, "\n### Requirements of MQTT {version} without an id").expect("a String takes it");
            section(&mut text, &without, tests);
        }
    }
    text
}

fn section(text: &mut String, statements: &[&Statement], tests: &BTreeMap<String, PathBuf>) {
    text.push_str("\n| Statement | Obliges | In short | Proved by |\n|---|---|---|---|\n");
    for entry in statements {
        let side = match entry.side {
            Side::Server => "server",
            Side::Client => "client",
            Side::Both => "both",
        };
        let mut proof = match &entry.proof {
            Proof::Waived(reason) => format!("not ours: {reason}"),
            Proof::Tests(names) => {
                let links: Vec<_> = names.iter().map(|name| link(name, tests)).collect();
                links.join("<br>")
            }
        };
        if let Some(deviation) = &entry.deviation {
            write!(proof, "<br>deviates: {deviation}").expect("a String takes it");
        }
        let id = entry.id.strip_prefix("MQTT-").unwrap_or(&entry.id);
        writeln!(text, "| {id} | {side} | {} | {} |", escape(&entry.says), escape(&proof))
            .expect("a String takes it");
    }
}

/// A test by its name within the crate, leading to its file.
fn link(name: &str, tests: &BTreeMap<String, PathBuf>) -> String {
    let (_, short) = name.split_once("::").expect("the name of a test begins with its crate");
    tests.get(name).map_or_else(|| short.to_owned(), |file| format!("[{short}]({})", file.display()))
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}
