//! Reads a file's text into types, by way of serde_yaml.
//!
//! What comes from serde_yaml is passed on to the types as it is, but three things happen on the way. Mistakes are kept
//! as what they are (a key that nobody knows, with those that there are) and with the way to where they were made, not
//! only as a sentence. A key that stands twice in a mapping, or has no value, is a mistake whatever the type thinks of
//! it: a `tls:` whose lines were all commented out must not read as "no TLS". And environment variables are put into
//! texts where the file asks for that.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::error::ConfigError;
use super::mistake::{self, Mistake};
use super::place::{Source, Step, Trail};
use super::substitute::Substitution;

/// Reads a file.
///
/// # Errors
/// The first mistake, with its place.
pub(super) fn read<'de, T: Deserialize<'de>>(
    source: &Source<'de>,
    substitution: &Substitution<'_>,
) -> Result<T, ConfigError> {
    let reading = Reading::of(substitution);
    let deserializer = serde_yaml::Deserializer::from_str(source.text);
    T::deserialize(Wrap { inner: deserializer, reading: &reading, role: Role::Value }).map_err(|error| {
        let (error, kept) = match error {
            Kept::Theirs(error) => (Some(error), reading.mistake.take()),
            Kept::Ours(mistake) => (None, Some((mistake, reading.trail.take()))),
        };
        let at = error.as_ref().and_then(serde_yaml::Error::location).map(|place| (place.line(), place.column()));
        let said = error.map(|error| error.to_string()).unwrap_or_else(|| KEPT.to_owned());
        match kept.filter(|_| said.contains(KEPT)) {
            Some((mistake, trail)) => mistake::explain(source, &mistake, &trail, at),
            None => mistake::explain_yaml(source, &said, &reading.failed.take().unwrap_or_default(), at),
        }
    })
}

/// The sentence of serde_yaml's error that stands for a mistake that is kept beside it. It never gets out.
const KEPT: &str = "\u{1}kept";

struct Reading<'a> {
    substitution: &'a Substitution<'a>,
    /// Where reading is.
    trail: RefCell<Trail>,
    /// Where the error was made that is on its way out.
    failed: RefCell<Option<Trail>>,
    mistake: RefCell<Option<(Mistake, Trail)>>,
    /// The keys of each mapping that is being read.
    keys: RefCell<Vec<HashSet<String>>>,
    /// The last key.
    key: RefCell<Option<String>>,
    /// A variable that the last text had.
    variable: RefCell<Option<String>>,
}

impl<'a> Reading<'a> {
    fn of(substitution: &'a Substitution<'a>) -> Self {
        Reading {
            substitution,
            trail: RefCell::default(),
            failed: RefCell::default(),
            mistake: RefCell::default(),
            keys: RefCell::default(),
            key: RefCell::default(),
            variable: RefCell::default(),
        }
    }

    /// An error as serde_yaml takes it: it will add the place.
    fn outward<E: de::Error>(&self, error: Kept<E>) -> E {
        match error {
            Kept::Theirs(error) => error,
            Kept::Ours(mistake) => {
                let mistake = match (mistake, self.variable.take()) {
                    (Mistake::Other(message), Some(name)) => {
                        Mistake::Other(format!("{message} (with the value of ${{{name}}})"))
                    }
                    (mistake, _) => mistake,
                };
                *self.mistake.borrow_mut() = Some((mistake, self.trail.borrow().clone()));
                E::custom(KEPT)
            }
        }
    }

    /// Runs `read` one step further down.
    fn below<T, E>(&self, step: Step, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.trail.borrow_mut().0.push(step);
        let result = read();
        let mut failed = self.failed.borrow_mut();
        match &result {
            // Whoever tries something else after a mistake gets along with it.
            Ok(_) => *failed = None,
            Err(_) => {
                failed.get_or_insert_with(|| self.trail.borrow().clone());
            }
        }
        self.trail.borrow_mut().0.pop();
        result
    }

    /// A key was read.
    fn key_is<E>(&self, key: String) -> Result<(), Kept<E>> {
        let mut keys = self.keys.borrow_mut();
        let repeated = keys.last_mut().is_some_and(|keys| !keys.insert(key.clone()));
        *self.key.borrow_mut() = Some(key.clone());
        if repeated { Err(Kept::Ours(Mistake::Repeated(key))) } else { Ok(()) }
    }

    /// A text with its variables.
    fn substituted<E>(&self, text: &str) -> Result<Option<String>, Kept<E>> {
        match self.substitution.apply(text) {
            Ok(None) => Ok(None),
            Ok(Some((text, name))) => {
                *self.variable.borrow_mut() = name;
                Ok(Some(text))
            }
            Err(message) => Err(Kept::Ours(Mistake::Other(message))),
        }
    }
}

/// An error on its way from a type out to serde_yaml.
enum Kept<E> {
    /// serde_yaml's own, or one that has become its own.
    Theirs(E),
    Ours(Mistake),
}

impl<E: fmt::Display> fmt::Display for Kept<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Theirs(error) => error.fmt(f),
            Kept::Ours(mistake) => write!(f, "{mistake:?}"),
        }
    }
}

impl<E: fmt::Display> fmt::Debug for Kept<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<E: fmt::Display> std::error::Error for Kept<E> {}

impl<E: de::Error> de::Error for Kept<E> {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Kept::Ours(Mistake::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Kept::Ours(Mistake::Type { found: mistake::found(&found), expected: mistake::expected(&expected.to_string()) })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Kept::Ours(Mistake::UnknownVariant(variant.to_owned(), known))
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Kept::Ours(Mistake::UnknownKey(key.to_owned(), known))
    }

    fn missing_field(key: &'static str) -> Self {
        Kept::Ours(Mistake::Missing(key))
    }
}

/// What a text is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Key,
    Value,
    /// A value that is a number, or `true` or `false`, and may come out of a variable.
    Scalar,
    /// A value that may be absent.
    Optional,
}

/// serde_yaml's side and the types' side of everything that the two hand each other, wrapped.
struct Wrap<'a, T> {
    inner: T,
    reading: &'a Reading<'a>,
    role: Role,
}

impl<'a, T> Wrap<'a, T> {
    fn with<U>(&self, inner: U) -> Wrap<'a, U> {
        Wrap { inner, reading: self.reading, role: self.role }
    }

    fn value<U>(&self, inner: U) -> Wrap<'a, U> {
        Wrap { inner, reading: self.reading, role: Role::Value }
    }
}

macro_rules! deserialize {
    ($($method:ident ( $($arg:ident: $ty:ty),* ))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $ty,)* visitor: V) -> Result<V::Value, Self::Error> {
            let visitor = self.with(visitor);
            self.inner.$method($($arg,)* visitor).map_err(Kept::Theirs)
        }
    )*};
}

/// Of a variable, serde_yaml would say that it is no number before the visitor has seen it.
macro_rules! deserialize_scalar {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            let mut visitor = self.with(visitor);
            let result = if self.role == Role::Value && self.reading.substitution.is_active() {
                visitor.role = Role::Scalar;
                self.inner.deserialize_any(visitor)
            } else {
                self.inner.$method(visitor)
            };
            result.map_err(Kept::Theirs)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Wrap<'_, D> {
    type Error = Kept<D::Error>;

    deserialize! {
        deserialize_any() deserialize_char() deserialize_str() deserialize_string() deserialize_bytes()
        deserialize_byte_buf() deserialize_unit() deserialize_seq() deserialize_map() deserialize_identifier()
        deserialize_ignored_any() deserialize_unit_struct(name: &'static str) deserialize_tuple(len: usize)
        deserialize_newtype_struct(name: &'static str) deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
    }

    deserialize_scalar! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let visitor = Wrap { inner: visitor, reading: self.reading, role: Role::Optional };
        self.inner.deserialize_option(visitor).map_err(Kept::Theirs)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let visitor = self.with(visitor);
        self.inner.deserialize_enum(name, variants, visitor).map_err(|error| {
            // serde_yaml would have a list or a mapping be a YAML tag.
            if error.to_string().contains("a YAML tag starting with") {
                let found = mistake::found_in(&error.to_string());
                return Kept::Ours(Mistake::Type { found, expected: mistake::one_of(variants) });
            }
            Kept::Theirs(error)
        })
    }
}

macro_rules! visit {
    ($($method:ident: $ty:ty),*) => {$(
        fn $method<E: de::Error>(self, value: $ty) -> Result<V::Value, E> {
            let reading = self.reading;
            if self.role == Role::Key {
                reading.key_is(value.to_string()).map_err(|error| reading.outward(error))?;
            } else {
                *reading.variable.borrow_mut() = None;
            }
            self.inner.$method(value).map_err(|error: Kept<E>| reading.outward(error))
        }
    )*};
}

impl<V> Wrap<'_, V> {
    /// A text whose variables were put in. Where a number is wanted, it is read as one.
    fn visit_substituted<'de, E: de::Error>(self, text: String) -> Result<V::Value, Kept<E>>
    where
        V: Visitor<'de>,
    {
        if self.role == Role::Scalar {
            if let Ok(value) = text.parse() {
                return self.inner.visit_u64(value);
            }
            if let Ok(value) = text.parse() {
                return self.inner.visit_i64(value);
            }
            if let Ok(value) = text.parse() {
                return self.inner.visit_bool(value);
            }
            if let Ok(value) = text.parse::<f64>()
                && value.is_finite()
            {
                return self.inner.visit_f64(value);
            }
        }
        self.inner.visit_string(text)
    }

    fn visit_text<'de, E: de::Error>(
        self,
        text: &str,
        visit: impl FnOnce(V) -> Result<V::Value, Kept<E>>,
    ) -> Result<V::Value, E>
    where
        V: Visitor<'de>,
    {
        let reading = self.reading;
        let result = if self.role == Role::Key {
            reading.key_is(text.to_owned()).and_then(|()| visit(self.inner))
        } else {
            *reading.variable.borrow_mut() = None;
            match reading.substituted(text) {
                Ok(Some(text)) => self.visit_substituted(text),
                Ok(None) => visit(self.inner),
                Err(error) => Err(error),
            }
        };
        result.map_err(|error| reading.outward(error))
    }

    /// A value that is none.
    fn visit_nothing<'de, E: de::Error>(self, visit: impl FnOnce(V) -> Result<V::Value, Kept<E>>) -> Result<V::Value, E>
    where
        V: Visitor<'de>,
    {
        let reading = self.reading;
        let result = match self.role {
            Role::Optional => Err(Kept::Ours(Mistake::Nothing)),
            Role::Key => reading.key_is("~".to_owned()).and_then(|()| visit(self.inner)),
            Role::Value | Role::Scalar => visit(self.inner),
        };
        result.map_err(|error| reading.outward(error))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Wrap<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit!(
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128, visit_u8: u8,
        visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128, visit_f32: f32, visit_f64: f64,
        visit_char: char
    );

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        self.visit_text(text, |visitor| visitor.visit_str(text))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<V::Value, E> {
        self.visit_text(text, |visitor| visitor.visit_borrowed_str(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<V::Value, E> {
        self.visit_text(&text, |visitor| visitor.visit_str(&text))
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visit_nothing(Visitor::visit_none)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visit_nothing(Visitor::visit_unit)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let deserializer = self.value(deserializer);
        self.inner.visit_some(deserializer).map_err(|error| self.reading.outward(error))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let deserializer = self.with(deserializer);
        self.inner.visit_newtype_struct(deserializer).map_err(|error| self.reading.outward(error))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        let list = Items { list: self.value(list), index: 0 };
        self.inner.visit_seq(list).map_err(|error| self.reading.outward(error))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let map = self.value(map);
        self.reading.keys.borrow_mut().push(HashSet::new());
        let result = self.inner.visit_map(map).map_err(|error| self.reading.outward(error));
        self.reading.keys.borrow_mut().pop();
        result
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        let data = self.value(data);
        self.inner.visit_enum(data).map_err(|error| self.reading.outward(error))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Wrap<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let deserializer = self.with(deserializer);
        self.inner.deserialize(deserializer).map_err(|error| {
            let error = match error {
                Kept::Ours(Mistake::Other(message)) if self.role == Role::Key => {
                    Kept::Ours(Mistake::Key(self.reading.key.take().unwrap_or_default(), message))
                }
                error => error,
            };
            self.reading.outward(error)
        })
    }
}

struct Items<'a, A> {
    list: Wrap<'a, A>,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = Kept<A::Error>;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Self::Error> {
        let seed = self.list.value(seed);
        let step = Step::Index(self.index);
        self.index += 1;
        self.list.reading.below(step, || self.list.inner.next_element_seed(seed)).map_err(Kept::Theirs)
    }

    fn size_hint(&self) -> Option<usize> {
        self.list.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Wrap<'_, A> {
    type Error = Kept<A::Error>;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let seed = Wrap { inner: seed, reading: self.reading, role: Role::Key };
        self.inner.next_key_seed(seed).map_err(Kept::Theirs)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Self::Error> {
        let seed = self.value(seed);
        let key = self.reading.key.take().unwrap_or_else(|| "?".to_owned());
        self.reading.below(Step::Key(key), || self.inner.next_value_seed(seed)).map_err(Kept::Theirs)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 'a, A: EnumAccess<'de>> EnumAccess<'de> for Wrap<'a, A> {
    type Error = Kept<A::Error>;
    type Variant = Wrap<'a, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), Self::Error> {
        let seed = self.value(seed);
        let (reading, role) = (self.reading, self.role);
        let (value, variant) = self.inner.variant_seed(seed).map_err(Kept::Theirs)?;
        Ok((value, Wrap { inner: variant, reading, role }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Wrap<'_, A> {
    type Error = Kept<A::Error>;

    fn unit_variant(self) -> Result<(), Self::Error> {
        self.inner.unit_variant().map_err(Kept::Theirs)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Self::Error> {
        let seed = self.value(seed);
        self.inner.newtype_variant_seed(seed).map_err(Kept::Theirs)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        let visitor = self.value(visitor);
        self.inner.tuple_variant(len, visitor).map_err(Kept::Theirs)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let visitor = self.value(visitor);
        self.inner.struct_variant(fields, visitor).map_err(Kept::Theirs)
    }
}
