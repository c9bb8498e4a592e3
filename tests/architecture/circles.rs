//! Circles in a graph of imports.

use std::collections::{BTreeMap, BTreeSet};

/// For each file, the files that it imports from.
pub(crate) type Imports = BTreeMap<String, BTreeSet<String>>;

/// Returns the groups of files that import each other, directly or through others: the strongly connected components of
/// more than one file.
pub(crate) fn find(imports: &Imports) -> Vec<Vec<String>> {
    let reachable: BTreeMap<&String, BTreeSet<&String>> = imports
        .keys()
        .map(|file| (file, reachable_from(imports, file)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, reached) in &reachable {
        if reached.contains(file) {
            let members = reached
                .iter()
                .filter(|other| reachable[**other].contains(file));
            circles.insert(
                members
                    .map(|member| (*member).clone())
                    .collect::<Vec<String>>(),
            );
        }
    }
    circles.into_iter().collect()
}

fn reachable_from<'a>(imports: &'a Imports, start: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = imports[start].iter().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(&imports[file]);
        }
    }
    reached
}

#[test]
fn circles_are_found_and_chains_are_not() {
    let imports = |pairs: &[(&str, &[&str])]| -> Imports {
        pairs
            .iter()
            .map(|(file, others)| {
                let others = others.iter().map(|other| (*other).to_owned());
                ((*file).to_owned(), others.collect())
            })
            .collect()
    };
    let chain = imports(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]);
    assert!(find(&chain).is_empty());
    let circle = imports(&[("a", &["b"]), ("b", &["c"]), ("c", &["b", "d"]), ("d", &[])]);
    assert_eq!(find(&circle), [["b", "c"]]);
    let long = imports(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"])]);
    assert_eq!(find(&long), [["a", "b", "c"]]);
}
