//! The functions themselves, each by its name.

/// Declares functions of a module with parameters of 32 or 64 bits, and a lookup by name.
macro_rules! functions {
    ($($module:literal: { $(fn $name:ident($($parameter:ident: $type:ty),*) = $shape:literal;)* })*) => {
        mod import {
            $(
                #[link(wasm_import_module = $module)]
                unsafe extern "C" {
                    $(pub(super) fn $name($($parameter: $type),*) -> u32;)*
                }
            )*
        }

        /// Calls a function with these parameters, whatever they are: a test may ask for wrong ones. None if there is
        /// no such function, or not with so many.
        pub(crate) fn call(name: &str, parameters: &[u64]) -> Option<u32> {
            let mut rest = parameters.iter();
            match name {
                $($(stringify!($name) => {
                    $(let $parameter = *rest.next()? as $type;)*
                    if rest.next().is_some() {
                        return None;
                    }
                    // SAFETY: a host checks every pointer that it is given and writes where the caller says; the
                    // callers in this crate point at memory of theirs, and a test that asks for another pointer by
                    // `raw` answers for it.
                    Some(unsafe { import::$name($($parameter),*) })
                })*)*
                _ => None,
            }
        }

        /// The whole name of a function, with or without `proxy_`, and what its parameters are, if a program can give
        /// them by kind: `i` a number, `I` one of 64 bits, `s` bytes, `m` a map, `p` a property path; results: `U` a
        /// number, `L` one of 64 bits, `O` bytes, `M` a map.
        pub(crate) fn shape(name: &str) -> Option<(&'static str, &'static str)> {
            let functions: &[(&str, &str)] = &[$($((stringify!($name), $shape),)*)*];
            functions
                .iter()
                .find(|(whole, _)| *whole == name || whole.strip_prefix("proxy_") == Some(name))
                .filter(|(_, shape)| *shape != "raw")
                .copied()
        }
    };
}

/// Takes over bytes that the host allocated in this VM; none for a null pointer.
pub(crate) fn take(data: u64, size: u64) -> Option<Vec<u8>> {
    let data = data as usize as *mut u8;
    if data.is_null() {
        return None;
    }
    let size = size as usize;
    // SAFETY: the host got this memory from `proxy_on_memory_allocate`, which is the SDK's: a boxed slice of this
    // very size.
    Some(unsafe { Vec::from_raw_parts(data, size, size) })
}

functions! {
    "env": {
        fn proxy_log(a: u32, b: u32, c: u32) = "is";
        fn proxy_get_log_level(a: u32) = "U";
        fn proxy_get_current_time_nanoseconds(a: u32) = "L";
        fn proxy_set_tick_period_milliseconds(a: u32) = "i";
        fn proxy_set_effective_context(a: u32) = "i";
        fn proxy_done() = "";
        fn proxy_get_buffer_bytes(a: u32, b: u32, c: u32, d: u32, e: u32) = "iiiO";
        fn proxy_get_buffer_status(a: u32, b: u32, c: u32) = "iUU";
        fn proxy_set_buffer_bytes(a: u32, b: u32, c: u32, d: u32, e: u32) = "iiis";
        fn proxy_get_header_map_size(a: u32, b: u32) = "iU";
        fn proxy_get_header_map_pairs(a: u32, b: u32, c: u32) = "iM";
        fn proxy_set_header_map_pairs(a: u32, b: u32, c: u32) = "im";
        fn proxy_get_header_map_value(a: u32, b: u32, c: u32, d: u32, e: u32) = "isO";
        fn proxy_add_header_map_value(a: u32, b: u32, c: u32, d: u32, e: u32) = "iss";
        fn proxy_replace_header_map_value(a: u32, b: u32, c: u32, d: u32, e: u32) = "iss";
        fn proxy_remove_header_map_value(a: u32, b: u32, c: u32) = "is";
        fn proxy_continue_stream(a: u32) = "i";
        fn proxy_close_stream(a: u32) = "i";
        fn proxy_get_status(a: u32, b: u32, c: u32) = "UO";
        fn proxy_send_local_response(a: u32, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32) = "issmi";
        fn proxy_http_call(a: u32, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: u32, j: u32) = "smsmiU";
        fn proxy_grpc_call(
            a: u32, b: u32, c: u32, d: u32, e: u32, f: u32,
            g: u32, h: u32, i: u32, j: u32, k: u32, l: u32) = "sssmsiU";
        fn proxy_grpc_stream(a: u32, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: u32) = "sssmU";
        fn proxy_grpc_send(a: u32, b: u32, c: u32, d: u32) = "isi";
        fn proxy_grpc_cancel(a: u32) = "i";
        fn proxy_grpc_close(a: u32) = "i";
        fn proxy_get_shared_data(a: u32, b: u32, c: u32, d: u32, e: u32) = "sOU";
        fn proxy_set_shared_data(a: u32, b: u32, c: u32, d: u32, e: u32) = "ssi";
        fn proxy_register_shared_queue(a: u32, b: u32, c: u32) = "sU";
        fn proxy_resolve_shared_queue(a: u32, b: u32, c: u32, d: u32, e: u32) = "ssU";
        fn proxy_enqueue_shared_queue(a: u32, b: u32, c: u32) = "is";
        fn proxy_dequeue_shared_queue(a: u32, b: u32, c: u32) = "iO";
        fn proxy_define_metric(a: u32, b: u32, c: u32, d: u32) = "isU";
        fn proxy_record_metric(a: u32, b: u64) = "iI";
        fn proxy_increment_metric(a: u32, b: u64) = "iI";
        fn proxy_get_metric(a: u32, b: u32) = "iL";
        fn proxy_get_property(a: u32, b: u32, c: u32, d: u32) = "pO";
        fn proxy_set_property(a: u32, b: u32, c: u32, d: u32) = "ps";
        fn proxy_call_foreign_function(a: u32, b: u32, c: u32, d: u32, e: u32, f: u32) = "ssO";
    }
    "wasi_snapshot_preview1": {
        fn args_get(a: u32, b: u32) = "raw";
        fn args_sizes_get(a: u32, b: u32) = "raw";
        fn environ_get(a: u32, b: u32) = "raw";
        fn environ_sizes_get(a: u32, b: u32) = "raw";
        fn clock_res_get(a: u32, b: u32) = "iL";
        fn clock_time_get(a: u32, b: u64, c: u32) = "iIL";
        fn fd_close(a: u32) = "raw";
        fn fd_fdstat_get(a: u32, b: u32) = "raw";
        fn fd_prestat_get(a: u32, b: u32) = "raw";
        fn fd_read(a: u32, b: u32, c: u32, d: u32) = "raw";
        fn fd_seek(a: u32, b: u64, c: u32, d: u32) = "raw";
        fn fd_write(a: u32, b: u32, c: u32, d: u32) = "raw";
        fn path_open(a: u32, b: u32, c: u32, d: u32, e: u32, f: u64, g: u64, h: u32, i: u32) = "raw";
        fn poll_oneoff(a: u32, b: u32, c: u32, d: u32) = "raw";
        fn random_get(a: u32, b: u32) = "raw";
        fn sched_yield() = "";
        fn sock_shutdown(a: u32, b: u32) = "raw";
    }
}
