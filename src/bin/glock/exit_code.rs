//! The exit codes of glock. If none of them applies, `glock run` exits with that of the command.

/// Others hold the lock (`-E` sets another code). For `glock inspect`: the lock is free.
pub(crate) const CONFLICT: u8 = 1;

/// The command line, a name, or the standard input of `glock get` is wrong.
pub(crate) const USAGE: u8 = 2;

/// The lock was lost while it was held.
pub(crate) const LOST: u8 = 3;

/// The server is unreachable, has gone, or does not support the request: `EX_UNAVAILABLE` of sysexits.h.
pub(crate) const UNAVAILABLE: u8 = 69;

/// An error of the operating system: `EX_OSERR` of sysexits.h.
pub(crate) const SYSTEM: u8 = 71;

/// The command cannot be executed. Shells use the same code.
pub(crate) const NOT_EXECUTABLE: u8 = 126;

/// The command does not exist. Shells use the same code.
pub(crate) const NOT_FOUND: u8 = 127;

/// Returns the exit code by which a shell reports that a signal has ended a process.
pub(crate) fn of_signal(signal: i32) -> u8 {
    128 | signal.to_le_bytes()[0]
}
