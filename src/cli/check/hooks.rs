/// What the plugin does with a chain, and which filters it does it for.
fn hooks_of(chain: &Chain) -> Vec<Hook> {
    let needs = chain.needs();
    if !needs.request_headers {
        return Vec::new();
    }
    let named = |wanted: &dyn Fn(engine::Exported) -> bool| -> Vec<String> {
        chain
            .filters()
            .iter()
            .filter(|filter| wanted(filter.exported()))
            .map(|filter| filter.name().to_owned())
            .collect()
    };
    let mut hooks = vec![Hook {
        hook: "TSRemapDoRemap",
        filters: named(&|exported| exported.request_headers || exported.response_headers || exported.end),
    }];
    if needs.response_headers {
        hooks.push(Hook { hook: "SEND_RESPONSE_HDR", filters: named(&|exported| exported.response_headers) });
    }
    hooks.push(Hook { hook: "TXN_CLOSE", filters: named(&|exported| exported.end) });
    hooks
}

