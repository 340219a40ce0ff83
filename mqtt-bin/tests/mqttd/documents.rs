//! The documents say what the program does: settings, ranges, defaults, flags and example files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::process::command;

/// The documents that hold configuration files.
const WITH_FILES: [&str; 4] =
    ["README.md", "docs/configuration.md", "docs/migrating-from-mosquitto.md", "docs/operating.md"];

pub(crate) fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of this process's own that is removed when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("mqttd-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("the temporary folder is writable");
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("it was written");
    }
}

/// What `mqttd check` prints for a file with `text`, or what it complains about.
fn check(name: &str, text: &str) -> Result<String, String> {
    let file = File::new(name, text);
    let output = command().args(["check", "--config"]).arg(&file.0).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("it says UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The cells of every table row whose first cell is a name in code.
pub(crate) fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().filter_map(cells).collect()
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix("| `")?.strip_suffix(" |")?;
    let (name, rest) = row.split_once("` |")?;
    Some([name].into_iter().chain(rest.split(" | ").map(str::trim)).collect())
}

/// The words in code of a cell.
fn in_code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// A number as the tables write it: with separators, and what it is in larger units behind it.
fn number(cell: &str) -> Option<i128> {
    cell.split(" (").next()?.replace(',', "").parse().ok()
}

/// A value as TOML writes it.
fn as_toml(word: &str) -> String {
    match word {
        "true" | "false" => word.to_owned(),
        _ if word.parse::<u64>().is_ok() => word.to_owned(),
        _ => format!("\"{word}\""),
    }
}

fn with_limit(name: &str, value: &str) -> Result<String, String> {
    check("limit", &format!("[limits]\n{name} = {value}\n"))
}

#[test]
fn every_limit_is_documented_with_its_default() {
    let text = document("docs/configuration.md");
    let printed = check("defaults", "").expect("an empty file is right");
    let table: toml::Table = printed.parse().expect("it prints TOML");
    let limits = table["limits"].as_table().expect("limits are a table");
    let documented: Vec<_> = rows(&text).into_iter().filter(|row| row.len() == 5).collect();
    let names: BTreeSet<&str> = documented.iter().map(|row| row[0]).collect();
    assert_eq!(names.len(), documented.len(), "each limit once");
    for name in names {
        assert!(limits.contains_key(name), "{name} is documented and does not exist");
    }
    for (name, value) in limits {
        let row = documented.iter().find(|row| row[0] == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in docs/configuration.md"));
        let default = match in_code(row[3]).first() {
            Some(word) => as_toml(word),
            None => number(row[3]).unwrap_or_else(|| panic!("default of {name}: {}", row[3])).to_string(),
        };
        assert_eq!(default, value.to_string(), "default of {name}");
        assert!(!row[4].is_empty(), "{name}: what happens at the bound?");
    }
}

#[test]
fn every_documented_range_is_the_one_that_is_checked() {
    let text = document("docs/configuration.md");
    let mut checked = 0;
    for row in rows(&text).into_iter().filter(|row| row.len() == 5) {
        let (name, range) = (row[0], row[2]);
        let refused = |value: i128| {
            let Err(said) = with_limit(name, &value.to_string()) else {
                panic!("{name} = {value} is taken, but {range} is documented");
            };
            let range = range.replace(" or more", " bytes or more");
            assert!(said.contains(&format!("; it must be {range}")), "{name} = {value}: {said}");
        };
        let taken = |value: &str| {
            let said = with_limit(name, value);
            assert!(said.is_ok(), "{name} = {value} is refused, but {range} is documented: {said:?}");
        };
        let words = in_code(range);
        if !words.is_empty() {
            words.iter().for_each(|word| taken(&as_toml(word)));
            assert!(with_limit(name, "\"something else\"").is_err(), "{name}");
            checked += 1;
            continue;
        }
        let (low, high) = match (range.split_once(" to "), range.strip_suffix(" or more")) {
            (Some((low, high)), _) => (low, high),
            (None, Some(low)) => (low, "18,446,744,073,709,551,615"),
            (None, None) => panic!("range of {name}: {range:?}"),
        };
        let bound = |text| number(text).unwrap_or_else(|| panic!("range of {name}: {range:?}"));
        let (low, high) = (bound(low), bound(high));
        taken(&low.to_string());
        taken(&high.to_string());
        refused(low - 1);
        refused(high + 1);
        checked += 1;
    }
    assert!(checked > 30, "only {checked} limits were found");
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let text = document("docs/configuration.md");
    let printed = check("settings", "").expect("an empty file is right");
    let help = command().arg("--help").output().expect("it starts").stdout;
    let help = String::from_utf8(help).expect("it says UTF-8");
    let table: toml::Table = printed.parse().expect("it prints TOML");
    let store = table["store"].as_table().expect("the store is a table");
    let top = table.iter().filter(|(name, _)| !["limits", "store"].contains(&name.as_str()));
    for (name, value) in top.chain(store) {
        let rows = rows(&text);
        let row = rows.iter().find(|row| row.len() == 4 && row[0] == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in docs/configuration.md"));
        let flag = format!("--{}", name.replace('_', "-"));
        let has_flag = help.contains(&flag);
        assert_eq!(in_code(row[1]), has_flag.then_some(flag).as_slice(), "flag of {name}");
        assert_eq!(in_code(row[2]), [value.to_string()], "default of {name}");
    }
}

#[test]
fn the_limits_with_a_flag_are_listed() {
    let text = document("docs/configuration.md");
    let (_, section) = text.split_once("## Limits with a flag\n").expect("the section");
    let section = section.split("\n## ").next().unwrap_or(section);
    let listed: BTreeSet<&str> = in_code(section).into_iter().collect();
    let help = command().arg("--help").output().expect("it starts").stdout;
    let help = String::from_utf8(help).expect("it says UTF-8");
    let (_, limits) = help.split_once("\nLimits:\n").expect("a section for the limits");
    let flags: BTreeSet<&str> = limits
        .lines()
        .filter_map(|line| line.trim_start().split(' ').next().filter(|word| word.starts_with("--")))
        .collect();
    assert_eq!(listed, flags);
}

#[test]
fn every_counter_of_the_sys_tree_is_documented() {
    let text = document("docs/operating.md");
    let documented: BTreeSet<&str> = rows(&text).into_iter().map(|row| row[0]).collect();
    let counters = mqtt_broker::shard::Stats::default();
    let counters: BTreeSet<&str> = counters.iter().map(|(topic, _)| topic).collect();
    let missing: Vec<_> = counters.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/operating.md: {missing:?}");
    let gone: Vec<_> =
        documented.difference(&counters).filter(|name| name.contains('/') && !name.contains('=')).collect();
    assert!(gone.is_empty(), "in docs/operating.md and not there: {gone:?}");
}

#[test]
fn every_example_file_is_right() {
    let mut files = 0;
    for name in WITH_FILES {
        let text = document(name);
        for block in text.split("```toml\n").skip(1) {
            let file = block.split("```").next().unwrap_or(block);
            check("example", file).unwrap_or_else(|said| panic!("{name}: {said}\n{file}"));
            files += 1;
        }
    }
    assert!(files >= 2, "only {files} were found");
}
