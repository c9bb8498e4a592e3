//! The source of the workspace's crates: their files, what each names by a path, and its functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ExprUnsafe, Item, ItemUse, Signature, UseTree, Visibility};

use crate::circles::Imports;

/// A crate, or a program: the files that are compiled together.
pub(crate) struct Crate {
    pub(crate) files: Vec<File>,
}

/// A file and the module that it is.
pub(crate) struct File {
    /// The path of the file from the root of the repository.
    pub(crate) name: String,
    /// The path of the module, `crate` first.
    module: Vec<String>,
    /// The paths that the file names outside tests. Those within the crate start with `crate`.
    pub(crate) paths: BTreeSet<Vec<String>>,
    /// What the file passes on under a name of its own: `pub use`.
    exports: BTreeMap<String, Vec<String>>,
    pub(crate) functions: Vec<Function>,
    /// Whether there is an `unsafe` block.
    pub(crate) has_unsafe: bool,
}

pub(crate) struct Function {
    pub(crate) name: String,
    /// `self` included.
    pub(crate) parameters: usize,
}

/// Returns all crates and programs of the workspace.
pub(crate) fn crates() -> Vec<Crate> {
    let roots = [
        "protocol/src/lib.rs",
        "transports/src/lib.rs",
        "client/src/lib.rs",
        "src/lib.rs",
        "src/bin/glockd/main.rs",
        "src/bin/glock/main.rs",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    roots
        .iter()
        .map(|name| {
            let mut source = Crate { files: Vec::new() };
            let folder = root.join(name).parent().unwrap().to_owned();
            source.read(root, &root.join(name), &folder, vec!["crate".to_owned()]);
            source
        })
        .collect()
}

impl Crate {
    /// Reads a file and the modules that it declares, which lie in `folder`.
    fn read(&mut self, root: &Path, path: &Path, folder: &Path, module: Vec<String>) {
        let text = fs::read_to_string(path).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut children = Vec::new();
        let mut reader = Reader {
            file: File {
                name: path.strip_prefix(root).unwrap().display().to_string(),
                module: module.clone(),
                paths: BTreeSet::new(),
                exports: BTreeMap::new(),
                functions: Vec::new(),
                has_unsafe: false,
            },
            children: &mut children,
        };
        reader.visit_file(&parsed);
        self.files.push(reader.file);
        for child in children {
            let candidates = [
                folder.join(format!("{child}.rs")),
                folder.join(&child).join("mod.rs"),
            ];
            let path: &PathBuf = candidates.iter().find(|path| path.exists()).unwrap();
            let mut module = module.clone();
            module.push(child.clone());
            self.read(root, path, &folder.join(&child), module);
        }
    }

    /// Returns which files import from which, where a name that is passed on counts as that of the file that defines it.
    pub(crate) fn imports(&self) -> Imports {
        let by_module: BTreeMap<&[String], &File> = self
            .files
            .iter()
            .map(|file| (&*file.module, file))
            .collect();
        self.files
            .iter()
            .map(|file| {
                let paths = file.paths.iter();
                let found = paths.filter_map(|path| find(&by_module, path));
                let others = found.filter(|other| other.name != file.name);
                (
                    file.name.clone(),
                    others.map(|other| other.name.clone()).collect(),
                )
            })
            .collect()
    }
}

/// Returns the file that defines what a path names: the longest module that it starts with, or the one that this module has
/// it from.
fn find<'a>(files: &BTreeMap<&[String], &'a File>, path: &[String]) -> Option<&'a File> {
    let length = (1..=path.len())
        .rev()
        .find(|&length| files.contains_key(&path[..length]))?;
    let file = files[&path[..length]];
    let passed_on = path.get(length).and_then(|name| file.exports.get(name));
    match passed_on {
        Some(target) if target.first().is_some_and(|first| first == "crate") => {
            let mut target = target.clone();
            target.extend_from_slice(&path[length + 1..]);
            find(files, &target)
        }
        // Another crate's.
        Some(_) => None,
        None => Some(file),
    }
}

impl File {
    pub(crate) fn is_below(&self, folder: &str) -> bool {
        self.name.starts_with(&format!("{folder}/")) || self.name == format!("{folder}.rs")
    }
}

/// Collects what a file names.
struct Reader<'a> {
    file: File,
    children: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// Makes a path of this module one that starts with `crate`, unless it is another crate's.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let mut module = self.file.module.clone();
        let mut rest = path.into_iter().peekable();
        match rest.peek().map(String::as_str) {
            Some("crate") => return rest.collect(),
            Some("self") => {
                rest.next();
            }
            Some("super") => {
                while rest.next_if_eq("super").is_some() {
                    module.pop();
                }
            }
            Some(first) if self.children.iter().any(|child| child == first) => {}
            _ => return rest.collect(),
        }
        module.extend(rest);
        module
    }

    fn add_use(&mut self, tree: &UseTree, prefix: &[String], is_export: bool) {
        let extended = |name: String| {
            let mut path = prefix.to_vec();
            if name != "self" || path.is_empty() {
                path.push(name);
            }
            path
        };
        match tree {
            UseTree::Path(tree) => {
                let path = extended(tree.ident.to_string());
                self.add_use(&tree.tree, &path, is_export);
            }
            UseTree::Group(tree) => {
                for tree in &tree.items {
                    self.add_use(tree, prefix, is_export);
                }
            }
            UseTree::Glob(_) => self.add_path(prefix.to_vec()),
            UseTree::Name(tree) => {
                let path = extended(tree.ident.to_string());
                self.add_named(path.last().unwrap().clone(), path, is_export);
            }
            UseTree::Rename(tree) => {
                let path = extended(tree.ident.to_string());
                self.add_named(tree.rename.to_string(), path, is_export);
            }
        }
    }

    fn add_named(&mut self, name: String, path: Vec<String>, is_export: bool) {
        let path = self.absolute(path);
        if is_export {
            self.file.exports.insert(name, path.clone());
        }
        self.file.paths.insert(path);
    }

    fn add_path(&mut self, path: Vec<String>) {
        let path = self.absolute(path);
        self.file.paths.insert(path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_file(&mut self, file: &'ast syn::File) {
        for item in &file.items {
            if let Item::Mod(child) = item
                && child.content.is_none()
                && !is_for_tests(&child.attrs)
            {
                self.children.push(child.ident.to_string());
            }
        }
        visit::visit_file(self, file);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_export = !matches!(item.vis, Visibility::Inherited);
        self.add_use(&item.tree, &[], is_export);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        let names: Vec<String> = segments.map(|segment| segment.ident.to_string()).collect();
        // A name alone is local, or was imported.
        if names.len() > 1 {
            self.add_path(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.file.has_unsafe = true;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.file.functions.push(Function {
            name: signature.ident.to_string(),
            parameters: signature.inputs.len(),
        });
        visit::visit_signature(self, signature);
    }
}

/// Returns whether these are the attributes of an item that is compiled for tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let mut found = false;
        if attribute.path().is_ident("cfg") {
            // `test` alone: `any(test, …)` is compiled elsewhere, too. Anything else is no error here.
            let _ = attribute.parse_nested_meta(|meta| {
                found |= meta.path.is_ident("test") || meta.path.is_ident("doctest");
                Ok(())
            });
        }
        found
    })
}
