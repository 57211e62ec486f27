//! Names of addresses in the guest's kernel and modules.

use std::collections::BTreeMap;
use std::path::Path;

use vmm::trace::Taken;

/// Text symbols of a kernel, from the `System.map` beside its image. Guests have no KASLR seed, so its addresses are theirs.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Names by address; the end of the text is one of them.
    text: BTreeMap<u64, String>,
}

impl Kernel {
    /// Of the kernel in `image`: from the `System.map` beside it or, for an image in a kernel tree, at the top of the tree. None if
    /// there is none.
    pub fn of(image: &Path) -> Kernel {
        let top = image
            .parent()
            .filter(|dir| dir.ends_with("arch/arm64/boot"))
            .and_then(|dir| dir.ancestors().nth(3));
        let maps = [Some(image.with_file_name("System.map")), top.map(|t| t.join("System.map"))];
        let text = maps.into_iter().flatten().find_map(|map| std::fs::read_to_string(map).ok());
        Kernel::parse(&text.unwrap_or_default())
    }

    fn parse(map: &str) -> Kernel {
        let mut text = BTreeMap::new();
        for line in map.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            // `$x` and `$d` mark code and data for disassemblers.
            if matches!(kind, "T" | "t" | "W" | "w") && !name.starts_with('$') {
                text.insert(address, name.to_owned());
            }
        }
        Kernel { text }
    }

    fn name(&self, pc: u64) -> Option<String> {
        let (address, name) = self.text.range(..=pc).next_back()?;
        // Behind the last symbol nothing is known.
        self.text.range(pc + 1..).next()?;
        Some(format!("{name}+{:#x}", pc - address))
    }

    /// The chunks of `trace` with the names that this kernel knows, in binary form again.
    pub fn complete(&self, trace: &[u8]) -> Vec<u8> {
        let Ok(chunks) = vmm::trace::decode(trace) else { return trace.to_vec() };
        let named = |mut t: Taken| {
            let found = t.unnamed().into_iter().filter_map(|pc| Some((pc, self.name(pc)?)));
            let found: Vec<_> = found.collect();
            t.symbols.extend(found);
            vmm::trace::encode(&t)
        };
        chunks.into_iter().flat_map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use block::Width;
    use rc_model::Window;
    use vmm::trace::Entry;

    use super::*;

    const MAP: &str = "ffff800080000000 T _text\nffff800080010000 t $x\nffff800080010000 T dw_pcie_read\n\
        ffff800080010000 d data\nffff8000800100a0 T dw_pcie_write\nffff800080020000 T _etext\ngarbage\n";

    fn entry(pc: u64) -> Entry {
        Entry {
            time_ns: 0,
            off: 0,
            value: 0,
            window: Window::Dbi,
            vcpu: 0,
            width: Width::B4,
            write: false,
            pc,
            gated: false,
        }
    }

    #[test]
    fn addresses_get_the_function_that_they_are_in() {
        let k = Kernel::parse(MAP);
        assert_eq!(k.name(0xffff_8000_8001_005c).as_deref(), Some("dw_pcie_read+0x5c"));
        assert_eq!(k.name(0xffff_8000_8001_00a0).as_deref(), Some("dw_pcie_write+0x0"));
        assert_eq!(k.name(0xffff_8000_8002_0000), None, "behind the text");
        assert_eq!(k.name(0x1000), None);
        assert_eq!(k.name(u64::MAX - 1), None);
    }

    #[test]
    fn the_map_is_beside_the_image_or_at_the_top_of_its_tree() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("arch/arm64/boot");
        std::fs::create_dir_all(&boot).unwrap();
        assert!(Kernel::of(&boot.join("Image")).text.is_empty());
        std::fs::write(dir.path().join("System.map"), MAP).unwrap();
        assert_eq!(Kernel::of(&boot.join("Image")).text.len(), 4);
        assert_eq!(Kernel::of(&dir.path().join("Image")).text.len(), 4);
        assert!(Kernel::of(&dir.path().join("arch/Image")).text.is_empty());
    }

    #[test]
    fn a_trace_gets_only_the_names_that_occur_and_keeps_those_it_has() {
        let (pc, module) = (0xffff_8000_8001_005c, 0xffff_8000_7000_0010);
        let mut t = Taken { entries: vec![entry(pc), entry(module)], ..Taken::default() };
        t.symbols.insert(module, "qcom_pcie_probe+0x10 [pcie_qcom]".into());
        let done = vmm::trace::decode(&Kernel::parse(MAP).complete(&vmm::trace::encode(&t))).unwrap();
        let names: Vec<_> = done[0].symbols.values().map(String::as_str).collect();
        assert_eq!(names, ["qcom_pcie_probe+0x10 [pcie_qcom]", "dw_pcie_read+0x5c"]);
        assert_eq!(Kernel::default().complete(b"torn"), b"torn");
    }
}
