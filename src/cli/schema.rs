//! `wasm-remap schema`: the JSON Schema of filter files, for editors. configs/filters.schema.json comes from here.

use crate::output::Outcome;

const EXAMPLES: &str = "\
Examples:
  Write the schema where editors find it:
    wasm-remap schema > /etc/trafficserver/filters.schema.json

  Have an editor with a YAML language server look at a filter file, by this file's first line:
    # yaml-language-server: $schema=../filters.schema.json";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

pub(crate) fn execute(_: &Args) -> Outcome {
    Outcome::json(&engine::config::schema(), true)
}
