//! Where a kernel's structures have their members: from its BTF, its DWARF, or a JSON of offsets.
//!
//! A member's presence decides what a kernel has, never its version.
//!
//! The JSON has one object a structure: `{"irq_data": {"size": 56, "fields": {"hwirq": {"offset": 8, "size": 8}}}}`.
//! A field may also have `count` and `stride` (an array), `of` (the structure embedded there), `bits` (`[shift, width]`
//! within the `size` bytes at `offset`). Members of anonymous structures stand with the others.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::btf::Btf;

/// A member of a structure, as it is laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Bytes from the start of the structure.
    pub offset: u64,
    /// Bytes, of all elements; 0 for a flexible array.
    pub size: u64,
    /// Elements, if it is an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Bytes from one element to the next, if it is an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<u64>,
    /// The structure embedded here (the element's, for an array); not what a pointer points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Shift and width of a bit field, in the little-endian number of `size` bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<(u8, u8)>,
}

/// One structure or union.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Bytes.
    pub size: u64,
    /// By name.
    pub fields: BTreeMap<String, Member>,
}

/// A kernel's types.
#[derive(Debug, Clone)]
pub enum Types {
    /// From the kernel's own BTF.
    Btf(Box<Btf>),
    /// From a table.
    Table(BTreeMap<String, Layout>),
}

impl Types {
    /// A table in the JSON of this module.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json).map(Self::Table)
    }

    /// The structures of these names, and those embedded in them, as the JSON of this module.
    pub fn to_json(&self, names: &[&str]) -> Result<String, serde_json::Error> {
        let mut table = BTreeMap::new();
        let mut open: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        while let Some(name) = open.pop() {
            if table.contains_key(&name) {
                continue;
            }
            if let Some(layout) = self.layout(&name) {
                open.extend(layout.fields.values().filter_map(|m| m.of.clone()));
                table.insert(name, layout);
            }
        }
        serde_json::to_string_pretty(&table)
    }

    /// A structure or union by its name.
    pub fn layout(&self, name: &str) -> Option<Layout> {
        match self {
            Self::Btf(btf) => btf.layout(name),
            Self::Table(table) => table.get(name).cloned(),
        }
    }

    /// Bytes of a structure.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.layout(name).map(|l| l.size)
    }

    /// Names and values of an enum; a table of offsets has none.
    pub fn enumerators(&self, name: &str) -> Option<BTreeMap<String, i64>> {
        match self {
            Self::Btf(btf) => btf.enumerators(name),
            Self::Table(_) => None,
        }
    }

    /// A member by its path through embedded structures, such as `irq_data.hwirq` in `irq_desc`.
    pub fn offset(&self, name: &str, path: &str) -> Option<Member> {
        let (mut layout, mut base) = (self.layout(name)?, 0_u64);
        let mut steps = path.split('.').peekable();
        while let Some(step) = steps.next() {
            let mut member = layout.fields.remove(step)?;
            base = base.checked_add(member.offset)?;
            if steps.peek().is_none() {
                member.offset = base;
                return Some(member);
            }
            layout = self.layout(member.of.as_deref()?)?;
        }
        None
    }
}
