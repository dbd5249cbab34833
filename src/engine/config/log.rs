//! `log`: from which level on a filter's lines are kept, and where.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::abi::LogLevel;
use crate::journal::{LogFile, LogSettings, Rolling, Threshold};

/// Of a filter, or of a file for all of its filters.
#[derive(Debug, Deserialize, Default, Clone, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Log")]
pub(super) struct RawLog {
    /// The level from which on lines are kept. Default: info.
    level: Option<Level>,
    /// A log file of its own, in the proxy's directory of logs. Default: diags.log.
    #[schemars(with = "Option<String>")]
    file: Option<Name>,
    /// When that file is rolled. Default: as the proxy's records say.
    rolling: Option<RawRolling>,
}

/// A level by its name.
#[derive(Debug, Deserialize, Clone, Copy, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LogLevel")]
enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
    Off,
}

/// When a log file is rolled.
#[derive(Debug, Deserialize, Clone, Copy, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rolling")]
struct RawRolling {
    /// Each time that so many seconds of the day have passed; a day divides into them.
    #[serde(default, deserialize_with = "interval")]
    #[schemars(range(min = 60, max = 86400))]
    interval_s: Option<u32>,
    /// The hour of the day at which they begin to count.
    #[serde(default, deserialize_with = "hour")]
    #[schemars(range(min = 0, max = 23))]
    offset_hour: Option<u8>,
    /// When the file has so many MiB.
    #[serde(default, deserialize_with = "size")]
    #[schemars(range(min = 10, max = 1_048_576))]
    size_mib: Option<u32>,
}

/// The name of a file in the proxy's directory of logs.
#[derive(Debug, Clone)]
struct Name(String);

/// Names that the proxy gives to files of its own, without their endings.
const TAKEN: [&str; 8] = ["diags", "error", "manager", "traffic", "squid", "access", "stdout", "stderr"];

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let bad = name.is_empty() || name.len() > 100 || !name.bytes().all(plain);
        if bad || name.starts_with(['.', '-']) || name.ends_with('.') {
            return Err(de::Error::custom(format_args!(
                "'{}' is no name of a log file: letters, digits, '-', '_' and '.' are expected, no directory (it stands in \
                 that of the proxy's logs)",
                name.escape_debug()
            )));
        }
        let stem = name.split('.').next().unwrap_or_default();
        if TAKEN.contains(&stem) {
            return Err(de::Error::custom(format_args!("'{name}' is a file of the proxy's own: choose another name")));
        }
        // As the proxy names a file of text.
        Ok(Name(if name.contains('.') { name } else { name + ".log" }))
    }
}

/// A number within a range that the proxy would silently mend otherwise.
fn within<'de, D: Deserializer<'de>>(deserializer: D, least: u32, most: u32, unit: &str) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(de::Error::custom(format_args!("{number} is not within {least} to {most}{unit}")))
}

/// Seconds into which a day divides evenly.
fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    const DAY: u32 = 86_400;
    let seconds = within(deserializer, 60, DAY, " seconds")?;
    if !DAY.is_multiple_of(seconds) {
        let next = (seconds..=DAY).find(|seconds| DAY.is_multiple_of(*seconds)).unwrap_or(DAY);
        return Err(de::Error::custom(format_args!(
            "a day does not divide into {seconds} s; the next that does is {next}"
        )));
    }
    Ok(Some(seconds))
}

fn hour<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    within(deserializer, 0, 23, "").map(|hour| u8::try_from(hour).ok())
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 10, 1 << 20, " MiB").map(Some)
}

impl RawLog {
    /// What holds for a filter: what it says itself, else what its file says for all.
    ///
    /// # Errors
    /// Keys that mean nothing together.
    pub(super) fn resolve(self, all: &RawLog) -> Result<LogSettings, String> {
        let level = self.level.or(all.level).map(|level| match level {
            Level::Trace => Threshold::From(LogLevel::Trace),
            Level::Debug => Threshold::From(LogLevel::Debug),
            Level::Info => Threshold::From(LogLevel::Info),
            Level::Warn => Threshold::From(LogLevel::Warn),
            Level::Error => Threshold::From(LogLevel::Error),
            Level::Critical => Threshold::From(LogLevel::Critical),
            Level::Off => Threshold::Off,
        });
        let file = self.file.or_else(|| all.file.clone());
        let rolling = self.rolling.or(all.rolling);
        let Some(Name(name)) = file else {
            return match rolling {
                None => Ok(LogSettings { level, file: None }),
                Some(_) => Err("log.rolling: there is nothing to roll without log.file".to_owned()),
            };
        };
        let rolling = rolling.map(|RawRolling { interval_s, offset_hour, size_mib }| {
            if interval_s.is_none() && size_mib.is_none() {
                return Err("log.rolling: needs interval_s, size_mib or both".to_owned());
            }
            if interval_s.is_none() && offset_hour.is_some() {
                return Err("log.rolling.offset_hour: says when interval_s begins, which is not there".to_owned());
            }
            Ok(Rolling { interval_s, offset_hour, size_mib })
        });
        Ok(LogSettings { level, file: Some(Arc::new(LogFile { name, rolling: rolling.transpose()? })) })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn settings(top: &str, filter: &str) -> Result<LogSettings, String> {
        let text = format!("{top}\nfilters:\n  - {{name: a, module: b, {filter}}}\n");
        let file = parse(Path::new("f.yaml"), &text).map_err(|error| error.to_string())?;
        Ok(file.filters.into_iter().next().unwrap().log)
    }

    #[test]
    fn a_filter_says_more_than_its_file() {
        let file = |name: &str, rolling| Some(Arc::new(LogFile { name: name.to_owned(), rolling }));
        assert_eq!(settings("", "").unwrap(), LogSettings::default());
        let all = "log: {level: warn, file: shop, rolling: {interval_s: 3600, size_mib: 100}}";
        let rolling = Some(Rolling { interval_s: Some(3600), offset_hour: None, size_mib: Some(100) });
        let of_all = settings(all, "").unwrap();
        assert_eq!(of_all.level, Some(Threshold::From(LogLevel::Warn)));
        assert_eq!(of_all.file, file("shop.log", rolling));
        let own = settings(all, "log: {level: 'off', file: auth.txt}").unwrap();
        assert_eq!(own, LogSettings { level: Some(Threshold::Off), file: file("auth.txt", rolling) });
        let alone = settings("", "log: {file: a, rolling: {interval_s: 86400, offset_hour: 3}}").unwrap();
        let rolling = Some(Rolling { interval_s: Some(86_400), offset_hour: Some(3), size_mib: None });
        assert_eq!(alone, LogSettings { level: None, file: file("a.log", rolling) });
    }

    #[test]
    fn mistakes_say_what_is_expected() {
        for (filter, expected) in [
            ("log: {level: loud}", "'error', 'critical' or 'off' is expected, not 'loud'"),
            ("log: {file: ../x}", "'../x' is no name of a log file"),
            ("log: {file: a/b.log}", "'a/b.log' is no name of a log file"),
            ("log: {file: ''}", "'' is no name of a log file"),
            ("log: {file: diags.log}", "'diags.log' is a file of the proxy's own"),
            ("log: {file: traffic}", "'traffic' is a file of the proxy's own"),
            ("log: {rolling: {size_mib: 10}}", "log.rolling: there is nothing to roll without log.file"),
            ("log: {file: a, rolling: {}}", "log.rolling: needs interval_s, size_mib or both"),
            ("log: {file: a, rolling: {offset_hour: 1, size_mib: 10}}", "log.rolling.offset_hour: says when"),
            ("log: {file: a, rolling: {interval_s: 59}}", "59 is not within 60 to 86400 seconds"),
            (
                "log: {file: a, rolling: {interval_s: 3601}}",
                "a day does not divide into 3601 s; the next that does is 4320",
            ),
            ("log: {file: a, rolling: {size_mib: 9}}", "9 is not within 10 to 1048576 MiB"),
            ("log: {file: a, rolling: {interval_s: 60, offset_hour: 24}}", "24 is not within 0 to 23"),
            ("limits: {log_lines_per_second: 0}", "limits.log_lines_per_second: must be at least 1"),
        ] {
            let message = settings("", filter).unwrap_err();
            assert!(message.contains(expected), "{filter}: {expected:?} is not in\n{message}");
        }
        let message = settings("log: {levels: info}", "").unwrap_err();
        assert!(
            message.contains("unknown key 'levels' in \"log: {»levels«: info}\"; did you mean 'level'?"),
            "{message}"
        );
    }
}
