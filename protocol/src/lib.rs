//! The wire protocol of glockd, apart from any I/O.
//!
//! [`parse`] turns one frame (a line without its line end, or one WebSocket message) into a
//! [`Command`] that borrows from it. [`Reply::encode`] and [`rows`] turn answers into bytes, and
//! no reply text stands anywhere else. How bytes are cut into frames is a transport's affair, what a
//! command does is the dispatcher's: both can change without this crate, and this crate can be tested
//! with byte strings alone. Clients have the way back: [`Command::encode`] and [`Reply::decode`].
//!
//! Names are bytes, never text: whatever a client sends that is not white space comes back unchanged.
//!
//! # Locks and connections
//!
//! A connection holds what it got until it releases it or ends. Closing is not synchronous: the server notices it a
//! moment later, and until then a get on another connection is refused. Release first if you or another connection of
//! yours asks again: the lock is free when the reply to the [release](Command::Release) has come. It is also free when
//! the server has closed in answer to a peer that closed its sending side.
//!
//! # The second half
//!
//! Beyond the thirteen documented commands there are those that wait, limit, fence, count and tell who owns what:
//! see [`Command`] from [`Hello`](Command::Hello) on, and "Beyond the original" in the README. They touch nothing
//! that a client of the original can see: [`Verb::is_documented`] tells the two halves apart.
//!
//! # Quirks of the original
//!
//! The Go daemon that this protocol comes from has habits of its own. Each has a name here, and says
//! whether it was kept ("a known client relies on it") or not ("it is a mistake of the original").
//!
//! | quirk | the original | here | why |
//! | --- | --- | --- | --- |
//! | `leading_space` | strips white space around a line | kept | an existing Go client sends ` g foo` |
//! | `crlf_input` | takes `\r\n` for a line end | kept | existing PHP clients send it |
//! | `empty_name` | `g` alone locks the empty name | kept | documented by behaviour, harmless |
//! | `folded_names` | folds runs of white space in names | kept | `g  a   b` and `g a b` are one lock for every client |
//! | `first_space` | ends the verb at a space alone: `g<TAB>x` is unknown | kept | counted in `invalid_commands`, as ever |
//! | `silent_unknown` | answers an unknown command by no bytes | kept | clients that probe would hang on a line they don't expect; and silence tells who has no `hello` |
//! | `ignored_operands` | ignores what follows `me`, `q` and `dump` (but `dump shared`) | kept | drop-in |
//! | `unaskable_empty_name` | `d `, `sd ` and `who ` with nothing behind list everything | kept | drop-in |
//! | `optional_command_counters` | `q` shows `command_me`, `command_iam`, `command_who` only once used | kept, and so `refused_…` and the `command_…` of what it does not have | parsers of `q` see the documented keys |
//! | `obeyed_http` | runs the lines of an HTTP request, so any web page can lock by a `POST` | not copied over TCP: the request line or its `Host:` field ends the connection ([`is_http`]) | pages could take locks, and keep them |
//! | `any_origin` | a WebSocket may come from any `Origin`, or none, on any path | kept, unless told otherwise | non-browser clients send none |
//! | `crlf_mixture` | ends replies now by `\n`, now by `\r\n`, by command and state | not copied: `\n` | every known client strips both |
//! | `random_order` | lists in the random order of Go's maps | not copied: sorted | sorted is one of its orders, and can be tested |
//! | `pipelined_input_lost` | answers the first line of a read and loses the rest | not copied | a lost release is a stale lock |
//! | `line_cut` | cuts a line at 4095 bytes and runs the rest as a command | not copied: [`Reply::LineTooLong`] | half a name is another name |
//! | `unended_line` | drops a last line that has no `\n` | not copied: it is answered | nothing a client sent is lost |
//! | `half_close` | keeps a half-closed connection until its garbage collector comes by | not copied: answered, then closed | its locks would outlive their holder |
//! | `registry_off_hang` | `me` and `d` hang under `-registry=false`, their locks held for ever | not copied: they show addresses | a stale lock |
//! | `shared_addresses` | tells connections apart by address, so two of one port share locks | not copied: an identity each | a lock would be stolen |
//! | `late_counters` | counts with a delay, and races | not copied: `q` includes what was answered before it | statistics that can be tested |
//! | `q_crash` | dies when one client loops `q` | not copied | obviously |

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
