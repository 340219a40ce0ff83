//! A sorted list in short runs: found by halving, walked without searching, near places found by galloping.
//!
//! Runs are long enough that their number stays small and short enough that an insertion moves little. Invariant: no run
//! is empty. The order is the caller's: each search brings a test that holds for a first part of the list and for
//! nothing behind it.

/// A sorted list of `T`.
#[derive(Debug)]
pub(super) struct Ordered<T> {
    runs: Vec<Vec<T>>,
    len: usize,
}

/// A place in the list; that behind the last value is in a run of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    run: usize,
    at: usize,
}

const RUN_MAX: usize = 256;

impl<T> Ordered<T> {
    pub(super) fn new() -> Ordered<T> {
        Ordered { runs: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Heap bytes held, without what the values themselves hold.
    pub(super) fn memory(&self) -> usize {
        let values: usize = self.runs.iter().map(Vec::capacity).sum();
        values * size_of::<T>() + self.runs.capacity() * size_of::<Vec<T>>()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.runs.iter().flatten()
    }

    /// The value at `position`, `None` at the end.
    pub(super) fn get(&self, position: Position) -> Option<&T> {
        self.runs.get(position.run)?.get(position.at)
    }

    /// The place behind `position`.
    pub(super) fn next(&self, position: Position) -> Position {
        match self.runs.get(position.run) {
            Some(run) if position.at + 1 < run.len() => Position { at: position.at + 1, ..position },
            _ => Position { run: position.run + 1, at: 0 },
        }
    }

    /// The first place whose value is not `before`.
    pub(super) fn find(&self, mut before: impl FnMut(&T) -> bool) -> Position {
        let run = self.runs.partition_point(|run| run.last().is_some_and(&mut before));
        let at = self.runs.get(run).map_or(0, |run| run.partition_point(before));
        Position { run, at }
    }

    /// As [`Ordered::find`], with half the steps if the place is in the same run as `guess`.
    pub(super) fn find_near(&self, guess: Position, mut before: impl FnMut(&T) -> bool) -> Position {
        let mut ends_before =
            |run: usize| self.runs.get(run).and_then(|run| run.last()).is_some_and(&mut before);
        let Position { run, .. } = guess;
        if run > self.runs.len() || ends_before(run) || run > 0 && !ends_before(run - 1) {
            return self.find(before);
        }
        let at = self.runs.get(run).map_or(0, |run| run.partition_point(before));
        Position { run, at }
    }

    /// The first place from `from` on whose value is not `before`: fast if it is near.
    pub(super) fn seek(&self, from: Position, mut before: impl FnMut(&T) -> bool) -> Position {
        let Some(rest) = self.runs.get(from.run..).filter(|rest| !rest.is_empty()) else { return from };
        let skipped = match rest[0].last().is_some_and(&mut before) {
            true => 1 + rest[1..].partition_point(|run| run.last().is_some_and(&mut before)),
            false => 0,
        };
        let at = match rest.get(skipped) {
            Some(run) if skipped == 0 => from.at + gallop(&run[from.at..], before),
            Some(run) => run.partition_point(before),
            None => 0,
        };
        Position { run: from.run + skipped, at }
    }

    /// Puts `value` before the one at `position`.
    pub(super) fn insert(&mut self, position: Position, value: T) {
        self.len += 1;
        let at_end = position.run == self.runs.len();
        if at_end && self.runs.last().is_none_or(|run| run.len() == RUN_MAX) {
            self.runs.push(vec![value]);
            return;
        }
        let Position { run, at } = match at_end {
            true => Position { run: position.run - 1, at: self.runs[position.run - 1].len() },
            false => position,
        };
        let values = &mut self.runs[run];
        if values.len() < RUN_MAX {
            return values.insert(at, value);
        }
        // Before it grows beyond the room that it has.
        let mut rest = values.split_off(RUN_MAX / 2);
        match at.checked_sub(values.len()) {
            Some(at) => rest.insert(at, value),
            None => values.insert(at, value),
        }
        self.runs.insert(run + 1, rest);
    }

    /// Takes the value at `position` out.
    pub(super) fn remove(&mut self, position: Position) -> Option<T> {
        let run = self.runs.get_mut(position.run)?;
        if position.at >= run.len() {
            return None;
        }
        let value = run.remove(position.at);
        self.len -= 1;
        self.tidy(position.run);
        Some(value)
    }

    /// Keeps the values for which `keep` holds.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for run in &mut self.runs {
            run.retain(&mut keep);
            run.shrink_to(run.len());
        }
        self.runs.retain(|run| !run.is_empty());
        self.runs.shrink_to(self.runs.len());
        self.len = self.runs.iter().map(Vec::len).sum();
    }

    /// Joins the short run `run` with a neighbour, or drops it if it is empty.
    fn tidy(&mut self, run: usize) {
        let len = self.runs[run].len();
        if len == 0 {
            self.runs.remove(run);
        } else if len < RUN_MAX / 4 {
            let short = |runs: &[Vec<T>], at: usize| runs.get(at).is_some_and(|run| run.len() < RUN_MAX / 2);
            if short(&self.runs, run + 1) {
                let next = self.runs.remove(run + 1);
                self.runs[run].extend(next);
            } else if run > 0 && short(&self.runs, run - 1) {
                let this = self.runs.remove(run);
                self.runs[run - 1].extend(this);
            }
        }
        if self.runs.len() * 4 < self.runs.capacity() {
            self.runs.shrink_to(self.runs.len() * 2);
        }
    }
}

/// How many of the first of `list` are `before`, looking at 1, 3, 7, ... first.
fn gallop<T>(list: &[T], mut before: impl FnMut(&T) -> bool) -> usize {
    let mut known = 0;
    let mut step = 1;
    while let Some(value) = list.get(known + step - 1) {
        if !before(value) {
            return known + list[known..known + step - 1].partition_point(before);
        }
        known += step;
        step *= 2;
    }
    known + list[known..].partition_point(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(
            operations in prop::collection::vec((0u8..8, 0u32..2000), 0..3000),
            probes in prop::collection::vec((0u32..2000, 0u32..2000), 20),
        ) {
            let mut ordered = Ordered::new();
            let mut model = std::collections::BTreeSet::new();
            let mut guess = Position::default();
            // Mostly growing first, mostly shrinking later, so that runs split and join.
            for (number, (kind, value)) in operations.iter().copied().enumerate() {
                let position = ordered.find_near(guess, |&known| known < value);
                prop_assert_eq!(position, ordered.find(|&known| known < value));
                if value % 3 == 0 {
                    guess = position;
                }
                let there = ordered.get(position) == Some(&value);
                prop_assert_eq!(there, model.contains(&value));
                if kind < 7 && (number < 2000 || kind == 0) {
                    if model.insert(value) {
                        ordered.insert(position, value);
                    }
                } else if model.remove(&value) {
                    prop_assert_eq!(ordered.remove(position), Some(value));
                }
                prop_assert_eq!(ordered.len(), model.len());
            }
            prop_assert!(ordered.iter().eq(model.iter()));
            prop_assert!(ordered.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN_MAX));
            for (from, to) in probes {
                let position = ordered.seek(ordered.find(|&known| known < from), |&known| known < to);
                prop_assert_eq!(ordered.get(position), model.range(from.max(to)..).next());
                let next = ordered.get(ordered.next(position));
                prop_assert_eq!(next, model.range(from.max(to)..).nth(1));
            }
            ordered.retain(|value| value % 2 == 0);
            model.retain(|value| value % 2 == 0);
            prop_assert!(ordered.iter().eq(model.iter()));
            prop_assert_eq!(ordered.len(), model.len());
            while ordered.len() > 0 {
                ordered.remove(ordered.find(|_| false));
            }
            prop_assert_eq!(ordered.memory(), 0);
        }
    }
}
