//! The trie of Topic Filters with wildcards, a level an edge.
//!
//! It keeps no text: an edge with a single filter behind it leads to that filter itself, and everything else is read
//! from the filters' own texts. So a filter that shares no level with others costs one edge however long it is, and an
//! inner node exists only where filters part. Invariant: behind a node's edges there are at least two filters.
//!
//! Edges are found by the hash of their level. Changes compare texts at every level; matching compares none and leaves that
//! to its caller, who does it once for each filter arrived at.

use ahash::RandomState;

use super::filters::FilterId;
use super::levels::{Levels, hash, level};
use super::slab::Slab;
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
    fn word(self, hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(self.0 + 1)
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
    /// Some filter behind this node: its text up to here is that of all of them.
    sample: FilterId,
    /// Where filters go on with other levels.
    literals: Literals,
}

enum Literals {
    None,
    One { hash: u32, edge: Edge },
    Many(Box<Words>),
}

impl Literals {
    fn with_hash(&self, wanted: u32) -> impl Iterator<Item = Edge> + '_ {
        let (one, many) = match self {
            Literals::None => (None, None),
            Literals::One { hash, edge } => ((*hash == wanted).then_some(*edge), None),
            Literals::Many(words) => (None, Some(words.with_hash(wanted).map(Edge::from_word))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn len(&self) -> usize {
        match self {
            Literals::None => 0,
            Literals::One { .. } => 1,
            Literals::Many(words) => words.len(),
        }
    }

    fn any(&self) -> Edge {
        match self {
            Literals::None => Edge::NOTHING,
            Literals::One { edge, .. } => *edge,
            Literals::Many(words) => words.any().map_or(Edge::NOTHING, Edge::from_word),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Literals::Many(words) => size_of::<Words>() + words.memory(),
            _ => 0,
        }
    }

    fn insert(&mut self, hash: u32, edge: Edge) {
        match self {
            Literals::None => *self = Literals::One { hash, edge },
            Literals::One { hash: first_hash, edge: first } => {
                let mut words = Box::<Words>::default();
                words.insert(first.word(*first_hash));
                words.insert(edge.word(hash));
                *self = Literals::Many(words);
            }
            Literals::Many(words) => words.insert(edge.word(hash)),
        }
    }

    /// Puts `new` in the place of `old`.
    fn replace(&mut self, hash: u32, old: Edge, new: Edge) {
        match self {
            Literals::None => unreachable!("an edge is replaced where it was found"),
            Literals::One { edge, .. } => *edge = new,
            Literals::Many(words) => {
                words.replace(old.word(hash), new.word(hash));
            }
        }
    }

    fn remove(&mut self, hash: u32, edge: Edge) {
        match self {
            Literals::None => unreachable!("an edge is removed where it was found"),
            Literals::One { .. } => *self = Literals::None,
            Literals::Many(words) => {
                words.remove(edge.word(hash));
                if words.len() == 1
                    && let Some(word) = words.any()
                {
                    *self = Literals::One { hash: (word >> 32) as u32, edge: Edge::from_word(word) };
                }
            }
        }
    }
}

impl Node {
    fn new(sample: FilterId) -> Node {
        Node {
            here: Edge::NOTHING,
            multi: Edge::NOTHING,
            single: Edge::NOTHING,
            sample,
            literals: Literals::None,
        }
    }

    fn is_empty(&self) -> bool {
        self.edges() == 0
    }

    fn edges(&self) -> usize {
        [self.here, self.multi, self.single].iter().filter(|&&edge| edge != Edge::NOTHING).count()
            + self.literals.len()
    }

    /// Some edge, [`Edge::NOTHING`] if there is none.
    fn any(&self) -> Edge {
        [self.here, self.multi, self.single]
            .into_iter()
            .find(|&edge| edge != Edge::NOTHING)
            .unwrap_or_else(|| self.literals.any())
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
    /// Heap bytes of all nodes' literals.
    literal_bytes: usize,
}

impl Trie {
    pub(super) fn new() -> Trie {
        Trie { root: None, nodes: Slab::new(), literal_bytes: 0 }
    }

    /// Heap bytes held.
    pub(super) fn memory(&self) -> usize {
        self.nodes.memory() + self.literal_bytes
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
            None => *self.root.insert(self.nodes.insert(Node::new(filter))),
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
                    let child = self.nodes.insert(Node::new(filter));
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
        while let Some(&(parent, way)) = path.last() {
            let kept = self.nodes.at(node);
            let last = kept.any();
            if kept.edges() > 1 || matches!(last.target(), Target::Node(_)) {
                break;
            }
            self.set(parent, way, Edge::node(node), last);
            let gone = self.nodes.remove(node).expect("it was just read");
            self.literal_bytes -= gone.literals.memory();
            node = parent;
            path.pop();
        }
        if self.nodes.at(node).is_empty() {
            self.nodes.remove(node);
            self.root = None;
            return;
        }
        let sample = match self.nodes.at(node).any().target() {
            Target::Filter(filter) => filter,
            Target::Node(child) => self.nodes.at(child).sample,
            Target::Nothing => unreachable!("the node is not empty"),
        };
        for node in path.into_iter().map(|(node, _)| node).chain([node]) {
            let node = self.nodes.at_mut(node);
            if node.sample == filter {
                node.sample = sample;
            }
        }
    }

    /// Calls `found` with every filter that matches the Topic Name `topic`, and rarely with one that only seems to, since
    /// hashes of other levels agree; `hidden` leaves out those that begin with a wildcard [MQTT-4.7.2-1].
    pub(super) fn matches(
        &self,
        topic: &[u8],
        hidden: bool,
        hasher: &RandomState,
        mut found: impl FnMut(FilterId),
    ) {
        let Some(root) = self.root else { return };
        let mut levels = Levels::new(topic, hasher);
        let mut pending = Pending::new();
        let mut next = Some(Visit { node: root, depth: 0, at: 0 });
        while let Some(Visit { node, depth, at }) = next.take().or_else(|| pending.pop()) {
            let node = self.nodes.at(node);
            let wildcards = !(hidden && depth == 0);
            if let (Target::Filter(filter), true) = (node.multi.target(), wildcards) {
                found(filter);
            }
            if at as usize > topic.len() {
                if let Target::Filter(filter) = node.here.target() {
                    found(filter);
                }
                continue;
            }
            let (end, hash) = levels.get(depth, at);
            let mut follow = |edge: Edge| match edge.target() {
                Target::Nothing => {}
                Target::Filter(filter) => found(filter),
                Target::Node(node) => {
                    if let Some(other) = next.replace(Visit { node, depth: depth + 1, at: end + 1 }) {
                        pending.push(other);
                    }
                }
            };
            if wildcards {
                follow(node.single);
            }
            node.literals.with_hash(hash).for_each(follow);
        }
    }

    /// The edge of `node` that `way` names; among literals the one whose level is that of `text` from `at` on.
    fn edge(&self, node: u32, way: Way, text: &[u8], at: usize, texts: &impl Texts) -> Edge {
        let node = self.nodes.at(node);
        let hash = match way {
            Way::Here => return node.here,
            Way::Multi => return node.multi,
            Way::Single => return node.single,
            Way::Literal(hash) => hash,
        };
        let wanted = level(text, at);
        let mut edges = node.literals.with_hash(hash);
        edges
            .find(|edge| {
                let sample = match edge.target() {
                    Target::Filter(filter) => filter,
                    Target::Node(child) => self.nodes.at(child).sample,
                    Target::Nothing => return false,
                };
                level(texts.text(sample), at) == wanted
            })
            .unwrap_or(Edge::NOTHING)
    }

    /// Changes the edge of `node` that `way` names from `old` to `new`; either may be nothing.
    fn set(&mut self, node: u32, way: Way, old: Edge, new: Edge) {
        let node = self.nodes.at_mut(node);
        let hash = match way {
            Way::Here => return node.here = new,
            Way::Multi => return node.multi = new,
            Way::Single => return node.single = new,
            Way::Literal(hash) => hash,
        };
        self.literal_bytes -= node.literals.memory();
        if old == Edge::NOTHING {
            node.literals.insert(hash, new);
        } else if new == Edge::NOTHING {
            node.literals.remove(hash, old);
        } else {
            node.literals.replace(hash, old, new);
        }
        self.literal_bytes += node.literals.memory();
    }
}

/// A node to visit, and the level of the topic that is looked for there: its number and where it begins.
#[derive(Clone, Copy)]
struct Visit {
    node: u32,
    depth: u32,
    at: u32,
}

/// Nodes still to visit: a few without the heap.
struct Pending {
    near: [Visit; 16],
    len: usize,
    far: Vec<Visit>,
}

impl Pending {
    fn new() -> Pending {
        Pending { near: [Visit { node: 0, depth: 0, at: 0 }; 16], len: 0, far: Vec::new() }
    }

    fn push(&mut self, visit: Visit) {
        match self.near.get_mut(self.len) {
            Some(slot) => {
                *slot = visit;
                self.len += 1;
            }
            None => self.far.push(visit),
        }
    }

    fn pop(&mut self) -> Option<Visit> {
        if let Some(visit) = self.far.pop() {
            return Some(visit);
        }
        self.len = self.len.checked_sub(1)?;
        Some(self.near[self.len])
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
