//! The texts of replies: every byte on the wire that is not a name, a number or an address.
//!
//! Encoders and decoders use the same constants and the same table, so they cannot disagree about a text. Each text is
//! here as it is on the wire, with the spaces around it, so that a search for a line that a client received finds it.
//!
//! Turned down: texts without the digit in front and the colon behind. They would be shorter here, but encoding a
//! reply, which is on the hot path, would be three copies instead of one.

/// Calls the macro `$consume` with the table of the replies about one lock.
///
/// A row has:
///
/// - the text before the lock's name. If there is a number before the text on the wire, the field with that number comes
///   first, in parentheses. The number is at least 1;
/// - the reply and its fields, which are used as a pattern as well as an expression. Every reply also has the field
///   `name`;
/// - the verbs that the reply may answer, in brackets.
///
/// If two rows fit a reply, the first applies, as in a `match`.
macro_rules! with_replies {
    ($consume:ident) => {
        $consume! {
            "1 Lock Get Success: " Get { granted: true } [G Gw]
            "0 Lock Get Failure: " Get { granted: false } [G Gw]
            "1 Lock Release Success: " Release { released: true } [R]
            "0 Lock Release Failure: " Release { released: false } [R]
            "1 Lock Is Locked: " Inspect { locked: true } [I]
            "0 Lock Not Locked: " Inspect { locked: false } [I]

            "0 Shared Lock Get Failure: " SharedGet { holders: 0 } [Sg]
            (holders) " Shared Lock Get Success: " SharedGet { holders } [Sg Sgl Sgw]
            "1 Shared Lock Release Success: " SharedRelease { released: true } [Sr]
            "0 Shared Lock Release Failure: " SharedRelease { released: false } [Sr]
            "0 Shared Lock Not Locked: " SharedInspect { holders: 0 } [Si]
            (holders) " Shared Lock Is Locked: " SharedInspect { holders } [Si]

            "0 Lock Get Timeout: " GetRefused { refusal: Refusal::Timeout } [Gw]
            "0 Lock Get Queue Full: " GetRefused { refusal: Refusal::QueueFull } [Gw]
            "0 Lock Get Cancelled: " GetRefused { refusal: Refusal::Cancelled } [Gw]
            "0 Shared Lock Get Timeout: " SharedGetRefused { refusal: Refusal::Timeout } [Sgw]
            "0 Shared Lock Get Queue Full: " SharedGetRefused { refusal: Refusal::QueueFull } [Sgw]
            "0 Shared Lock Get Cancelled: " SharedGetRefused { refusal: Refusal::Cancelled } [Sgw]
            "0 Shared Lock Get Full: " SharedGetFull {} [Sgl]

            "1 Cancel Success: " Cancel { cancelled: true } [Cancel]
            "0 Cancel Failure: " Cancel { cancelled: false } [Cancel]
            "1 Lock Is Free: " InspectWait { free: true } [Iw Siw]
            "0 Lock Is Locked: " InspectWait { free: false } [Iw Siw]
            (token) " Lock Fence: " Fence { token: Some(token) } [F Sf]
            "0 Lock Fence Failure: " Fence { token: None } [F Sf]
        }
    };
}

pub(crate) use with_replies;

/// Before the address and the name of `me`.
pub(crate) const ME: &str = "1 ";
/// To `iam`.
pub(crate) const OK: &str = "1 ok";
/// To a command that the server's policy forbids.
pub(crate) const DISABLED: &str = "0 disabled";
/// Before the limit for lines, in bytes.
pub(crate) const LINE_TOO_LONG: &str = "0 Line Too Long: limit ";
/// Before a verb whose numbers are missing or wrong.
pub(crate) const BAD_ARGUMENT: &str = "0 Bad Argument: ";
/// Before the text of a `ping`.
pub(crate) const PONG: &str = "1 pong: ";
/// Before the words of `hello`.
pub(crate) const HELLO: &str = "1 hello:";
/// The words of `hello`. The last is followed by a number.
pub(crate) const FEATURES: &str = " wait limit fence list own ping lengths timeout=";

/// Between a number of lines of `ld` or `ldl` and the command's argument.
pub(crate) const LOCK_LIST: &str = " Lock List: ";
/// Between a number of lines of `lsd` or `lsdl` and the command's argument.
pub(crate) const SHARED_LOCK_LIST: &str = " Shared Lock List: ";
/// Between a number of lines of `lwho` and the command's argument.
pub(crate) const CLIENT_LIST: &str = " Client List: ";
/// Between a number of lines of `lq` and the end of the header.
pub(crate) const STATS_LIST: &str = " Stats List: ";
/// Between a number of lines of `own` and the lock's name.
pub(crate) const LOCK_OWNERS: &str = " Lock Owners: ";

/// Between a key and its value.
pub(crate) const COLON: &str = ": ";

/// First word of a line of `own` for the holder of an exclusive lock.
pub(crate) const EXCLUSIVE_HOLDER: &str = "x";
/// First word of a line of `own` for a waiter for an exclusive lock.
pub(crate) const EXCLUSIVE_WAITER: &str = "xw";
/// First word of a line of `own` for a holder of a shared lock.
pub(crate) const SHARED_HOLDER: &str = "s";
/// First word of a line of `own` for a waiter for a shared lock.
pub(crate) const SHARED_WAITER: &str = "sw";
/// The line of `own` in place of a claim that was counted, but ended before it could be shown. It has as many words as
/// any other line of `own`.
pub(crate) const CLAIM_GONE: &str = "- - 0 0 -";

/// Before the verb in the key of a command's counter.
pub(crate) const COMMAND_COUNTER: &str = "command_";
