//! A kernel in memory: symbols, types and addresses together, and typed reads over them.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::btf::Btf;
use crate::btf::BtfError;
use crate::kallsyms::find;
use crate::kallsyms::KallsymsError;
use crate::kallsyms::Symbols;
use crate::le;
use crate::memory::Memory;
use crate::memory::MemoryError;
use crate::modules::ModuleSymbols;
use crate::translate::Tables;
use crate::translate::TranslateError;
use crate::types::Member;
use crate::types::Types;
use crate::vmcoreinfo::VmcoreInfo;
use crate::walk::Layouts;

/// Why a kernel cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No Image header in memory.
    #[error("no arm64 kernel Image found in guest memory")]
    NoImage,
    /// Its header lies about its size, or memory ends before it does.
    #[error("the kernel Image at {0:#x} is not wholly in memory")]
    Truncated(u64),
    /// No symbols.
    #[error("the kernel's symbols cannot be read")]
    Symbols(#[from] KallsymsError),
    /// No types, and none handed in.
    #[error("the kernel's types cannot be read")]
    Types(#[from] BtfError),
    /// A symbol that everything rests on is missing.
    #[error("the kernel has no symbol {0}")]
    NoSymbol(&'static str),
    /// Too early in boot, or not this kernel's memory.
    #[error("the kernel at {0:#x} has not set up its addresses yet, or this is not its memory")]
    NotRunning(u64),
    /// The build ID in VMCOREINFO is none of the Image's.
    #[error("the Image is not the kernel in this memory, which has build ID {0}")]
    OtherKernel(String),
    /// Memory failed.
    #[error("the kernel's own variables cannot be read")]
    Memory(#[from] MemoryError),
}

/// Why a virtual address cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It does not translate.
    #[error(transparent)]
    Translate(#[from] TranslateError),
    /// There is no memory behind it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel's types do not have it.
    #[error("the kernel's types have no {0}")]
    NoMember(String),
    /// Its symbols do not have it.
    #[error("the kernel has no symbol {0}")]
    NoSymbol(&'static str),
    /// The range wraps around.
    #[error("{0:#x} is too near the end of the address space")]
    Wraps(u64),
}

/// What is known from elsewhere; each is found in memory where it is not given.
#[derive(Debug, Clone, Default)]
pub struct Source<'a> {
    /// The bytes of the uncompressed Image file.
    pub image: Option<&'a [u8]>,
    /// Physical address that the Image runs from.
    pub image_pa: Option<u64>,
    /// Types instead of the Image's BTF.
    pub types: Option<Types>,
    /// A vCPU's TTBR1_EL1 and TCR_EL1.
    pub ttbr1_tcr: Option<(u64, u64)>,
    /// The kernel's VMCOREINFO, as a core has it. It says where the kernel runs, KASLR or not, and which Image it is.
    pub vmcoreinfo: Option<VmcoreInfo>,
}

/// Larger than any Image: what a header claims is not believed beyond it.
const IMAGE_MAX_BYTES: u64 = 256 << 20;
/// Pages whose translation is remembered.
const TLB_PAGES: usize = 8192;

/// A kernel in memory.
pub struct Kernel<M> {
    memory: M,
    symbols: Symbols,
    types: Types,
    tables: Tables,
    text_va: u64,
    image_pa: u64,
    tlb: RefCell<HashMap<u64, u64>>,
    /// Members looked up so far: finding one takes its whole structure apart.
    members: RefCell<HashMap<(&'static str, &'static str), Option<Member>>>,
    /// Symbols of modules, once they were asked for.
    module_symbols: RefCell<Option<Arc<ModuleSymbols>>>,
    layouts: OnceCell<Layouts>,
}

struct Header {
    granule_bits: u32,
    size: u64,
}

/// The header of an Image: Linux Documentation/arch/arm64/booting.rst.
fn header(bytes: &[u8]) -> Option<Header> {
    let magic = le(bytes, 56, 4)? == 0x644d_5241;
    let granule_bits = match le(bytes, 24, 8)? >> 1 & 3 {
        1 => 12,
        2 => 14,
        3 => 16,
        _ => return None,
    };
    magic.then_some(Header { granule_bits, size: le(bytes, 16, 8)? })
}

fn find_image(memory: &impl Memory) -> Option<u64> {
    // Images lie at multiples of 64 KiB at least (KASLR: of 2 MiB).
    memory.ranges().into_iter().find_map(|range| {
        let mut head = [0; 64];
        let start = range.start.checked_next_multiple_of(1 << 16)?;
        (start..range.end).step_by(1 << 16).find(|&pa| {
            memory.read(pa, &mut head).is_ok()
                && header(&head).is_some_and(|h| (1 << 20..IMAGE_MAX_BYTES).contains(&h.size))
        })
    })
}

/// Physical address of `_stext`, by VMCOREINFO.
fn stext_pa(info: &VmcoreInfo) -> Option<u64> {
    Some(info.symbol("_stext")?.wrapping_sub(info.number("kimage_voffset")?))
}

/// The Image that `_stext` is in: its header is at most 2 MiB below, where the linker aligns it most.
fn image_below(memory: &impl Memory, stext_pa: u64) -> Option<u64> {
    let mut head = [0; 64];
    let highest = stext_pa & !0xffff;
    (0..=32).filter_map(|i| highest.checked_sub(i << 16)).find(|&pa| {
        memory.read(pa, &mut head).is_ok() && header(&head).is_some_and(|h| h.size < IMAGE_MAX_BYTES)
    })
}

/// Whether an Image has a note with this build ID; one without any is not doubted.
fn has_build_id(image: &[u8], id: &str) -> bool {
    // ELF note: name and contents of 4 and 20 bytes, type NT_GNU_BUILD_ID.
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let (mut from, mut any) = (0, false);
    while let Some(at) = find(image, from, NOTE) {
        from = at + NOTE.len();
        any = true;
        let found = image.get(from..from + 20).unwrap_or_default();
        if found.iter().map(|b| format!("{b:02x}")).collect::<String>() == id {
            return true;
        }
    }
    !any
}

/// Where the Image of a file runs, by its banner: older kernels (6.1) free the page with the header.
fn locate(memory: &impl Memory, image: &[u8], symbols: &Symbols) -> Option<u64> {
    let at = u64::try_from(symbols.offset("linux_banner")?).ok()?;
    let banner = image.get(usize::try_from(at).ok()?..)?.get(..64)?;
    memory.ranges().into_iter().find_map(|range| {
        let mut seen = [0; 64];
        let start = range.start.checked_next_multiple_of(1 << 16)?;
        let mut places = (start..range.end).step_by(1 << 16);
        places.find(|pa| memory.read(pa.saturating_add(at), &mut seen).is_ok() && seen == banner)
    })
}

/// The Image as it lies in memory, up to where memory ends.
fn image_in(memory: &impl Memory, pa: u64) -> Result<Vec<u8>, OpenError> {
    let mut head = [0; 64];
    memory.read(pa, &mut head)?;
    let size = header(&head).ok_or(OpenError::NoImage)?.size;
    if size > IMAGE_MAX_BYTES {
        return Err(OpenError::Truncated(pa));
    }
    let mut image = vec![0; size as usize];
    memory.read(pa, &mut image).map_err(|_| OpenError::Truncated(pa))?;
    Ok(image)
}

impl<M: Memory> Kernel<M> {
    /// Find and parse everything once; reads afterwards only follow pointers.
    ///
    /// Without `source.image` the Image is taken from memory. Kernels that free its first page (6.1) need the file.
    /// Where the Image lies at several places (a boot loader's copy), say which by `image_pa`.
    pub fn open(memory: M, source: Source<'_>) -> Result<Self, OpenError> {
        let info = source.vmcoreinfo.unwrap_or_default();
        let stext_pa = stext_pa(&info);
        let found = match source.image {
            Some(_) => None,
            None => {
                let below = || stext_pa.and_then(|at| image_below(&memory, at));
                let pa = source.image_pa.or_else(below).or_else(|| find_image(&memory));
                let pa = pa.ok_or(OpenError::NoImage)?;
                Some((pa, image_in(&memory, pa)?))
            }
        };
        let image = source.image.or(found.as_ref().map(|(_, i)| i.as_slice())).unwrap_or_default();
        if let Some(id) = info.build_id().filter(|id| !has_build_id(image, id)) {
            return Err(OpenError::OtherKernel(id.to_owned()));
        }
        let symbols = Symbols::from_image(image)?;
        let image_pa = source.image_pa.or(found.as_ref().map(|(pa, _)| *pa));
        let stext = symbols.offset("_stext");
        let by_stext = stext_pa.zip(stext).map(|(pa, offset)| pa.wrapping_add_signed(offset.wrapping_neg()));
        let image_pa =
            image_pa.or(by_stext).or_else(|| locate(&memory, image, &symbols)).ok_or(OpenError::NoImage)?;
        let types = match source.types {
            Some(t) => t,
            None => Types::Btf(Box::new(Btf::from_image(image)?)),
        };
        let granule_bits = header(image).ok_or(OpenError::NoImage)?.granule_bits;
        let place = |name: &'static str| {
            let offset = symbols.offset(name).ok_or(OpenError::NoSymbol(name))?;
            Ok::<_, OpenError>(image_pa.wrapping_add_signed(offset))
        };
        let number = |name: &'static str| -> Result<u64, OpenError> {
            let mut raw = [0; 8];
            memory.read(place(name)?, &mut raw)?;
            Ok(u64::from_le_bytes(raw))
        };
        // Linux arch/arm64/kernel/head.S sets it before start_kernel: virtual minus physical address of the Image.
        let voffset = match info.number("kimage_voffset") {
            Some(known) => known,
            None => number("kimage_voffset")?,
        };
        let text_va = image_pa.wrapping_add(voffset);
        if text_va >> 55 != 0x1ff {
            return Err(OpenError::NotRunning(image_pa));
        }
        let tables = match source.ttbr1_tcr.and_then(|(t, c)| Tables::from_registers(t, c)) {
            Some(t) => t,
            None => {
                // A variable where 52 bits are configured. Elsewhere the Image lies in the lower part of the upper
                // half of the kernel's addresses (arch/arm64/include/asm/memory.h, _PAGE_END).
                let va_bits = match (info.number("TCR_EL1_T1SZ"), number("vabits_actual")) {
                    (Some(t1sz), _) => 64 - (t1sz & 0x3f) as u32,
                    (None, Ok(bits)) => (bits & 0xff) as u32,
                    (None, Err(_)) => 65 - text_va.leading_ones(),
                };
                Tables { root_pa: place("swapper_pg_dir")?, granule_bits, va_bits }
            }
        };
        if !tables.is_sane() {
            return Err(OpenError::NotRunning(image_pa));
        }
        Ok(Self::from_parts(memory, symbols, types, tables, text_va, image_pa))
    }

    /// A kernel whose parts are known already.
    pub fn from_parts(
        memory: M,
        symbols: Symbols,
        types: Types,
        tables: Tables,
        text_va: u64,
        image_pa: u64,
    ) -> Self {
        Self {
            memory,
            symbols,
            types,
            tables,
            text_va,
            image_pa,
            tlb: RefCell::default(),
            members: RefCell::default(),
            module_symbols: RefCell::default(),
            layouts: OnceCell::new(),
        }
    }

    /// The memory it was opened on.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Its symbols.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Its types.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// Physical address of the Image.
    pub fn image_pa(&self) -> u64 {
        self.image_pa
    }

    /// Where the linear map of memory ends; above it lie vmalloc, modules and the Image
    /// (arch/arm64/include/asm/memory.h, `PAGE_END`, which 52-bit kernels have where 48-bit ones do).
    pub fn linear_end(&self) -> u64 {
        u64::MAX << (self.tables.va_bits.clamp(2, 48) - 1)
    }

    /// Layouts of the containers that walks follow, looked up once.
    pub(crate) fn layouts(&self) -> &Layouts {
        self.layouts.get_or_init(|| Layouts::new(&self.types))
    }

    /// Forget translations and modules: to be called whenever the guest has run since.
    pub fn guest_has_run(&self) {
        self.tlb.borrow_mut().clear();
        self.module_symbols.borrow_mut().take();
    }

    /// Virtual address of a symbol.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.offset(name).map(|o| self.text_va.wrapping_add_signed(o))
    }

    /// Virtual address of a symbol that a view starts from.
    pub(crate) fn root(&self, name: &'static str) -> Result<u64, ReadError> {
        self.symbol(name).ok_or(ReadError::NoSymbol(name))
    }

    /// Name of the symbol at or below an address: `name+0x10` of the kernel's own, `name+0x10 [module]` of a module that
    /// is on the kernel's list. `None` for any other address, that of a module already unloaded among them.
    pub fn symbolize(&self, va: u64) -> Option<String> {
        let va = self.tables.canonical(va).ok()?;
        let offset = va.wrapping_sub(self.text_va);
        let end = self.symbols.offset("_end").and_then(|o| u64::try_from(o).ok())?;
        if offset >= end {
            return self.module_symbols().symbolize(va);
        }
        let (symbol, past) = self.symbols.nearest(i64::try_from(offset).ok()?)?;
        Some(if past == 0 { symbol.name.clone() } else { format!("{}+{past:#x}", symbol.name) })
    }

    /// The kernel's VMCOREINFO as it lies in memory; `None` before it has set it up.
    pub fn vmcoreinfo(&self) -> Option<VmcoreInfo> {
        const MAX_BYTES: usize = 64 << 10;
        let value = |name| self.u64(self.symbol(name)?).ok();
        let len = usize::try_from(value("vmcoreinfo_size")?).ok()?.min(MAX_BYTES);
        let mut text = vec![0; len];
        self.read(value("vmcoreinfo_data")?, &mut text).ok()?;
        Some(VmcoreInfo::parse(&text)).filter(|info| info.release().is_some())
    }

    fn module_symbols(&self) -> Arc<ModuleSymbols> {
        if let Some(known) = self.module_symbols.borrow().as_ref() {
            return known.clone();
        }
        let read = Arc::new(ModuleSymbols::read(self));
        self.module_symbols.replace(Some(read.clone()));
        read
    }

    /// A member by the path to it, looked up once.
    pub(crate) fn member(&self, of: &'static str, path: &'static str) -> Option<Member> {
        if let Some(known) = self.members.borrow().get(&(of, path)) {
            return known.clone();
        }
        let found = self.types.offset(of, path);
        self.members.borrow_mut().insert((of, path), found.clone());
        found
    }

    /// Physical address of a virtual one.
    pub fn translate(&self, va: u64) -> Result<u64, TranslateError> {
        let va = self.tables.canonical(va)?;
        let inside = va & 0xfff;
        if let Some(page) = self.tlb.borrow().get(&(va >> 12)) {
            return Ok(page | inside);
        }
        let pa = self.tables.translate(&self.memory, va)?;
        let mut tlb = self.tlb.borrow_mut();
        if tlb.len() >= TLB_PAGES {
            tlb.clear();
        }
        tlb.insert(va >> 12, pa & !0xfff);
        Ok(pa)
    }

    /// Fill `buf` from a virtual address.
    pub fn read(&self, va: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let (mut at, mut rest) = (va, buf);
        while !rest.is_empty() {
            let in_page = 4096 - (at & 0xfff) as usize;
            let (part, after) = rest.split_at_mut(in_page.min(rest.len()));
            self.memory.read(self.translate(at)?, part)?;
            at = at
                .checked_add(part.len() as u64)
                .or(after.is_empty().then_some(0))
                .ok_or(ReadError::Wraps(va))?;
            rest = after;
        }
        Ok(())
    }

    /// A number of one to eight bytes.
    pub fn number(&self, va: u64, size: usize) -> Result<u64, ReadError> {
        let mut raw = [0; 8];
        let size = size.min(8);
        if let Some(part) = raw.get_mut(..size) {
            self.read(va, part)?;
        }
        Ok(u64::from_le_bytes(raw))
    }

    /// Eight bits.
    pub fn u8(&self, va: u64) -> Result<u8, ReadError> {
        self.number(va, 1).map(|n| n as u8)
    }

    /// Sixteen bits.
    pub fn u16(&self, va: u64) -> Result<u16, ReadError> {
        self.number(va, 2).map(|n| n as u16)
    }

    /// Thirty-two bits.
    pub fn u32(&self, va: u64) -> Result<u32, ReadError> {
        self.number(va, 4).map(|n| n as u32)
    }

    /// Sixty-four bits, or a pointer.
    pub fn u64(&self, va: u64) -> Result<u64, ReadError> {
        self.number(va, 8)
    }

    /// A string of at most `max` bytes, which must end within them or is cut there.
    pub fn string(&self, va: u64, max: usize) -> Result<String, ReadError> {
        let mut text = Vec::new();
        while text.len() < max {
            let at = va.checked_add(text.len() as u64).ok_or(ReadError::Wraps(va))?;
            // Up to the next page at most: what follows the string need not be mapped.
            let len = (64 - (at & 63) as usize).min(max - text.len());
            let mut part = vec![0; len];
            self.read(at, &mut part)?;
            let end = part.iter().position(|&b| b == 0);
            text.extend_from_slice(part.get(..end.unwrap_or(len)).unwrap_or_default());
            if end.is_some() {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// An object of a type at an address.
    pub fn object(&self, va: u64, of: &'static str) -> Object<'_, M> {
        Object { kernel: self, va, of }
    }

    /// The object of a type whose member is at an address.
    pub fn container(
        &self,
        member_va: u64,
        of: &'static str,
        path: &'static str,
    ) -> Result<Object<'_, M>, ReadError> {
        let member = self.object(member_va, of).member(path)?;
        Ok(self.object(member_va.wrapping_sub(member.offset), of))
    }

    /// Address of a CPU's copy of a per-CPU variable, by its symbol.
    pub fn per_cpu(&self, symbol: &str, cpu: u32) -> Result<u64, ReadError> {
        let missing = |name: &str| ReadError::NoMember(name.to_owned());
        let base = self.symbol(symbol).ok_or_else(|| missing(symbol))?;
        let offsets = self.symbol("__per_cpu_offset").ok_or_else(|| missing("__per_cpu_offset"))?;
        Ok(base.wrapping_add(self.u64(offsets.wrapping_add(8 * u64::from(cpu)))?))
    }
}

/// Longest string that a view takes from a guest.
const TEXT_MAX_BYTES: usize = 256;

/// An object in the kernel's memory.
pub struct Object<'k, M> {
    kernel: &'k Kernel<M>,
    /// Where it is.
    pub va: u64,
    /// Name of its structure.
    pub of: &'static str,
}

impl<M: Memory> Object<'_, M> {
    /// Where a member is, by its path.
    pub fn member(&self, path: &'static str) -> Result<Member, ReadError> {
        let missing = || ReadError::NoMember(format!("{}.{path}", self.of));
        self.kernel.member(self.of, path).ok_or_else(missing)
    }

    /// Address of a member.
    pub fn address(&self, path: &'static str) -> Result<u64, ReadError> {
        Ok(self.va.wrapping_add(self.member(path)?.offset))
    }

    /// A member's value: a number, a pointer or a bit field.
    pub fn field(&self, path: &'static str) -> Result<u64, ReadError> {
        let member = self.member(path)?;
        let raw = self.kernel.number(self.va.wrapping_add(member.offset), member.size as usize)?;
        Ok(match member.bits {
            Some((shift, width)) if shift < 64 && width < 64 => raw >> shift & ((1 << width) - 1),
            _ => raw,
        })
    }

    /// A member's value, where the kernel has that member.
    pub fn field_if_any(&self, path: &'static str) -> Result<Option<u64>, ReadError> {
        self.kernel.member(self.of, path).map(|_| self.field(path)).transpose()
    }

    /// The string that a member points to; `None` for a null pointer or one that leads nowhere.
    pub fn text(&self, path: &'static str) -> Option<String> {
        let at = self.field(path).ok().filter(|&at| at != 0)?;
        self.kernel.string(at, TEXT_MAX_BYTES).ok()
    }

    /// The string in a member that is an array of characters.
    pub fn chars(&self, path: &'static str) -> Result<String, ReadError> {
        let member = self.member(path)?;
        self.kernel.string(self.va.wrapping_add(member.offset), TEXT_MAX_BYTES.min(member.size as usize))
    }
}
