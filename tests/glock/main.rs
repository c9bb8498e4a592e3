//! glock as its users have it: a command, with a server, a shell, and a terminal.

// Always so here; it tells clippy that not only the functions marked as tests may unwrap.
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
