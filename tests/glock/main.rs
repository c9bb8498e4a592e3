//! glock as its users run it: a command, with a server, a shell, and a terminal.

// Always true here. It tells clippy that helper functions may unwrap as well.
#![cfg(test)]

mod bench;
mod fakes;
mod groups;
mod limits;
mod queries;
mod runs;
mod served;
mod terminals;
mod watches;
