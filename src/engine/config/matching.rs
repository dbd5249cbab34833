//! `match`: which transactions a filter takes part in.
//!
//! A [`Condition`] is what a file says, and nothing more: it is compared, printed and asked why it failed.
//! [`crate::matching`] makes of it what is evaluated.

mod forms;
mod patterns;
mod schema;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

pub use patterns::{Domain, Pattern};

pub(super) use forms::present;
use forms::{FieldName, FieldValues, List, Method, Named, Network, OneOrMore, RawSample, Token};
use patterns::{HostText, PathText};

/// How deep conditions may stand in each other.
pub(crate) const MAX_DEPTH: usize = 16;

/// How many conditions a file may have: each pattern, address and value counts as one.
pub(crate) const MAX_CONDITIONS: usize = 4096;

/// What a request must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Every one of these holds.
    All(Vec<Condition>),
    /// One of these holds, at least.
    Any(Vec<Condition>),
    /// This does not hold.
    Not(Box<Condition>),
    /// The method is this one, in capitals as in the request line.
    Method(String),
    /// The host that the client asked for, in lower case, and its port if the pattern names one.
    Host {
        /// What the host must be like.
        pattern: Pattern,
        /// The port; `None` is any.
        port: Option<u16>,
    },
    /// The path, in its plain form.
    Path(Pattern),
    /// The scheme, in lower case.
    Scheme(String),
    /// Whether a plugin made the request.
    Internal(bool),
    /// The client's address is in this network.
    Client(IpNet),
    /// A query parameter, a header field or a cookie.
    Field(Field),
    /// A share of all requests.
    Sample(Sample),
}

/// A condition on something that a request may have several of, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What it is.
    pub kind: FieldKind,
    /// Its name; of a header in lower case.
    pub name: String,
    /// What one of its values must be like, or whether there must be one.
    pub test: FieldTest,
}

/// Where values with names come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldKind {
    /// The query's parameters.
    Query,
    /// The header's fields.
    Header,
    /// The cookies.
    Cookie,
}

/// What is asked of values of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldTest {
    /// Whether there is one.
    Present(bool),
    /// One of them is like this.
    Is(Pattern),
}

/// A share of all requests, the same ones always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// How many of a million.
    pub millionths: u32,
    /// What decides: requests that are alike in this fall alike.
    pub by: SampleBy,
    /// Samples with different ones are independent.
    pub seed: String,
}

/// What a [`Sample`] decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleBy {
    /// The client's address.
    Client,
    /// The path.
    Path,
    /// The first header field of this name.
    Header(String),
    /// The first cookie of this name.
    Cookie(String),
}

/// `match`, as a file has it: all that is named must hold.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Match")]
struct RawMatch {
    /// The request's method, or several.
    #[serde(default, deserialize_with = "present")]
    method: Option<OneOrMore<Method>>,
    /// The host that the client asked for: a name, a glob such as `*.example.com`, or a pattern.
    #[serde(default, deserialize_with = "present")]
    host: Option<OneOrMore<HostText>>,
    /// The path, without the query: a text, a glob such as `/admin/**`, or a pattern.
    #[serde(default, deserialize_with = "present")]
    path: Option<OneOrMore<PathText>>,
    /// Query parameters by name.
    #[serde(default, deserialize_with = "present")]
    query: Option<Named<Token>>,
    /// Header fields by name.
    #[serde(default, deserialize_with = "present")]
    headers: Option<Named<FieldName>>,
    /// Cookies by name.
    #[serde(default, deserialize_with = "present")]
    cookies: Option<Named<Token>>,
    /// The client's address or network, or several.
    #[serde(default, deserialize_with = "present")]
    client: Option<OneOrMore<Network>>,
    /// The scheme that the client used, or several.
    #[serde(default, deserialize_with = "present")]
    scheme: Option<OneOrMore<forms::Scheme>>,
    /// Whether a plugin of the server made the request.
    #[serde(default, deserialize_with = "present")]
    internal: Option<bool>,
    /// A share of requests, chosen by a stable hash.
    #[serde(default, deserialize_with = "present")]
    sample: Option<RawSample>,
    /// One of these holds, at least.
    #[serde(default, deserialize_with = "present")]
    any: Option<List<Condition>>,
    /// Every one of these holds.
    #[serde(default, deserialize_with = "present")]
    all: Option<List<Condition>>,
    /// This does not hold.
    #[serde(default, deserialize_with = "present")]
    not: Option<Box<Condition>>,
}

impl RawMatch {
    fn resolve(self) -> Result<Condition, String> {
        let mut conditions = Vec::new();
        let mut add = |condition: Option<Condition>| conditions.extend(condition);
        add(self.method.map(|list| any(list.0.into_iter().map(|method| Condition::Method(method.0)))));
        add(self.host.map(|list| any(list.0.into_iter().map(HostText::into_condition))));
        add(self.path.map(|list| any(list.0.into_iter().map(|path| Condition::Path(path.0)))));
        add(self.query.map(|named| fields(FieldKind::Query, named)));
        add(self.headers.map(|named| fields(FieldKind::Header, named)));
        add(self.cookies.map(|named| fields(FieldKind::Cookie, named)));
        add(self.client.map(|list| any(list.0.into_iter().map(|network| Condition::Client(network.0)))));
        add(self.scheme.map(|list| any(list.0.into_iter().map(|scheme| Condition::Scheme(scheme.0)))));
        add(self.internal.map(Condition::Internal));
        add(self.sample.map(|sample| Condition::Sample(sample.resolve())));
        add(self.any.map(|list| any(list.0)));
        add(self.all.map(|list| all(list.0)));
        add(self.not.map(Condition::Not));
        if conditions.is_empty() {
            return Err("an empty mapping says nothing: name a condition, such as 'path', or leave it out".to_owned());
        }
        let condition = all(conditions);
        let depth = condition.depth();
        if depth > MAX_DEPTH {
            return Err(format!("conditions stand {depth} deep in each other here; there may be {MAX_DEPTH} levels"));
        }
        let count = condition.count();
        if count > MAX_CONDITIONS {
            return Err(format!("has {count} conditions; there may be {MAX_CONDITIONS}"));
        }
        Ok(condition)
    }
}

/// One of these. One alone is itself.
fn any(conditions: impl IntoIterator<Item = Condition>) -> Condition {
    one_or(conditions.into_iter().collect(), Condition::Any)
}

/// All of these. One alone is itself.
fn all(conditions: Vec<Condition>) -> Condition {
    one_or(conditions, Condition::All)
}

fn one_or(mut conditions: Vec<Condition>, several: fn(Vec<Condition>) -> Condition) -> Condition {
    match conditions.pop() {
        Some(one) if conditions.is_empty() => one,
        last => {
            conditions.extend(last);
            several(conditions)
        }
    }
}

/// What is asked of values with names: all names must have it.
fn fields<N: AsRef<str>>(kind: FieldKind, named: Named<N>) -> Condition {
    let one = |(name, FieldValues(tests)): (N, FieldValues)| {
        let test = |test| Condition::Field(Field { kind, name: name.as_ref().to_owned(), test });
        any(tests.into_iter().map(test))
    };
    all(named.0.into_iter().map(one).collect())
}

struct ConditionVisitor;

impl<'de> Visitor<'de> for ConditionVisitor {
    type Value = Condition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of conditions, such as {path: /admin/**}")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Condition, A::Error> {
        RawMatch::deserialize(MapAccessDeserializer::new(map))?.resolve().map_err(A::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Inside of the mapping, so that what is wrong with all of it has its place and not that of what is around it.
        deserializer.deserialize_map(ConditionVisitor)
    }
}

impl Condition {
    /// How many conditions there are: patterns, addresses, values.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Condition::All(list) | Condition::Any(list) => list.iter().map(Condition::count).sum(),
            Condition::Not(inner) => inner.count(),
            _ => 1,
        }
    }

    /// How deep conditions stand in each other; one alone is 1.
    fn depth(&self) -> usize {
        match self {
            Condition::All(list) | Condition::Any(list) => {
                1 + list.iter().map(Condition::depth).max().unwrap_or_default()
            }
            Condition::Not(inner) => 1 + inner.depth(),
            _ => 1,
        }
    }
}

/// Refuses more conditions than a file may have.
///
/// # Errors
/// How many there are.
pub(super) fn check_count<'a>(conditions: impl Iterator<Item = &'a Condition>) -> Result<(), String> {
    let count: usize = conditions.map(Condition::count).sum();
    if count > MAX_CONDITIONS {
        return Err(format!("its filters have {count} conditions; a file may have {MAX_CONDITIONS}"));
    }
    Ok(())
}

/// An address as it is compared: one of IPv4 that is written as one of IPv6 is one of IPv4.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
