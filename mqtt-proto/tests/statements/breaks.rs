//! The breaks that `.ci/breaks` makes, kept applicable: a change to code that a break edits has to change the break.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::table::{self, Statement, Version};
use crate::{none, repository, sources};

/// What the sources are broken with to see the tests of a statement go red, and to see the simulator find a bug.
const STATEMENTS: &str = "mqtt-proto/tests/breaks";
const BUGS: &str = "mqtt-broker/tests/simulation/bugs";

#[derive(Deserialize)]
struct Breaks {
    #[serde(default, rename = "break")]
    breaks: Vec<Break>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Break {
    name: String,
    #[serde(default)]
    about: String,
    statement: Option<String>,
    version: Option<Version>,
    /// Other statements that say the same, as `MQTT-4.7.1-2 5.0`.
    #[serde(default)]
    also: Vec<String>,
    #[serde(default)]
    red: BTreeSet<String>,
    file: Option<PathBuf>,
    find: Option<String>,
    replace: Option<String>,
    #[serde(default)]
    edit: Vec<Edit>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: PathBuf,
    find: String,
    replace: String,
}

impl Break {
    fn edits(&self) -> Vec<Edit> {
        let single = match (&self.file, &self.find, &self.replace) {
            (Some(file), Some(find), Some(replace)) => {
                Some(Edit { file: file.clone(), find: find.clone(), replace: replace.clone() })
            }
            _ => None,
        };
        single.into_iter().chain(self.edit.iter().cloned()).collect()
    }

    /// The statements that it breaks, as `id version`.
    fn statements(&self) -> Vec<String> {
        let own = self.statement.iter().zip(self.version).map(|(id, version)| format!("{id} {version}"));
        own.chain(self.also.iter().cloned()).collect()
    }

    /// Why it cannot be made.
    fn faults(&self, root: &Path) -> Vec<String> {
        let edits = self.edits();
        let fault = |edit: &Edit| {
            let Ok(text) = fs::read_to_string(root.join(&edit.file)) else {
                return Some(format!("there is no {}", edit.file.display()));
            };
            let first = edit.find.trim().lines().next().unwrap_or_default();
            match text.matches(&*edit.find).count() {
                1 if edit.find != edit.replace => None,
                1 => Some(format!("changes nothing: {first}")),
                count => Some(format!("is in {} {count} times: {first}", edit.file.display())),
            }
        };
        let faults: Vec<_> = edits.iter().filter_map(fault).collect();
        if edits.is_empty() { vec!["edits nothing".to_owned()] } else { faults }
    }
}

/// The breaks in all files of a folder.
fn read(folder: &Path) -> Vec<Break> {
    let entries = fs::read_dir(folder).expect("the folder of breaks can be read");
    let mut files: Vec<_> =
        entries.map(|entry| entry.expect("the folder of breaks can be read").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let breaks: Vec<_> = files.iter().flat_map(|path| read_file(path)).collect();
    assert!(!breaks.is_empty(), "there are no breaks in {}", folder.display());
    breaks
}

fn read_file(path: &Path) -> Vec<Break> {
    let text = fs::read_to_string(path).expect("a file of breaks can be read");
    let breaks: Breaks = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    breaks.breaks
}

/// Where this goes red the code that a break edits has changed: edit the break to match, and see with
/// `.ci/breaks statements NAME` or `.ci/breaks simulation NAME` that the tests still notice it.
#[test]
fn every_break_can_be_made() {
    let Some(root) = repository() else { return };
    let breaks = [STATEMENTS, BUGS].into_iter().flat_map(|folder| read(&root.join(folder)));
    none(
        "edits of breaks do not fit the code any more, where each has to occur once",
        breaks.flat_map(|each| {
            let faults = each.faults(&root);
            faults.into_iter().map(move |fault| format!("{}: {fault}", each.name))
        }),
    );
}

#[test]
fn no_two_breaks_share_a_name() {
    let Some(root) = repository() else { return };
    for folder in [STATEMENTS, BUGS] {
        let mut seen = BTreeSet::new();
        let names = read(&root.join(folder)).into_iter().map(|each| each.name);
        none("names are taken", names.filter(|name| !seen.insert(name.clone())));
    }
}

#[test]
fn every_bug_says_what_it_is() {
    let Some(root) = repository() else { return };
    let bugs = read(&root.join(BUGS));
    none("bugs say nothing", bugs.into_iter().filter(|bug| bug.about.is_empty()).map(|bug| bug.name));
}

#[test]
fn a_break_of_a_statement_names_its_proofs() {
    let Some(root) = repository() else { return };
    let tests = sources::tests(&root);
    let statements: BTreeMap<String, Statement> = table::read()
        .into_iter()
        .map(|statement| (format!("{} {}", statement.id, statement.version), statement))
        .collect();
    let faults = |each: &Break| {
        let mut faults = Vec::new();
        let broken = each.statements();
        if broken.is_empty() || each.red.is_empty() {
            faults.push("names no statement, or no test".to_owned());
        }
        faults.extend(
            each.red.iter().filter(|test| !tests.contains_key(*test)).map(|test| format!("no test {test}")),
        );
        for broken in broken {
            match statements.get(&broken) {
                None => faults.push(format!("no statement {broken}")),
                Some(statement) => {
                    let missing = statement.proofs().iter().filter(|proof| !each.red.contains(*proof));
                    faults.extend(
                        missing.map(|proof| format!("{broken} is proved by {proof}, which is not listed")),
                    );
                }
            }
        }
        faults.into_iter().map(|fault| format!("{}: {fault}", each.name)).collect::<Vec<_>>()
    };
    none("faults in breaks", read(&root.join(STATEMENTS)).iter().flat_map(faults));
}
