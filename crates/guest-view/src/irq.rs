//! IRQ domains and descriptors, the code that they may point to, and whether somebody is changing them.
//!
//! *Not modelled*: other contents of MSI descriptors; locks of kernels with PREEMPT_RT.
//!
//! *Sources*: Linux kernel/irq/irqdomain.c, kernel/irq/irqdesc.c, kernel/locking/mutex.c (`__mutex_owner`)
//! and include/linux/msi.h, 6.1, 6.12 and 7.3.

use serde::Serialize;

use crate::kernel::Kernel;
use crate::kernel::ReadError;
use crate::le;
use crate::memory::Memory;
use crate::modules::ModuleRange;
use crate::modules::ModuleView;
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
/// Low bits of `mutex.owner`: waiters, handoff, pickup. The rest is the task that holds it.
const MUTEX_FLAGS: u64 = 7;

/// All domains and descriptors at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IrqView {
    /// In the order of the kernel's list.
    pub domains: Vec<Domain>,
    /// By virq.
    pub descs: Vec<Desc>,
    /// What is wrong with the structures; the view is then incomplete.
    pub corruptions: Vec<Corruption>,
    /// The kernel proper, and each loaded module.
    pub code: Vec<Code>,
    /// Where the kernel's map of all memory ends, in which it allocates; above it are its own image and modules.
    pub linear_end: u64,
    /// Locks that somebody held: what they protect was being changed, and the rest need not be true.
    pub held: Vec<String>,
}

impl IrqView {
    /// The live domain at `va`.
    pub fn domain(&self, va: u64) -> Option<&Domain> {
        self.domains.iter().find(|d| d.va == va)
    }

    /// The descriptor of `virq`.
    pub fn desc(&self, virq: u64) -> Option<&Desc> {
        self.descs.iter().find(|d| d.virq == virq)
    }

    /// Who owns the code or data of the image or of a module at `va`: `vmlinux` or the module's name.
    pub fn owner_of(&self, va: u64) -> Option<&str> {
        self.code.iter().find(|c| (c.start..c.end).contains(&va)).map(|c| c.name.as_str())
    }
}

/// A part of the kernel proper or of a loaded module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Code {
    /// `vmlinux` or the module's name.
    pub name: String,
    /// First address.
    pub start: u64,
    /// Behind the last address.
    pub end: u64,
}

/// What a descriptor's `struct msi_desc` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Msi {
    /// Its first virq.
    pub irq: u32,
    /// How many virqs it has.
    pub nvec_used: u32,
    /// Name of its device, if it can be read.
    pub device: Option<String>,
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
    /// Address of the operations.
    pub ops: u64,
    /// Name of the device that it was made for, if the domain has one and it can be read.
    pub device: Option<String>,
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
    /// The MSI descriptor, if there is one and it can be read.
    pub msi: Option<Msi>,
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
    msi: Option<MsiOffsets>,
    /// `kobj.name` in `struct device`.
    device_name: Option<u64>,
    /// `irq_domain_mutex` and `sparse_irq_lock`: name and address of `owner`.
    mutexes: Vec<(&'static str, u64)>,
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
    ops: u64,
    dev: Option<u64>,
    /// `owner` of `mutex`, or of `revmap_mutex` before 6.3.
    mutex: Option<u64>,
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
    lock: Option<u64>,
    size: usize,
}

#[derive(Debug, Clone)]
struct MsiOffsets {
    irq: u64,
    nvec_used: u64,
    dev: u64,
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
        let mutex =
            |s: &str, member: &str| maybe(s, member).map(|at| at + maybe("mutex", "owner").unwrap_or(0));
        let owner = maybe("mutex", "owner");
        let mutexes = ["irq_domain_mutex", "sparse_irq_lock"].into_iter();
        let mutexes = mutexes.filter_map(|n| Some((n, k.symbol(n)?.wrapping_add(owner?)))).collect();
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
                ops: at("irq_domain", "ops")?,
                dev: maybe("irq_domain", "dev"),
                mutex: owner
                    .and_then(|_| mutex("irq_domain", "mutex").or(mutex("irq_domain", "revmap_mutex"))),
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
                lock: maybe("irq_desc", "lock"),
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
            msi: (|| {
                Some(MsiOffsets {
                    irq: maybe("msi_desc", "irq")?,
                    nvec_used: maybe("msi_desc", "nvec_used")?,
                    dev: maybe("msi_desc", "dev")?,
                    size: size("msi_desc").ok()?,
                })
            })(),
            device_name: maybe("device", "kobj.name"),
            mutexes,
        })
    }

    /// Read all of it, as it is now.
    pub fn read<M: Memory>(&self, k: &Kernel<M>) -> IrqView {
        let mut view =
            IrqView { code: code(k), linear_end: k.linear_end(), held: self.held(k), ..IrqView::default() };
        let list = walk::list(k, self.domain_list, DOMAINS_MAX);
        view.corruptions.extend(list.corruption);
        let mut total = 0;
        for link in list.items {
            let va = link.wrapping_sub(self.domain.link);
            match self.domain(k, va, &mut view) {
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
            match self.desc(k, virq, va, &mut view) {
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

    /// The locks whose owners are known to the types and that are taken.
    fn held<M: Memory>(&self, k: &Kernel<M>) -> Vec<String> {
        let taken = |at: u64| k.u64(at).is_ok_and(|owner| owner & !MUTEX_FLAGS != 0);
        self.mutexes.iter().filter(|&&(_, at)| taken(at)).map(|&(name, _)| name.to_owned()).collect()
    }

    /// Name of the `struct device` at `va`.
    fn device_name<M: Memory>(&self, k: &Kernel<M>, va: u64) -> Option<String> {
        let at = self.device_name.filter(|_| va != 0)?;
        named(k, va.wrapping_add(at)).filter(|name| !name.is_empty())
    }

    fn msi<M: Memory>(&self, k: &Kernel<M>, va: u64) -> Option<Msi> {
        let o = self.msi.as_ref().filter(|_| va != 0)?;
        let raw = bytes(k, va, o.size).ok()?;
        Some(Msi {
            irq: word(&raw, o.irq, 4) as u32,
            nvec_used: word(&raw, o.nvec_used, 4) as u32,
            device: self.device_name(k, word(&raw, o.dev, 8)),
        })
    }

    fn domain<M: Memory>(&self, k: &Kernel<M>, va: u64, view: &mut IrqView) -> Result<Domain, ReadError> {
        let o = &self.domain;
        let raw = bytes(k, va, o.size)?;
        let corruptions = &mut view.corruptions;
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
            at => k.string(at, NAME_MAX_BYTES).unwrap_or_else(|e| {
                corruptions.push(wild("irq_domain name", at, &e));
                String::new()
            }),
        };
        if o.mutex.is_some_and(|at| word(&raw, at, 8) & !MUTEX_FLAGS != 0) {
            view.held.push(format!("mutex of irq_domain {name}"));
        }
        Ok(Domain {
            va,
            name,
            ops: word(&raw, o.ops, 8),
            device: o.dev.and_then(|at| self.device_name(k, word(&raw, at, 8))),
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
        view: &mut IrqView,
    ) -> Result<Desc, ReadError> {
        let o = &self.desc;
        let raw = bytes(k, va, o.size)?;
        // A raw spinlock begins with its word, which is 0 while it is free.
        if o.lock.is_some_and(|at| word(&raw, at, 4) != 0) {
            view.held.push(format!("lock of irq_desc {virq}"));
        }
        let corruptions = &mut view.corruptions;
        let own = va.wrapping_add(o.irq_data);
        let levels = match self.data.parent {
            Some(parent) => walk::chain(k, own, parent, CHAIN_MAX),
            None => walk::Walk { items: vec![own], corruption: None },
        };
        corruptions.extend(levels.corruption);
        let levels = readable("irq_data", levels.items, corruptions, |at| self.level(k, at));
        let actions = walk::chain(k, word(&raw, o.action, 8), self.action.next, ACTIONS_MAX);
        corruptions.extend(actions.corruption);
        let actions = readable("irqaction", actions.items, corruptions, |at| self.action(k, at));
        let handler = word(&raw, o.handle_irq, 8);
        let msi_desc = o.msi_desc.map_or(0, |at| word(&raw, at, 8));
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
            msi_desc,
            msi: self.msi(k, msi_desc),
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

/// The kernel proper and its modules. A module list that is broken off leaves addresses without an owner: the list's corruption is a
/// finding by itself.
fn code<M: Memory>(k: &Kernel<M>) -> Vec<Code> {
    let image = k.symbol("_text").zip(k.symbol("_end"));
    let image = image.map(|(start, end)| Code { name: "vmlinux".into(), start, end });
    let part = |name: &str, r: &ModuleRange| Code {
        name: name.to_owned(),
        start: r.base,
        end: r.base.saturating_add(r.bytes),
    };
    let modules = ModuleView::read(k).unwrap_or_default().modules;
    let modules = modules.iter().flat_map(|m| m.ranges.iter().map(|r| part(&m.name, r)));
    image.into_iter().chain(modules).collect()
}

/// What can be read of the nodes of a chain; a node that cannot is a corruption.
fn readable<T>(
    container: &'static str,
    nodes: Vec<u64>,
    corruptions: &mut Vec<Corruption>,
    read: impl Fn(u64) -> Result<T, ReadError>,
) -> Vec<T> {
    let mut items = Vec::new();
    for at in nodes {
        match read(at) {
            Ok(item) => items.push(item),
            Err(e) => corruptions.push(wild(container, at, &e)),
        }
    }
    items
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
