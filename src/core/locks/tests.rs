//! Tests of the table as a whole.

mod held_model;
mod large;
mod support;
mod threads;
mod wait_model;
mod waiters;
