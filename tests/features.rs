//! What the library builds with and without its features.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

use std::collections::BTreeSet;
use std::time::Duration;

use assert_cmd::Command;

/// Crates that only the commands need.
const OF_COMMANDS: [&str; 10] = [
    "argh",
    "clap",
    "comfy-table",
    "fastrand",
    "glockd-client",
    "hdrhistogram",
    "nix",
    "serde_json",
    "tikv-jemallocator",
    "tracing-subscriber",
];

/// Names of the crates that are built into the library with these features, as cargo resolves them.
fn dependencies(features: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["tree", "--locked", "--edges", "no-dev", "--prefix", "none"]);
    cargo.args(["--format", "{p}", "--package", "glockd"]);
    cargo.args(["--no-default-features", "--features", features]);
    let output = cargo.timeout(Duration::from_secs(60)).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn library_alone_needs_no_crate_of_the_commands() {
    let found = dependencies("");
    assert!(found.contains("glockd-transports"), "{found:?}");
    let needless: Vec<_> = OF_COMMANDS
        .iter()
        .filter(|&&name| found.contains(name))
        .collect();
    assert!(needless.is_empty(), "{needless:?}");
}

#[test]
fn features_bring_the_crates_of_the_commands() {
    let found = dependencies("daemon,glock,jemalloc");
    for name in OF_COMMANDS {
        assert!(found.contains(name), "no {name} in {found:?}");
    }
}

/// What the daemon is built of has nothing of the other command.
#[test]
fn daemon_needs_no_crate_of_glock() {
    let found = dependencies("daemon");
    for name in ["clap", "fastrand", "glockd-client", "tikv-jemallocator"] {
        assert!(!found.contains(name), "{name} in {found:?}");
    }
}
