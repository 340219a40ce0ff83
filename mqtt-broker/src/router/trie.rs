//! The trie of Topic Filters with wildcards, a level an edge.
//!
//! An edge with a single filter behind it leads to that filter itself, whose own text says the rest. So a filter that shares
//! no level with others costs one edge however long it is, and an inner node exists only where filters part or their common
//! levels go on. Invariant: behind a node's edges there are at least two filters.
//!
//! The edges of all nodes that name a level are in one table, by a hash of node and level: where to look follows from the
//! node's number alone, so nothing has to come from memory first. Changes compare texts at every level; matching compares
//! none and leaves that to its caller, who does it once for each filter arrived at.

use ahash::RandomState;

use super::filters::FilterId;
use super::levels::{Levels, hash, level, level_end};
use super::slab::Slab;
use super::text::Text;
use super::words::Words;

/// Where the trie reads the texts of its filters.
pub(super) trait Texts {
    /// The text of `filter`.
    fn text(&self, filter: FilterId) -> &[u8];
}

/// What an edge leads to: nothing, a filter, or a node.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Edge(u32);

#[derive(Clone, Copy)]
enum Target {
    Nothing,
    Filter(FilterId),
    Node(u32),
}

const NODE: u32 = 1 << 31;

impl Edge {
    const NOTHING: Edge = Edge(u32::MAX);

    fn filter(filter: FilterId) -> Edge {
        debug_assert!(filter.0 < NODE);
        Edge(filter.0)
    }

    fn node(node: u32) -> Edge {
        debug_assert!(node < NODE - 1);
        Edge(NODE | node)
    }

    fn target(self) -> Target {
        match self.0 {
            u32::MAX => Target::Nothing,
            word if word & NODE != 0 => Target::Node(word & !NODE),
            word => Target::Filter(FilterId(word)),
        }
    }

    /// The word of a literal edge: never zero, since `Edge(u32::MAX)` is never stored.
    fn word(self, place: u32) -> u64 {
        u64::from(place) << 32 | u64::from(self.0 + 1)
    }

    fn from_word(word: u64) -> Edge {
        Edge(word as u32 - 1)
    }
}

/// A place in the tree of levels that several filters reach.
struct Node {
    /// The filter that ends here.
    here: Edge,
    /// The filter that goes on with `#`.
    multi: Edge,
    /// Where filters go on with `+`.
    single: Edge,
    /// How many edges name a level, and the exclusive or of their words: the word of the last one, once one is left.
    literals: u32,
    literal_words: u64,
    /// The node and the level that lead here: they tell whether an edge found by its hash is the one that was looked for.
    parent: u32,
    level: Text,
}

impl Node {
    fn new(parent: u32, level: Text) -> Node {
        Node {
            here: Edge::NOTHING,
            multi: Edge::NOTHING,
            single: Edge::NOTHING,
            literals: 0,
            literal_words: 0,
            parent,
            level,
        }
    }

    fn wildcards(&self) -> impl Iterator<Item = Edge> {
        [self.here, self.multi, self.single].into_iter().filter(|&edge| edge != Edge::NOTHING)
    }

    fn edges(&self) -> usize {
        self.wildcards().count() + self.literals as usize
    }

    /// The only edge of a node that has no other.
    fn last(&self) -> (Edge, Option<u64>) {
        match self.wildcards().next() {
            Some(edge) => (edge, None),
            None => (Edge::from_word(self.literal_words), Some(self.literal_words)),
        }
    }
}

/// Which edge of a node.
#[derive(Clone, Copy)]
enum Way {
    Here,
    Multi,
    Single,
    Literal(u32),
}

/// The trie itself.
pub(super) struct Trie {
    /// `None` while there is no filter. The root alone may have fewer than two filters behind it.
    root: Option<u32>,
    nodes: Slab<Node>,
    /// The edges that name a level, of all nodes.
    literals: Words,
    /// Heap bytes of all nodes' levels.
    level_bytes: usize,
}

/// No node: the parent of the root.
const NONE: u32 = u32::MAX;

impl Trie {
    pub(super) fn new() -> Trie {
        Trie { root: None, nodes: Slab::new(), literals: Words::default(), level_bytes: 0 }
    }

    /// Whether there is no filter.
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Heap bytes held.
    pub(super) fn memory(&self) -> usize {
        self.nodes.memory() + self.literals.memory() + self.level_bytes
    }

    /// The filter whose text is `text`.
    pub(super) fn find(&self, text: &[u8], hasher: &RandomState, texts: &impl Texts) -> Option<FilterId> {
        let mut node = self.root?;
        let mut at = 0;
        loop {
            let (way, next) = way(text, at, hasher);
            match self.edge(node, way, text, at, texts).target() {
                Target::Nothing => return None,
                Target::Filter(filter) => return (texts.text(filter) == text).then_some(filter),
                Target::Node(child) => (node, at) = (child, next),
            }
        }
    }

    /// Adds `filter`, which is not yet in.
    pub(super) fn insert(&mut self, filter: FilterId, hasher: &RandomState, texts: &impl Texts) {
        let text = texts.text(filter);
        let mut node = match self.root {
            Some(root) => root,
            None => {
                let root = self.add_node(NONE, b"");
                *self.root.insert(root)
            }
        };
        let mut at = 0;
        loop {
            let (way, next) = way(text, at, hasher);
            let edge = self.edge(node, way, text, at, texts);
            match edge.target() {
                Target::Nothing => return self.set(node, way, Edge::NOTHING, Edge::filter(filter)),
                Target::Node(child) => node = child,
                Target::Filter(other) => {
                    debug_assert!(texts.text(other) != text, "a filter is inserted once");
                    let child = self.add_node(node, level(text, at));
                    self.set(node, way, edge, Edge::node(child));
                    let (way, _) = self::way(texts.text(other), next, hasher);
                    self.set(child, way, Edge::NOTHING, Edge::filter(other));
                    node = child;
                }
            }
            at = next;
        }
    }

    /// Takes `filter` out, which is in.
    pub(super) fn remove(&mut self, filter: FilterId, hasher: &RandomState, texts: &impl Texts) {
        let text = texts.text(filter);
        let mut path = Vec::with_capacity(16);
        let mut node = self.root.expect("a filter that is in lies behind the root");
        let mut at = 0;
        loop {
            let (way, next) = way(text, at, hasher);
            let edge = self.edge(node, way, text, at, texts);
            match edge.target() {
                Target::Node(child) => {
                    path.push((node, way));
                    (node, at) = (child, next);
                }
                Target::Filter(found) => {
                    debug_assert_eq!(found, filter);
                    self.set(node, way, edge, Edge::NOTHING);
                    break;
                }
                Target::Nothing => unreachable!("a filter that is in is found by its text"),
            }
        }
        // A node with a single filter left gives way to it; then perhaps its parent.
        while let Some((parent, way)) = path.pop() {
            let kept = self.nodes.at(node);
            if kept.edges() > 1 {
                return;
            }
            let (last, word) = kept.last();
            if matches!(last.target(), Target::Node(_)) {
                return;
            }
            if let Some(word) = word {
                self.literals.remove(word);
            }
            self.set(parent, way, Edge::node(node), last);
            self.remove_node(node);
            node = parent;
        }
        if self.nodes.at(node).edges() == 0 {
            self.remove_node(node);
            self.root = None;
        }
    }

    /// Calls `found` with every filter that matches the topic of these `levels`, and rarely with one that only seems to, since
    /// hashes of other levels agree; `hidden` leaves out those that begin with a wildcard [MQTT-4.7.2-1].
    ///
    /// The nodes of one level are visited one after the other before those of the next: what is needed of each comes from
    /// memory at the same time.
    pub(super) fn matches(&self, levels: &Levels<'_>, hidden: bool, mut found: impl FnMut(FilterId)) {
        let Some(root) = self.root else { return };
        let mut lists = (List::default(), List::default());
        let (mut nodes, mut next) = (&mut lists.0, &mut lists.1);
        nodes.push((root, NONE));
        // The places that have led to filters. Two nodes may have edges at one place: no filter is to be found twice.
        let mut places = List::default();
        let (mut depth, mut at) = (0, 0);
        while let Some((end, hash)) = levels.get(depth, at) {
            let wildcards = !(hidden && depth == 0);
            (depth, at) = (depth + 1, end as usize + 1);
            let next_hash = levels.get(depth, at).map(|(_, hash)| hash);
            for &(number, parent) in nodes.iter() {
                let node = self.nodes.at(number);
                // The edge to it was another node's.
                if node.parent != parent {
                    continue;
                }
                let mut go_to = |node: u32| {
                    self.nodes.prefetch(node);
                    if let Some(hash) = next_hash {
                        self.literals.prefetch(place(node, hash));
                    }
                    next.push((node, number));
                };
                if wildcards {
                    for edge in [node.multi, node.single] {
                        match edge.target() {
                            Target::Nothing => {}
                            Target::Filter(filter) => found(filter),
                            Target::Node(node) => go_to(node),
                        }
                    }
                }
                let place = place(number, hash);
                let mut filters = 0;
                for edge in self.literals.with_hash(place).map(Edge::from_word) {
                    match edge.target() {
                        Target::Nothing => {}
                        Target::Filter(_) if filters == 0 && places.iter().any(|&known| known == place) => {}
                        Target::Filter(filter) => {
                            found(filter);
                            filters += 1;
                        }
                        Target::Node(node) => go_to(node),
                    }
                }
                if filters > 0 {
                    places.push(place);
                }
            }
            std::mem::swap(&mut nodes, &mut next);
            next.clear();
        }
        for &(number, parent) in nodes.iter() {
            let node = self.nodes.at(number);
            if node.parent == parent {
                for edge in [node.here, node.multi] {
                    if let Target::Filter(filter) = edge.target() {
                        found(filter);
                    }
                }
            }
        }
    }

    /// The edge of `node` that `way` names; among literals the one whose level is that of `text` from `at` on.
    fn edge(&self, node: u32, way: Way, text: &[u8], at: usize, texts: &impl Texts) -> Edge {
        let hash = match way {
            Way::Here => return self.nodes.at(node).here,
            Way::Multi => return self.nodes.at(node).multi,
            Way::Single => return self.nodes.at(node).single,
            Way::Literal(hash) => hash,
        };
        let end = level_end(text, at);
        let mut edges = self.literals.with_hash(place(node, hash)).map(Edge::from_word);
        edges
            .find(|edge| match edge.target() {
                Target::Filter(filter) => {
                    let other = texts.text(filter);
                    other.get(..end) == Some(&text[..end]) && matches!(other.get(end), None | Some(b'/'))
                }
                // Other nodes have their edges to the same level at other places.
                Target::Node(child) => self.nodes.at(child).level.as_bytes() == &text[at..end],
                Target::Nothing => false,
            })
            .unwrap_or(Edge::NOTHING)
    }

    /// Changes the edge of `node` that `way` names from `old` to `new`; either may be nothing.
    fn set(&mut self, node: u32, way: Way, old: Edge, new: Edge) {
        let kept = self.nodes.at_mut(node);
        let hash = match way {
            Way::Here => return kept.here = new,
            Way::Multi => return kept.multi = new,
            Way::Single => return kept.single = new,
            Way::Literal(hash) => hash,
        };
        let word = |edge: Edge| edge.word(place(node, hash));
        if old == Edge::NOTHING {
            self.literals.insert(word(new));
            kept.literals += 1;
            kept.literal_words ^= word(new);
        } else if new == Edge::NOTHING {
            self.literals.remove(word(old));
            kept.literals -= 1;
            kept.literal_words ^= word(old);
        } else {
            self.literals.replace(word(old), word(new));
            kept.literal_words ^= word(old) ^ word(new);
        }
    }

    fn add_node(&mut self, parent: u32, level: &[u8]) -> u32 {
        let level = Text::new(level);
        self.level_bytes += level.memory();
        self.nodes.insert(Node::new(parent, level))
    }

    fn remove_node(&mut self, node: u32) {
        let node = self.nodes.remove(node).expect("it was just read");
        self.level_bytes -= node.level.memory();
    }
}

/// Where the edge of `node` to a level with this hash is looked for. The hash is keyed, so nobody can aim at a place; the
/// factor spreads nodes with the same level.
pub(super) fn place(node: u32, hash: u32) -> u32 {
    hash ^ node.wrapping_mul(0x9E37_79B1)
}

/// A list that needs no heap while it is short.
#[derive(Default)]
struct List<T> {
    near: [T; 16],
    len: usize,
    far: Vec<T>,
}

impl<T> List<T> {
    fn push(&mut self, value: T) {
        match self.near.get_mut(self.len) {
            Some(slot) => {
                *slot = value;
                self.len += 1;
            }
            None => self.far.push(value),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.near[..self.len].iter().chain(&self.far)
    }

    fn clear(&mut self) {
        self.len = 0;
        self.far.clear();
    }
}

/// Which edge the filter `text` takes at `at`, and where its next level begins: one past the end after the last.
fn way(text: &[u8], at: usize, hasher: &RandomState) -> (Way, usize) {
    if at > text.len() {
        return (Way::Here, at);
    }
    let level = level(text, at);
    let way = match level {
        b"#" => Way::Multi,
        b"+" => Way::Single,
        _ => Way::Literal(hash(level, hasher)),
    };
    (way, at + level.len() + 1)
}
