//! The forms in which `match` is written, and what is checked where it stands.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::patterns::{Pattern, RawPattern};
use super::{FieldTest, Sample, SampleBy, canonical};

/// A key that is there has a value: one without would ask for nothing, where its author asked for something.
pub(in crate::config) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads a text, and says where it stands what is wrong with it.
pub(super) fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(TextVisitor { expected, parse })
}

struct TextVisitor<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

/// The methods by which a visitor with a field `expected` refuses what is no text.
macro_rules! refuse_scalars {
    () => {
        fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
            Err(not_text(&value, self.expected))
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
            Err(not_text(&value, self.expected))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
            Err(not_text(&value, self.expected))
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
            Err(not_text(&value, self.expected))
        }
    };
}

/// A number or a truth value where a text is expected: `1.10` would be read as 1.1.
fn not_text<E: Error>(what: &dyn fmt::Display, expected: &str) -> E {
    E::custom(format!("{what} is no text, and {expected} is expected: write it in quotes"))
}

impl<T> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    refuse_scalars!();
}

/// One, or a list of them: any of these. Never empty.
pub(super) struct OneOrMore<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMoreVisitor(PhantomData))
    }
}

struct OneOrMoreVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMoreVisitor<T> {
    type Value = OneOrMore<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one, or a list of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        non_empty(list).map(OneOrMore)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMore(vec![one]))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        T::deserialize(StrDeserializer::new(text)).map(|one| OneOrMore(vec![one]))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMore(vec![one]))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMore(vec![one]))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMore(vec![one]))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMore(vec![one]))
    }
}

/// All elements of a list that has some.
fn non_empty<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(mut list: A) -> Result<Vec<T>, A::Error> {
    let mut all = Vec::new();
    while let Some(one) = list.next_element()? {
        all.push(one);
    }
    if all.is_empty() {
        return Err(A::Error::custom("an empty list says nothing: name at least one, or leave the key out"));
    }
    Ok(all)
}

/// A list that is not empty.
pub(super) struct List<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of conditions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                non_empty(list).map(List)
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// What is asked of values, by their names. Not empty.
pub(super) struct Named<N>(pub(super) Vec<(N, FieldValues)>);

impl<'de, N: Deserialize<'de> + AsRef<str>> Deserialize<'de> for Named<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamedVisitor<N>(PhantomData<N>);

        impl<'de, N: Deserialize<'de> + AsRef<str>> Visitor<'de> for NamedVisitor<N> {
            type Value = Named<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from names to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut named: Vec<(N, FieldValues)> = Vec::new();
                while let Some(name) = map.next_key::<N>()? {
                    if named.iter().any(|(known, _)| known.as_ref() == name.as_ref()) {
                        return Err(A::Error::custom(format!(
                            "'{}' stands here twice: give it a list of values",
                            name.as_ref()
                        )));
                    }
                    named.push((name, map.next_value()?));
                }
                if named.is_empty() {
                    return Err(A::Error::custom("an empty mapping says nothing: name at least one, or leave it out"));
                }
                Ok(Named(named))
            }
        }
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

/// The name of a header field, in lower case.
pub(super) struct FieldName(String);

/// Any other name.
pub(super) struct Token(String);

impl AsRef<str> for FieldName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Token {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "the name of a header field", |text| field_name(text).map(FieldName))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a name", |text| name(text).map(Token))
    }
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a name is not empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Whether a text is a token of HTTP.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn field_name(text: &str) -> Result<String, String> {
    match text {
        ":path" | ":method" | ":authority" | ":scheme" => {
            let key = if text == ":authority" { "host" } else { &text[1..] };
            Err(format!("'{text}' is no header field here: use the key '{key}'"))
        }
        _ if is_token(text) => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("'{text}' is no name of a header field")),
    }
}

/// What values of one name must be like; any of these.
pub(super) struct FieldValues(pub(super) Vec<FieldTest>);

/// One of them.
pub(super) struct FieldValue(FieldTest);

impl<'de> Deserialize<'de> for FieldValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let OneOrMore(list) = OneOrMore::<FieldValue>::deserialize(deserializer)?;
        Ok(FieldValues(list.into_iter().map(|value| value.0).collect()))
    }
}

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map(
            deserializer,
            "a value, or a mapping with one of exact, prefix, suffix, contains, glob, regex, present",
            |text| Ok(FieldTest::Is(Pattern::Exact(text.to_owned()))),
            RawPattern::of_value,
        )
        .map(FieldValue)
    }
}

/// Reads a text, or a mapping of the form `M`.
pub(super) fn text_or_map<'de, D: Deserializer<'de>, M: Deserialize<'de>, T>(
    deserializer: D,
    expected: &'static str,
    text: fn(&str) -> Result<T, String>,
    map: fn(M) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct TextOrMap<M, T> {
        expected: &'static str,
        text: fn(&str) -> Result<T, String>,
        map: fn(M) -> Result<T, String>,
    }

    impl<'de, M: Deserialize<'de>, T> Visitor<'de> for TextOrMap<M, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.text)(text).map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            let raw = M::deserialize(MapAccessDeserializer::new(map))?;
            (self.map)(raw).map_err(A::Error::custom)
        }

        refuse_scalars!();
    }
    deserializer.deserialize_any(TextOrMap { expected, text, map })
}

/// A method.
pub(super) struct Method(pub(super) String);

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a method", |text| {
            if !is_token(text) {
                return Err(format!("'{text}' is no method"));
            }
            // Methods are told apart by case, and no registered one has small letters.
            if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
                return Err(format!("methods are written in capitals: '{}'", text.to_ascii_uppercase()));
            }
            Ok(Method(text.to_owned()))
        })
    }
}

/// A scheme.
pub(super) struct Scheme(pub(super) String);

impl<'de> Deserialize<'de> for Scheme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a scheme", |text| match text {
            "http" | "https" | "ws" | "wss" => Ok(Scheme(text.to_owned())),
            _ => Err(format!("'{text}' is no scheme of a client's: http, https, ws or wss is expected")),
        })
    }
}

/// A network, or an address, which is a network of one.
pub(super) struct Network(pub(super) IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an address or a network", |text| network(text).map(Network))
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(canonical(address)));
    }
    let network: IpNet = text.parse().map_err(|_| {
        format!("'{text}' is neither an address nor a network: 10.0.0.1, 10.0.0.0/8, ::1 or 2001:db8::/32 is expected")
    })?;
    let whole = network.trunc();
    if whole != network {
        return Err(format!("'{text}' has bits beyond its length of {}: is it {whole}?", network.prefix_len()));
    }
    Ok(match network {
        IpNet::V6(wide) if wide.prefix_len() >= 96 => match canonical(IpAddr::V6(wide.addr())) {
            IpAddr::V4(address) => {
                Ipv4Net::new(address, wide.prefix_len() - 96).map_or(network, |narrow| IpNet::V4(narrow.trunc()))
            }
            IpAddr::V6(_) => network,
        },
        network => network,
    })
}

/// `sample`.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MatchSample")]
pub(super) struct RawSample {
    /// How many of a hundred requests, with up to four decimals.
    percent: Percent,
    /// What decides: `client`, `path`, `header NAME` or `cookie NAME`.
    #[serde(default)]
    by: By,
    /// Samples with different ones are independent.
    #[serde(default)]
    seed: Seed,
}

impl RawSample {
    pub(super) fn resolve(self) -> Sample {
        Sample { millionths: self.percent.0, by: self.by.0, seed: self.seed.0 }
    }
}

/// In millionths.
pub(super) struct Percent(u32);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PercentVisitor;

        impl Visitor<'_> for PercentVisitor {
            type Value = Percent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 100")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Percent, E> {
                match u32::try_from(value) {
                    Ok(value) if value <= 100 => Ok(Percent(value * 10_000)),
                    _ => Err(E::custom(format!("{value} is not within 0 to 100"))),
                }
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Percent, E> {
                Err(E::custom(format!("{value} is not within 0 to 100")))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Percent, E> {
                if !(0.0..=100.0).contains(&value) {
                    return Err(E::custom(format!("{value} is not within 0 to 100")));
                }
                let millionths = (value * 10_000.0).round();
                if (value * 10_000.0 - millionths).abs() > 1e-6 {
                    return Err(E::custom(format!("{value} has more than four decimals")));
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million")]
                Ok(Percent(millionths as u32))
            }
        }
        deserializer.deserialize_any(PercentVisitor)
    }
}

/// What decides.
pub(super) struct By(SampleBy);

impl Default for By {
    fn default() -> Self {
        By(SampleBy::Client)
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "client, path, header NAME or cookie NAME", |text| {
            let wrong = || format!("'{text}' decides nothing: client, path, header NAME or cookie NAME is expected");
            match text.split_once(' ') {
                None if text == "client" => Ok(By(SampleBy::Client)),
                None if text == "path" => Ok(By(SampleBy::Path)),
                Some(("header", name)) => field_name(name.trim()).map(|name| By(SampleBy::Header(name))),
                Some(("cookie", cookie)) => name(cookie.trim()).map(|name| By(SampleBy::Cookie(name))),
                _ => Err(wrong()),
            }
        })
    }
}

/// Any text.
#[derive(Default)]
pub(super) struct Seed(String);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a text", |text| Ok(Seed(text.to_owned())))
    }
}
