//! `wasm-remap migrate`: files of others, in our spelling.

mod plugins;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use engine::config::{Migration, Spelling};
use serde_json::json;

use crate::output::{Outcome, count};

const EXAMPLES: &str = "\
Examples:
  What the C++ plugin of plugin.config runs, as one filter file:
    wasm-remap migrate /etc/trafficserver/plugin.config --output /etc/trafficserver/filters/all.yaml

  One of its YAML files, to look at:
    wasm-remap migrate myfilter.yaml

  The Wasm filters of an Envoy's listener, whatever else its bootstrap says:
    wasm-remap migrate envoy.yaml --listener ingress --output filters/ingress.yaml

  WasmPlugins of Istio, in the order of their phases and priorities:
    kubectl get wasmplugin -n shop -o yaml > plugins.yaml
    wasm-remap migrate plugins.yaml

What has no meaning here is left out, and said on standard error and in comments. The result loads: `wasm-remap check`
says how. Exit status: 0 written, 1 a file cannot be turned, 2 the command line is wrong.";

/// What stands in each filter that was the C++ plugin's.
const AT_ORIGIN: &str = "`at: origin` is what wasm.so does: response callbacks run once, when the origin answers, and the \
                         cache keeps what they made of it. Without the line they run for each response, cache hits too.";

/// How the filter file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A filter file with comments.
    Yaml,
    /// For scripts: the filter file, the rule and the notes in one JSON document.
    Json,
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Files of the C++ plugin, or its plugin.config; of Envoy; or of Istio. Several make one chain
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Where the filter file goes, and modules that stand in the configuration [default: standard output]
    #[arg(short, long, value_name = "FILE.yaml")]
    output: Option<PathBuf>,

    /// Of several listeners with Wasm filters, this one
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,

    /// Where relative paths of the C++ plugin begin [default: the directory of the file]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// How to print the result
    #[arg(long, value_enum, default_value_t = Form::Yaml)]
    format: Form,
}

/// What the files become.
struct Migrated {
    migration: Migration,
    /// What is to be known beside that, a line each.
    notes: Vec<String>,
    /// The plugin ran for every transaction.
    global: bool,
}

pub(crate) fn execute(args: &Args) -> Outcome {
    match migrate(args).and_then(|migrated| write(args, migrated)) {
        Ok(outcome) => outcome,
        Err(message) => Outcome::failure(&message),
    }
}

/// The directory of a file.
fn home(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn migrate(args: &Args) -> Result<Migrated, String> {
    let home_of_result = home(args.output.as_ref().unwrap_or(&args.files[0]));
    let mut migrated = Migrated { migration: Migration::default(), notes: Vec::new(), global: false };
    for file in &args.files {
        if file.extension().is_some_and(|extension| extension == "config") {
            let config_dir = args.config_dir.as_deref().unwrap_or_else(|| home(file));
            let found = plugins::parse(&read(file)?, config_dir);
            let shown = file.display();
            if found.lines.is_empty() {
                return Err(format!("{shown}: no line loads wasm.so: expected 'wasm.so FILE.yaml'"));
            }
            for (line, files) in &found.lines {
                if files.is_empty() {
                    migrated.notes.push(format!("{shown}:{line}: names no file, so wasm.so does nothing"));
                }
                for file in files {
                    migrated.add(args, file, Some(config_dir), home_of_result)?;
                }
            }
            let lines: Vec<_> = found.lines.iter().map(|(line, _)| line.to_string()).collect();
            let word = if lines.len() == 1 { "line" } else { "lines" };
            migrated
                .notes
                .push(format!("{shown}: take out {word} {}: two hosts would run each filter", lines.join(", ")));
            if found.others > 0 {
                migrated
                    .notes
                    .push(format!("{shown}: {} stay as they are", count(found.others, "line") + " of other plugins"));
            }
        } else {
            migrated.add(args, file, args.config_dir.as_deref(), home_of_result)?;
        }
    }
    if migrated.migration.counts() == (0, 0) {
        return Err("there is no filter in it".to_owned());
    }
    migrated.global = migrated.migration.spellings.contains(&Spelling::Cpp);
    Ok(migrated)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: cannot be read: {error}", file.display()))
}

impl Migrated {
    fn add(&mut self, args: &Args, file: &Path, config_dir: Option<&Path>, home: &Path) -> Result<(), String> {
        let text = read(file)?;
        let found = Migration::read(file, &text, config_dir, args.listener.as_deref(), home)
            .map_err(|error| format!("{}\n{}", error.headline(), error.snippet(0)).trim_end().to_owned())?;
        self.notes.extend(found.notes.iter().map(ToString::to_string));
        self.migration.extend(found);
        Ok(())
    }

    /// The rule, and what to do with it.
    fn rule(&self, args: &Args) -> (String, String) {
        let file = args.output.as_ref().map_or_else(|| "FILE.yaml".to_owned(), |file| file.display().to_string());
        let rule = format!("map http://HOST/ http://ORIGIN/ @plugin=wasm_remap.so @pparam={file}");
        let advice = if self.global {
            "wasm.so ran for every request: give each rule of remap.config whose requests are to go through the filters \
             the two parameters, and take wasm.so out of plugin.config"
        } else {
            "Give the two parameters to each rule of remap.config whose requests are to go through the filters"
        };
        (rule, advice.to_owned())
    }
}

fn write(args: &Args, migrated: Migrated) -> Result<Outcome, String> {
    let (rule, advice) = migrated.rule(args);
    let files: Vec<_> = args.files.iter().map(|file| file.display().to_string()).collect();
    let mut outcome = Outcome { ok: true, ..Outcome::default() };
    let mut notes = migrated.notes.clone();
    for (name, bytes) in migrated.migration.modules() {
        if let Some(output) = &args.output {
            let path = home(output).join(name);
            fs::write(&path, &**bytes).map_err(|error| format!("{}: cannot be written: {error}", path.display()))?;
            notes.push(format!("{}: {} written", path.display(), count(bytes.len(), "byte")));
        } else {
            notes.push(format!("{name}: the module stands in the configuration itself, and --output writes it too"));
        }
    }
    let text = match args.format {
        Form::Json => {
            let file = migrated.migration.json()?;
            let report =
                json!({"ok": true, "from": files, "rule": rule, "advice": advice, "file": file, "notes": notes});
            serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n"
        }
        Form::Yaml => {
            let mut text = format!("# Made by `wasm-remap migrate` of {}.\n", files.join(", "));
            let _ = writeln!(text, "# The rule:\n#   {rule}");
            Migration::comment(&mut text, "# ", &(advice + "."));
            if migrated.global {
                Migration::comment(&mut text, "# ", AT_ORIGIN);
            }
            for note in &notes {
                Migration::comment(&mut text, "# Note: ", note);
            }
            text + &migrated.migration.yaml()?
        }
    };
    match &args.output {
        Some(output) if args.format == Form::Yaml => {
            fs::write(output, text).map_err(|error| format!("{}: cannot be written: {error}", output.display()))?;
            let (filters, services) = migrated.migration.counts();
            let _ = writeln!(
                outcome.out,
                "{}: {}{}\n{rule}",
                output.display(),
                count(filters, "filter"),
                if services > 0 { format!(", {}", count(services, "service")) } else { String::new() }
            );
        }
        _ => outcome.out = text,
    }
    for note in notes {
        let _ = writeln!(outcome.err, "note: {note}");
    }
    Ok(outcome)
}
