//! `wasm-remap`: checks, inspects and tries filters where no Apache Traffic Server is installed.
//!
//! Everything is loaded by the engine that the plugin uses, so what this command accepts the plugin accepts, and
//! what it says of a mistake are the plugin's words.
#![forbid(unsafe_code)]

mod calls;
mod capture;
mod check;
mod hostcalls;
mod inspect;
mod migrate;
mod output;
mod remap;
mod run;
mod schema;
mod suggest;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use output::Outcome;

const ABOUT: &str = "\
Checks, inspects and tries the Proxy-Wasm filters of wasm_remap.so, the remap plugin of Apache Traffic Server.
No Traffic Server is needed, and none that runs is touched.";

const EXAMPLES: &str = "\
Examples:
  Before `traffic_ctl config reload`, check every rule and all that it names:
    wasm-remap check --remap-config /etc/trafficserver/remap.config

  Check one filter file, and see the chain that it makes:
    wasm-remap check filters/shop.yaml

  See what a module exports and imports, and whether it will load:
    wasm-remap inspect filters/auth.wasm

  Send one request through a chain:
    wasm-remap run filters/shop.yaml --request 'GET http://shop.example.com/x' -H 'x-api-key: 123'

  Turn the C++ plugin's configuration into a filter file:
    wasm-remap migrate /etc/trafficserver/plugin.config --output /etc/trafficserver/filters/all.yaml

Exit status: 0 all is well, 1 something would not load, 2 the command line is wrong.";

#[derive(Parser)]
#[command(name = "wasm-remap", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load filter files, or all rules of a remap.config, as the plugin does, and say what becomes of them
    Check(check::Args),
    /// Say what a module exports, imports and needs, without running it
    Inspect(inspect::Args),
    /// Send one transaction through a chain and show what each filter does to it
    Run(Box<run::Args>),
    /// Turn files of the C++ plugin, of Envoy or of Istio into a rule and a filter file
    Migrate(migrate::Args),
    /// List the calls that filters may make: ABI version, how far supported, what they do
    Hostcalls(hostcalls::Args),
    /// Print the JSON Schema of filter files, with which editors complete and check them
    Schema(schema::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" too, with a code of 0; where they cannot be printed there is no one to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match cli.command {
        Command::Check(args) => check::execute(&args),
        Command::Inspect(args) => inspect::execute(&args),
        Command::Run(args) => run::execute(&args),
        Command::Migrate(args) => migrate::execute(&args),
        Command::Hostcalls(args) => hostcalls::execute(&args),
        Command::Schema(args) => schema::execute(&args),
    };
    let Outcome { out, err, ok } = outcome;
    // Not `print!`, which panics when a pipe such as `| head` closes early.
    let _ = std::io::stdout().write_all(out.as_bytes());
    let _ = std::io::stderr().write_all(err.as_bytes());
    if ok { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
