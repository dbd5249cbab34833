//! A filter's `isolation`: with whom it shares VMs.

use serde::Deserialize;

/// With whom a filter shares its VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// With all filters whose VM keys are equal, whatever their rules.
    #[default]
    Shared,
    /// With those of its own rule.
    Rule,
    /// With nobody: each transaction has a VM that did nothing before, and does nothing afterwards.
    Transaction,
}

impl Isolation {
    /// The name in a configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Isolation::Shared => "shared",
            Isolation::Rule => "rule",
            Isolation::Transaction => "transaction",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Isolation;
    use crate::config::parse;

    fn isolation(key: &str, more: &str) -> Result<Isolation, String> {
        let text = format!("{key}:\n  - {{name: a, module: b{more}}}\n");
        let file = parse(Path::new("f.yaml"), &text).map_err(|error| error.to_string())?;
        Ok(file.filters.iter().chain(&file.services).next().expect("there is one").isolation)
    }

    #[test]
    fn it_is_one_of_three_and_shared_if_nothing_is_said() {
        assert_eq!(isolation("filters", ""), Ok(Isolation::Shared));
        for known in [Isolation::Shared, Isolation::Rule, Isolation::Transaction] {
            assert_eq!(isolation("filters", &format!(", isolation: {}", known.as_str())), Ok(known));
        }
        let error = isolation("filters", ", isolation: request").unwrap_err();
        assert!(error.contains("isolation: 'shared', 'rule' or 'transaction' is expected, not 'request'"), "{error}");
    }

    #[test]
    fn services_have_none() {
        assert_eq!(isolation("services", ""), Ok(Isolation::Shared));
        let error = isolation("services", ", isolation: transaction").unwrap_err();
        assert!(
            error.starts_with(
                "f.yaml:2:26: services[0].isolation: a service has a VM of its own in any case, so no 'isolation'"
            ),
            "{error}"
        );
    }
}
