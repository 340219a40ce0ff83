//! What the sources of the workspace cite and test. They are formatted by rustfmt, so that lines and indentation tell.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::table::Version;

const CRATES: [&str; 3] = ["mqtt-proto", "mqtt-broker", "mqtt-bin"];

/// A statement named in the code.
pub(crate) struct Citation {
    pub(crate) id: String,
    pub(crate) version: Version,
    /// File and line.
    pub(crate) place: String,
}

/// Statements cited as `[MQTT-3.1.4-3]` (5.0) or `[MQTT-3.1.3-8 v3.1.1]`.
pub(crate) fn citations(root: &Path) -> Vec<Citation> {
    let mut citations = Vec::new();
    for file in CRATES.iter().flat_map(|name| rust_files(&root.join(name))) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let name = file.strip_prefix(root).expect("below the root").display();
        for (line, text) in text.lines().enumerate() {
            for (at, _) in text.match_indices("MQTT-") {
                let end = |c: char| c != '-' && c != '.' && !c.is_ascii_digit();
                let number = &text[at + 5..];
                let (number, rest) = number.split_at(number.find(end).unwrap_or(number.len()));
                if !number.contains('-') || number.ends_with(['-', '.']) {
                    continue;
                }
                let version = if rest.starts_with(" v3.1.1") { Version::V3_1_1 } else { Version::V5 };
                let place = format!("{name}:{}", line + 1);
                citations.push(Citation { id: format!("MQTT-{number}"), version, place });
            }
        }
    }
    citations
}

/// Every test of the workspace, as `crate::binary::module::name`, with the file that holds it.
pub(crate) fn tests(root: &Path) -> BTreeMap<String, PathBuf> {
    let mut tests = BTreeMap::new();
    for name in CRATES {
        let folder = root.join(name);
        for file in rust_files(&folder) {
            let inside = file.strip_prefix(&folder).expect("below the crate");
            let Some(module) = module(&name.replace('-', "_"), inside) else { continue };
            let text = fs::read_to_string(&file).expect("a source file can be read");
            let place = file.strip_prefix(root).expect("below the root");
            tests.extend(tests_in(&module, &text).into_iter().map(|test| (test, place.to_owned())));
        }
    }
    tests
}

/// The path of the module that a file is: `tests/behaviour/wills.rs` of mqtt-broker is `mqtt_broker::behaviour::wills`.
fn module(name: &str, file: &Path) -> Option<String> {
    let file = file.with_extension("");
    let mut parts = file.iter().map(|part| part.to_str().expect("names are ASCII"));
    if !matches!(parts.next()?, "src" | "tests") {
        return None;
    }
    let inner = parts.filter(|part| !matches!(*part, "main" | "lib" | "mod"));
    Some(std::iter::once(name).chain(inner).collect::<Vec<_>>().join("::"))
}

/// The functions behind `#[test]`, with the inline modules that they are in.
fn tests_in(module: &str, text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut inner: Vec<(usize, &str)> = Vec::new();
    let mut marked = false;
    for line in text.lines() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        if code == "}" && inner.last().is_some_and(|(at, _)| *at == indentation) {
            inner.pop();
        } else if let Some(name) = code.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            inner.push((indentation, name));
        } else if code == "#[test]" {
            marked = true;
        } else if let Some(rest) = code.strip_prefix("fn ").filter(|_| marked) {
            marked = false;
            let name = rest.split(['(', '<']).next().expect("the first part of anything");
            let path = std::iter::once(module).chain(inner.iter().map(|(_, name)| *name)).chain([name]);
            tests.push(path.collect::<Vec<_>>().join("::"));
        }
    }
    tests
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources can be read") {
            let entry = entry.expect("a folder of sources can be read").path();
            if entry.is_dir() && !entry.ends_with("target") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn tests_are_named_by_crate_binary_and_module() {
    let text = "#[test]\nfn first() {\n}\n\nmod inner {\n    #[test]\n    #[ignore]\n    fn second() {\n    }\n}\n\n#[test]\nfn third() {\n}\nfn no_test() {}\n";
    assert_eq!(tests_in("a::b", text), ["a::b::first", "a::b::inner::second", "a::b::third"]);
    assert_eq!(module("a", Path::new("tests/b/main.rs")).as_deref(), Some("a::b"));
    assert_eq!(module("a", Path::new("src/b/mod.rs")).as_deref(), Some("a::b"));
    assert_eq!(module("a", Path::new("examples/b.rs")), None);
}
