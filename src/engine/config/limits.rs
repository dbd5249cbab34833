//! A filter's `limits`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::defaults::merge;
use crate::limits::Limits;

/// Ceilings of what a filter may use.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub(super) struct RawLimits {
    /// Linear memory of one VM, in MiB. Default: 64.
    #[schemars(range(min = 1, max = 4096))]
    memory_mib: Option<u32>,
    /// The processor time of one callback of a transaction, or of one tick, in milliseconds. Default: 100.
    #[schemars(range(min = 1))]
    callback_ms: Option<u32>,
    /// The processor time of the start function, `proxy_on_vm_start` and `proxy_on_configure`, each. Default: 10000.
    #[schemars(range(min = 1))]
    configure_ms: Option<u32>,
    /// How long the filter may hold one transaction, in milliseconds. Default: 30000.
    #[schemars(range(min = 1))]
    pause_ms: Option<u32>,
    /// How much of one body the filter may hold, in KiB. Default: 1024.
    #[schemars(range(min = 1))]
    body_kib: Option<u32>,
    /// The bytes of one encoded header map that the filter hands over, in KiB. Default: 1024.
    #[schemars(range(min = 1))]
    header_kib: Option<u32>,
    /// The fields of such a map. Default: 1024.
    #[schemars(range(min = 1))]
    header_count: Option<u32>,
}

impl RawLimits {
    /// What is said here, and the defaults where nothing is.
    pub(super) fn over(self, defaults: &Self) -> Self {
        merge!(
            RawLimits, self, defaults; memory_mib, callback_ms, configure_ms, pause_ms, body_kib, header_kib,
            header_count,
        )
    }

    /// The limits that are said, and the defaults of all others.
    pub(super) fn resolve(self) -> Result<Limits, String> {
        let mut limits = Limits::default();
        if let Some(mib) = self.memory_mib {
            if !(1..=4096).contains(&mib) {
                return Err(format!("limits.memory_mib: {mib} is not within 1 to 4096"));
            }
            limits.memory_bytes = usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1 << 20);
        }
        for (name, value, limit, unit) in [
            ("body_kib", self.body_kib, &mut limits.body_bytes, 1 << 10),
            ("header_kib", self.header_kib, &mut limits.pairs.bytes, 1 << 10),
            ("header_count", self.header_count, &mut limits.pairs.pairs, 1),
        ] {
            if let Some(value) = value {
                if value == 0 {
                    return Err(format!("limits.{name}: must be at least 1"));
                }
                *limit = usize::try_from(value).unwrap_or(usize::MAX).saturating_mul(unit);
            }
        }
        for (name, value, limit) in [
            ("callback_ms", self.callback_ms, &mut limits.callback),
            ("configure_ms", self.configure_ms, &mut limits.configure),
            ("pause_ms", self.pause_ms, &mut limits.pause),
        ] {
            if let Some(milliseconds) = value {
                if milliseconds == 0 {
                    return Err(format!("limits.{name}: must be at least 1"));
                }
                *limit = Duration::from_millis(u64::from(milliseconds));
            }
        }
        Ok(limits)
    }
}
