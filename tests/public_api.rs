//! The public API of each crate, held against a snapshot: what is added to it is added on purpose, and what is lost from it
//! is noticed.
//!
//! It takes a nightly compiler, whose rustdoc describes a crate as JSON, and `cargo-public-api`, which makes a list of that.
//! So the tests are ignored unless asked for, and then fail where one of the two is missing:
//!
//! ```text
//! cargo install --locked cargo-public-api
//! cargo test --test public_api -- --ignored
//! ```
//!
//! After a change that is meant, the second line with `INSTA_UPDATE=always` before it writes the snapshots anew.
//!
//! Turned down: a list of our own from the parsed source, which would have to follow re-exports and derived traits.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;

/// Time for building the crate's dependencies with the nightly compiler.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Compares the items of a crate with its snapshot. Blanket and automatic implementations are left out: they are the same
/// for almost every type.
#[track_caller]
fn check(package: &str, features: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root);
    // Those of the test's own toolchain.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(variable);
    }
    cargo.args(["+nightly", "public-api", "--package", package]);
    cargo.args(["--omit", "blanket-impls,auto-trait-impls"]);
    cargo.args(features);
    let output = cargo.timeout(PATIENCE).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let items = String::from_utf8(output.stdout).unwrap();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root.join("snapshots"));
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(package, items));
}

#[test]
#[ignore = "needs a nightly compiler and cargo-public-api: run by .ci/run"]
fn api_of_glockd_is_as_recorded() {
    check("glockd", &["--no-default-features"]);
}

#[test]
#[ignore = "needs a nightly compiler and cargo-public-api: run by .ci/run"]
fn api_of_glockd_client_is_as_recorded() {
    check("glockd-client", &["--all-features"]);
}

#[test]
#[ignore = "needs a nightly compiler and cargo-public-api: run by .ci/run"]
fn api_of_glockd_protocol_is_as_recorded() {
    check("glockd-protocol", &[]);
}

#[test]
#[ignore = "needs a nightly compiler and cargo-public-api: run by .ci/run"]
fn api_of_glockd_transports_is_as_recorded() {
    check("glockd-transports", &[]);
}
