//! What `glock watch` and `glock ping` compute from the server's replies.

use std::time::Instant;

use serde_json::Value;

use crate::served::Served;

/// Runs `glock watch --json`, and returns its frames.
fn frames(served: &Served, flags: &str) -> Vec<Value> {
    let printed = served.run(&format!("watch --json {flags}")).printed();
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn watch_row_has_the_holders_and_waiters_of_its_lock() {
    let served = Served::new();
    let _other = served.connect_and_ask("g another");
    let _holder = served.connect_and_ask("g job");
    // The helper awaits one reply on each connection, so they send another command before they wait.
    let mut waiters = [(); 2].map(|()| served.connect_and_ask("ping"));
    for waiter in &mut waiters {
        waiter.send("gw 3600000 job");
    }
    served.await_answer("own job", "3 Lock Owners: job");
    let _shared = [(); 3].map(|()| served.connect_and_ask("sg job"));
    let frames = frames(&served, "-c 1");
    let rows: Vec<_> = frames[0]["locks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert!(row["held_ms"].is_u64(), "{row}");
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            let number = |key: &str| row[key].as_u64().unwrap();
            let numbers = [number("holders"), number("waiters")];
            (text("kind"), text("name"), numbers)
        })
        .collect();
    let expect = [
        ("exclusive", "another", [1, 0]),
        ("exclusive", "job", [1, 2]),
        ("shared", "job", [3, 0]),
    ];
    let expect = expect.map(|(kind, name, counts)| (kind.to_owned(), name.to_owned(), counts));
    assert_eq!(rows, expect);

    let shown = served.run("watch -c 1").printed();
    assert!(shown.contains(" and 2 more\n"), "{shown}");
    assert_eq!(shown.matches(" more\n").count(), 1, "{shown}");
}

/// A rate is the increase of a counter between two frames, divided by the time between them.
#[test]
fn watch_rates_are_per_second() {
    let served = Served::new();
    let start = Instant::now();
    let frames = frames(&served, "-c 2 -i 0.2");
    let at_most = start.elapsed().as_secs_f64();
    let [first, second] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert!(first["rates"].is_null(), "{first}");
    let commands = |frame: &Value| -> f64 {
        let counters = frame["counters"].as_object().unwrap().iter();
        let commands = counters.filter(|(key, _)| key.starts_with("command_"));
        commands.map(|(_, count)| count.as_f64().unwrap()).sum()
    };
    let rate = second["rates"]["commands"].as_f64().unwrap();
    let seconds = (commands(second) - commands(first)) / rate;
    // The time between the frames is less than that of the whole run.
    assert!(
        seconds > 0.0 && seconds <= at_most,
        "{seconds} s in {second}"
    );
    assert_eq!(second["rates"]["gets"], 0.0);
}

#[test]
fn ping_times_are_in_milliseconds() {
    const COUNT: usize = 3;
    let served = Served::new();
    let start = Instant::now();
    let printed = served.run(&format!("ping -c {COUNT} -i 0.01")).printed();
    let at_most = start.elapsed().as_secs_f64() * 1000.0;
    let times: Vec<f64> = printed
        .split([' ', '\n'])
        .filter_map(|word| word.parse().ok())
        .collect();
    let [pings @ .., least, mean, most] = &times[..] else {
        panic!("{printed}");
    };
    assert_eq!(pings.len(), COUNT, "{printed}");
    // A round trip through the kernel takes at least a microsecond.
    let range = 0.001..at_most;
    assert!(times.iter().all(|ms| range.contains(ms)), "{printed}");
    assert!(least <= mean && mean <= most, "{printed}");
    let shown = |found: f64| pings.contains(&found);
    assert!(shown(*least) && shown(*most), "{printed}");
}

/// Without a terminal, a frame has at most 100 locks.
#[test]
fn watch_counts_locks_that_do_not_fit() {
    let served = Served::new();
    let commands: Vec<String> = (0..103).map(|number| format!("g {number:03}")).collect();
    let _holder = served.connect_and_ask(&commands.join("\n"));
    served.await_answer("i 102", "1 Lock Is Locked: 102");
    let shown = served.run("watch -c 1").printed();
    assert!(shown.ends_with("\nand 3 more\n"), "{shown}");
    assert!(
        shown.contains("  099 ") && !shown.contains("  100 "),
        "{shown}"
    );
    assert_eq!(frames(&served, "-c 1")[0]["left_out"], 3);
}
