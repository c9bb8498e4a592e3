//! The commands that one connection sends, and the replies to them.
//!
//! Two commands, alternately. A batch is encoded once, together with the replies that are expected if no other client
//! holds the lock, and is sent again and again. It is read while it is written: a server that cannot send its replies
//! reads no more commands.

use std::io;

use clap::ValueEnum;
use glockd::protocol::{Command, Reply, Verb};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::failure::Failure;
use crate::show::text;

/// Commands that make a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Get an exclusive lock and release it, alternately
    Getrel,
    /// The same, but wait for the lock, for at most a minute
    Wait,
    /// Get a shared lock and release it, alternately
    Shared,
    /// Get a lock that the connection holds already
    Reget,
    /// Ask whether a lock is held
    Inspect,
}

/// Maximum wait of a get that waits, in milliseconds.
pub(super) const WAIT_MS: u32 = 60_000;

/// Extra space for replies, in bytes: unexpected ones may be longer.
const ROOM: usize = 1024;

/// The commands of a connection, and the expected replies.
pub(super) struct Batch {
    verbs: [Verb; 2],
    /// The encoded commands: one more than a batch has, so that a batch can begin with either.
    lines: Vec<u8>,
    line_ends: Vec<usize>,
    replies: Vec<u8>,
    reply_ends: Vec<usize>,
    /// The command that the last exchange began with, and that the next one will begin with: after an odd number of
    /// commands, the lock may still be held.
    first: usize,
    next: usize,
    /// Replies of the last exchange.
    input: Vec<u8>,
}

impl Batch {
    pub(super) fn new(work: Work, name: &str, pipeline: u32) -> Batch {
        let name = name.as_bytes();
        let get = || Command::Get(name.into());
        let release = || Command::Release(name.into());
        let inspect = || Command::Inspect(name.into());
        let get_or_wait = Command::GetWait {
            ms: WAIT_MS,
            name: name.into(),
        };
        let shared_get = Command::SharedGet(name.into());
        let shared_release = Command::SharedRelease(name.into());
        let got = || Reply::Get {
            granted: true,
            name,
        };
        let released = || Reply::Release {
            released: true,
            name,
        };
        let is_free = || Reply::Inspect {
            locked: false,
            name,
        };
        let shared_got = Reply::SharedGet { holders: 1, name };
        let shared_released = Reply::SharedRelease {
            released: true,
            name,
        };
        let (commands, answers) = match work {
            Work::Getrel => ([get(), release()], [got(), released()]),
            Work::Wait => ([get_or_wait, release()], [got(), released()]),
            Work::Shared => ([shared_get, shared_release], [shared_got, shared_released]),
            Work::Reget => ([get(), get()], [got(), got()]),
            Work::Inspect => ([inspect(), inspect()], [is_free(), is_free()]),
        };
        let mut batch = Batch {
            verbs: [commands[0].verb(), commands[1].verb()],
            lines: Vec::new(),
            line_ends: vec![0],
            replies: Vec::new(),
            reply_ends: vec![0],
            first: 0,
            next: 0,
            input: Vec::new(),
        };
        for turn in 0..pipeline as usize + 1 {
            commands[turn % 2].encode(&mut batch.lines);
            batch.line_ends.push(batch.lines.len());
            answers[turn % 2].encode(&mut batch.replies);
            batch.reply_ends.push(batch.replies.len());
        }
        batch.input.reserve(batch.replies.len() + ROOM);
        batch
    }

    /// Sends a number of commands, and reads their replies. Returns whether all replies are the expected ones.
    pub(super) async fn exchange(
        &mut self,
        commands: usize,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        let last = self.next + commands;
        let mut unsent = &self.lines[self.line_ends[self.next]..self.line_ends[last]];
        let replies = &self.replies[self.reply_ends[self.next]..self.reply_ends[last]];
        (self.first, self.next) = (self.next, last % 2);
        let input = &mut self.input;
        input.clear();
        let (mut complete, mut seen) = (0, 0);
        // If the batch fits into the socket, one write is enough, and only after it there is something to read.
        writer.write_buf(&mut unsent).await?;
        while complete < commands {
            let read = if unsent.is_empty() {
                reader.read_buf(input).await?
            } else {
                tokio::select! {
                    written = writer.write_buf(&mut unsent) => match written? {
                        0 => return Err(io::ErrorKind::WriteZero.into()),
                        _ => continue,
                    },
                    read = reader.read_buf(input) => read?,
                }
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Expected replies are complete when they are as long as expected.
            if input.len() == replies.len() && input == replies {
                return Ok(true);
            }
            complete += input[seen..].iter().filter(|&&byte| byte == b'\n').count();
            seen = input.len();
        }
        Ok(input == replies)
    }

    /// Returns the number of replies that refuse a command. Fails if a line is not a reply to its command.
    pub(super) fn refused(&self) -> Result<u64, Failure> {
        let mut refused = 0;
        let lines = self.input.split_inclusive(|&byte| byte == b'\n');
        for (index, line) in lines.enumerate() {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            match Reply::decode(self.verbs[(self.first + index) % 2], line) {
                Some(
                    Reply::Get { granted: false, .. }
                    | Reply::GetRefused { .. }
                    | Reply::Release {
                        released: false, ..
                    }
                    | Reply::SharedGet { holders: 0, .. }
                    | Reply::SharedRelease {
                        released: false, ..
                    },
                ) => refused += 1,
                Some(Reply::Disabled | Reply::BadArgument(_) | Reply::LineTooLong { .. })
                | None => {
                    let message = format!("unexpected reply of the server: {}", text(line));
                    return Err(Failure::unavailable(message));
                }
                Some(_) => {}
            }
        }
        Ok(refused)
    }
}
