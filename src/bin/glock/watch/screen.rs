//! The alternate screen of a terminal, on which frames are drawn.

use std::io::{self, stdout};
use std::mem::take;

use nix::unistd::{getpgrp, tcgetpgrp};
use rustix::termios::tcgetwinsize;
use unicode_width::UnicodeWidthChar;

use crate::show::print;

/// Enters the alternate screen, as editors do, and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";

/// Shows the cursor, and leaves the alternate screen.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The alternate screen of the terminal. It is left when this is dropped.
#[derive(Default)]
pub(super) struct Screen {
    is_entered: bool,
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) lines: usize,
}

impl Screen {
    /// Returns the size of the terminal, if it is known.
    pub(super) fn size(&self) -> Option<Size> {
        let size = tcgetwinsize(stdout()).ok()?;
        let is_known = size.ws_col > 0 && size.ws_row > 0;
        is_known.then(|| Size {
            columns: size.ws_col.into(),
            lines: size.ws_row.into(),
        })
    }

    /// Draws the part of `text` that fits on a terminal of this size. Draws nothing while another process group has the
    /// terminal, as after `bg`.
    pub(super) fn draw(&mut self, text: &str, size: Size) -> io::Result<()> {
        // An error means that there is no such group.
        if tcgetpgrp(stdout()).is_ok_and(|group| group != getpgrp()) {
            return Ok(());
        }
        if !self.is_entered {
            print(ENTER)?;
            self.is_entered = true;
        }
        let lines = text.lines().take(size.lines);
        let lines = lines.map(|line| cut(line, size.columns));
        print(&format!("{CLEAR}{}", lines.collect::<Vec<_>>().join("\n")))
    }

    /// Leaves the screen, if it was entered.
    pub(super) fn leave(&mut self) {
        if take(&mut self.is_entered) {
            // An error means that the terminal is gone.
            let _ = print(LEAVE);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Returns as much of the start of a line as fits into a number of columns: some characters take two, and some none.
fn cut(line: &str, columns: usize) -> &str {
    let mut taken = 0;
    let mut chars = line.char_indices();
    let end = chars.find(|&(_, char)| {
        taken += match char {
            // Turns the character before it into a symbol, which takes one more.
            '\u{FE0F}' => 1,
            char => char.width().unwrap_or(0),
        };
        taken > columns
    });
    end.map_or(line, |(end, _)| &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_to_the_width_of_the_terminal() {
        for (line, columns, expect) in [
            ("abc", 0, ""),
            ("abc", 2, "ab"),
            ("abc", 3, "abc"),
            ("abc", usize::MAX, "abc"),
            // Half a character cannot be shown.
            ("a倉庫b", 4, "a倉"),
            ("a倉庫b", 5, "a倉庫"),
            // Combining characters fit with the character that they belong to.
            ("e\u{301}e\u{301}", 1, "e\u{301}"),
            ("a❤\u{FE0F}b", 3, "a❤\u{FE0F}"),
        ] {
            assert_eq!(cut(line, columns), expect, "{line:?} in {columns}");
        }
    }
}
