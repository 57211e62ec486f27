//! Where the functions of a loaded module are.

use std::collections::HashMap;

use guest_agent::Symbol;
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::LittleEndian;
use object::Object;
use object::ObjectSection;
use object::ObjectSymbol;
use object::SectionIndex;
use object::SectionKind;
use object::SymbolKind;

use super::Root;

/// The functions of module `name`, whose file is `elf`: the symbols of the file at the addresses that the kernel gave its
/// sections. Empty if one of the two cannot be had: traces then show addresses.
pub fn of_module(root: &Root, name: &str, elf: &[u8]) -> Vec<Symbol> {
    let Ok(file) = ElfFile::<FileHeader64<LittleEndian>>::parse(elf) else { return Vec::new() };
    let bases: HashMap<SectionIndex, u64> = file
        .sections()
        .filter(|s| s.kind() == SectionKind::Text)
        .filter_map(|s| {
            let path = root.path(&format!("sys/module/{name}/sections/{}", s.name().ok()?));
            let text = std::fs::read_to_string(path).ok()?;
            Some((s.index(), u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()?))
        })
        .collect();
    file.symbols()
        .filter(|s| s.kind() == SymbolKind::Text && s.size() > 0)
        .filter_map(|s| {
            let base = bases.get(&s.section_index()?)?;
            Some(Symbol {
                address: base.wrapping_add(s.address()),
                len_bytes: s.size(),
                name: s.name().ok()?.into(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This program: an ELF file with functions, whatever it is compiled for.
    fn own_file() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn functions_are_where_the_kernel_put_their_section() {
        let dir = tempfile::tempdir().unwrap();
        let sections = dir.path().join("sys/module/m/sections");
        std::fs::create_dir_all(&sections).unwrap();
        std::fs::write(sections.join(".text"), "0xffff800078a00000\n").unwrap();
        let found = of_module(&Root(dir.path().into()), "m", &own_file());
        assert!(found.iter().any(|s| s.name.contains("functions_are_where")), "{}", found.len());
        assert!(found.iter().all(|s| s.address >= 0xffff_8000_78a0_0000 && s.len_bytes > 0));
    }

    #[test]
    fn without_sections_or_with_garbage_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        assert_eq!(of_module(&root, "m", &own_file()), []);
        assert_eq!(of_module(&root, "m", b"\x7fELF garbage"), []);
    }
}
