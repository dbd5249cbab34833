//! Environment variables in texts of a file, where the file asks for them: `substitute: [NAME, …]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::Error as _;

/// Where the values of environment variables come from.
///
/// The default is the process's own environment.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    own: BTreeMap<String, String>,
    alone: bool,
}

impl Variables {
    /// These, and no others.
    #[must_use]
    pub fn only<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Variables { alone: true, ..Variables::default() }.with(variables)
    }

    /// These in front of what there is.
    #[must_use]
    pub fn with<N: Into<String>, V: Into<String>>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self {
        self.own.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// The value of a variable.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn get(&self, name: &str) -> Result<String, String> {
        if let Some(value) = self.own.get(name) {
            return Ok(value.clone());
        }
        let unset = || format!("the environment variable {name} is not set, where the file is read");
        match std::env::var(name) {
            _ if self.alone => Err(unset()),
            Ok(value) => Ok(value),
            Err(std::env::VarError::NotPresent) => Err(unset()),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("the environment variable {name} is not UTF-8")),
        }
    }
}

/// A name that a variable may have in `${NAME}`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(transparent)]
pub(super) struct VariableName(#[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))] pub(super) String);

impl<'de> Deserialize<'de> for VariableName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text.is_empty() || !text.chars().all(plain) || text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(D::Error::custom(format!(
                "'{text}' is no name of a variable: letters, digits and '_' are expected, without '$' and braces"
            )));
        }
        Ok(VariableName(text))
    }
}

/// What `substitute` asks for, with its values.
#[derive(Debug)]
pub(super) struct Substitution<'a> {
    names: Vec<String>,
    variables: &'a Variables,
}

impl<'a> Substitution<'a> {
    /// Texts stay as they are.
    pub(super) fn none(variables: &'a Variables) -> Self {
        Substitution { names: Vec::new(), variables }
    }

    pub(super) fn of(names: Vec<VariableName>, variables: &'a Variables) -> Self {
        Substitution { names: names.into_iter().map(|name| name.0).collect(), variables }
    }

    pub(super) fn is_active(&self) -> bool {
        !self.names.is_empty()
    }

    /// The text with the values of the variables in it, and the name of one of them; `None` if it names none. A value is
    /// not looked at again, whatever it holds.
    ///
    /// # Errors
    /// A variable that is not set.
    pub(super) fn apply(&self, text: &str) -> Result<Option<(String, Option<String>)>, String> {
        if self.names.is_empty() || !text.contains("${") {
            return Ok(None);
        }
        let (mut out, mut name_of_one, mut changed) = (String::with_capacity(text.len()), None, false);
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            let name =
                from[2..].split_once('}').map(|(name, _)| name).filter(|name| self.names.iter().any(|n| n == name));
            let Some(name) = name else {
                out.push_str(before);
                out.push_str("${");
                rest = &from[2..];
                continue;
            };
            changed = true;
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str(&from[..name.len() + 3]);
            } else {
                out.push_str(before);
                out.push_str(&self.variables.get(name)?);
                name_of_one = Some(name.to_owned());
            }
            rest = &from[name.len() + 3..];
        }
        out.push_str(rest);
        Ok(changed.then_some((out, name_of_one)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_put_in() {
        let variables = Variables::only([("A", "1"), ("B", "${A}"), ("C", "x")]);
        let names = ["A", "B", "MISSING"].map(|name| VariableName(name.to_owned())).to_vec();
        let substitution = Substitution::of(names, &variables);
        let put = |text: &str| substitution.apply(text).map(|found| found.map_or(text.to_owned(), |(text, _)| text));
        for (text, expected) in [
            ("a ${A} b", "a 1 b"),
            ("${A}${A}", "11"),
            ("${B}", "${A}"),
            ("${C} $A {A} ${", "${C} $A {A} ${"),
            ("$${A} $$${A} $${C}", "${A} $${A} $${C}"),
            ("${${A}}", "${1}"),
            ("ü${A}ü", "ü1ü"),
        ] {
            assert_eq!(put(text).unwrap(), expected, "{text}");
        }
        assert_eq!(
            put("${MISSING}").unwrap_err(),
            "the environment variable MISSING is not set, where the file is read"
        );
        assert_eq!(put("$${MISSING}").unwrap(), "${MISSING}");
    }
}
