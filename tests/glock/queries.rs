//! What glock prints for people and for programs.

use std::process::Stdio;

use glockd::Policy;
use glockd_test_support::finish;
use serde_json::{Value, json};

use crate::served::{Running, Served};

fn json_of(served: &Served, arguments: &str) -> Value {
    serde_json::from_str(&served.run(arguments).printed()).unwrap()
}

#[test]
fn ls_and_who_list_locks_and_holders() {
    let served = Served::new();
    assert_eq!(served.run("ls").printed(), "");
    assert_eq!(served.run("ls --json").printed(), "[]\n");
    let _one = served.connect_and_ask("iam cron on db1\ng nightly  report");
    let _two = served.connect_and_ask("sg gpu");
    // Only the first reply was awaited; now the second command has been executed as well.
    served.await_answer("own nightly report", "1 Lock Owners: nightly report");
    served.await_answer("own gpu", "1 Lock Owners: gpu");
    let expect = "LOCK            HOLDER\nnightly report  cron on db1\n";
    assert_eq!(served.run("ls").printed(), expect);
    assert_eq!(
        json_of(&served, "ls --json"),
        json!([{"name": "nightly report", "holder": "cron on db1"}])
    );
    assert_eq!(served.run("ls nothing").printed(), "");
    let shared = served.run("ls -s gpu").printed();
    assert!(shared.starts_with("LOCK  HOLDER\ngpu   unix:"), "{shared}");
    let who = served.run("who").printed();
    assert!(
        who.starts_with("ADDRESS") && who.ends_with("  cron on db1\n"),
        "{who}"
    );
    assert_eq!(json_of(&served, "who --json")[0]["name"], "cron on db1");
    let who = ["who", "cron on db1"];
    assert_eq!(finish(served.glock(who)).printed().lines().count(), 2);
    assert_eq!(served.run("who nobody").printed(), "");
}

#[test]
fn own_and_watch_show_holders_and_waiters() {
    let served = Served::new();
    let holder = served.connect_and_ask("g job");
    let mut waiter = served.glock(["get", "--name", "next", "job"]);
    waiter.stdin(Stdio::piped());
    let mut waiter = Running::start(waiter, None);
    served.await_answer("own job", "2 Lock Owners: job");
    let shown = served.run("own job").printed();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("KIND              FOR "), "{shown}");
    assert!(lines[1].starts_with("exclusive  holds  "), "{shown}");
    assert!(
        lines[2].starts_with("exclusive  waits  ") && lines[2].ends_with("  next"),
        "{shown}"
    );
    let owners = json_of(&served, "own --json job");
    assert!(owners[0]["fence"].as_str().unwrap().parse::<u64>().unwrap() > 1 << 53);
    assert_eq!(
        (&owners[0]["waits"], &owners[1]["waits"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&owners[1]["fence"], &owners[1]["name"]),
        (&Value::Null, &json!("next"))
    );

    let watched = json_of(&served, "watch --json -c 1");
    assert_eq!(watched["locks"][0]["waiters"], 1);
    assert_eq!(watched["counters"]["locks"], 1);
    let watched = served.run("watch -c 2 -i 0.01").printed();
    assert!(
        watched.contains("waiters 1\na second: gets 0.0 "),
        "{watched}"
    );
    assert!(
        watched.contains("exclusive  job   1     1     "),
        "{watched}"
    );
    drop(holder);
    assert!(waiter.line().starts_with("held: job"));
}

/// No client can make a lock look free, or held by another client, by its choice of names for locks or for itself.
#[test]
fn names_cannot_be_taken_for_other_locks() {
    let served = Served::new();
    let name = "deploy: alice";
    for shared in [false, true] {
        let [verb, kind] = if shared {
            ["sg", "shared"]
        } else {
            ["g", "exclusive"]
        };
        let flags: &[&str] = if shared { &["-s"] } else { &[] };
        let glock = |last: &[&str]| {
            let run = ["run", "--name", name, "prod"];
            let arguments = [&run[..], flags, &["--", "glock"], last].concat();
            serde_json::from_str::<Value>(&finish(served.glock(arguments)).printed()).unwrap()
        };
        let _other = served.connect_and_ask(&format!("iam alice\n{verb} prod: deploy"));
        served.await_answer("own prod: deploy", "1 Lock Owners: prod: deploy");
        let expect = json!([
            {"name": "prod", "holder": name},
            {"name": "prod: deploy", "holder": "alice"},
        ]);
        assert_eq!(glock(&[&["ls", "--json"], flags].concat()), expect);
        let expect = json!([{"name": "prod", "holder": name}]);
        assert_eq!(glock(&[&["ls", "--json", "prod"], flags].concat()), expect);
        let watched = glock(&["watch", "--json", "-c", "1"]);
        let row = |lock: &Value| json!([lock["kind"], lock["name"], lock["holder"]]);
        let rows: Vec<Value> = watched["locks"]
            .as_array()
            .unwrap()
            .iter()
            .map(row)
            .collect();
        let expect = [
            json!([kind, "prod", name]),
            json!([kind, "prod: deploy", "alice"]),
        ];
        assert_eq!(rows, expect);
        let inspected = glock(&[&["inspect", "--json", "prod"], flags].concat());
        assert_eq!(inspected, json!({"name": "prod", "holders": 1}));
        let owned = glock(&["own", "--json", "prod"]);
        assert_eq!(owned[0]["name"], name);
        let who = glock(&["who", "--json", name]);
        assert_eq!(who[0]["name"], name);
        drop(_other);
        served.await_answer("own prod: deploy", "0 Lock Owners: prod: deploy");
    }
}

#[test]
fn inspect_tells_free_from_held() {
    let served = Served::new();
    let finished = served.run("inspect job").exited(1);
    assert_eq!(finished.stdout, "free\n");
    let _held = [
        served.connect_and_ask("g job"),
        served.connect_and_ask("sg job"),
        served.connect_and_ask("sg job"),
    ];
    assert_eq!(served.run("inspect job").printed(), "held\n");
    assert_eq!(served.run("inspect -s job").printed(), "held by 2\n");
    assert_eq!(served.run("inspect -q job").printed(), "");
    assert_eq!(
        json_of(&served, "inspect -s --json job"),
        json!({"name": "job", "holders": 2})
    );
}

#[test]
fn stats_and_ping_print_text_and_json() {
    let served = Served::new();
    let stats = served.run("stats").printed();
    assert!(
        stats.starts_with("COUNTER           VALUE\n") && stats.contains("\nlocks             0\n"),
        "{stats}"
    );
    assert_eq!(json_of(&served, "stats --json")["connections"], 1);
    let pinged = served.run("ping -c 3 -i 0.01").printed();
    assert_eq!(pinged.lines().count(), 4);
    assert!(
        pinged.lines().last().unwrap().starts_with("least "),
        "{pinged}"
    );
    assert!(json_of(&served, "ping --json")["ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn names_are_escaped_for_terminals() {
    let served = Served::new();
    let _held = served.connect_and_ask("g a\x1b[2J\u{202e}b");
    assert!(
        served
            .run("ls")
            .printed()
            .contains("\na\\u{1b}[2J\\u{202e}b  ")
    );
    assert_eq!(
        json_of(&served, "ls --json")[0]["name"],
        "a\x1b[2J\u{202e}b"
    );
}

/// Servers without extensions, and servers that show fewer details.
#[test]
fn servers_with_fewer_features_are_supported() {
    let served = Served::with(Policy {
        extensions: false,
        ..Policy::default()
    });
    let _held = served.connect_and_ask("g job");
    assert!(
        served
            .run("ls")
            .printed()
            .starts_with("LOCK  HOLDER\njob   ")
    );
    assert_eq!(served.run("ls -s").printed(), "");
    let finished = served.run("own job").exited(69);
    assert_eq!(finished.stderr, "glock: the server does not know `own`\n");
    let watched = served.run("watch -c 1").printed();
    assert!(
        watched.contains("\nexclusive  job   1     -     -    unix:"),
        "{watched}"
    );
    served.run("ping").exited(0);
    served.run("run -n job true").exited(1);

    let served = Served::with(Policy {
        dump: false,
        registry: false,
        ..Policy::default()
    });
    let finished = served.run("ls").exited(69);
    assert_eq!(finished.stderr, "glock: the server does not allow `ldl`\n");
}

#[test]
fn closed_output_is_not_a_failure() {
    let served = Served::new();
    let mut shell = served.shell("glock watch --json -i 0.01 | head -n 1 > first; wait");
    shell.stderr(Stdio::piped());
    assert_eq!(finish(shell).printed(), "");
    // The exit code is the same if it is the answer.
    let shell = served.shell("(glock inspect free; echo $? > code) | true; cat code");
    assert_eq!(finish(shell).printed(), "1\n");
}
