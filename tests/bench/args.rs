//! The command line.

use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
ats-bench: what a transaction costs on a real traffic_server, with no plugin, with its peers and with wasm_remap.so

  --quick           fewer rounds: under two minutes
  --check           fails if ours is further from no plugin than header_rewrite is, plus 3 %, or if two servers with
                    no plugin differ by more than that, so that the run proves nothing; if a large body that our
                    filters let pass, or rewrite, has less than 0.9 of the speed that a transform has which does
                    nothing, or a rewritten one less than Lua's; and if a pause for a callout adds more than 150 µs to it, or costs more than 8 KiB of memory
  --callgrind[=N]   counts instructions as well, over N requests a variant (1000)
  --no-rounds       counts instructions only
  --only KEY,...    these variants alone, and no plugin, which all are compared with; `bodies` are the large bodies,
                    `callouts` the filters that wait for others, `rewrite` the bodies that are rewritten
  --bodies N        how many rounds of large bodies (7)
  --callouts N      how many rounds of callouts (9); every third measures memory, too
  --rewrite N       how many rounds of rewritten bodies (7)
  --memcheck[=N]    nothing of this, but N transactions (300) under valgrind's memcheck; fails at what it finds with the
                    plugin and not without
  --starts N        how often all servers are started afresh (5)
  --rounds N        rounds after each start (6)
  --seconds N       length of a variant's turn in a round (1)
  --write FILE      puts the tables into FILE, between its markers";

/// The names on the command line of what is no variant.
const BODIES: &str = "bodies";
const CALLOUTS: &str = "callouts";
const REWRITE: &str = "rewrite";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) check: bool,
    pub(crate) callgrind: u64,
    pub(crate) only: Vec<String>,
    pub(crate) starts: usize,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    /// Transactions under memcheck, instead of all else.
    pub(crate) memcheck: usize,
    /// Rounds of large bodies.
    pub(crate) bodies: usize,
    /// Rounds of callouts.
    pub(crate) callouts: usize,
    /// Rounds of rewritten bodies.
    pub(crate) rewrite: usize,
    /// Their instructions are counted.
    pub(crate) rewrite_counts: bool,
    pub(crate) quick: bool,
    pub(crate) write: Option<PathBuf>,
}

impl Args {
    /// Reads the arguments; `None` if they ask for help.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
        let mut args = Args {
            check: false,
            callgrind: 0,
            only: Vec::new(),
            starts: 5,
            rounds: 6,
            seconds: 1,
            memcheck: 0,
            bodies: 7,
            callouts: 9,
            rewrite: 7,
            rewrite_counts: false,
            quick: false,
            write: None,
        };
        let (mut quick, mut no_rounds) = (false, false);
        let mut words = words.map(|word| match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        });
        while let Some((name, mut value)) = words.next() {
            if matches!(
                name.as_str(),
                "--only" | "--starts" | "--rounds" | "--seconds" | "--bodies" | "--callouts" | "--rewrite" | "--write"
            ) && value.is_none()
            {
                value = words.next().map(|(word, _)| word);
            }
            let need = || value.clone().ok_or(format!("{name} needs a value"));
            let number = || {
                let text = need()?;
                text.parse().ok().filter(|&n: &u64| n > 0).ok_or(format!("{name}: {text} is not a number above 0"))
            };
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => quick = true,
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
                "--bodies" => args.bodies = number()? as usize,
                "--callouts" => args.callouts = number()? as usize,
                "--rewrite" => args.rewrite = number()? as usize,
                "--write" => args.write = Some(PathBuf::from(need()?)),
                _ => return Err(format!("{name} is no option")),
            }
        }
        if quick {
            (args.starts, args.rounds, args.seconds, args.bodies, args.callouts) = (1, 5, 1, 5, 3);
            (args.rewrite, args.quick) = (5, true);
        }
        if !args.only.is_empty() {
            let named = |key: &str| args.only.iter().any(|named| named == key);
            let others = [BODIES, CALLOUTS, REWRITE].map(named);
            args.only.retain(|key| ![BODIES, CALLOUTS, REWRITE].contains(&key.as_str()));
            for (rounds, named) in [&mut args.bodies, &mut args.callouts, &mut args.rewrite].into_iter().zip(others) {
                *rounds = if named { *rounds } else { 0 };
            }
            if args.only.is_empty() {
                args.rewrite_counts = args.rewrite > 0 && (args.callgrind > 0 || no_rounds);
                (args.starts, args.callgrind) = (0, 0);
            }
        }
        if no_rounds {
            (args.starts, args.bodies, args.callouts, args.rewrite) = (0, 0, 0, 0);
            let others = args.callgrind > 0 || args.rewrite_counts;
            args.callgrind = if others { args.callgrind } else { 1000 };
        }
        if args.check && args.starts == 0 && args.bodies == 0 && args.callouts == 0 && args.rewrite == 0 {
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
        let parts = |line| {
            let args = parse(line).unwrap().unwrap();
            (args.starts > 0, args.callgrind > 0, args.bodies, args.callouts)
        };
        assert_eq!(parts("--check"), (true, false, 7, 9));
        assert_eq!(parts("--only bodies --check --callgrind"), (false, false, 7, 0));
        assert_eq!(parts("--only callouts --check"), (false, false, 0, 9));
        assert_eq!(parts("--only lua,bodies --bodies 9"), (true, false, 9, 0));
        assert_eq!(parts("--only lua,bodies,callouts"), (true, false, 7, 9));
        assert_eq!(parts("--only lua"), (true, false, 0, 0));
        assert_eq!(parts("--no-rounds"), (false, true, 0, 0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("--rounds", "--rounds needs a value"),
            ("--rounds x", "--rounds: x is not a number above 0"),
            ("--starts 0", "--starts: 0 is not a number above 0"),
            ("--fast", "--fast is no option"),
            ("--check --no-rounds", "--check needs rounds"),
        ] {
            assert_eq!(parse(line).unwrap_err(), message);
        }
    }
}
