//! The programs in other languages and the lines for a Cargo.toml in `docs/` do what their pages say. The shell lines
//! are run by `.ci/pages`, and the other Rust is compiled as doctests.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use glockd::{Server, Tcp, WebSocket};
use glockd_test_support::PATIENCE;
use tempfile::tempdir;
use tokio::runtime::Runtime;

const OTHER_LANGUAGES: &str = include_str!("../docs/other-languages.md");
const RUST_CLIENT: &str = include_str!("../docs/rust-client.md");

/// How often a program gets and releases its lock, each time on a new connection: were it free only a moment after the
/// program has closed, some of these would be refused.
const ROUNDS: usize = 100;

/// Returns the first code block of a page in this language that contains `word`.
fn block(page: &'static str, language: &str, word: &str) -> &'static str {
    let fence = format!("\n```{language}\n");
    let mut blocks = page.split(&*fence).skip(1);
    let found = blocks.find_map(|rest| {
        let (block, _) = rest.split_once("\n```\n")?;
        block.contains(word).then_some(block)
    });
    found.unwrap_or_else(|| panic!("no {language} with {word} on the page"))
}

/// Replaces what must be there.
#[track_caller]
fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from} in {text}");
    text.replace(from, to)
}

/// A server on ports of its own, which ends with the test.
struct Served {
    _runtime: Runtime,
    tcp: u16,
    ws: u16,
}

impl Served {
    fn new() -> Served {
        let runtime = Runtime::new().unwrap();
        let local = "127.0.0.1:0".parse().unwrap();
        let server = Server::builder()
            .transport(Tcp::address(local))
            .transport(WebSocket::address(local))
            .bind();
        let server = runtime.block_on(server).unwrap();
        let port = |index: usize| server.addresses()[index].ip().unwrap().port();
        let (tcp, ws) = (port(0), port(1));
        runtime.spawn(server.run(std::future::pending()));
        Served {
            _runtime: runtime,
            tcp,
            ws,
        }
    }
}

/// Runs a program to its end, which must be a good one, and returns what it printed.
fn printed(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).timeout(PATIENCE).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs python3: run by .ci/run"]
fn python_can_get_the_lock_again_at_once() {
    let served = Served::new();
    let program = block(OTHER_LANGUAGES, "python", "socket");
    let here = format!("\"127.0.0.1\", {}", served.tcp);
    let program = replace(program, "\"localhost\", 9999", &here);
    // Without a wait, which would make up for a lock that is released late.
    let program = replace(&program, "gw 5000 ", "g ");
    let program = replace(&program, "...", "print('held')");
    let script = format!("program = {program:?}\nfor _ in range({ROUNDS}): exec(program)");
    assert_eq!(
        printed("python3", &["-c", &script]),
        "held\n".repeat(ROUNDS)
    );
}

#[test]
#[ignore = "needs node, of version 22 or with the package ws: run by .ci/run"]
fn javascript_can_get_the_lock_again_at_once() {
    let served = Served::new();
    let program = block(OTHER_LANGUAGES, "js", "WebSocket");
    let here = format!("127.0.0.1:{}", served.ws);
    let program = replace(program, "localhost:9998", &here);
    let script = format!(
        "globalThis.WebSocket ??= require('ws');
        const once = () => new Promise((resolve, reject) => {{
            {program}
            lock.onerror = reject;
            const close = lock.close.bind(lock);
            // The next one does not wait until this one is closed.
            lock.close = () => {{ close(); resolve(); }};
        }});
        (async () => {{ for (let round = 0; round < {ROUNDS}; round++) await once(); }})();"
    );
    let expect = "1 Lock Get Success: draft 17\n\n1 Lock Release Success: draft 17\n\n";
    assert_eq!(printed("node", &["-e", &script]), expect.repeat(ROUNDS));
}

/// With the versions that are downloaded for this workspace already.
#[test]
#[ignore = "builds the client once more: run by .ci/run"]
fn the_lines_for_cargo_toml_suffice_for_the_rust_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let client = root.join("client");
    let lines = block(RUST_CLIENT, "toml", "glockd-client");
    let lines = replace(lines, "glockd/client", client.to_str().unwrap());
    let package = "[package]\nname = \"reader\"\nedition = \"2024\"\n[workspace]\n";
    let program = block(RUST_CLIENT, "rust,no_run", "glockd_client::Client");
    let main = "#[tokio::main]\nasync fn main() { nightly().await.unwrap() }";

    let dir = tempdir().unwrap();
    fs::write(dir.path().join("Cargo.toml"), format!("{package}{lines}\n")).unwrap();
    fs::copy(root.join("Cargo.lock"), dir.path().join("Cargo.lock")).unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(
        dir.path().join("src/main.rs"),
        format!("{program}\n{main}\n"),
    )
    .unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(dir.path()).args(["check", "--offline"]);
    cargo.env("CARGO_TARGET_DIR", env!("CARGO_TARGET_TMPDIR"));
    cargo.timeout(10 * PATIENCE).assert().success();
}
