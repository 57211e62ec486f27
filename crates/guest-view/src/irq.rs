//! IRQ domains and descriptors.
//!
//! *Not modelled*: names of handlers inside modules (their address is given), MSI descriptors' contents.
//!
//! *Sources*: Linux kernel/irq/irqdomain.c and kernel/irq/irqdesc.c, 6.1, 6.12 and 7.3.

use serde::Serialize;

use crate::kernel::Kernel;
use crate::kernel::ReadError;
use crate::le;
use crate::memory::Memory;
use crate::walk;
use crate::walk::Corruption;

/// Bounds: far above any guest's.
const DOMAINS_MAX: usize = 4096;
const DESCS_MAX: usize = 65536;
const REVMAP_MAX: u64 = 65536;
const CHAIN_MAX: usize = 16;
const ACTIONS_MAX: usize = 256;
/// Mappings of all domains, and hierarchy levels and actions of all descriptors: structures that a guest lays over
/// one another must not multiply the bounds above.
const TOTAL_MAX: usize = 1 << 18;
const NAME_MAX_BYTES: usize = 256;

/// All domains and descriptors at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IrqView {
    /// In the order of the kernel's list.
    pub domains: Vec<Domain>,
    /// By virq.
    pub descs: Vec<Desc>,
    /// What is wrong with the structures; the view is then incomplete.
    pub corruptions: Vec<Corruption>,
}

/// A live `struct irq_domain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// Address.
    pub va: u64,
    /// Name; empty if it has none.
    pub name: String,
    /// `flags`.
    pub flags: u32,
    /// `mapcount`.
    pub mapcount: u32,
    /// `bus_token`.
    pub bus_token: u32,
    /// Address of the parent domain, or 0.
    pub parent: u64,
    /// Mapped: hwirq and address of its `irq_data`, linear part and tree.
    pub revmap: Vec<(u64, u64)>,
}

/// One level of a descriptor's hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Address of the `irq_data`.
    pub va: u64,
    /// `hwirq`.
    pub hwirq: u64,
    /// Address of the domain, or 0; it need not be a live one.
    pub domain: u64,
    /// Address of the chip, or 0.
    pub chip: u64,
    /// Name of the chip, if it can be read.
    pub chip_name: Option<String>,
}

/// A handler on a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    /// `name`, if it can be read.
    pub name: Option<String>,
    /// Address of the handler.
    pub handler: u64,
    /// Its symbol, if it lies in the kernel proper.
    pub handler_symbol: Option<String>,
    /// `dev_id`.
    pub dev_id: u64,
    /// Address of the thread's task, or 0.
    pub thread: u64,
}

/// A `struct irq_desc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Desc {
    /// Linux interrupt number.
    pub virq: u64,
    /// Address.
    pub va: u64,
    /// From the innermost `irq_data`, the descriptor's own, to the root.
    pub levels: Vec<Level>,
    /// Address of the flow handler.
    pub handler: u64,
    /// Its symbol, if it lies in the kernel proper.
    pub handler_symbol: Option<String>,
    /// Requested handlers.
    pub actions: Vec<Action>,
    /// `status_use_accessors`.
    pub status: u32,
    /// Nested disables.
    pub depth: u32,
    /// Threads running.
    pub threads_active: u32,
    /// Address of the affinity hint, or 0.
    pub affinity_hint: u64,
    /// Address of the MSI descriptor, or 0.
    pub msi_desc: u64,
    /// Address of the owning module, or 0.
    pub owner: u64,
}

/// Offsets and addresses, looked up once.
#[derive(Debug, Clone)]
pub struct IrqReader {
    domain_list: u64,
    descs: DescTree,
    domain: DomainOffsets,
    desc: DescOffsets,
    data: DataOffsets,
    action: ActionOffsets,
}

#[derive(Debug, Clone, Copy)]
enum DescTree {
    Maple(u64),
    Radix(u64),
}

#[derive(Debug, Clone)]
struct DomainOffsets {
    link: u64,
    name: u64,
    flags: u64,
    mapcount: u64,
    bus_token: u64,
    /// Only with CONFIG_IRQ_DOMAIN_HIERARCHY.
    parent: Option<u64>,
    revmap_size: u64,
    revmap_tree: u64,
    revmap: u64,
    size: usize,
}

#[derive(Debug, Clone)]
struct DescOffsets {
    irq_data: u64,
    handle_irq: u64,
    action: u64,
    status: u64,
    depth: u64,
    threads_active: u64,
    /// Only with CONFIG_SMP.
    affinity_hint: Option<u64>,
    msi_desc: Option<u64>,
    owner: u64,
    size: usize,
}

#[derive(Debug, Clone)]
struct DataOffsets {
    hwirq: u64,
    chip: u64,
    chip_name: u64,
    domain: u64,
    parent: Option<u64>,
    size: usize,
}

#[derive(Debug, Clone)]
struct ActionOffsets {
    handler: u64,
    dev_id: u64,
    next: u64,
    thread: u64,
    name: u64,
    size: usize,
}

/// Larger than any of these structures: a size from a hostile table is not believed beyond it.
const STRUCT_MAX_BYTES: u64 = 8192;

impl IrqReader {
    /// Look up what the view needs in a kernel's symbols and types.
    pub fn new<M: Memory>(k: &Kernel<M>) -> Result<Self, ReadError> {
        let missing = |what: &str| ReadError::NoMember(what.to_owned());
        let maybe = |s: &str, m: &str| k.types().offset(s, m).map(|m| m.offset);
        let at = |s: &str, m: &str| maybe(s, m).ok_or_else(|| missing(&format!("{s}.{m}")));
        let size = |s: &str| {
            let size = k.types().size(s).filter(|&n| n <= STRUCT_MAX_BYTES);
            size.map(|n| n as usize).ok_or_else(|| missing(s))
        };
        let descs = match (k.symbol("sparse_irqs"), k.symbol("irq_desc_tree")) {
            (Some(tree), _) => DescTree::Maple(tree),
            (None, Some(tree)) => DescTree::Radix(tree),
            (None, None) => return Err(missing("symbol sparse_irqs or irq_desc_tree")),
        };
        Ok(Self {
            domain_list: k.symbol("irq_domain_list").ok_or_else(|| missing("symbol irq_domain_list"))?,
            descs,
            domain: DomainOffsets {
                link: at("irq_domain", "link")?,
                name: at("irq_domain", "name")?,
                flags: at("irq_domain", "flags")?,
                mapcount: at("irq_domain", "mapcount")?,
                bus_token: at("irq_domain", "bus_token")?,
                parent: maybe("irq_domain", "parent"),
                revmap_size: at("irq_domain", "revmap_size")?,
                revmap_tree: at("irq_domain", "revmap_tree")?,
                revmap: at("irq_domain", "revmap")?,
                size: size("irq_domain")?,
            },
            desc: DescOffsets {
                irq_data: at("irq_desc", "irq_data")?,
                handle_irq: at("irq_desc", "handle_irq")?,
                action: at("irq_desc", "action")?,
                status: at("irq_desc", "status_use_accessors")?,
                depth: at("irq_desc", "depth")?,
                threads_active: at("irq_desc", "threads_active")?,
                affinity_hint: maybe("irq_desc", "affinity_hint"),
                msi_desc: maybe("irq_desc", "irq_common_data.msi_desc"),
                owner: at("irq_desc", "owner")?,
                size: size("irq_desc")?,
            },
            data: DataOffsets {
                hwirq: at("irq_data", "hwirq")?,
                chip: at("irq_data", "chip")?,
                chip_name: at("irq_chip", "name")?,
                domain: at("irq_data", "domain")?,
                parent: maybe("irq_data", "parent_data"),
                size: size("irq_data")?,
            },
            action: ActionOffsets {
                handler: at("irqaction", "handler")?,
                dev_id: at("irqaction", "dev_id")?,
                next: at("irqaction", "next")?,
                thread: at("irqaction", "thread")?,
                name: at("irqaction", "name")?,
                size: size("irqaction")?,
            },
        })
    }

    /// Read all of it, as it is now.
    pub fn read<M: Memory>(&self, k: &Kernel<M>) -> IrqView {
        let mut view = IrqView::default();
        let list = walk::list(k, self.domain_list, DOMAINS_MAX);
        view.corruptions.extend(list.corruption);
        let mut total = 0;
        for link in list.items {
            let va = link.wrapping_sub(self.domain.link);
            match self.domain(k, va, &mut view.corruptions) {
                Ok(d) => {
                    total += d.revmap.len();
                    view.domains.push(d);
                }
                Err(e) => view.corruptions.push(wild("irq_domain", va, &e)),
            }
            if total > TOTAL_MAX {
                view.corruptions.push(Corruption::TooLong { container: "revmaps", budget: TOTAL_MAX });
                break;
            }
        }
        let tree = match self.descs {
            DescTree::Maple(tree) => walk::maple(k, tree, DESCS_MAX),
            DescTree::Radix(tree) => walk::xarray(k, tree, DESCS_MAX),
        };
        view.corruptions.extend(tree.corruption);
        total = 0;
        for (virq, va) in tree.items.into_iter().take(DESCS_MAX) {
            match self.desc(k, virq, va, &mut view.corruptions) {
                Ok(d) => {
                    total += d.levels.len() + d.actions.len();
                    view.descs.push(d);
                }
                Err(e) => view.corruptions.push(wild("irq_desc", va, &e)),
            }
            if total > TOTAL_MAX {
                view.corruptions.push(Corruption::TooLong { container: "irq_descs", budget: TOTAL_MAX });
                break;
            }
        }
        view
    }

    fn domain<M: Memory>(
        &self,
        k: &Kernel<M>,
        va: u64,
        corruptions: &mut Vec<Corruption>,
    ) -> Result<Domain, ReadError> {
        let o = &self.domain;
        let raw = bytes(k, va, o.size)?;
        let mut revmap = Vec::new();
        let linear = word(&raw, o.revmap_size, 4);
        if linear > REVMAP_MAX {
            let reason = "revmap_size beyond any domain's";
            corruptions.push(Corruption::Malformed { container: "irq_domain", node: va, reason });
        }
        let linear = linear.min(REVMAP_MAX);
        let slots = bytes(k, va.wrapping_add(o.revmap), 8 * linear as usize)?;
        let data = (0..linear).map(|hwirq| (hwirq, word(&slots, 8 * hwirq, 8)));
        revmap.extend(data.filter(|&(_, data)| data != 0));
        let tree = walk::xarray(k, va.wrapping_add(o.revmap_tree), DESCS_MAX);
        corruptions.extend(tree.corruption);
        revmap.extend(tree.items);
        let name = match word(&raw, o.name, 8) {
            0 => String::new(),
            at => k.string(at, NAME_MAX_BYTES)?,
        };
        Ok(Domain {
            va,
            name,
            flags: word(&raw, o.flags, 4) as u32,
            mapcount: word(&raw, o.mapcount, 4) as u32,
            bus_token: word(&raw, o.bus_token, 4) as u32,
            parent: o.parent.map_or(0, |at| word(&raw, at, 8)),
            revmap,
        })
    }

    fn desc<M: Memory>(
        &self,
        k: &Kernel<M>,
        virq: u64,
        va: u64,
        corruptions: &mut Vec<Corruption>,
    ) -> Result<Desc, ReadError> {
        let o = &self.desc;
        let raw = bytes(k, va, o.size)?;
        let own = va.wrapping_add(o.irq_data);
        let levels = match self.data.parent {
            Some(parent) => walk::chain(k, own, parent, CHAIN_MAX),
            None => walk::Walk { items: vec![own], corruption: None },
        };
        corruptions.extend(levels.corruption);
        let levels = levels.items.into_iter().map(|at| self.level(k, at)).collect::<Result<_, _>>()?;
        let actions = walk::chain(k, word(&raw, o.action, 8), self.action.next, ACTIONS_MAX);
        corruptions.extend(actions.corruption);
        let actions = actions.items.into_iter().map(|at| self.action(k, at)).collect::<Result<_, _>>()?;
        let handler = word(&raw, o.handle_irq, 8);
        Ok(Desc {
            virq,
            va,
            levels,
            handler,
            handler_symbol: k.symbolize(handler),
            actions,
            status: word(&raw, o.status, 4) as u32,
            depth: word(&raw, o.depth, 4) as u32,
            threads_active: word(&raw, o.threads_active, 4) as u32,
            affinity_hint: o.affinity_hint.map_or(0, |at| word(&raw, at, 8)),
            msi_desc: o.msi_desc.map_or(0, |at| word(&raw, at, 8)),
            owner: word(&raw, o.owner, 8),
        })
    }

    fn level<M: Memory>(&self, k: &Kernel<M>, va: u64) -> Result<Level, ReadError> {
        let o = &self.data;
        let raw = bytes(k, va, o.size)?;
        let chip = word(&raw, o.chip, 8);
        Ok(Level {
            va,
            hwirq: word(&raw, o.hwirq, 8),
            domain: word(&raw, o.domain, 8),
            chip,
            chip_name: named(k, chip.wrapping_add(o.chip_name)),
        })
    }

    fn action<M: Memory>(&self, k: &Kernel<M>, va: u64) -> Result<Action, ReadError> {
        let o = &self.action;
        let raw = bytes(k, va, o.size)?;
        let handler = word(&raw, o.handler, 8);
        Ok(Action {
            name: k.string(word(&raw, o.name, 8), NAME_MAX_BYTES).ok(),
            handler,
            handler_symbol: k.symbolize(handler),
            dev_id: word(&raw, o.dev_id, 8),
            thread: word(&raw, o.thread, 8),
        })
    }
}

/// The string that the pointer at `at` points to.
fn named<M: Memory>(k: &Kernel<M>, at: u64) -> Option<String> {
    k.string(k.u64(at).ok()?, NAME_MAX_BYTES).ok()
}

fn bytes<M: Memory>(k: &Kernel<M>, va: u64, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut raw = vec![0; len];
    k.read(va, &mut raw)?;
    Ok(raw)
}

/// A number in a structure already read; its offset comes from the same types as the structure's size.
fn word(raw: &[u8], at: u64, size: usize) -> u64 {
    usize::try_from(at).ok().and_then(|at| le(raw, at, size)).unwrap_or(0)
}

fn wild(container: &'static str, node: u64, e: &ReadError) -> Corruption {
    Corruption::WildPointer { container, node, reason: e.to_string() }
}
