//! The rules of the house that ARCHITECTURE.md states, held against the source: which folder may import what, no circles
//! between files, and no function of seven parameters.
//!
//! The source is parsed, not searched, so comments and strings do not count, and neither does what is compiled for tests
//! alone. Paths within macros such as `tracing::debug!(…)` are not seen, but the macro's own path is.

// Always true here. It tells clippy that helper functions may unwrap, too.
#![cfg(test)]

mod circles;
mod source;

use std::collections::BTreeSet;

use source::{Crate, crates};

/// Largest number of parameters, `self` included.
const MAX_PARAMETERS: usize = 6;

/// What the files of a folder may not import, or name by a path. A name that ends in `::` stands for all below it.
struct Rule {
    folder: &'static str,
    forbidden: &'static [&'static str],
}

const RULES: [Rule; 6] = [
    Rule {
        folder: "protocol/src",
        forbidden: &[
            "tokio::",
            "tracing::",
            "std::net::",
            "std::fs::",
            "std::io::",
            "std::thread::",
        ],
    },
    Rule {
        folder: "transports/src",
        forbidden: &["glockd_protocol::"],
    },
    Rule {
        folder: "client/src",
        forbidden: &["glockd::", "glockd_transports::"],
    },
    // State and rules: no async, no logging, no sockets, no files.
    Rule {
        folder: "src/core",
        forbidden: &[
            "crate::server::",
            "glockd_transports::",
            "tokio::",
            "tokio_stream::",
            "futures_util::",
            "async_trait::",
            "tracing::",
            "std::net::",
            "std::fs::",
            "std::io::",
        ],
    },
    // It runs on any transport, so it names none.
    Rule {
        folder: "src/server",
        forbidden: &[
            "glockd_transports::Tcp::",
            "glockd_transports::Unix::",
            "glockd_transports::WebSocket::",
            "glockd_transports::Memory::",
        ],
    },
    Rule {
        folder: "src/bin",
        forbidden: &["glockd_protocol::", "glockd_transports::"],
    },
];

#[test]
fn folders_import_only_what_they_may() {
    let mut broken = BTreeSet::new();
    for rule in RULES {
        let mut files = 0;
        for source in crates() {
            for file in source
                .files
                .iter()
                .filter(|file| file.is_below(rule.folder))
            {
                files += 1;
                for path in &file.paths {
                    let path = format!("{}::", path.join("::"));
                    if rule.forbidden.iter().any(|word| path.starts_with(word)) {
                        broken.insert(format!("{} imports {path}", file.name));
                    }
                }
            }
        }
        assert!(files > 0, "there are no files below {}", rule.folder);
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_of_a_crate_form_no_circles() {
    let circles: Vec<Vec<String>> = crates()
        .iter()
        .flat_map(|source| circles::find(&source.imports()))
        .collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

/// The compiler denies it elsewhere, unless an attribute allows it.
#[test]
fn only_one_file_has_unsafe_code() {
    let found: Vec<String> = crates()
        .iter()
        .flat_map(|source| &source.files)
        .filter(|file| file.has_unsafe)
        .map(|file| file.name.clone())
        .collect();
    assert_eq!(found, ["src/bin/glock/start.rs"]);
}

#[test]
fn functions_have_at_most_six_parameters() {
    let long: Vec<String> = crates()
        .iter()
        .flat_map(|source: &Crate| &source.files)
        .flat_map(|file| {
            let long = file.functions.iter();
            let long = long.filter(|function| function.parameters > MAX_PARAMETERS);
            long.map(|function| {
                format!(
                    "{}: {} has {}",
                    file.name, function.name, function.parameters
                )
            })
        })
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}
