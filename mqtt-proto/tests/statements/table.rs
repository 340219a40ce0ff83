//! `tests/statements.toml`, read.

use std::fmt;

use serde::Deserialize;

/// The version of the standard.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    #[serde(rename = "3.1.1")]
    V3_1_1,
    #[serde(rename = "5.0")]
    V5,
}

/// Whom a statement obliges.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Server,
    Client,
    Both,
}

/// How it is known that a statement holds.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    Tests(Vec<String>),
    /// Why it is not ours.
    Waived(String),
}

/// An entry of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Entry")]
pub(crate) struct Statement {
    /// `MQTT-3.1.2-24`, or the number of a section and a word for what has no id.
    pub(crate) id: String,
    pub(crate) version: Version,
    pub(crate) side: Side,
    pub(crate) says: String,
    pub(crate) proof: Proof,
    /// What the code does instead, on purpose.
    pub(crate) deviation: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    version: Version,
    side: Side,
    says: String,
    #[serde(default)]
    proof: Vec<String>,
    waived: Option<String>,
    deviation: Option<String>,
}

#[derive(Deserialize)]
struct Table {
    statement: Vec<Statement>,
}

impl TryFrom<Entry> for Statement {
    type Error = String;

    fn try_from(entry: Entry) -> Result<Statement, String> {
        let Entry { id, version, side, says, proof, waived, deviation } = entry;
        let proof = match waived {
            Some(_) if !proof.is_empty() || deviation.is_some() => {
                return Err(format!("{id} is waived, and proved"));
            }
            Some(reason) => Proof::Waived(reason),
            None => Proof::Tests(proof),
        };
        Ok(Statement { id, version, side, says, proof, deviation })
    }
}

impl Statement {
    pub(crate) fn proofs(&self) -> &[String] {
        match &self.proof {
            Proof::Tests(tests) => tests,
            Proof::Waived(_) => &[],
        }
    }

    /// The number of the section, as `3.1.2`.
    pub(crate) fn section(&self) -> &str {
        let number = self.id.strip_prefix("MQTT-").unwrap_or(&self.id);
        let end = number.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(number.len());
        &number[..end]
    }

    pub(crate) fn chapter(&self) -> &str {
        self.section().split('.').next().expect("the first part of anything")
    }

    pub(crate) fn has_id(&self) -> bool {
        self.id.starts_with("MQTT-")
    }

    pub(crate) fn has_valid_id(&self) -> bool {
        let numbered = self.section().split('.').all(|part| part.parse::<u32>().is_ok());
        let counted = self.id.rsplit_once('-').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
        numbered && (counted || !self.has_id())
    }

    /// Where it stands in the table: by version, those with an id first, then by section and number.
    pub(crate) fn order(&self) -> (Version, bool, Vec<u32>, u32) {
        let section = self.section().split('.').filter_map(|part| part.parse().ok()).collect();
        let number = self.id.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).filter(|_| self.has_id());
        (self.version, !self.has_id(), section, number.unwrap_or(0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5.0",
        })
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.version)
    }
}

/// The whole table.
pub(crate) fn read() -> Vec<Statement> {
    let table: Table =
        toml::from_str(include_str!("../statements.toml")).expect("tests/statements.toml is in order");
    table.statement
}
