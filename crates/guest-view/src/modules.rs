//! Loaded modules, and their symbols.
//!
//! *Modelled*: the list, states, references, memory in both shapes (`core_layout` and `init_layout`, or `mem[]`), symbols.
//!
//! *Not modelled*: sections, parameters, who uses whom.
//!
//! *Sources*: Linux include/linux/module.h and kernel/module/kallsyms.c of 6.1, 6.12 and 7.3; ELF-64 for `Elf64_Sym`.

use serde::Serialize;

use crate::kernel::Kernel;
use crate::kernel::Object;
use crate::kernel::ReadError;
use crate::le;
use crate::memory::Memory;
use crate::walk;
use crate::walk::Corruption;

/// Bounds: far above any guest's.
const MODULES_MAX: usize = 1024;
const SYMBOLS_MAX: usize = 1 << 15;
/// Symbols of all modules, which may claim one another's tables.
const SYMBOLS_TOTAL_MAX: usize = 1 << 17;
/// Longer names are cut.
const NAME_MAX_BYTES: usize = 256;
/// Elements of `mem[]` believed; there are 7.
const RANGES_MAX: u64 = 16;
/// sizeof(Elf64_Sym).
const SYM_BYTES: usize = 24;

/// All modules at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModuleView {
    /// In the order of the kernel's list: the last one loaded first.
    pub modules: Vec<Module>,
    /// What is wrong with the structures; the view is then incomplete.
    pub corruptions: Vec<Corruption>,
}

/// A `struct module`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Address.
    pub va: u64,
    /// Name.
    pub name: String,
    /// `live`, `coming`, `going`, `unformed`, or the number.
    pub state: String,
    /// References, as /sys/module/NAME/refcnt has them; `None` if modules cannot be unloaded.
    pub references: Option<i64>,
    /// `taints`.
    pub taints: u64,
    /// Memory, empty parts left out.
    pub ranges: Vec<ModuleRange>,
}

/// A part of a module's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleRange {
    /// What it holds: `core`, `init`, `data`; or `text`, `rodata`, … where the kernel tells them apart.
    pub kind: String,
    /// First address.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
}

impl ModuleRange {
    fn has(&self, va: u64) -> bool {
        va.wrapping_sub(self.base) < self.bytes
    }
}

impl ModuleView {
    /// Read the list as it is now.
    pub fn read<M: Memory>(k: &Kernel<M>) -> Result<Self, ReadError> {
        let mut view = Self::default();
        let list = walk::list(k, k.root("modules")?, MODULES_MAX);
        view.corruptions.extend(list.corruption);
        for link in list.items {
            match k.container(link, "module", "list").and_then(|o| module(k, &o)) {
                Ok(m) => view.modules.push(m),
                Err(e @ ReadError::NoMember(_)) => return Err(e),
                Err(e) => view.corruptions.push(Corruption::wild("module", link, &e)),
            }
        }
        Ok(view)
    }
}

fn module<M: Memory>(k: &Kernel<M>, o: &Object<'_, M>) -> Result<Module, ReadError> {
    // atomic_t, with one reference of the module system's own (MODULE_REF_BASE).
    let references = o.field_if_any("refcnt.counter")?.map(|n| i64::from(n as i32) - 1);
    Ok(Module {
        va: o.va,
        name: o.chars("name")?,
        // enum module_state.
        state: match o.field("state")? {
            0 => "live".to_owned(),
            1 => "coming".to_owned(),
            2 => "going".to_owned(),
            3 => "unformed".to_owned(),
            n => n.to_string(),
        },
        references,
        taints: o.field("taints")?,
        ranges: ranges(k, o)?,
    })
}

fn ranges<M: Memory>(k: &Kernel<M>, o: &Object<'_, M>) -> Result<Vec<ModuleRange>, ReadError> {
    let mut found = Vec::new();
    let mut add = |kind: &str, base: u64, bytes: u64| {
        if base != 0 && bytes != 0 {
            found.push(ModuleRange { kind: kind.to_owned(), base, bytes });
        }
    };
    if k.member("module", "mem").is_none() {
        add("core", o.field("core_layout.base")?, o.field("core_layout.size")?);
        add("init", o.field("init_layout.base")?, o.field("init_layout.size")?);
        if k.member("module", "data_layout").is_some() {
            add("data", o.field("data_layout.base")?, o.field("data_layout.size")?);
        }
        return Ok(found);
    }
    let mem = o.member("mem")?;
    let kinds = k.types().enumerators("mod_mem_type").unwrap_or_default();
    let kind = |i: u64| -> String {
        let name = kinds.iter().find(|(_, &n)| n == i as i64).map(|(name, _)| name.to_lowercase());
        name.map_or(format!("mem[{i}]"), |n| n.trim_start_matches("mod_").to_owned())
    };
    for i in 0..mem.count.unwrap_or(0).min(RANGES_MAX) {
        let at = o.va.wrapping_add(mem.offset).wrapping_add(i.wrapping_mul(mem.stride.unwrap_or(0)));
        let part = k.object(at, "module_memory");
        add(&kind(i), part.field("base")?, part.field("size")?);
    }
    Ok(found)
}

/// Symbols of all modules.
#[derive(Debug, Default)]
pub(crate) struct ModuleSymbols {
    modules: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    module: Module,
    /// By address.
    symbols: Vec<(u64, String)>,
}

impl ModuleSymbols {
    /// What can be read of them: a module without symbols still has its name and memory.
    pub(crate) fn read<M: Memory>(k: &Kernel<M>) -> Self {
        let mut left = SYMBOLS_TOTAL_MAX;
        let modules = ModuleView::read(k).unwrap_or_default().modules.into_iter().map(|module| {
            let mut symbols = symbols(k, &module, &mut left).unwrap_or_default();
            symbols.sort();
            Named { module, symbols }
        });
        Self { modules: modules.collect() }
    }

    /// `name+0x10 [module]`; with the part's name for a symbol where the module has none below the address.
    pub(crate) fn symbolize(&self, va: u64) -> Option<String> {
        let (m, range) =
            self.modules.iter().find_map(|m| Some((m, m.module.ranges.iter().find(|r| r.has(va))?)))?;
        let below = m.symbols.partition_point(|(at, _)| *at <= va);
        let nearest = m.symbols.get(..below).and_then(|s| s.last()).filter(|(at, _)| range.has(*at));
        let (name, past) = match nearest {
            Some((at, name)) => (name, va - at),
            None => (&range.kind, va - range.base),
        };
        let past = if past == 0 { String::new() } else { format!("+{past:#x}") };
        Some(format!("{name}{past} [{}]", m.module.name))
    }
}

fn symbols<M: Memory>(
    k: &Kernel<M>,
    module: &Module,
    left: &mut usize,
) -> Result<Vec<(u64, String)>, ReadError> {
    // While a module initialises this is a larger table, afterwards its `core_kallsyms`.
    let table = k.object(k.object(module.va, "module").field("kallsyms")?, "mod_kallsyms");
    let (symtab, strtab) = (table.field("symtab")?, table.field("strtab")?);
    let count = (table.field("num_symtab")? as usize).min(SYMBOLS_MAX).min(*left);
    *left -= count;
    let mut raw = vec![0; SYM_BYTES * count];
    k.read(symtab, &mut raw)?;
    let mut found = Vec::new();
    for sym in raw.chunks_exact(SYM_BYTES) {
        let number = |at, size| le(sym, at, size).unwrap_or(0);
        // Elf64_Sym: st_name, st_info, st_other, st_shndx, st_value, st_size. Undefined ones belong to others.
        let (name, section, value) = (number(0, 4), number(6, 2), number(8, 8));
        if section == 0 || !module.ranges.iter().any(|r| r.has(value)) {
            continue;
        }
        let name = k.string(strtab.wrapping_add(name), NAME_MAX_BYTES)?;
        // Mapping symbols and local labels, as in the kernel's own look-up.
        if !name.is_empty() && !name.starts_with('$') && !name.starts_with(".L") {
            found.push((value, name));
        }
    }
    Ok(found)
}
