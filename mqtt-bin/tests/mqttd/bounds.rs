//! The bounds that are constants are what ARCHITECTURE.md says they are.

use crate::documents::{document, rows};

/// The value of a constant that a source file has once.
fn value_in(source: &str, name: &str) -> u64 {
    let start = format!("const {name}: ");
    let found: Vec<&str> = source.lines().filter_map(|line| Some(line.split_once(&start)?.1)).collect();
    let [constant] = found[..] else { panic!("{name} is there {} times", found.len()) };
    let term = constant.split_once(" = ").and_then(|(_, value)| value.strip_suffix(';')).expect("a value");
    let factor = |text: &str| text.replace('_', "").parse::<u64>().expect("a number, product or shift");
    match term.split_once(" << ") {
        Some((number, by)) => factor(number) << factor(by),
        None => term.split(" * ").map(factor).product(),
    }
}

#[test]
fn bounds_that_are_no_settings_have_the_values_that_are_documented() {
    let text = document("ARCHITECTURE.md");
    let rows: Vec<_> = rows(&text).into_iter().filter(|row| row.len() == 5).collect();
    assert!(rows.len() > 10, "only {} bounds were found", rows.len());
    for row in rows {
        let (name, file) = (row[0], row[1].trim_matches('`'));
        let value = value_in(&document(&format!("mqtt-broker/src/{file}")), name);
        let (said, unit) = row[2].split_once(' ').expect("a value and its unit");
        assert_eq!(said.replace(',', "").parse(), Ok(value), "{name} of {file}");
        let unit_of_name = ["BYTES", "MILLIS"].iter().position(|unit| name.contains(unit));
        assert!(unit_of_name.is_none_or(|at| unit == ["bytes", "ms"][at]), "unit of {name}: {unit}");
        assert!(row[3..].iter().all(|cell| cell.ends_with('.')), "{name}: why, and what happens there?");
    }
}
