//! `glock bench`: its report matches what the server counts.

use std::time::Instant;

use glockd::{Policy, Server};
use glockd_test_support::{finish, wait_until};
use serde_json::Value;

use crate::served::Served;

fn report(served: &Served, arguments: &str) -> Value {
    serde_json::from_str(&served.run(&format!("bench --json {arguments}")).printed()).unwrap()
}

fn counter(served: &Served, key: &str) -> u64 {
    let counters = served.run("stats --json").printed();
    let counters: Value = serde_json::from_str(&counters).unwrap();
    counters[key].as_u64().unwrap()
}

#[test]
fn bench_reports_the_number_of_commands_that_the_server_counts() {
    let served = Served::new();
    let (mut gets, mut releases) = (0, 0);
    for (flags, operations) in [
        ("-c 1 -P 1", 1),
        ("-c 7 -P 3 --threads 3", 10_001),
        ("-c 2 -P 100 --threads 2", 9_999),
    ] {
        let report = report(&served, &format!("{flags} -n {operations}"));
        assert_eq!(report["operations"], operations);
        assert_eq!(report["refused"], 0);
        let latency = &report["latency_us"];
        assert!(latency["least"].as_f64().unwrap() <= latency["p50"].as_f64().unwrap());
        assert!(latency["p999"].as_f64().unwrap() <= latency["most"].as_f64().unwrap());
        let (got, released) = (counter(&served, "command_g"), counter(&served, "command_r"));
        assert_eq!(got - gets + released - releases, operations);
        (gets, releases) = (got, released);
    }
}

/// All batches of a connection are sent and answered, one after the other, within the reported time.
#[test]
fn bench_reports_the_time_that_it_took() {
    let served = Served::new();
    for batches in [1, 1, 1, 1, 1, 10, 100] {
        let operations = 1000 * batches;
        let started = Instant::now();
        let report = report(&served, &format!("-c 1 -P 1000 -n {operations}"));
        let (took, seconds) = (started.elapsed(), report["seconds"].as_f64().unwrap());
        let latency = |key| report["latency_us"][key].as_f64().unwrap() / 1e6;
        // Latencies are reported to three digits.
        let least = latency("most").max(latency("mean") * f64::from(batches)) * 0.999;
        assert!(
            (least..=took.as_secs_f64()).contains(&seconds),
            "{took:?} {report}"
        );
        let rate = report["operations_per_second"].as_f64().unwrap();
        assert!((rate * seconds / f64::from(operations) - 1.0).abs() < 1e-6);
    }
}

#[test]
fn every_work_gets_the_expected_replies() {
    let served = Served::new();
    for work in ["getrel", "wait", "shared", "reget", "inspect"] {
        let report = report(&served, &format!("--work {work} -c 3 -P 4 -n 1000"));
        assert_eq!(
            (&report["operations"], &report["refused"]),
            (&1000.into(), &0.into()),
            "{work}"
        );
    }
    for work in ["getrel", "wait", "shared"] {
        let report = report(&served, &format!("--work {work} --keys 2 -c 8 -n 4000"));
        assert_eq!(report["operations"], 4000);
        assert_eq!(report["refused"].as_u64().unwrap() > 0, work == "getrel");
    }
    let report = report(&served, "-t 0.05 -c 2");
    assert!(report["seconds"].as_f64().unwrap() >= 0.05);
    assert!(report["operations"].as_u64().unwrap() > 0);
    let shown = served.run("bench -n 100").printed();
    assert!(
        shown.starts_with("100 commands in ") && shown.contains("\nlatency in µs: least "),
        "{shown}"
    );
}

/// Neither the commands nor the replies of such a batch fit into a socket: the server reads on only while its replies are
/// read.
#[test]
fn bench_reads_while_it_writes() {
    let served = Served::new();
    for operations in [20_000, 30_001] {
        let report = report(&served, &format!("-c 1 -P 20000 -n {operations}"));
        assert_eq!(report["operations"], operations);
        assert_eq!(report["refused"], 0);
    }
}

#[test]
fn bench_reports_a_maximum_number_of_connections() {
    let served = Served::build(Server::builder().max_connections(Some(7)));
    let expect = "glock: the server took 7 of 20 connections and closed the others: it probably limits them \
                  (-max-connections, -max-connections-per-ip)\n";
    for threads in 1..=3 {
        // On a busy machine the server may be slow to close the connections of the last run.
        wait_until("the maximum is not reported", || {
            let refused = served.run(&format!("bench -c 20 --threads {threads}"));
            refused.exited(69).stderr == expect
        });
        wait_until("the permitted connections are refused", || {
            served.run("bench -c 7 -n 1000").status.success()
        });
    }
}

#[test]
fn bench_reports_why_it_cannot_run() {
    let mut served = Served::new();
    let finished = served.run("bench --server ws://localhost:1/").exited(2);
    assert_eq!(
        finished.stderr,
        "glock: bench supports only tcp:// and unix:\n"
    );
    let few = served.shell("ulimit -n 50; glock bench -c 100 -n 1000");
    let finished = finish(few).exited(71);
    assert!(
        finished.stderr.contains("Too many open files"),
        "{finished:?}"
    );
    let plain = Served::with(Policy {
        extensions: false,
        ..Policy::default()
    });
    let finished = plain.run("bench --work wait").exited(69);
    assert_eq!(finished.stderr, "glock: the server does not know `gw`\n");
    plain.run("bench -n 100 -P 10").exited(0);
    served.stop();
    let finished = served.run("bench -c 3").exited(69);
    assert!(
        finished
            .stderr
            .starts_with("glock: cannot reach the server at unix:"),
        "{finished:?}"
    );
}
