//! Nodes in one vector, and lists through them.
//!
//! A node is identified by its 32-bit position: half the size of a pointer, and still valid when the vector grows.
//! Positions of removed nodes are reused.

use std::iter;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// The position of no node.
pub(super) const NONE: u32 = u32::MAX;

/// Largest capacity that a collection keeps when it becomes empty. A larger one gives its memory back; a smaller one will
/// soon be needed again.
pub(super) const KEPT_CAPACITY: usize = 1024;

/// A value that can be stored in an [`Arena`]. Its default is a free slot.
pub(super) trait Node: Default {
    /// Returns the field in which a free slot stores the position of the next free slot.
    fn next_free(&mut self) -> &mut u32;
}

/// Nodes, identified by their positions.
#[derive(Debug)]
pub(super) struct Arena<T> {
    slots: Vec<T>,
    /// The first free slot.
    free: u32,
    /// Number of nodes.
    live: u32,
}

impl<T: Node> Arena<T> {
    /// Adds a node. Returns its position.
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

    /// Removes a node, which must not be in a list.
    pub(super) fn remove(&mut self, position: u32) {
        let mut vacant = T::default();
        *vacant.next_free() = self.free;
        self.free = position;
        self.live -= 1;
        self.slots[position as usize] = vacant;
        if self.live == 0 && self.slots.len() > KEPT_CAPACITY {
            *self = Arena::default();
        }
    }

    /// Returns true if there are no nodes.
    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Returns all slots, including free ones.
    pub(super) fn slots(&self) -> &[T] {
        &self.slots
    }

    /// Returns the nodes of a list from this position on, with their positions. `NONE` is the end of every list.
    pub(super) fn walk<L>(&self, from: u32) -> impl Iterator<Item = (u32, &T)>
    where
        T: Linked<L>,
    {
        let mut next = from;
        iter::from_fn(move || {
            let position = next;
            let node = (position != NONE).then(|| &self[position])?;
            next = node.links().next;
            Some((position, node))
        })
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

/// The neighbours of a node in one list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) previous: u32,
    pub(super) next: u32,
}

impl Default for Links {
    fn default() -> Links {
        Links {
            previous: NONE,
            next: NONE,
        }
    }
}

/// A node that can be in a list of the kind `L`. The kind is a type without values: a node that is in two lists at a time
/// has links of two kinds.
pub(super) trait Linked<L>: Node {
    /// Returns the links of this kind.
    fn links(&self) -> Links;

    /// Returns the links of this kind.
    fn links_mut(&mut self) -> &mut Links;
}

/// A doubly linked list through the nodes of an [`Arena`], of which only the start is known.
///
/// It takes four bytes, and a node that is not the first can be unlinked without the list at hand.
#[derive(Debug)]
pub(super) struct List<L> {
    first: u32,
    kind: PhantomData<L>,
}

impl<L> List<L> {
    /// Returns the list that starts with this node.
    pub(super) fn starting_at(first: u32) -> List<L> {
        List {
            first,
            kind: PhantomData,
        }
    }

    /// Returns the first node.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// Adds a node, which must not be in a list of this kind, at the start.
    #[inline(always)]
    pub(super) fn push_front<T: Linked<L>>(&mut self, nodes: &mut Arena<T>, node: u32) {
        *nodes[node].links_mut() = Links {
            previous: NONE,
            next: self.first,
        };
        if self.first != NONE {
            nodes[self.first].links_mut().previous = node;
        }
        self.first = node;
    }

    /// Takes a node out of its list by connecting its neighbours to each other. Returns the links that it had: if it was the
    /// first, the list must now start with `next`.
    #[inline(always)]
    pub(super) fn unlink<T: Linked<L>>(nodes: &mut Arena<T>, node: u32) -> Links {
        let links = nodes[node].links();
        if links.next != NONE {
            nodes[links.next].links_mut().previous = links.previous;
        }
        if links.previous != NONE {
            nodes[links.previous].links_mut().next = links.next;
        }
        links
    }
}

impl<L> Default for List<L> {
    fn default() -> List<L> {
        List::starting_at(NONE)
    }
}

/// A [`List`] of which the end and the length are known, too: nodes are added at the end.
#[derive(Debug)]
pub(super) struct Fifo<L> {
    list: List<L>,
    last: u32,
    len: u32,
}

impl<L> Fifo<L> {
    /// Returns the number of nodes.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Returns the first node.
    pub(super) fn first(&self) -> Option<u32> {
        self.list.first()
    }

    /// Adds a node, which must not be in a list of this kind, at the end.
    #[inline(always)]
    pub(super) fn push_back<T: Linked<L>>(&mut self, nodes: &mut Arena<T>, node: u32) {
        *nodes[node].links_mut() = Links {
            previous: self.last,
            next: NONE,
        };
        match self.last {
            NONE => self.list.first = node,
            last => nodes[last].links_mut().next = node,
        }
        self.last = node;
        self.len += 1;
    }

    /// Takes a node out.
    #[inline(always)]
    pub(super) fn remove<T: Linked<L>>(&mut self, nodes: &mut Arena<T>, node: u32) {
        let Links { previous, next } = List::unlink(nodes, node);
        if previous == NONE {
            self.list.first = next;
        }
        if next == NONE {
            self.last = previous;
        }
        self.len -= 1;
    }

    /// Returns a field that is unused while the list is empty, for [`Node::next_free`].
    pub(super) fn spare_field(&mut self) -> &mut u32 {
        &mut self.list.first
    }
}

impl<L> Default for Fifo<L> {
    fn default() -> Fifo<L> {
        Fifo {
            list: List::default(),
            last: NONE,
            len: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    enum Kind {}

    #[derive(Debug, Default)]
    struct Item(Links);

    impl Node for Item {
        fn next_free(&mut self) -> &mut u32 {
            &mut self.0.next
        }
    }

    impl Linked<Kind> for Item {
        fn links(&self) -> Links {
            self.0
        }

        fn links_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    #[test]
    fn fifo_keeps_its_order_when_nodes_leave() {
        let mut nodes = Arena::<Item>::default();
        let items = [(); 5].map(|()| nodes.insert(Item::default()));
        let mut fifo = Fifo::<Kind>::default();
        for item in items {
            fifo.push_back(&mut nodes, item);
        }
        // From the middle, the start and the end.
        for (leaving, left) in [
            (2, &[0, 1, 3, 4][..]),
            (0, &[1, 3, 4]),
            (4, &[1, 3]),
            (3, &[1]),
            (1, &[]),
        ] {
            fifo.remove(&mut nodes, items[leaving]);
            let walked = nodes.walk::<Kind>(fifo.first().unwrap_or(NONE));
            let walked: Vec<u32> = walked.map(|(item, _)| item).collect();
            let expected: Vec<u32> = left.iter().map(|&item: &usize| items[item]).collect();
            assert_eq!(walked, expected);
            assert_eq!(fifo.len() as usize, left.len());
        }
        fifo.push_back(&mut nodes, items[0]);
        assert_eq!(fifo.first(), Some(items[0]));
    }

    #[test]
    fn removed_positions_are_reused() {
        let mut nodes = Arena::<Item>::default();
        let items = [(); 3].map(|()| nodes.insert(Item::default()));
        nodes.remove(items[1]);
        nodes.remove(items[0]);
        let reused = [(); 2].map(|()| nodes.insert(Item::default()));
        assert_eq!(reused, [items[0], items[1]]);
        assert_eq!(nodes.slots().len(), 3);
    }

    #[test]
    fn large_arena_gives_its_memory_back_once_empty() {
        let mut nodes = Arena::<Item>::default();
        let items: Vec<u32> = (0..=KEPT_CAPACITY)
            .map(|_| nodes.insert(Item::default()))
            .collect();
        for item in items {
            assert!(!nodes.is_empty());
            nodes.remove(item);
        }
        assert!(nodes.is_empty());
        assert_eq!(nodes.slots.capacity(), 0);
    }
}
