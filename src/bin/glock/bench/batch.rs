//! What one connection sends, and what it is answered.
//!
//! Two commands, by turns. A batch is encoded once, with the replies that come if nobody gets in the way, and sent again
//! and again; it is read while it is written, for a server that cannot get rid of its replies takes no more commands.

use std::io;

use glockd::protocol::{Command, Reply, Verb};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::args::Work;
use crate::failure::Failure;
use crate::show::text;

/// How long a get waits, where it does.
pub(super) const WAIT_MS: u32 = 60_000;

/// Room for what is answered and was not expected, which may be longer.
const ROOM: usize = 1024;

/// The commands of a connection, and their replies.
pub(super) struct Batch {
    verbs: [Verb; 2],
    /// One turn more than a batch, so that one can begin anywhere.
    lines: Vec<u8>,
    line_ends: Vec<usize>,
    replies: Vec<u8>,
    reply_ends: Vec<usize>,
    /// What the last exchange began with, and what the next one will: an odd batch leaves its last lock held.
    first: usize,
    next: usize,
    /// What was answered in the last exchange.
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

    /// Sends so many commands, and reads as many replies. Whether they are the expected ones.
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
        // What fits into the socket takes one write, and only then there is something to read.
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
            // What is as expected is complete when it is as long.
            if input.len() == replies.len() && input == replies {
                return Ok(true);
            }
            complete += input[seen..].iter().filter(|&&byte| byte == b'\n').count();
            seen = input.len();
        }
        Ok(input == replies)
    }

    /// How many of the replies say no. All must be replies to what was asked.
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
                    let message = format!("that is no answer of glockd's: {}", text(line));
                    return Err(Failure::unavailable(message));
                }
                Some(_) => {}
            }
        }
        Ok(refused)
    }
}
