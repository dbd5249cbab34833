//! From what a file says to what is evaluated.

use super::networks::Networks;
use super::sample::Share;
use super::text::TextSet;
use super::{FieldAnswer, FieldQuestion, Matcher, Node};
use crate::config::matching::{Condition, Domain, Field, FieldKind, FieldTest, Pattern};

impl Matcher {
    /// Compiles a condition, whose patterns have been seen to compile.
    ///
    /// # Errors
    /// A pattern that does not.
    pub(crate) fn new(condition: &Condition) -> Result<Self, String> {
        node(condition).map(Matcher)
    }
}

fn node(condition: &Condition) -> Result<Node, String> {
    Ok(match condition {
        Condition::All(list) => all(list)?,
        Condition::Not(inner) => Node::Not(Box::new(node(inner)?)),
        Condition::Sample(sample) => Node::Share(Share::new(sample)),
        Condition::Internal(internal) => Node::Internal(*internal),
        Condition::Host { pattern, port: Some(port) } => {
            Node::All(Box::new([Node::Port(*port), Node::Host(TextSet::new(&[pattern], Domain::Host)?)]))
        }
        Condition::Field(Field { kind, name, test: FieldTest::Present(wanted) }) => {
            question(*kind, name, FieldAnswer::Present(*wanted))
        }
        list_or_one => any(std::slice::from_ref(list_or_one))?,
    })
}

fn question(kind: FieldKind, name: &str, test: FieldAnswer) -> Node {
    Node::Field(FieldQuestion { kind, name: name.into(), test })
}

/// Every one of these. Those that must not hold are one that must not: none of any.
fn all(list: &[Condition]) -> Result<Node, String> {
    let mut nodes = Vec::new();
    let mut unwanted = Vec::new();
    for condition in flat(list, true) {
        match condition {
            Condition::Not(inner) => unwanted.push(&**inner),
            condition => nodes.push(node(condition)?),
        }
    }
    if !unwanted.is_empty() {
        nodes.push(Node::Not(Box::new(any(unwanted)?)));
    }
    Ok(joined(nodes, Node::All))
}

/// Any of these. Those that ask the same of other texts are one.
fn any<'a>(list: impl IntoIterator<Item = &'a Condition>) -> Result<Node, String> {
    let mut groups = Groups::default();
    for condition in flat(list, false) {
        groups.add(condition)?;
    }
    groups.finish()
}

/// The conditions of a list; instead of those that are lists of the same kind, what is in them.
fn flat<'a>(list: impl IntoIterator<Item = &'a Condition>, all: bool) -> Vec<&'a Condition> {
    let mut flat = Vec::new();
    let mut waiting: Vec<_> = list.into_iter().collect();
    waiting.reverse();
    while let Some(condition) = waiting.pop() {
        match condition {
            Condition::All(inner) if all => waiting.extend(inner.iter().rev()),
            Condition::Any(inner) if !all => waiting.extend(inner.iter().rev()),
            condition => flat.push(condition),
        }
    }
    flat
}

/// Conditions of which any may hold, by what they ask.
#[derive(Default)]
struct Groups<'a> {
    methods: Vec<Box<[u8]>>,
    schemes: Vec<Box<[u8]>>,
    hosts: Vec<&'a Pattern>,
    paths: Vec<&'a Pattern>,
    clients: Vec<ipnet::IpNet>,
    fields: Vec<(FieldKind, &'a str, Vec<&'a Pattern>)>,
    others: Vec<Node>,
}

impl<'a> Groups<'a> {
    fn add(&mut self, condition: &'a Condition) -> Result<(), String> {
        match condition {
            Condition::Method(method) => self.methods.push(method.as_bytes().into()),
            Condition::Scheme(scheme) => self.schemes.push(scheme.as_bytes().into()),
            Condition::Host { pattern, port: None } => self.hosts.push(pattern),
            Condition::Path(pattern) => self.paths.push(pattern),
            Condition::Client(network) => self.clients.push(*network),
            Condition::Field(Field { kind, name, test: FieldTest::Is(pattern) }) => {
                match self.fields.iter_mut().find(|(known, own, _)| known == kind && own == name) {
                    Some((_, _, patterns)) => patterns.push(pattern),
                    None => self.fields.push((*kind, name, vec![pattern])),
                }
            }
            other => self.others.push(node(other)?),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Node, String> {
        let mut nodes = self.others;
        for (texts, make) in
            [(&mut self.methods, Node::Method as fn(Box<[Box<[u8]>]>) -> Node), (&mut self.schemes, Node::Scheme)]
        {
            if !texts.is_empty() {
                texts.sort_unstable();
                texts.dedup();
                nodes.push(make(std::mem::take(texts).into()));
            }
        }
        for (patterns, domain, make) in
            [(&self.hosts, Domain::Host, Node::Host as fn(TextSet) -> Node), (&self.paths, Domain::Path, Node::Path)]
        {
            if !patterns.is_empty() {
                nodes.push(make(TextSet::new(patterns, domain)?));
            }
        }
        if !self.clients.is_empty() {
            nodes.push(Node::Client(Networks::new(self.clients)));
        }
        for (kind, name, patterns) in self.fields {
            nodes.push(question(kind, name, FieldAnswer::Is(TextSet::new(&patterns, Domain::Value)?)));
        }
        Ok(joined(nodes, Node::Any))
    }
}

/// Several nodes as one, the cheapest first.
fn joined(mut nodes: Vec<Node>, several: fn(Box<[Node]>) -> Node) -> Node {
    if nodes.len() == 1
        && let Some(one) = nodes.pop()
    {
        return one;
    }
    nodes.sort_by_key(cost);
    several(nodes.into())
}

/// What it costs to ask, roughly, in nanoseconds.
fn cost(node: &Node) -> u32 {
    match node {
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().map(cost).fold(0, u32::saturating_add),
        Node::Not(node) => cost(node),
        Node::Internal(_) | Node::Scheme(_) | Node::Method(_) => 3,
        Node::Port(_) => 5,
        Node::Client(_) => 8,
        Node::Host(set) => 10 + set.cost(),
        Node::Path(set) => 15 + set.cost(),
        Node::Field(FieldQuestion { kind, test, .. }) => {
            let find = match kind {
                FieldKind::Query => 15,
                FieldKind::Header => 25,
                FieldKind::Cookie => 40,
            };
            find + match test {
                FieldAnswer::Present(_) => 0,
                FieldAnswer::Is(set) => set.cost(),
            }
        }
        Node::Share(_) => 30,
    }
}
