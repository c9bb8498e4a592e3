//! Nodes in one vector, known by their 32-bit positions: half the size of pointers, and lists through
//! them stay valid when the vector grows. Positions of removed nodes are used again.

use std::ops::{Index, IndexMut};

/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// What empties gives its memory back if it had more places than this; if fewer, they will soon be wanted
/// again.
pub(super) const KEEP: usize = 1024;

/// What can be kept in an [`Arena`]: it has a state that means "no node here", in which it can hold the
/// position of the next free slot.
pub(super) trait Node: Default {
    /// Where a free slot says which one is free next.
    fn next_free(&mut self) -> &mut u32;
}

#[derive(Debug)]
pub(super) struct Arena<T> {
    slots: Vec<T>,
    free: u32,
    live: u32,
}

impl<T: Node> Arena<T> {
    pub(super) fn insert(&mut self, node: T) -> u32 {
        self.live += 1;
        if self.free == NONE {
            self.slots.push(node);
            (self.slots.len() - 1) as u32
        } else {
            let position = self.free;
            let slot = &mut self.slots[position as usize];
            self.free = *slot.next_free();
            *slot = node;
            position
        }
    }

    pub(super) fn remove(&mut self, position: u32) -> T {
        let mut vacant = T::default();
        *vacant.next_free() = self.free;
        self.free = position;
        self.live -= 1;
        let node = std::mem::replace(&mut self.slots[position as usize], vacant);
        if self.live == 0 && self.slots.len() > KEEP {
            *self = Arena::default();
        }
        node
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The slots, free ones included.
    pub(super) fn slots(&self) -> &[T] {
        &self.slots
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Arena {
            slots: Vec::new(),
            free: NONE,
            live: 0,
        }
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    fn index(&self, position: u32) -> &T {
        &self.slots[position as usize]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    fn index_mut(&mut self, position: u32) -> &mut T {
        &mut self.slots[position as usize]
    }
}
