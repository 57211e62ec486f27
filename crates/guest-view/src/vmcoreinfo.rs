//! VMCOREINFO: what a kernel writes for those who read its memory.

use std::collections::BTreeMap;

use crate::memory::each_note;
use crate::memory::Memory;

/// The keys and values, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmcoreInfo {
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Lines of `KEY=value`; others are ignored.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let lines = text.split(['\n', '\0']).filter_map(|l| l.split_once('='));
        Self { values: lines.map(|(k, v)| (k.to_owned(), v.to_owned())).collect() }
    }

    /// Look through memory for the note, which the kernel puts at the start of a page.
    pub fn scan(memory: &impl Memory) -> Option<Self> {
        const NAME: &[u8] = b"VMCOREINFO\0";
        for range in memory.ranges() {
            let Some(mut pa) = range.start.checked_next_multiple_of(4096) else { continue };
            while pa < range.end {
                let mut head = [0; 24];
                if memory.read(pa, &mut head).is_ok() && head.get(12..23) == Some(NAME) {
                    let mut page = vec![0; 4096];
                    let mut found = None;
                    if memory.read(pa, &mut page).is_ok() {
                        each_note(&page, |name, _, desc| {
                            if name == b"VMCOREINFO" && desc.starts_with(b"OSRELEASE=") {
                                found = Some(Self::parse(desc));
                            }
                        });
                    }
                    if found.is_some() {
                        return found;
                    }
                }
                pa = pa.saturating_add(4096);
            }
        }
        None
    }

    /// The value of a key, as it is written.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// `OSRELEASE`.
    pub fn release(&self) -> Option<&str> {
        self.get("OSRELEASE")
    }

    /// `BUILD-ID`.
    pub fn build_id(&self) -> Option<&str> {
        self.get("BUILD-ID")
    }

    /// `SYMBOL(name)`: a virtual address.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok()
    }

    /// `NUMBER(name)`: decimal, or hexadecimal with a prefix.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse::<i64>().ok().map(|n| n as u64),
        }
    }

    /// `OFFSET(struct.member)`.
    pub fn offset(&self, member: &str) -> Option<u64> {
        self.get(&format!("OFFSET({member})"))?.parse().ok()
    }

    /// `KERNELOFFSET`: how far KASLR moved the kernel.
    pub fn kernel_offset(&self) -> Option<u64> {
        u64::from_str_radix(self.get("KERNELOFFSET")?, 16).ok()
    }
}
