//! A filter's `limits`.

use std::time::Duration;

use serde::Deserialize;

use crate::limits::Limits;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    memory_mib: Option<u16>,
    stack_kib: Option<u16>,
    callback_ms: Option<u32>,
    configure_ms: Option<u32>,
    pause_ms: Option<u32>,
    body_kib: Option<u32>,
    header_kib: Option<u32>,
    header_count: Option<u32>,
}

impl RawLimits {
    /// The limits that are said, and the defaults of all others.
    pub(super) fn resolve(self) -> Result<Limits, String> {
        let mut limits = Limits::default();
        if let Some(mib) = self.memory_mib {
            if !(1..=4096).contains(&mib) {
                return Err(format!("limits.memory_mib: {mib} is not within 1 to 4096"));
            }
            limits.memory_bytes = usize::from(mib) << 20;
        }
        if let Some(kib) = self.stack_kib {
            // More would not fit beside ATS's own frames on its threads, which have 1 MiB.
            if !(32..=512).contains(&kib) {
                return Err(format!("limits.stack_kib: {kib} is not within 32 to 512"));
            }
            limits.stack_bytes = usize::from(kib) << 10;
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
