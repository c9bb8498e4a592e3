//! Output: text for people, JSON for programs, and messages on stderr.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _, stdout};
use std::iter::zip;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use glockd_client::LockKind;
use serde_json::{Map, Value, json};

use crate::flags::OutputFlags;

/// Prints one or several lines.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Prints one or several lines. A reader that has gone is no error: the exit code, or the lock, matters more.
pub(crate) fn print_answer(text: &str) -> io::Result<()> {
    print(text).or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

/// Prints a message on stderr. An error is disregarded: there is nowhere to report it.
pub(crate) fn complain(message: &str) {
    print_raw_on_stderr(&format!("glock: {message}\n"));
}

/// Prints exactly this text on stderr.
pub(crate) fn print_raw_on_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A list of rows that consist of names.
pub(crate) struct List<'a, const N: usize> {
    /// Keys of a row's JSON object.
    pub(crate) keys: [&'static str; N],
    /// Heads of the table's columns.
    pub(crate) heads: [&'static str; N],
    pub(crate) rows: Vec<[&'a [u8]; N]>,
    /// Text for people if there are no rows.
    pub(crate) if_empty: &'static str,
}

impl<const N: usize> List<'_, N> {
    /// Prints the list in the form that the flags request.
    pub(crate) fn print(self, flags: &OutputFlags) -> io::Result<()> {
        if !flags.json {
            let rows = self.rows.into_iter().map(|row| row.map(text));
            return print_table(self.heads, rows.collect(), self.if_empty);
        }
        let object = |row: [&[u8]; N]| {
            let mut object = Map::new();
            zip(self.keys, row).for_each(|(key, name)| insert_name(&mut object, key, name));
            Value::Object(object)
        };
        print(&Value::Array(self.rows.into_iter().map(object).collect()).to_string())
    }
}

/// Prints a table. If it has no rows, prints `if_empty` on a terminal, where people would take silence for a failure,
/// and nothing where programs read lines.
pub(crate) fn print_table<const N: usize>(
    heads: [&str; N],
    rows: Vec<[String; N]>,
    if_empty: &str,
) -> io::Result<()> {
    match rows.is_empty() {
        false => print(&table(heads, rows)),
        true if stdout().is_terminal() => print(if_empty),
        true => Ok(()),
    }
}

/// Returns the kind of a lock as text.
pub(crate) fn kind(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Exclusive => "exclusive",
        LockKind::Shared => "shared",
    }
}

/// Lays out a table with these heads. Without rows, the result is empty.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(heads).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.to_string();
    let lines = lines.lines().map(str::trim_end);
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// Returns text from other clients in a form that is safe on a terminal: what moves the cursor, or turns the direction of
/// the text after it, is escaped.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}' => {
                    shown.extend(char.escape_unicode());
                }
                char if char.is_control() => shown.extend(char.escape_default()),
                char => shown.push(char),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Inserts a name into an object: as text, and in hexadecimal as well if it is not UTF-8.
pub(crate) fn insert_name(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
    if str::from_utf8(bytes).is_err() {
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        object.insert(format!("{key}_hex"), hex.into());
    }
}

/// Returns a fencing token for programs: as a string, since many programs read numbers with 53 bits.
pub(crate) fn token(token: Option<u64>) -> Value {
    token.map_or(Value::Null, |token| json!(token.to_string()))
}

/// Returns a duration for people, to about three digits.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.2} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_terminals() {
        assert_eq!(text("Grüße 🔒".as_bytes()), "Grüße 🔒");
        assert_eq!(text(b"a\x1b[2J\r\tb\x7f"), "a\\u{1b}[2J\\r\\tb\\u{7f}");
        assert_eq!(text(b"a\xff\xfe b\xc2"), "a\\xff\\xfe b\\xc2");
        assert_eq!(
            text("\u{9b}1m \u{202e}x\u{2066}".as_bytes()),
            "\\u{9b}1m \\u{202e}x\\u{2066}"
        );
    }

    #[test]
    fn table_is_laid_out_in_columns() {
        let rows = vec![
            ["a".to_owned(), "x y".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(table(["ONE", "TWO"], rows), "ONE   TWO\na     x y\nlong\n");
        assert_eq!(table(["ONE", "TWO"], vec![]), "");
    }

    #[test]
    fn names_that_are_not_utf8_are_shown_in_hexadecimal() {
        let mut object = Map::new();
        insert_name(&mut object, "name", b"a\xff");
        insert_name(&mut object, "holder", b"b");
        let expect = json!({"name": "a\u{fffd}", "name_hex": "61ff", "holder": "b"});
        assert_eq!(Value::Object(object), expect);
    }

    #[test]
    fn ages_have_a_fitting_unit() {
        for (seconds, shown) in [
            (0.1234, "0.12 s"),
            (59.9, "59 s"),
            (150.0, "2 min"),
            (7200.0, "2 h"),
            (200_000.0, "2 d"),
        ] {
            assert_eq!(age(Duration::from_secs_f64(seconds)), shown);
        }
    }
}
