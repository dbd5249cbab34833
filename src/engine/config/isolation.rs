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
