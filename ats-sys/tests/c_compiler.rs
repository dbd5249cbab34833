//! Compares the bindings with what the C compiler sees: bindgen reads the headers through libclang, the server was
//! built by another compiler, and a wrong offset or enum value would only show as a crash in production.
//!
//! The probe includes the headers and calls nothing, so that it links without traffic_server.
#![cfg(ats9)] // 10's headers need C++20 and libswoc; the probe below is C.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is compared: the C expression, and its value on the Rust side.
type Expected = BTreeMap<String, i64>;

macro_rules! constants {
    ($map:ident: $($name:ident),+ $(,)?) => {
        $($map.insert(stringify!($name).to_owned(), i64::from(ats_sys::$name));)+
    };
}

macro_rules! layout {
    ($map:ident: $($type:ident { $($field:ident),* }),+ $(,)?) => {$(
        $map.insert(format!("sizeof({})", stringify!($type)), as_i64(size_of::<ats_sys::$type>()));
        $map.insert(format!("_Alignof({})", stringify!($type)), as_i64(align_of::<ats_sys::$type>()));
        $($map.insert(
            format!("offsetof({}, {})", stringify!($type), stringify!($field)),
            as_i64(offset_of!(ats_sys::$type, $field)),
        );)*
    )+};
}

fn as_i64(n: usize) -> i64 {
    i64::try_from(n).expect("a size or an offset in a C struct")
}

fn expected() -> Expected {
    let mut map = Expected::new();
    layout!(map:
        TSRemapInterface { size, tsremap_version },
        TSRemapRequestInfo { mapFromUrl, mapToUrl, requestUrl, requestBufp, requestHdrp, redirect },
        TSHttpTxn {}, TSMBuffer {}, TSMLoc {}, TSCont {}, TSMutex {}, TSAction {}, TSVConn {}, TSVIO {},
        TSIOBuffer {}, TSIOBufferReader {}, TSIOBufferBlock {}, TSEventThread {}, TSThread {},
        TSMgmtInt {}, TSMgmtFloat {}, TSMgmtString {}, TSHRTime {}, TSEventFunc {},
        TSEvent {}, TSHttpHookID {}, TSReturnCode {}, TSRemapStatus {}, TSHttpStatus {}, TSHttpType {},
        TSOverridableConfigKey {}, TSMilestonesType {}, TSThreadPool {}, TSParseResult {}, TSUserArgType {},
        TSRecordDataType {}, TSStatPersistence {}, TSStatSync {}, TSCacheLookupResult {},
    );
    constants!(map:
        TS_VERSION_NUMBER, TS_VERSION_MAJOR, TS_VERSION_MINOR, TS_VERSION_MICRO,
        TSREMAP_VMAJOR, TSREMAP_VMINOR, TSREMAP_VERSION,
        TS_SUCCESS, TS_ERROR,
        TSREMAP_NO_REMAP, TSREMAP_DID_REMAP, TSREMAP_NO_REMAP_STOP, TSREMAP_DID_REMAP_STOP, TSREMAP_ERROR,
        TSREMAP_CONFIG_RELOAD_FAILURE, TSREMAP_CONFIG_RELOAD_SUCCESS_PLUGIN_USED,
        TSREMAP_CONFIG_RELOAD_SUCCESS_PLUGIN_UNUSED,
        // Hooks: all of them up to LAST, so that an inserted one shows.
        TS_HTTP_READ_REQUEST_HDR_HOOK, TS_HTTP_OS_DNS_HOOK, TS_HTTP_SEND_REQUEST_HDR_HOOK,
        TS_HTTP_READ_CACHE_HDR_HOOK, TS_HTTP_READ_RESPONSE_HDR_HOOK, TS_HTTP_SEND_RESPONSE_HDR_HOOK,
        TS_HTTP_REQUEST_TRANSFORM_HOOK, TS_HTTP_RESPONSE_TRANSFORM_HOOK, TS_HTTP_SELECT_ALT_HOOK,
        TS_HTTP_TXN_START_HOOK, TS_HTTP_TXN_CLOSE_HOOK, TS_HTTP_SSN_START_HOOK, TS_HTTP_SSN_CLOSE_HOOK,
        TS_HTTP_CACHE_LOOKUP_COMPLETE_HOOK, TS_HTTP_PRE_REMAP_HOOK, TS_HTTP_POST_REMAP_HOOK,
        TS_HTTP_RESPONSE_CLIENT_HOOK, TS_HTTP_REQUEST_BUFFER_READ_COMPLETE_HOOK, TS_HTTP_LAST_HOOK,
        TS_LIFECYCLE_MSG_HOOK, TS_LIFECYCLE_SHUTDOWN_HOOK,
        // Events.
        TS_EVENT_NONE, TS_EVENT_IMMEDIATE, TS_EVENT_TIMEOUT, TS_EVENT_ERROR, TS_EVENT_CONTINUE,
        TS_EVENT_VCONN_READ_READY, TS_EVENT_VCONN_WRITE_READY, TS_EVENT_VCONN_READ_COMPLETE,
        TS_EVENT_VCONN_WRITE_COMPLETE, TS_EVENT_VCONN_EOS, TS_EVENT_VCONN_INACTIVITY_TIMEOUT,
        TS_EVENT_VCONN_ACTIVE_TIMEOUT,
        TS_EVENT_HTTP_CONTINUE, TS_EVENT_HTTP_ERROR, TS_EVENT_HTTP_READ_REQUEST_HDR, TS_EVENT_HTTP_OS_DNS,
        TS_EVENT_HTTP_SEND_REQUEST_HDR, TS_EVENT_HTTP_READ_CACHE_HDR, TS_EVENT_HTTP_READ_RESPONSE_HDR,
        TS_EVENT_HTTP_SEND_RESPONSE_HDR, TS_EVENT_HTTP_REQUEST_TRANSFORM, TS_EVENT_HTTP_RESPONSE_TRANSFORM,
        TS_EVENT_HTTP_SELECT_ALT, TS_EVENT_HTTP_TXN_START, TS_EVENT_HTTP_TXN_CLOSE, TS_EVENT_HTTP_SSN_START,
        TS_EVENT_HTTP_SSN_CLOSE, TS_EVENT_HTTP_CACHE_LOOKUP_COMPLETE, TS_EVENT_HTTP_PRE_REMAP,
        TS_EVENT_HTTP_POST_REMAP, TS_EVENT_HTTP_REQUEST_BUFFER_COMPLETE, TS_EVENT_LIFECYCLE_MSG,
        TS_EVENT_LIFECYCLE_SHUTDOWN, TS_EVENT_MGMT_UPDATE,
        // Values that are passed to or read from the API.
        TS_HTTP_TYPE_UNKNOWN, TS_HTTP_TYPE_REQUEST, TS_HTTP_TYPE_RESPONSE,
        TS_HTTP_STATUS_NONE, TS_HTTP_STATUS_OK, TS_HTTP_STATUS_INTERNAL_SERVER_ERROR,
        TS_PARSE_ERROR, TS_PARSE_DONE, TS_PARSE_CONT,
        TS_THREAD_POOL_NET, TS_THREAD_POOL_TASK,
        TS_CACHE_LOOKUP_MISS, TS_CACHE_LOOKUP_HIT_STALE, TS_CACHE_LOOKUP_HIT_FRESH, TS_CACHE_LOOKUP_SKIPPED,
        TS_USER_ARGS_TXN, TS_USER_ARGS_SSN, TS_USER_ARGS_VCONN, TS_USER_ARGS_GLB,
        TS_RECORDDATATYPE_INT, TS_STAT_NON_PERSISTENT, TS_STAT_PERSISTENT, TS_STAT_SYNC_SUM, TS_STAT_SYNC_COUNT,
        TS_MILESTONE_NULL, TS_MILESTONE_UA_BEGIN, TS_MILESTONE_UA_FIRST_READ, TS_MILESTONE_UA_CLOSE,
        TS_MILESTONE_SERVER_CONNECT, TS_MILESTONE_SERVER_CLOSE, TS_MILESTONE_SM_START, TS_MILESTONE_SM_FINISH,
        TS_MILESTONE_LAST_ENTRY,
        // Overridable configuration: the ones that shift between 9 and 10, and the last.
        TS_CONFIG_NULL, TS_CONFIG_HTTP_REQUEST_BUFFER_ENABLED, TS_CONFIG_HTTP_CONNECT_ATTEMPTS_TIMEOUT,
        TS_CONFIG_HTTP_CACHE_HTTP, TS_CONFIG_HTTP_SEND_HTTP11_REQUESTS, TS_CONFIG_BODY_FACTORY_TEMPLATE_BASE,
        TS_CONFIG_URL_REMAP_PRISTINE_HOST_HDR, TS_CONFIG_LAST_ENTRY,
    );
    map
}

#[test]
fn layouts_and_constants_are_what_the_c_compiler_sees() {
    let expected = expected();
    let seen = run_probe(expected.keys().map(String::as_str));
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(name, value)| seen.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}: bindings say {value}, C says {:?}", seen.get(name)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen.len(), expected.len());
}

fn run_probe<'a>(expressions: impl Iterator<Item = &'a str>) -> Expected {
    let mut source = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <stdbool.h>\n#include <ts/ts.h>\n#include <ts/remap.h>\n\
         int main(void) {\n",
    );
    for expression in expressions {
        writeln!(source, "  printf(\"%s=%lld\\n\", \"{expression}\", (long long)({expression}));")
            .expect("writing to a String");
    }
    source.push_str("  return 0;\n}\n");

    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (c_file, program) = (dir.join("probe.c"), dir.join("probe"));
    std::fs::write(&c_file, source).expect("writing the probe");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    run(Command::new(compiler).arg(format!("-I{}", ats_sys::INCLUDE_DIR)).arg("-o").arg(&program).arg(&c_file));
    parse(&run(&mut Command::new(Path::new(&program))))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the probe prints ASCII")
}

fn parse(output: &str) -> Expected {
    output
        .lines()
        .map(|line| {
            let (name, value) = line.rsplit_once('=').expect("name=value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}
