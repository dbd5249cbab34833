//! Why a condition does not hold, for `wasm-remap run`.

use super::{Evaluation, Matcher, RequestView};
use crate::config::matching::{Condition, Field, FieldKind};

impl Condition {
    /// Whether it holds for a request. Compiles it for this once: a chain has it compiled.
    #[must_use]
    pub fn holds(&self, view: &dyn RequestView) -> bool {
        // What was read from a file compiles.
        Matcher::new(self).is_ok_and(|matcher| matcher.holds(&mut Evaluation::new(view)))
    }

    /// The first part of it that does not hold, in the order of docs/configuration.md, and what the request has
    /// instead. `None` if all of it holds.
    #[must_use]
    pub fn refusal(&self, view: &dyn RequestView) -> Option<String> {
        if self.holds(view) {
            return None;
        }
        if let Condition::All(list) = self {
            return list.iter().find_map(|condition| condition.refusal(view));
        }
        let has = self.found(view).map_or_else(String::new, |found| format!(" (the request's is {found})"));
        Some(format!("{self}{has}"))
    }

    /// What the request has of what the condition is about, if that is one thing.
    fn found(&self, view: &dyn RequestView) -> Option<String> {
        let mut evaluation = Evaluation::new(view);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
        match self {
            Condition::Any(list) => list.first().filter(|_| self.is_about_one_thing())?.found(view),
            Condition::Not(inner) => inner.found(view),
            Condition::All(_) | Condition::Internal(_) | Condition::Sample(_) => None,
            Condition::Method(_) => Some(text(view.method())),
            Condition::Scheme(_) => Some(text(view.scheme())),
            Condition::Host { port: None, .. } => Some(text(evaluation.host())),
            Condition::Host { port: Some(_), .. } => Some(format!("{}:{}", text(evaluation.host()), view.host().1)),
            Condition::Path(_) => Some(text(evaluation.path())),
            Condition::Client(_) => evaluation.client().map(|address| address.to_string()),
            Condition::Field(Field { kind, name, .. }) => Some(values(&evaluation, *kind, name)),
        }
    }

    fn is_about_one_thing(&self) -> bool {
        let Condition::Any(list) = self else { return true };
        list.iter().all(|condition| !condition.subject().is_empty() && condition.subject() == list[0].subject())
    }
}

fn values(evaluation: &Evaluation<'_>, kind: FieldKind, name: &str) -> String {
    let mut found = Vec::new();
    evaluation.values(kind, name, &mut |value| {
        found.push(format!("\"{}\"", String::from_utf8_lossy(value).escape_debug()));
        false
    });
    if found.is_empty() { "absent".to_owned() } else { found.join(", ") }
}
