//! A filter's `breaker`: when it is set aside, and for how long.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};

use super::failure::{Failure, RawFailure};

/// When a breaker opens and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BreakerSettings {
    /// So many failures within the window open it, if they also are the share below. Zero is no breaker.
    pub failures: u32,
    /// The share that they are of the transactions within the window, in percent.
    pub percent: u32,
    /// So much processor time that failed callbacks took within the window opens it, whatever their share. Zero is never.
    pub lost: Duration,
    /// How long failures are remembered, from the first one on.
    pub window: Duration,
    /// For how long the filter is set aside the first time; twice as long each time after that.
    pub pause: Duration,
    /// No longer than this.
    pub max_pause: Duration,
    /// How many transactions try the filter then at a time, and must go well.
    pub probes: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        BreakerSettings {
            failures: 20,
            percent: 90,
            lost: Duration::from_secs(1),
            window: Duration::from_secs(10),
            pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(60),
            probes: 1,
        }
    }
}

/// A breaker, as a filter's file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BreakerSpec {
    /// When it opens and closes.
    pub settings: BreakerSettings,
    /// What becomes of transactions meanwhile; `None` is what the filter's failure policy says.
    pub while_open: Option<Failure>,
}

/// The mapping.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BreakerSettings")]
pub(super) struct RawBreakerSettings {
    /// So many failures within the window open it, if they are also `percent` of the transactions; 0 is off. Default: 20.
    #[schemars(range(max = 1_000_000))]
    failures: Option<u32>,
    /// The share of the transactions that began within the window. Default: 90.
    #[schemars(range(max = 100))]
    percent: Option<u32>,
    /// So much processor time lost to failures within the window opens it, whatever their share. Default: 1000.
    #[schemars(range(max = 3_600_000))]
    lost_ms: Option<u32>,
    /// How long failures are remembered, in milliseconds. Default: 10000.
    #[schemars(range(min = 1, max = 3_600_000))]
    window_ms: Option<u32>,
    /// The first pause, in milliseconds. Default: 1000.
    #[schemars(range(min = 1, max = 3_600_000))]
    pause_ms: Option<u32>,
    /// The longest pause, in milliseconds. Default: 60000.
    #[schemars(range(min = 1, max = 3_600_000))]
    max_pause_ms: Option<u32>,
    /// How many transactions try the filter at a time, and must all go well. Default: 1.
    #[schemars(range(min = 1, max = 1000))]
    probes: Option<u32>,
    /// What becomes of transactions meanwhile. Default: as `failure_policy`.
    while_open: Option<RawFailure>,
}

/// The value of `breaker`: `off`, `on`, or a mapping.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged, rename = "Breaker")]
pub(super) enum RawBreaker {
    Switch(Switch),
    Settings(Box<RawBreakerSettings>),
}

/// Whether there is one.
#[derive(Debug, JsonSchema, Clone, Copy)]
#[schemars(rename_all = "snake_case")]
pub(super) enum Switch {
    /// As the defaults say.
    On,
    /// None.
    Off,
}

impl Default for RawBreaker {
    fn default() -> Self {
        RawBreaker::Switch(Switch::On)
    }
}

// Not derived as untagged: that would lose the place of a mistake and what was expected there.
impl<'de> Deserialize<'de> for RawBreaker {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawBreaker;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("on, off, or a mapping such as {failures: 20, window_ms: 10000}")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<RawBreaker, E> {
                match name {
                    "on" => Ok(RawBreaker::Switch(Switch::On)),
                    "off" => Ok(RawBreaker::Switch(Switch::Off)),
                    _ => Err(E::unknown_variant(name, &["on", "off"])),
                }
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<RawBreaker, E> {
                Ok(RawBreaker::Switch(if on { Switch::On } else { Switch::Off }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawBreaker, A::Error> {
                let settings = RawBreakerSettings::deserialize(MapAccessDeserializer::new(map));
                settings.map(|settings| RawBreaker::Settings(Box::new(settings))).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Windows and pauses longer than an hour are surely a mistake in the unit.
const MOST_MS: u32 = 3_600_000;

impl RawBreaker {
    /// # Errors
    /// The key that is wrong.
    pub(super) fn resolve(self) -> Result<BreakerSpec, String> {
        let raw = match self {
            RawBreaker::Switch(Switch::On) => return Ok(BreakerSpec::default()),
            RawBreaker::Switch(Switch::Off) => {
                let settings = BreakerSettings { failures: 0, ..BreakerSettings::default() };
                return Ok(BreakerSpec { settings, while_open: None });
            }
            RawBreaker::Settings(raw) => raw,
        };
        let mut settings = BreakerSettings::default();
        let within = |key: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(format!("breaker.{key}: {value} is not within {least} to {most}"))
            }
        };
        for (key, value, setting, least, most) in [
            ("failures", raw.failures, &mut settings.failures, 0, 1_000_000),
            ("percent", raw.percent, &mut settings.percent, 0, 100),
            ("probes", raw.probes, &mut settings.probes, 1, 1_000),
        ] {
            if let Some(value) = value {
                *setting = within(key, value, least, most)?;
            }
        }
        for (key, value, setting, least) in [
            ("lost_ms", raw.lost_ms, &mut settings.lost, 0),
            ("window_ms", raw.window_ms, &mut settings.window, 1),
            ("pause_ms", raw.pause_ms, &mut settings.pause, 1),
            ("max_pause_ms", raw.max_pause_ms, &mut settings.max_pause, 1),
        ] {
            if let Some(value) = value {
                *setting = Duration::from_millis(u64::from(within(key, value, least, MOST_MS)?));
            }
        }
        if settings.max_pause < settings.pause {
            if let Some(most) = raw.max_pause_ms {
                return Err(format!(
                    "breaker.max_pause_ms: {most} is less than pause_ms, {}, which is where pauses begin",
                    settings.pause.as_millis()
                ));
            }
            settings.max_pause = settings.pause;
        }
        let while_open = raw.while_open.map(|raw| raw.resolve("breaker.while_open")).transpose()?;
        Ok(BreakerSpec { settings, while_open })
    }
}

#[cfg(test)]
mod tests {
    use super::super::FailurePolicy;
    use super::*;

    fn breaker(text: &str) -> Result<BreakerSpec, String> {
        let raw: RawBreaker = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        raw.resolve()
    }

    #[test]
    fn on_off_or_in_full() {
        assert_eq!(breaker("on"), Ok(BreakerSpec::default()));
        assert_eq!(breaker("true"), Ok(BreakerSpec::default()));
        assert_eq!(breaker("{}"), Ok(BreakerSpec::default()));
        for off in ["off", "false", "{failures: 0}"] {
            assert_eq!(breaker(off).unwrap().settings.failures, 0, "{off}");
        }
        let full = breaker(
            "{failures: 3, percent: 10, lost_ms: 0, window_ms: 200, pause_ms: 50, max_pause_ms: 80, probes: 2, \
             while_open: {status: 500}}",
        )
        .unwrap();
        let ms = Duration::from_millis;
        let settings = BreakerSettings {
            failures: 3,
            percent: 10,
            lost: ms(0),
            window: ms(200),
            pause: ms(50),
            max_pause: ms(80),
            probes: 2,
        };
        assert_eq!(full.settings, settings);
        assert_eq!(full.while_open.unwrap().response().status, 500);
        assert_eq!(breaker("{while_open: open}").unwrap().while_open.unwrap().policy, FailurePolicy::Open);
        assert_eq!(breaker("{pause_ms: 90000}").unwrap().settings.max_pause, ms(90_000));
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, expected) in [
            ("maybe", "unknown variant `maybe`, expected `on` or `off`"),
            ("3", "expected on, off, or a mapping"),
            ("{failure: 1}", "unknown field `failure`, expected one of `failures`"),
            ("{percent: 101}", "breaker.percent: 101 is not within 0 to 100"),
            ("{probes: 0}", "breaker.probes: 0 is not within 1 to 1000"),
            ("{window_ms: 0}", "breaker.window_ms: 0 is not within 1 to 3600000"),
            ("{max_pause_ms: 3600001}", "breaker.max_pause_ms: 3600001 is not within"),
            ("{max_pause_ms: 10}", "breaker.max_pause_ms: 10 is less than pause_ms, 1000"),
            ("{while_open: {status: 1}}", "breaker.while_open.status: 1 is not within 400 to 599"),
        ] {
            let message = breaker(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
