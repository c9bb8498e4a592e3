//! Where the log goes: to stderr, which may be a pipe that its reader has forgotten.
//!
//! A write to a full pipe waits until somebody reads, for ever if need be, and every thread that logs
//! would wait with it. So nothing is written before there is room. A reader that is merely slow is waited
//! for; one that has stopped makes us wait once, and from then on costs lines, which are counted.
//!
//! Turned down: a thread that writes for the others. It would be one more thing to wait for at the end,
//! and what it has not written by then is lost even if the reader is well.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// How long a reader that falls behind is waited for.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
const NO_PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Starts to log, for as long as the process lives.
pub(crate) fn to_stderr(verbose: bool) {
    let level = if verbose { Level::DEBUG } else { Level::INFO };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Log::new(io::stderr()))
        .with_ansi(io::stderr().is_terminal())
        // They would go to stderr as well, by a macro that panics if that is what failed.
        .log_internal_errors(false)
        .init();
}

struct Log<W>(Mutex<Sink<W>>);

struct Sink<W> {
    output: W,
    /// Lines that found no room since one did.
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
    /// Writes one line, or loses it. Room, to a pipe, is room for 4 KiB: more than a line has.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut sink = self.0.lock();
        let patience = match sink.lost {
            0 => PATIENCE,
            _ => NO_PATIENCE,
        };
        if !has_room(&sink.output, patience) {
            sink.lost += 1;
            return Ok(line.len());
        }
        match std::mem::take(&mut sink.lost) {
            0 => sink.output.write(line),
            lost => {
                let note = format!("({lost} lines of the log were lost, since it was not read)\n");
                sink.output.write_all(&[note.as_bytes(), line].concat())?;
                Ok(line.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().output.flush()
    }
}

/// Whether a write would be taken, or refused, at once.
fn has_room(output: &impl AsFd, patience: Timespec) -> bool {
    let mut output = [PollFd::new(output, PollFlags::OUT)];
    // It fails if a signal interrupts it; then this line is lost, which is no harm.
    matches!(poll(&mut output, Some(&patience)), Ok(ready) if ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_log_that_is_not_read_loses_lines_and_says_so() {
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
            format!("({lost} lines of the log were lost, since it was not read)\nnext\n")
        );
    }

    #[test]
    fn a_log_that_nobody_can_read_is_an_error_and_no_more() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let log = Log::new(writer);
        assert!((&log).write_all(b"line\n").is_err());
    }
}
