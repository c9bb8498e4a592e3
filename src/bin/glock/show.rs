//! What is said to people, and what to programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use glockd_client::LockKind;
use serde_json::{Map, Value, json};

/// Prints a line, or several.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The same, where it does not matter whether anybody reads it.
pub(crate) fn tell(text: &str) -> io::Result<()> {
    print(text).or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

/// Says what is wrong, or what happens. If that cannot be said, there is nobody to tell that to.
pub(crate) fn complain(message: &str) {
    complain_as_is(&format!("glock: {message}\n"));
}

/// The same, with nothing around it.
pub(crate) fn complain_as_is(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The kind of a lock.
pub(crate) fn kind(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Exclusive => "exclusive",
        LockKind::Shared => "shared",
    }
}

/// A table with these heads; nothing at all where there are no rows.
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

/// What others have sent, for a terminal: nothing in it that moves the cursor, or turns the direction of what follows.
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

/// A name among those of an object: as text, and in hexadecimal if it is none.
pub(crate) fn put(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
    if str::from_utf8(bytes).is_err() {
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        object.insert(format!("{key}_hex"), hex.into());
    }
}

/// A fencing token. Programs get it as a string, since many read numbers with 53 bits.
pub(crate) fn token(token: Option<u64>) -> Value {
    token.map_or(Value::Null, |token| json!(token.to_string()))
}

/// For how long, to three digits or so.
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
    fn names_cannot_do_anything_to_a_terminal() {
        assert_eq!(text("Grüße 🔒".as_bytes()), "Grüße 🔒");
        assert_eq!(text(b"a\x1b[2J\r\tb\x7f"), "a\\u{1b}[2J\\r\\tb\\u{7f}");
        assert_eq!(text(b"a\xff\xfe b\xc2"), "a\\xff\\xfe b\\xc2");
        assert_eq!(
            text("\u{9b}1m \u{202e}x\u{2066}".as_bytes()),
            "\\u{9b}1m \\u{202e}x\\u{2066}"
        );
    }

    #[test]
    fn tables_have_columns() {
        let rows = vec![
            ["a".to_owned(), "x y".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(table(["ONE", "TWO"], rows), "ONE   TWO\na     x y\nlong\n");
        assert_eq!(table(["ONE", "TWO"], vec![]), "");
    }

    #[test]
    fn names_that_are_no_text_are_there_all_the_same() {
        let mut object = Map::new();
        put(&mut object, "name", b"a\xff");
        put(&mut object, "holder", b"b");
        let expect = json!({"name": "a\u{fffd}", "name_hex": "61ff", "holder": "b"});
        assert_eq!(Value::Object(object), expect);
    }

    #[test]
    fn ages() {
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
