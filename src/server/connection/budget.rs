//! The work that a connection may do before it yields to others.
//!
//! Work is counted in units of one plain command, some hundred nanoseconds. The count goes on from batch to batch: a
//! connection whose input never ends, so that it never waits for its peer, yields all the same.

/// Units that a connection may spend before it yields: about 100 microseconds.
pub(super) const LIMIT: u32 = 1024;

/// Bytes of a line or of output that cost as much as a plain command.
pub(super) const BYTES_PER_UNIT: usize = 128;

/// Units that a `q` costs, because it visits every shard of the lock table.
pub(super) const STATISTICS: u32 = 32;

/// Work that a connection has done since it last yielded.
#[derive(Debug, Default)]
pub(super) struct WorkBudget {
    spent: u32,
}

impl WorkBudget {
    /// Charges this many units.
    pub(super) fn spend(&mut self, units: u32) {
        self.spent += units;
    }

    /// Charges output that is about to be sent: it was copied once, and the kernel copies it again. The caller charges
    /// whole batches, because most frames are short.
    pub(super) fn spend_output(&mut self, bytes: usize) {
        self.spend((bytes / BYTES_PER_UNIT) as u32);
    }

    /// Returns true once the connection has to yield.
    pub(super) fn is_spent(&self) -> bool {
        self.spent >= LIMIT
    }

    /// Renews the budget if it is spent. Returns true if it was: then the caller has to yield.
    pub(super) fn renew_if_spent(&mut self) -> bool {
        let is_spent = self.is_spent();
        if is_spent {
            self.spent = 0;
        }
        is_spent
    }
}

/// Returns the units that it costs to parse and run a line.
pub(super) fn line_cost(line: &[u8]) -> u32 {
    1 + (line.len() / BYTES_PER_UNIT) as u32
}
