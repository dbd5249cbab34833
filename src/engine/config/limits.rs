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
    /// The guest's stack, in KiB. Default: 256.
    #[schemars(range(min = 32, max = 512))]
    stack_kib: Option<u32>,
    /// Elements of one table. Default: 100000.
    #[schemars(range(min = 1, max = 10_000_000))]
    table_elements: Option<u32>,
    /// The processor time of one callback of a transaction, or of one tick, in milliseconds. Default: 100.
    #[schemars(range(min = 1))]
    callback_ms: Option<u32>,
    /// The processor time of all of the filter's callbacks in one transaction, in milliseconds. Default: 10000.
    #[schemars(range(min = 1))]
    transaction_ms: Option<u32>,
    /// The processor time of the start function, and of `proxy_on_vm_start`, each. Default: 10000.
    #[schemars(range(min = 1))]
    start_ms: Option<u32>,
    /// The processor time of `proxy_on_configure`. Default: 10000.
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
    /// How many lines the filter may log in a second, on all threads together. Default: 100.
    #[schemars(range(min = 1))]
    log_lines_per_second: Option<u32>,
    /// The KiB that one callback moves by hostcalls, into the guest and out of it. Default: 65536.
    #[schemars(range(min = 1))]
    hostcall_kib: Option<u32>,
    /// The calls to others that the filter has under way in one VM. Default: 1024.
    #[schemars(range(min = 1, max = 65536))]
    callouts: Option<u32>,
}

/// A table's element takes eight bytes.
const MOST_TABLE_ELEMENTS: u32 = 10_000_000;

/// No VM has more calls under way, whatever its plugin contexts may.
pub(crate) const MOST_CALLOUTS: u32 = 65_536;

impl RawLimits {
    /// What is said here, and the defaults where nothing is.
    pub(super) fn over(self, defaults: &Self) -> Self {
        merge!(
            RawLimits, self, defaults; memory_mib, stack_kib, table_elements, callback_ms, transaction_ms, start_ms,
            configure_ms, pause_ms, body_kib, header_kib, header_count, log_lines_per_second, hostcall_kib, callouts,
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
        if let Some(kib) = self.stack_kib {
            // More would not fit beside ATS's own frames on its threads, which have 1 MiB.
            if !(32..=512).contains(&kib) {
                return Err(format!("limits.stack_kib: {kib} is not within 32 to 512"));
            }
            limits.stack_bytes = usize::try_from(kib).unwrap_or(usize::MAX) << 10;
        }
        for (name, value, limit, most) in [
            ("table_elements", self.table_elements, &mut limits.table_elements, MOST_TABLE_ELEMENTS),
            ("callouts", self.callouts, &mut limits.callouts, MOST_CALLOUTS),
        ] {
            if let Some(value) = value {
                if !(1..=most).contains(&value) {
                    return Err(format!("limits.{name}: {value} is not within 1 to {most}"));
                }
                *limit = usize::try_from(value).unwrap_or(usize::MAX);
            }
        }
        if let Some(kib) = self.hostcall_kib {
            if kib == 0 {
                return Err("limits.hostcall_kib: must be at least 1".to_owned());
            }
            limits.hostcall_bytes = u64::from(kib) << 10;
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
        if let Some(lines) = self.log_lines_per_second {
            if lines == 0 {
                return Err(
                    "limits.log_lines_per_second: must be at least 1; `log: {level: off}` keeps no line".to_owned()
                );
            }
            limits.log_lines = lines;
        }
        for (name, value, limit) in [
            ("callback_ms", self.callback_ms, &mut limits.callback),
            ("transaction_ms", self.transaction_ms, &mut limits.transaction),
            ("start_ms", self.start_ms, &mut limits.start),
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
        if self.hostcall_kib.is_none() {
            // Whoever may hold a body may read it whole, and write it, and do so again.
            limits.hostcall_bytes = limits.hostcall_bytes.max(4 * limits.body_bytes as u64);
        }
        if limits.transaction < limits.callback {
            if let Some(own) = self.transaction_ms {
                return Err(format!(
                    "limits.transaction_ms: {own} is less than callback_ms, {}: one callback alone may take more than all \
                     of them together",
                    limits.callback.as_millis()
                ));
            }
            limits.transaction = limits.callback;
        }
        Ok(limits)
    }
}
