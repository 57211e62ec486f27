//! The tree of memory resources, as /proc/iomem has it.
//!
//! *Modelled*: name, range and flags of each resource, in the order of the tree.
//!
//! *Sources*: Linux include/linux/ioport.h and kernel/resource.c of 6.1, 6.12 and 7.3.

use std::collections::HashSet;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::kernel::ReadError;
use crate::memory::Memory;
use crate::walk::Corruption;

/// Far above any guest's.
const RESOURCES_MAX: usize = 16384;
const DEPTH_MAX: usize = 64;

/// Resources at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ResourceView {
    /// Depth first, as /proc/iomem lists them; the root itself is left out.
    pub resources: Vec<Resource>,
    /// What is wrong with the structures; the view is then incomplete.
    pub corruptions: Vec<Corruption>,
}

/// A `struct resource`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Address.
    pub va: u64,
    /// How deep in the tree, from 0.
    pub depth: usize,
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// Name; `None` if it has none or its pointer leads nowhere.
    pub name: Option<String>,
    /// `flags`.
    pub flags: u64,
}

impl ResourceView {
    /// Read the memory resources as they are now.
    pub fn iomem<M: Memory>(k: &Kernel<M>) -> Result<Self, ReadError> {
        Self::below(k, k.root("iomem_resource")?)
    }

    /// Read what lies below the `struct resource` at an address.
    pub fn below<M: Memory>(k: &Kernel<M>, root: u64) -> Result<Self, ReadError> {
        let mut view = Self::default();
        let first = k.object(root, "resource").field("child")?;
        let (mut open, mut seen) = (vec![(first, 0)], HashSet::from([root]));
        while let Some((va, depth)) = open.pop() {
            if va == 0 {
                continue;
            }
            if !seen.insert(va) {
                view.corruptions.push(Corruption::Cycle { container: "resource tree", node: va });
                continue;
            }
            if view.resources.len() >= RESOURCES_MAX || depth > DEPTH_MAX {
                view.corruptions
                    .push(Corruption::TooLong { container: "resource tree", budget: RESOURCES_MAX });
                break;
            }
            let o = k.object(va, "resource");
            let read = || -> Result<_, ReadError> {
                let (start, end, flags) = (o.field("start")?, o.field("end")?, o.field("flags")?);
                let resource = Resource { va, depth, start, end, name: o.text("name"), flags };
                Ok((resource, o.field("sibling")?, o.field("child")?))
            };
            match read() {
                Ok((resource, sibling, child)) => {
                    view.resources.push(resource);
                    open.extend([(sibling, depth), (child, depth + 1)]);
                }
                Err(e @ ReadError::NoMember(_)) => return Err(e),
                Err(e) => view.corruptions.push(Corruption::wild("resource tree", va, &e)),
            }
        }
        Ok(view)
    }
}
