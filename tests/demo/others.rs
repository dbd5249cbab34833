//! The rest of the demo: what filters share, whom they call, and what is counted of them.

use std::time::Duration;

use wasm_remap_tests::harness::ports::Lease;
use wasm_remap_tests::{Builder, Client, Origin, Reply, Request, Response};

const TOKEN: (&str, &str) = ("authorization", "Bearer open-sesame");

/// What `auth` and `logs` of configs/demo/filters/private.yaml are.
pub(crate) struct Others {
    authoriser: Origin,
    collector: Origin,
    metrics: Lease,
}

impl Others {
    pub(crate) fn start() -> Self {
        let (authoriser, collector) = (Origin::start(), Origin::start());
        authoriser.route("/verify", |request: &Request| match request.header(TOKEN.0).as_deref() {
            Some(token) if token == TOKEN.1 => Reply::new(200).header("x-user", "alice"),
            _ => Reply::new(401).header("www-authenticate", "Bearer").body("who are you?\n"),
        });
        collector.route("/ingest", Reply::new(204));
        Others { authoriser, collector, metrics: Lease::take() }
    }

    /// Their addresses, where configs/demo has names for them.
    pub(crate) fn variables(&self, builder: Builder) -> Builder {
        builder
            .variable("authoriser", &self.authoriser.address())
            .variable("collector", &self.collector.address())
            .variable("metrics", &self.metrics.port().to_string())
    }

    /// Shows all of it; `number` is that of the last step. Says how many requests were sent.
    pub(crate) fn play(&self, number: usize, origin: &Origin, port: u16) -> Result<i64, String> {
        println!("\n{}. Host D lets a client ask three times, and then once in ten seconds.", number + 1);
        let limited = limit(origin, port)?;
        println!("\n{}. Host E asks an authoriser first, at {}.", number + 2, self.authoriser.address());
        let asked = self.ask(origin, port)?;
        println!(
            "\n{}. A service ships a line for each of them to a log collector, without any of them waiting.",
            number + 3
        );
        self.log(asked)?;
        println!("\n{}. All of it is counted, by rule and filter, for Prometheus.", number + 4);
        self.scrape(asked)?;
        Ok(limited + asked)
    }

    fn ask(&self, origin: &Origin, port: u16) -> Result<i64, String> {
        let steps: [(&[_], _, _, _); 3] = [
            (&[], 401, 1, "the authoriser's answer; the origin was not asked"),
            (&[TOKEN], 200, 2, "answered by the origin, which was told who it is"),
            (&[TOKEN], 200, 2, "answered by the origin; the verdict was kept, and the authoriser not asked again"),
        ];
        for (fields, status, verdicts, what) in steps {
            let before = origin.request_count();
            let response = get(port, "private.test", "/page", fields);
            println!("     {}, {what}", line(&response));
            expect("the status", response.status, status)?;
            expect("questions to the authoriser", self.authoriser.request_count(), verdicts)?;
            let passed = usize::from(status == 200);
            expect("requests to the origin", origin.request_count() - before, passed)?;
            if status == 200 {
                println!("     ext-auth request:  + x-user: alice");
                expect("x-user", origin.last().header("x-user").as_deref(), Some("alice"))?;
            } else {
                expect("the body", response.text().as_str(), "who are you?\n")?;
            }
        }
        Ok(3)
    }

    fn log(&self, transactions: i64) -> Result<(), String> {
        let lines =
            |request: &Request| String::from_utf8_lossy(&request.body).lines().map(str::to_owned).collect::<Vec<_>>();
        let all = || self.collector.requests().iter().map(lines).collect::<Vec<_>>();
        let there = soon(|| all().concat().len() as i64 >= transactions);
        for batch in all() {
            println!("     POST /ingest, {} lines:", batch.len());
            for line in batch {
                println!("       {line}");
            }
        }
        let statuses: Vec<_> =
            all().concat().iter().filter_map(|line| line.rsplit(':').next().map(str::to_owned)).collect();
        expect("the lines' statuses", statuses.join(" ").as_str(), "401} 200} 200}")?;
        if there { Ok(()) } else { Err("lines are missing".to_owned()) }
    }

    fn scrape(&self, asked: i64) -> Result<(), String> {
        let port = self.metrics.port();
        println!("   $ curl -s http://127.0.0.1:{port}/metrics");
        // Each line ends so.
        let wanted = [
            ("wasm_remap_rule_streams_total{", "filter=\"rate-limit\"", " 4"),
            ("wasm_remap_rule_streams_total{", "filter=\"ext-auth\"", &format!(" {asked}")),
            ("wasm_remap_rule_local_responses_total{", "filter=\"rate-limit\"", " 1"),
            ("wasm_remap_rule_local_responses_total{", "filter=\"ext-auth\"", " 1"),
            ("wasm_remap_rule_callouts_total{", "filter=\"ext-auth\"", " 2"),
            ("wasm_remap_filter_log_shipper_shipped_total", "", &format!(" {asked}")),
        ];
        let mut text = String::new();
        let is = |line: &str, (name, filter, _): &(&str, &str, &str)| line.starts_with(name) && line.contains(filter);
        let found = soon(|| {
            text = get(port, "localhost", "/metrics", &[]).text();
            wanted.iter().all(|want| text.lines().any(|line| is(line, want) && line.ends_with(want.2)))
        });
        for line in text.lines().filter(|line| wanted.iter().any(|want| is(line, want))) {
            println!("     {line}");
        }
        println!("     ... of {} lines", text.lines().filter(|line| !line.starts_with('#')).count());
        if found { Ok(()) } else { Err(format!("the metrics are not {wanted:?}")) }
    }
}

fn limit(origin: &Origin, port: u16) -> Result<i64, String> {
    let before = origin.request_count();
    for (status, left) in [(200, "2"), (200, "1"), (200, "0"), (429, "0")] {
        let response = get(port, "limited.test", "/page", &[]);
        let fields = ["ratelimit-limit", "ratelimit-remaining", "retry-after"];
        let fields = fields.iter().filter_map(|name| Some(format!("{name}: {}", response.header(name)?)));
        println!("     {}, {}", line(&response), fields.collect::<Vec<_>>().join(", "));
        expect("the status", response.status, status)?;
        expect("what is left", response.header("ratelimit-remaining").as_deref(), Some(left))?;
    }
    expect("requests to the origin", origin.request_count() - before, 3)?;
    Ok(4)
}

fn get(port: u16, host: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    if host != "localhost" {
        let fields: String = fields.iter().map(|(name, value)| format!(" -H '{name}: {value}'")).collect();
        println!("   $ curl -si -H 'Host: {host}'{fields} http://127.0.0.1:{port}{path}");
    }
    Client::connect(port).request("GET", host, path, fields, b"")
}

/// The status, as curl shows it.
fn line(response: &Response) -> String {
    format!("{} {}", response.status, response.reason).trim().to_owned()
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what}: {is:?}, not {should:?}")) }
}

/// Whether this becomes true within ten seconds.
fn soon(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..100 {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}
