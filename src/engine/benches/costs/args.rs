//! The command line.

use std::path::{Path, PathBuf};

pub(crate) const HELP: &str = "cargo bench --locked --workspace --bench costs -- [OPTIONS]
  --quick              fewer and shorter rounds
  --check              fail where a bar of docs/performance.md is missed
  --write FILE         put the tables into this file of the repository, between their markers
  --only TEXT          cases whose name has this text, and of `threads`, `loading`, `memory` those that are named; repeatable
  --instructions       count instructions (callgrind), and fail where a case has over 3 % more than the baseline
  --write-baseline     the same, and make what was counted the baseline
  --profile N          run the case of --only (the Rust-SDK header filter) N times, for a profiler";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Help,
    Times,
    Instructions {
        /// The baseline is written anew.
        write: bool,
    },
    /// What runs under callgrind.
    Counted,
    Profile(u64),
}

#[derive(Debug, Clone)]
pub(crate) struct Args {
    pub(crate) mode: Mode,
    pub(crate) quick: bool,
    pub(crate) check: bool,
    pub(crate) write: Option<PathBuf>,
    pub(crate) only: Vec<String>,
}

impl Args {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Args { mode: Mode::Times, quick: false, check: false, write: None, only: Vec::new() };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                // Cargo says this to every benchmark.
                "--bench" => {}
                "--help" => parsed.mode = Mode::Help,
                "--quick" => parsed.quick = true,
                "--check" => parsed.check = true,
                // Cargo runs benchmarks in the package's directory; people name files as they stand in the repository.
                "--write" => parsed.write = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(value()?)),
                "--only" => parsed.only.push(value()?),
                "--instructions" => parsed.mode = Mode::Instructions { write: false },
                "--write-baseline" => parsed.mode = Mode::Instructions { write: true },
                "--counted" => parsed.mode = Mode::Counted,
                "--profile" => {
                    let runs = value()?;
                    parsed.mode = Mode::Profile(runs.parse().map_err(|_| format!("{runs} is no number of runs"))?);
                }
                other => return Err(format!("what is {other}?")),
            }
        }
        Ok(parsed)
    }

    /// Whether a part that is no case is measured.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Whether a case is measured. The unit always is.
    pub(crate) fn wants_case(&self, name: &str) -> bool {
        let unit = name == crate::cases::transactions::EMPTY;
        unit || self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }
}
