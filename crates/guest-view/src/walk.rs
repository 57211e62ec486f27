//! Walks over the kernel's containers: bounded, and never the worse for a corrupted one.

use std::collections::HashSet;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::kernel::ReadError;
use crate::le;
use crate::memory::Memory;
use crate::types::Types;

/// What was found, and what stopped the walk if it did not reach the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk<T> {
    /// In the container's order.
    pub items: Vec<T>,
    /// Why there may be more.
    pub corruption: Option<Corruption>,
}

/// What is wrong with a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub enum Corruption {
    /// It leads back into itself.
    #[error("{container} at {node:#x} leads back to a node already seen")]
    Cycle {
        /// Which kind.
        container: &'static str,
        /// The node.
        node: u64,
    },
    /// A pointer leads to no memory.
    #[error("{container} has a wild pointer {node:#x}: {reason}")]
    WildPointer {
        /// Which kind.
        container: &'static str,
        /// The pointer.
        node: u64,
        /// Why it cannot be followed.
        reason: String,
    },
    /// `prev` does not point back.
    #[error("list node {node:#x} has prev {prev:#x}, not {expected:#x}")]
    BackLink {
        /// The node.
        node: u64,
        /// What it has.
        prev: u64,
        /// Where it was reached from.
        expected: u64,
    },
    /// A node that cannot be one.
    #[error("{container} node {node:#x} is malformed: {reason}")]
    Malformed {
        /// Which kind.
        container: &'static str,
        /// The node.
        node: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// More nodes than the budget.
    #[error("{container} has more than {budget} nodes")]
    TooLong {
        /// Which kind.
        container: &'static str,
        /// The bound.
        budget: usize,
    },
    /// The kernel's types do not have what the walk needs.
    #[error("the kernel's types have no {0}")]
    NoType(&'static str),
}

impl Corruption {
    /// The pointer `node` leads nowhere.
    pub(crate) fn wild(container: &'static str, node: u64, e: &ReadError) -> Self {
        Self::WildPointer { container, node, reason: e.to_string() }
    }
}

/// The state that every walk keeps.
struct Budget {
    container: &'static str,
    budget: usize,
    seen: HashSet<u64>,
}

impl Budget {
    fn new(container: &'static str, budget: usize) -> Self {
        Self { container, budget, seen: HashSet::new() }
    }

    fn enter(&mut self, node: u64) -> Result<(), Corruption> {
        if !self.seen.insert(node) {
            return Err(Corruption::Cycle { container: self.container, node });
        }
        if self.seen.len() > self.budget {
            return Err(Corruption::TooLong { container: self.container, budget: self.budget });
        }
        Ok(())
    }

    fn wild(&self, node: u64, e: &ReadError) -> Corruption {
        Corruption::wild(self.container, node, e)
    }
}

fn finish<T>(items: Vec<T>, result: Result<(), Corruption>) -> Walk<T> {
    Walk { items, corruption: result.err() }
}

/// Addresses of the `list_head`s on the list at `head`, itself left out.
pub fn list<M: Memory>(k: &Kernel<M>, head: u64, budget: usize) -> Walk<u64> {
    let mut items = Vec::new();
    let mut walk = || -> Result<(), Corruption> {
        let mut b = Budget::new("list", budget);
        let (mut node, mut from) = (k.u64(head).map_err(|e| b.wild(head, &e))?, head);
        while node != head {
            b.enter(node)?;
            // struct list_head: next, prev.
            let mut raw = [0; 16];
            k.read(node, &mut raw).map_err(|e| b.wild(node, &e))?;
            let (next, prev) = (le(&raw, 0, 8).unwrap_or(0), le(&raw, 8, 8).unwrap_or(0));
            items.push(node);
            if prev != from {
                return Err(Corruption::BackLink { node, prev, expected: from });
            }
            (from, node) = (node, next);
        }
        Ok(())
    };
    let result = walk();
    finish(items, result)
}

/// Addresses of the nodes of a chain that ends with a null pointer: an hlist, or structures linked by a `next` member
/// at `next_offset`. `first` is the first node.
pub fn chain<M: Memory>(k: &Kernel<M>, first: u64, next_offset: u64, budget: usize) -> Walk<u64> {
    let mut items = Vec::new();
    let mut walk = || -> Result<(), Corruption> {
        let mut b = Budget::new("chain", budget);
        let mut node = first;
        while node != 0 {
            b.enter(node)?;
            let next = k.u64(node.wrapping_add(next_offset)).map_err(|e| b.wild(node, &e))?;
            items.push(node);
            node = next;
        }
        Ok(())
    };
    let result = walk();
    finish(items, result)
}

/// Addresses of the nodes on the `struct hlist_head` at `head`.
pub fn hlist<M: Memory>(k: &Kernel<M>, head: u64, budget: usize) -> Walk<u64> {
    // struct hlist_head has only `first`; struct hlist_node begins with `next`.
    match k.u64(head) {
        Ok(first) => chain(k, first, 0, budget),
        Err(e) => Walk { items: Vec::new(), corruption: Some(Corruption::wild("hlist", head, &e)) },
    }
}

/// Slots of one kind of maple node, by the kernel's types.
#[derive(Debug, Clone, Copy)]
struct MapleKind {
    pivots_at: u64,
    pivots: u64,
    slots_at: u64,
    slots: u64,
}

/// Where the containers have what walks need, or what the kernel's types lack of it.
#[derive(Debug, Clone)]
pub(crate) struct Layouts {
    maple: Result<MapleLayout, &'static str>,
    xarray: Result<XarrayLayout, &'static str>,
}

#[derive(Debug, Clone, Copy)]
struct MapleLayout {
    root: u64,
    range: MapleKind,
    arange: MapleKind,
}

#[derive(Debug, Clone, Copy)]
struct XarrayLayout {
    head: u64,
    slots: u64,
    shift: u64,
    count: u64,
}

impl Layouts {
    pub(crate) fn new(types: &Types) -> Self {
        Self { maple: MapleLayout::new(types), xarray: XarrayLayout::new(types) }
    }
}

impl MapleLayout {
    fn new(types: &Types) -> Result<Self, &'static str> {
        let kind = |name: &'static str| -> Result<MapleKind, &'static str> {
            let member = |m| types.offset(name, m).ok_or(name);
            let (pivot, slot) = (member("pivot")?, member("slot")?);
            Ok(MapleKind {
                pivots_at: pivot.offset,
                pivots: pivot.count.unwrap_or(0),
                slots_at: slot.offset,
                slots: slot.count.unwrap_or(0).min(64),
            })
        };
        let (range, arange) = (kind("maple_range_64")?, kind("maple_arange_64")?);
        let root = types.offset("maple_tree", "ma_root").ok_or("maple_tree.ma_root")?.offset;
        Ok(Self { root, range, arange })
    }
}

impl XarrayLayout {
    fn new(types: &Types) -> Result<Self, &'static str> {
        let slots = types.offset("xa_node", "slots").ok_or("xa_node.slots")?;
        Ok(Self {
            head: types.offset("xarray", "xa_head").ok_or("xarray.xa_head")?.offset,
            shift: types.offset("xa_node", "shift").ok_or("xa_node.shift")?.offset,
            slots: slots.offset,
            // XA_CHUNK_SIZE is 64, or 16 on small systems.
            count: slots.count.unwrap_or(0).min(64),
        })
    }
}

/// Entries of the `struct maple_tree` at `tree`: first index and entry.
pub fn maple<M: Memory>(k: &Kernel<M>, tree: u64, budget: usize) -> Walk<(u64, u64)> {
    let mut items = Vec::new();
    let result = maple_into(k, tree, budget, &mut items);
    finish(items, result)
}

fn maple_into<M: Memory>(
    k: &Kernel<M>,
    tree: u64,
    budget: usize,
    items: &mut Vec<(u64, u64)>,
) -> Result<(), Corruption> {
    const NODE_BYTES: usize = 256;
    let mut b = Budget::new("maple tree", budget);
    let layout = k.layouts().maple.map_err(Corruption::NoType)?;
    let root = k.u64(tree.wrapping_add(layout.root)).map_err(|e| b.wild(tree, &e))?;
    if root == 0 {
        return Ok(());
    }
    // One entry at index 0 may stand in the root itself; a node is marked as the xarray marks its own.
    if root & 3 != 2 || root <= 4096 {
        items.push((0, root));
        return Ok(());
    }
    let mut open = vec![(root, 0_u64, u64::MAX)];
    while let Some((enode, min, max)) = open.pop() {
        let node = enode & !0xff;
        b.enter(node)?;
        // enum maple_type: dense, leaf_64, range_64, arange_64.
        let (shape, leaf) = match enode >> 3 & 0xf {
            1 => (layout.range, true),
            2 => (layout.range, false),
            3 => (layout.arange, false),
            _ => {
                let reason = "of a type that index trees do not have";
                return Err(Corruption::Malformed { container: b.container, node, reason });
            }
        };
        let mut raw = [0; NODE_BYTES];
        k.read(node, &mut raw).map_err(|e| b.wild(node, &e))?;
        let word = |at: u64, i: u64| le(&raw, (at + 8 * i) as usize, 8);
        let (mut first, mut children) = (min, Vec::new());
        for i in 0..shape.slots {
            let pivot = if i < shape.pivots { word(shape.pivots_at, i).unwrap_or(0) } else { max };
            // A pivot of 0 after the first slot is one not in use: the slot reaches to the node's end.
            let last = if i > 0 && pivot == 0 { max } else { pivot.min(max) };
            if last < first {
                let reason = "pivots do not ascend";
                return Err(Corruption::Malformed { container: b.container, node, reason });
            }
            let slot = word(shape.slots_at, i).unwrap_or(0);
            match (slot, leaf) {
                (0, _) => {}
                // Reserved entries, such as the zero entry.
                (s, true) if s & 3 == 2 && s <= 4096 => {}
                (_, true) => items.push((first, slot)),
                (_, false) => children.push((slot, first, last)),
            }
            if last >= max {
                break;
            }
            first = last + 1;
        }
        open.extend(children.into_iter().rev());
    }
    Ok(())
}

/// Entries of the `struct xarray` (radix tree root) at `root`: index and entry.
pub fn xarray<M: Memory>(k: &Kernel<M>, root: u64, budget: usize) -> Walk<(u64, u64)> {
    let mut items = Vec::new();
    let result = xarray_into(k, root, budget, &mut items);
    finish(items, result)
}

fn xarray_into<M: Memory>(
    k: &Kernel<M>,
    root: u64,
    budget: usize,
    items: &mut Vec<(u64, u64)>,
) -> Result<(), Corruption> {
    let mut b = Budget::new("xarray", budget);
    let layout = k.layouts().xarray.map_err(Corruption::NoType)?;
    let head = k.u64(root.wrapping_add(layout.head)).map_err(|e| b.wild(root, &e))?;
    let mut open = vec![(head, 0_u64, 64_u32)];
    while let Some((entry, index, above)) = open.pop() {
        if entry == 0 {
            continue;
        }
        if entry & 3 != 2 {
            items.push((index, entry));
            continue;
        }
        // Siblings and retry entries.
        if entry <= 4096 {
            continue;
        }
        let node = entry - 2;
        b.enter(node)?;
        let malformed = |reason| Corruption::Malformed { container: "xarray", node, reason };
        let mut raw = vec![0; (layout.slots + 8 * layout.count).min(4096) as usize];
        k.read(node, &mut raw).map_err(|e| b.wild(node, &e))?;
        let shift = le(&raw, layout.shift as usize, 1).unwrap_or(0) as u32;
        if shift >= above {
            return Err(malformed("a child as high as its parent"));
        }
        for i in (0..layout.count).rev() {
            let entry = le(&raw, (layout.slots + 8 * i) as usize, 8).unwrap_or(0);
            open.push((entry, index.wrapping_add(i << shift), shift));
        }
    }
    Ok(())
}
