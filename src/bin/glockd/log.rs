//! The log, which goes to stderr. That may be a pipe that nobody reads.
//!
//! A write to a full pipe blocks until somebody reads, perhaps for ever, and so would every thread that logs. So the log
//! checks for room before it writes. It waits a moment for a slow reader. If the reader has stopped, the log waits once,
//! and from then on drops lines, and counts them.
//!
//! Turned down: a thread that writes for the others. The daemon would have to wait for it at the end, and lines that it
//! had not written by then would be lost even if the reader is well.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// How long to wait for a reader that falls behind.
const MAX_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
const NO_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Starts logging, for the life of the process.
pub(crate) fn to_stderr(verbose: bool) {
    let level = if verbose { Level::DEBUG } else { Level::INFO };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Log::new(io::stderr()))
        .with_ansi(io::stderr().is_terminal())
        // They would go to stderr, too, by a macro that panics if stderr is what failed.
        .log_internal_errors(false)
        .init();
}

struct Log<W>(Mutex<Sink<W>>);

struct Sink<W> {
    output: W,
    /// Number of lines dropped since the last line that was written.
    lost: u64,
}

impl<W> Log<W> {
    fn new(output: W) -> Log<W> {
        Log(Mutex::new(Sink { output, lost: 0 }))
    }
}

impl<'a, W: AsFd + Write + 'a> MakeWriter<'a> for Log<W> {
    type Writer = &'a Log<W>;

    fn make_writer(&'a self) -> &'a Log<W> {
        self
    }
}

impl<W: AsFd + Write> Write for &Log<W> {
    /// Writes one line, or drops it. A pipe reports room when it has room for 4 KiB, which is more than a line has.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut sink = self.0.lock();
        let max_wait = match sink.lost {
            0 => MAX_WAIT,
            _ => NO_WAIT,
        };
        if !has_room(&sink.output, max_wait) {
            sink.lost += 1;
            return Ok(line.len());
        }
        match std::mem::take(&mut sink.lost) {
            0 => sink.output.write(line),
            lost => {
                let note =
                    format!("({lost} lines of the log were lost, because the log was not read)\n");
                sink.output.write_all(&[note.as_bytes(), line].concat())?;
                Ok(line.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().output.flush()
    }
}

/// Returns whether a write would succeed or fail without blocking.
fn has_room(output: &impl AsFd, max_wait: Timespec) -> bool {
    let mut output = [PollFd::new(output, PollFlags::OUT)];
    // It fails if a signal interrupts it. Then this line is lost, which does no harm.
    matches!(poll(&mut output, Some(&max_wait)), Ok(ready) if ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn unread_log_drops_lines_and_counts_them() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = Log::new(writer);
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..10_000 {
            (&log).write_all(line.as_bytes()).unwrap();
        }
        let lost = log.0.lock().lost;
        assert!((1..10_000).contains(&lost), "{lost}");
        let mut kept = vec![0; (10_000 - lost as usize) * line.len()];
        reader.read_exact(&mut kept).unwrap();
        assert!(kept.chunks(line.len()).all(|kept| kept == line.as_bytes()));

        (&log).write_all(b"next\n").unwrap();
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(
            rest,
            format!("({lost} lines of the log were lost, because the log was not read)\nnext\n")
        );
    }

    #[test]
    fn log_without_a_reader_is_an_error_not_a_panic() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let log = Log::new(writer);
        assert!((&log).write_all(b"line\n").is_err());
    }
}
