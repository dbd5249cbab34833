//! The command line.

use std::path::PathBuf;

use wasm_remap_tests::artifacts;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
ats-bench: what a transaction costs on a real traffic_server, with no plugin, with its peers and with wasm_remap.so

  --quick           fewer rounds, and no callouts: 80 seconds
  --check           fails if a bar of docs/performance.md is missed; ends with 3 where two servers with no plugin differ
                    by so much that a bar cannot be judged
  --callgrind[=N]   counts instructions as well, over N requests a variant (1000)
  --no-rounds       counts instructions only
  --baseline        compares instructions with tests/bench/instructions.txt, and fails at 3 % more; nothing else
  --write-baseline  counts them and writes that file
  --only KEY,...    these variants alone, and no plugin, which all are compared with; and these parts: `latency` at
                    fixed rates, `http2`, `shared` points of threads, large `bodies`, `callouts`, `rewrite` of bodies,
                    `scale`: many rules, modules and threads. The last is left out where nothing is named or written
  --latency N       how many rounds of latencies (4) after each of two starts
  --http2 N         how many rounds of HTTP/2 (5) after each of two starts
  --shared N        how many rounds of the points that threads share (5)
  --bodies N        how many rounds of large bodies (5)
  --callouts N      how many rounds of callouts (6); every third measures memory, too
  --rewrite N       how many rounds of rewritten bodies (3); with --callgrind, their instructions
  --scale N         how many rounds of starts with many rules, modules and threads (1)
  --memcheck[=N]    nothing of this, but N transactions (300) under valgrind's memcheck; fails at what it finds with the
                    plugin and not without
  --starts N        how often all servers are started afresh (2)
  --rounds N        rounds after each start (6)
  --seconds N       length of a variant's turn in a round (1)
  --write[=FILE]    puts the tables into FILE (docs/performance.md), between its markers, and the plots into the folder
                    plots beside it; counts instructions, too, unless --quick or --only is said";

/// The names on the command line of what is no variant, in the order of [`Args::parts`].
const PARTS: [&str; 7] = ["latency", "http2", "shared", "bodies", "callouts", "rewrite", "scale"];

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) check: bool,
    /// Fewer rounds.
    quick: bool,
    pub(crate) callgrind: u64,
    pub(crate) only: Vec<String>,
    pub(crate) starts: usize,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    /// Transactions under memcheck, instead of all else.
    pub(crate) memcheck: usize,
    /// What becomes of the baseline of instructions.
    pub(crate) baseline: Option<Baseline>,
    /// Rounds of latencies at fixed rates, after each start.
    pub(crate) latency: usize,
    /// Rounds of HTTP/2, after each start.
    pub(crate) http2: usize,
    /// Rounds of the points that threads share.
    pub(crate) shared: usize,
    /// Rounds of large bodies.
    pub(crate) bodies: usize,
    /// Rounds of callouts.
    pub(crate) callouts: usize,
    /// Rounds of rewritten bodies.
    pub(crate) rewrite: usize,
    /// Their instructions are counted.
    pub(crate) rewrite_counts: bool,
    /// Rounds of starts with many rules, modules and threads.
    pub(crate) scale: usize,
    pub(crate) write: Option<PathBuf>,
}

/// What to do with tests/bench/instructions.txt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// Hold what is counted to it.
    Compare,
    /// Write what is counted into it.
    Write,
}

impl Args {
    /// Rounds of what is no variant.
    fn parts(&mut self) -> [&mut usize; PARTS.len()] {
        [
            &mut self.latency,
            &mut self.http2,
            &mut self.shared,
            &mut self.bodies,
            &mut self.callouts,
            &mut self.rewrite,
            &mut self.scale,
        ]
    }

    /// Whether it shall take little time.
    pub(crate) fn is_short(&self) -> bool {
        self.quick
    }

    /// Reads the arguments; `None` if they ask for help.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
        let mut args = Args {
            check: false,
            quick: false,
            callgrind: 0,
            only: Vec::new(),
            starts: 2,
            rounds: 6,
            seconds: 1,
            memcheck: 0,
            baseline: None,
            latency: 4,
            http2: 5,
            shared: 5,
            bodies: 5,
            callouts: 6,
            rewrite: 3,
            rewrite_counts: false,
            scale: 1,
            write: None,
        };
        let mut no_rounds = false;
        let mut words = words.peekable();
        let split = |word: Option<String>| {
            let word = word?;
            Some(match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (word, None),
            })
        };
        while let Some((name, mut value)) = split(words.next()) {
            let takes = matches!(
                name.as_str(),
                "--only"
                    | "--starts"
                    | "--rounds"
                    | "--seconds"
                    | "--latency"
                    | "--http2"
                    | "--shared"
                    | "--bodies"
                    | "--callouts"
                    | "--rewrite"
                    | "--scale"
            );
            // A file may be named behind `--write`, and need not be.
            let file = name == "--write" && words.peek().is_some_and(|word| !word.starts_with("--"));
            if value.is_none() && (takes || file) {
                value = words.next();
            }
            let need = || value.clone().ok_or(format!("{name} needs a value"));
            let number = || {
                let text = need()?;
                text.parse().ok().filter(|&n: &u64| n > 0).ok_or(format!("{name}: {text} is not a number above 0"))
            };
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => args.quick = true,
                "--check" => args.check = true,
                "--no-rounds" => no_rounds = true,
                "--callgrind" if value.is_none() => args.callgrind = 1000,
                "--callgrind" => args.callgrind = number()?,
                "--memcheck" if value.is_none() => args.memcheck = 300,
                "--memcheck" => args.memcheck = number()? as usize,
                "--only" => args.only = need()?.split(',').map(str::to_owned).collect(),
                "--starts" => args.starts = number()? as usize,
                "--rounds" => args.rounds = number()? as usize,
                "--seconds" => args.seconds = number()?,
                "--baseline" => args.baseline = Some(Baseline::Compare),
                "--write-baseline" => args.baseline = Some(Baseline::Write),
                "--latency" => args.latency = number()? as usize,
                "--http2" => args.http2 = number()? as usize,
                "--shared" => args.shared = number()? as usize,
                "--bodies" => args.bodies = number()? as usize,
                "--callouts" => args.callouts = number()? as usize,
                "--rewrite" => args.rewrite = number()? as usize,
                "--scale" => args.scale = number()? as usize,
                "--write" => {
                    let file = value.map_or_else(|| artifacts::repository("docs/performance.md"), PathBuf::from);
                    args.write = Some(file);
                }
                _ => return Err(format!("{name} is no option")),
            }
        }
        if args.quick {
            (args.starts, args.rounds, args.seconds) = (1, 2, 1);
            for (rounds, few) in args.parts().into_iter().zip([2, 2, 1, 1, 0, 0, 0]) {
                *rounds = few;
            }
        }
        if args.write.is_some() && !args.quick && args.only.is_empty() && args.callgrind == 0 {
            args.callgrind = 1000;
        }
        if args.only.is_empty() {
            args.scale = if args.write.is_some() { args.scale } else { 0 };
            args.rewrite_counts = args.rewrite > 0 && args.callgrind > 0;
        } else {
            let named: Vec<bool> = PARTS.iter().map(|part| args.only.iter().any(|key| key == part)).collect();
            args.only.retain(|key| !PARTS.contains(&key.as_str()));
            for (rounds, named) in args.parts().into_iter().zip(named) {
                *rounds = if named { (*rounds).max(1) } else { 0 };
            }
            args.rewrite_counts = args.rewrite > 0 && args.callgrind > 0;
            if args.only.is_empty() {
                (args.starts, args.callgrind) = (0, 0);
            }
        }
        if no_rounds || args.baseline.is_some() {
            args.starts = 0;
            args.parts().into_iter().for_each(|rounds| *rounds = 0);
            args.rewrite_counts = false;
            args.callgrind = if args.callgrind == 0 { 1000 } else { args.callgrind };
        }
        if args.baseline.is_some() && !args.only.is_empty() {
            return Err("the baseline is of all of its variants: no --only".to_owned());
        }
        let measures = args.starts > 0 || args.baseline.is_some() || args.parts().iter().any(|rounds| **rounds > 0);
        if args.check && !measures {
            return Err("--check needs rounds".to_owned());
        }
        Ok(Some(args))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Args>, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let args = parse("--starts 2 --rounds=3 --only lua,headers --callgrind --write a.md").unwrap().unwrap();
        assert_eq!((args.starts, args.rounds, args.callgrind), (2, 3, 1000));
        assert_eq!(args.only, ["lua", "headers"]);
        assert_eq!(args.write, Some(PathBuf::from("a.md")));
        assert_eq!(parse("--no-rounds --callgrind=50").unwrap().unwrap().callgrind, 50);
        assert_eq!(parse("-h").unwrap(), None);
        assert_eq!(parse("--write a.md --check").unwrap().unwrap().write, Some(PathBuf::from("a.md")));
        let written = parse("--write --check").unwrap().unwrap();
        assert!(written.check && written.callgrind == 1000, "{written:?}");
        assert!(written.write.is_some_and(|path| path.ends_with("docs/performance.md")));
        assert_eq!(parse("--write --quick").unwrap().unwrap().callgrind, 0);
        let parts = |line| {
            let mut args = parse(line).unwrap().unwrap();
            let rounds = args.parts().map(|rounds| *rounds);
            (args.starts > 0, args.callgrind > 0, rounds)
        };
        assert_eq!(parts("--check"), (true, false, [4, 5, 5, 5, 6, 3, 0]));
        assert_eq!(parts("--only bodies --check --callgrind"), (false, false, [0, 0, 0, 5, 0, 0, 0]));
        assert_eq!(parts("--only callouts --check"), (false, false, [0, 0, 0, 0, 6, 0, 0]));
        assert_eq!(parts("--only latency,http2 --latency 2"), (false, false, [2, 5, 0, 0, 0, 0, 0]));
        assert_eq!(parts("--only lua,bodies --bodies 9"), (true, false, [0, 0, 0, 9, 0, 0, 0]));
        assert_eq!(parts("--only rewrite,scale --quick --scale 2"), (false, false, [0, 0, 0, 0, 0, 1, 1]));
        assert_eq!(parts("--write a.md"), (true, true, [4, 5, 5, 5, 6, 3, 1]));
        assert!(parse("--only rewrite --callgrind").unwrap().unwrap().rewrite_counts);
        assert!(!parse("--only bodies --callgrind").unwrap().unwrap().rewrite_counts);
        assert_eq!(parts("--only lua"), (true, false, [0; 7]));
        assert_eq!(parts("--no-rounds"), (false, true, [0; 7]));
        assert_eq!(parts("--callgrind --baseline --check"), (false, true, [0; 7]));
        assert_eq!(parse("--write-baseline").unwrap().unwrap().baseline, Some(Baseline::Write));
        assert!(parse("--quick").unwrap().unwrap().is_short());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("--rounds", "--rounds needs a value"),
            ("--rounds x", "--rounds: x is not a number above 0"),
            ("--starts 0", "--starts: 0 is not a number above 0"),
            ("--fast", "--fast is no option"),
            ("--check --no-rounds", "--check needs rounds"),
            ("--baseline --only lua", "the baseline is of all of its variants: no --only"),
        ] {
            assert_eq!(parse(line).unwrap_err(), message);
        }
    }
}
