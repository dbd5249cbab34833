//! What callgrind writes: the costs of functions, and calls between them.

use std::collections::BTreeMap;

/// A function, by the object it stands in and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Function {
    /// The object's file name without its directories; empty for code made at run time.
    pub(crate) object: String,
    pub(crate) name: String,
}

/// Calls of a function by another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Calls {
    /// How many.
    pub(crate) count: f64,
    /// Their instructions, and those of what they called in turn.
    pub(crate) cost: f64,
}

/// One thread's costs, each divided by the number of requests.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// Instructions in a function itself.
    pub(crate) own: BTreeMap<Function, f64>,
    /// By caller's object and callee.
    pub(crate) calls: BTreeMap<(String, Function), Calls>,
}

impl Profile {
    /// Reads callgrind's format, version 1.
    pub(crate) fn parse(text: &str, requests: u64) -> Profile {
        let requests = requests as f64;
        let (mut objects, mut functions) = (Names::default(), Names::default());
        let mut profile = Profile::default();
        let mut here = Function { object: String::new(), name: String::new() };
        let mut callee = here.clone();
        // A `calls=` line's cost stands on the line behind it.
        let mut calls: Option<f64> = None;
        for line in text.lines() {
            match line.split_once('=') {
                Some(("ob", name)) => here.object = base_name(&objects.get(name)),
                Some(("fn", name)) => {
                    here.name = functions.get(name);
                    callee.object.clone_from(&here.object);
                }
                Some(("cob", name)) => callee.object = base_name(&objects.get(name)),
                Some(("cfn", name)) => callee.name = functions.get(name),
                Some(("calls", counts)) => {
                    calls = counts.split(' ').next().and_then(|count| count.parse().ok());
                }
                // Files, and whatever a newer version may have.
                Some(_) => {}
                None => {
                    let mut words = line.split(' ');
                    let position = words.next().is_some_and(|word| {
                        word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*'))
                    });
                    let Some(cost) = words.next().and_then(|word| word.parse::<f64>().ok()).filter(|_| position) else {
                        continue;
                    };
                    let cost = cost / requests;
                    match calls.take() {
                        Some(count) => {
                            let entry = profile.calls.entry((here.object.clone(), callee.clone())).or_default();
                            entry.count += count / requests;
                            entry.cost += cost;
                            // The object is named again only where it differs from the caller's.
                            callee.object.clone_from(&here.object);
                        }
                        None => *profile.own.entry(here.clone()).or_default() += cost,
                    }
                }
            }
        }
        profile
    }

    /// All instructions.
    pub(crate) fn total(&self) -> f64 {
        self.own.values().sum()
    }

    /// The instructions of the objects that `which` names.
    pub(crate) fn of_objects(&self, which: impl Fn(&str) -> bool) -> f64 {
        self.own.iter().filter(|(function, _)| which(&function.object)).map(|(_, cost)| cost).sum()
    }
}

/// Names are written once, with a number, and by that number from then on.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn get(&mut self, text: &str) -> String {
        let Some((number, name)) = text.strip_prefix('(').and_then(|rest| rest.split_once(')')) else {
            return text.to_owned();
        };
        if !name.trim().is_empty() {
            self.0.insert(number.to_owned(), name.trim().to_owned());
        }
        self.0.get(number).cloned().unwrap_or_default()
    }
}

fn base_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    if name == "???" { String::new() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
version: 1
positions: line
events: Ir
ob=(1) /usr/bin/traffic_server
fl=(1) ???
fn=(1) main
0 100
cob=(2) /tmp/x/modules/wasm_remap.so
cfn=(2) TSRemapDoRemap
calls=10 0
0 500
cfn=(3) other
calls=20 0
0 60

ob=(2)
fn=(2)
+3 400
cob=(1)
cfn=(3)
calls=10 0
* 40
* 100

ob=(3) ???
fn=(4) 0x1234
0 7

totals: 607
";

    #[test]
    fn costs_and_calls_are_told_apart() {
        let profile = Profile::parse(TEXT, 10);
        let function = |object: &str, name: &str| Function { object: object.to_owned(), name: name.to_owned() };
        assert_eq!(profile.own[&function("traffic_server", "main")], 10.0);
        assert_eq!(profile.own[&function("wasm_remap.so", "TSRemapDoRemap")], 50.0);
        assert_eq!(profile.own[&function("", "0x1234")], 0.7);
        assert!((profile.total() - 60.7).abs() < 1e-9);
        assert_eq!(profile.of_objects(|object| object == "traffic_server"), 10.0);
        let call = |from: &str, to| profile.calls[&(from.to_owned(), to)];
        let expected = Calls { count: 1.0, cost: 50.0 };
        assert_eq!(call("traffic_server", function("wasm_remap.so", "TSRemapDoRemap")), expected);
        assert_eq!(call("traffic_server", function("traffic_server", "other")), Calls { count: 2.0, cost: 6.0 });
        assert_eq!(call("wasm_remap.so", function("traffic_server", "other")), Calls { count: 1.0, cost: 4.0 });
    }
}
