//! The wire protocol of glockd, without any I/O.
//!
//! [`parse()`] turns one frame (a line without its line end, or one WebSocket message) into a [`Command`] that borrows
//! from it. [`Reply::encode`] and [`rows`] turn replies into bytes. Clients go the opposite way: [`Command::encode`]
//! and [`Reply::decode`].
//!
//! No text of a reply is outside this crate. A transport decides how bytes are cut into frames, and the dispatcher
//! decides what a command does. Both can change without this crate, and this crate can be tested with byte strings
//! alone.
//!
//! Names are bytes, not text: whatever a client sends that is not white space is sent back unchanged.
//!
//! Turned down: traits for commands, so that others could add their own. A server answers an unknown command by no
//! bytes, so a client that uses a command of its own server would wait for ever on another server.
//!
//! ```text
//!  table ──> command ──> parse <── white ──> http        requests
//!              │
//!              v
//!  texts ──> rows, counter ──> reply/{encode, decode}    replies
//!      └───> features
//! ```
//!
//! # Locks and connections
//!
//! A connection holds a lock until it releases the lock or ends. Closing a connection is not synchronous: the server
//! notices it a moment later, and until then refuses the lock to other connections. So release the lock first if you
//! ask for it again, on this or another connection: it is free when the reply to the [release](Command::Release) has
//! arrived. It is also free once you have closed your sending side and have seen the server close the
//! connection.
//!
//! # Extensions
//!
//! Beyond the thirteen commands of the original there are commands that wait, limit, fence, count, and tell who has a
//! claim on a lock: see [`Command`] from [`Hello`](Command::Hello) on. They change nothing that a client of the
//! original can see. [`Verb::is_documented`] tells the two groups apart.
//!
//! # Quirks of the original
//!
//! The Go daemon that this protocol comes from has habits of its own. Each has a name here. It was kept if a known
//! client may rely on it, and not copied if it is a mistake.
//!
//! | quirk | the original | here | why |
//! | --- | --- | --- | --- |
//! | `leading_space` | strips white space around a line | kept | an existing Go client sends ` g foo` |
//! | `crlf_input` | accepts `\r\n` as a line end | kept | existing PHP clients send it |
//! | `empty_name` | `g` alone locks the empty name | kept | clients can observe it, and it is harmless |
//! | `folded_names` | folds runs of white space in names | kept | `g  a   b` and `g a b` are one lock for every client |
//! | `first_space` | ends the verb only at a space: `g<TAB>x` is unknown | kept | counted in `invalid_commands`, as in the original |
//! | `silent_unknown` | answers an unknown command by no bytes | kept | a client that probes would not expect a line; and silence tells a client that the server has no `hello` |
//! | `ignored_operands` | ignores what follows `me`, `q` and `dump` (but `dump shared`) | kept | drop-in |
//! | `unaskable_empty_name` | `d `, `sd ` and `who ` with an empty name list everything | kept | drop-in |
//! | `optional_command_counters` | `q` shows `command_me`, `command_iam`, `command_who` only once used | kept, also for `refused_…` and for the `command_…` of extensions | parsers of `q` see the documented keys |
//! | `obeyed_http` | runs the lines of an HTTP request, so any web page can take a lock with a `POST` | not copied over TCP: the request line or its `Host:` field ends the connection ([`is_http`]) | a page could take locks and keep them |
//! | `any_origin` | a WebSocket may come from any `Origin`, or none, on any path | kept, unless configured otherwise | non-browser clients send none |
//! | `crlf_mixture` | ends replies now by `\n`, now by `\r\n`, by command and state | not copied: `\n` | every known client strips both |
//! | `random_order` | lists in the random order of Go's maps | not copied: sorted | sorted order is one of the possible orders, and can be tested |
//! | `pipelined_input_lost` | answers the first line of a read and loses the rest | not copied | a lost release is a stale lock |
//! | `line_cut` | cuts a line at 4095 bytes and runs the rest as a command | not copied: [`Reply::LineTooLong`] | half a name is another name |
//! | `unended_line` | drops a last line that has no `\n` | not copied: it is answered | nothing that a client sent is lost |
//! | `half_close` | keeps a half-closed connection until its garbage collector runs | not copied: answered, then closed | its locks would outlive their holder |
//! | `registry_off_hang` | `me` and `d` hang under `-registry=false`, and their locks stay held for ever | not copied: they show addresses | a hang is a stale lock |
//! | `shared_addresses` | tells connections apart by address, so two connections with the same address share locks | not copied: each has its own identity | one could release a lock of the other |
//! | `late_counters` | counts with a delay, and races | not copied: `q` includes every command that was answered before it | statistics that can be tested |
//! | `q_crash` | crashes when one client repeats `q` | not copied | one client must not stop the server |

#![forbid(unsafe_code)]

mod command;
mod counter;
mod features;
mod http;
mod line;
mod parse;
mod reply;
pub mod rows;
mod table;
#[cfg(test)]
mod testing;
mod texts;
mod white;

pub use command::{Command, LockKind, PermissionClass, Verb};
pub use counter::Counter;
pub use features::features;
pub use http::is_http;
pub use parse::{ParseError, parse};
pub use reply::{Refusal, Reply};
pub use white::fold;
