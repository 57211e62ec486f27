//! BTF, the kernel's own description of its types.
//!
//! *Modelled*: base BTF of a kernel: structures, unions, arrays, pointers, integers, enums, qualifiers, typedefs.
//!
//! *Not modelled*: functions and variables (skipped), split BTF of modules.
//!
//! *Sources*: Linux include/uapi/linux/btf.h (6.12), Documentation/bpf/btf.rst.

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::kallsyms::find;
use crate::le;
use crate::types::Layout;
use crate::types::Member;

/// Why there are no types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// No header found.
    #[error("no BTF in the Image: built without CONFIG_DEBUG_INFO_BTF, or truncated")]
    Absent,
    /// A table is cut off or of an unknown kind.
    #[error("BTF is malformed at type {0}")]
    Malformed(u32),
}

const KIND_INT: u8 = 1;
const KIND_PTR: u8 = 2;
const KIND_ARRAY: u8 = 3;
const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
const KIND_ENUM: u8 = 6;
const KIND_FUNC_PROTO: u8 = 13;
const KIND_VAR: u8 = 14;
const KIND_DATASEC: u8 = 15;
const KIND_FLOAT: u8 = 16;
const KIND_DECL_TAG: u8 = 17;
const KIND_ENUM64: u8 = 19;

/// Typedefs, qualifiers and anonymous structures nest less than this in any real kernel.
const DEPTH_MAX: usize = 32;

/// Parsed BTF.
#[derive(Clone)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where each type begins in `types`; number 0 is void.
    starts: Vec<usize>,
    structs: HashMap<String, u32>,
    enums: HashMap<String, u32>,
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Btf").field("types", &self.starts.len()).finish()
    }
}

struct Type {
    name: u32,
    kind: u8,
    flag: bool,
    count: usize,
    /// Bytes, or the type referred to.
    size: u32,
    /// Where what follows the common part begins.
    at: usize,
}

impl Btf {
    /// The first well-formed BTF anywhere in an Image.
    pub fn from_image(image: &[u8]) -> Result<Self, BtfError> {
        let (mut from, mut error) = (0, BtfError::Absent);
        // Magic 0xeb9f, version 1, flags 0.
        while let Some(at) = find(image, from, b"\x9f\xeb\x01\x00") {
            match image.get(at..).map(Self::parse) {
                Some(Ok(btf)) if btf.starts.len() > 1 => return Ok(btf),
                Some(Err(e @ BtfError::Malformed(_))) => error = e,
                _ => {}
            }
            from = at + 4;
        }
        Err(error)
    }

    /// BTF from its header on; what follows it is ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let section = |at: usize| -> Option<&[u8]> {
            let header_len = le(bytes, 4, 4).filter(|n| (24..=256).contains(n))? as usize;
            let start = header_len.checked_add(le(bytes, at, 4)? as usize)?;
            bytes.get(start..start.checked_add(le(bytes, at + 4, 4)? as usize)?)
        };
        if le(bytes, 0, 2) != Some(0xeb9f) {
            return Err(BtfError::Absent);
        }
        let types = section(8).ok_or(BtfError::Absent)?.to_vec();
        let strings = section(16).filter(|s| s.first() == Some(&0)).ok_or(BtfError::Absent)?.to_vec();
        let mut btf =
            Self { types, strings, starts: vec![0], structs: HashMap::new(), enums: HashMap::new() };
        let mut at = 0;
        while at < btf.types.len() {
            let id = btf.starts.len() as u32;
            let t = btf.at(at).ok_or(BtfError::Malformed(id))?;
            let rest = match t.kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * t.count,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * t.count,
                KIND_PTR | 7..=12 | KIND_FLOAT | 18 => 0,
                _ => return Err(BtfError::Malformed(id)),
            };
            if t.at + rest > btf.types.len() {
                return Err(BtfError::Malformed(id));
            }
            let index = match t.kind {
                KIND_STRUCT | KIND_UNION => Some(&mut btf.structs),
                KIND_ENUM | KIND_ENUM64 => Some(&mut btf.enums),
                _ => None,
            };
            if let (Some(index), true) = (index, t.name != 0) {
                let start = t.name as usize;
                let text = btf.strings.get(start..).and_then(|s| s.split(|&b| b == 0).next());
                let name = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
                index.entry(name).or_insert(id);
            }
            btf.starts.push(at);
            at = t.at + rest;
        }
        Ok(btf)
    }

    fn at(&self, at: usize) -> Option<Type> {
        let info = le(&self.types, at + 4, 4)?;
        Some(Type {
            name: le(&self.types, at, 4)? as u32,
            kind: (info >> 24 & 0x1f) as u8,
            flag: info >> 31 != 0,
            count: (info & 0xffff) as usize,
            size: le(&self.types, at + 8, 4)? as u32,
            at: at + 12,
        })
    }

    fn get(&self, id: u32) -> Option<Type> {
        (id != 0).then(|| self.starts.get(id as usize)).flatten().and_then(|&at| self.at(at))
    }

    fn string(&self, at: u32) -> String {
        let text = self.strings.get(at as usize..).and_then(|s| s.split(|&b| b == 0).next());
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    }

    /// Through typedefs and qualifiers.
    fn chase(&self, mut id: u32) -> Option<(u32, Type)> {
        for _ in 0..DEPTH_MAX {
            let t = self.get(id)?;
            match t.kind {
                8..=11 | 18 => id = t.size,
                _ => return Some((id, t)),
            }
        }
        None
    }

    /// A structure or union by name; `#N` is number N, for those without a name.
    pub fn layout(&self, name: &str) -> Option<Layout> {
        let id = match name.strip_prefix('#') {
            Some(number) => number.parse().ok()?,
            None => *self.structs.get(name)?,
        };
        let t = self.get(id).filter(|t| matches!(t.kind, KIND_STRUCT | KIND_UNION))?;
        let mut fields = BTreeMap::new();
        self.fields(&t, 0, 0, &mut fields)?;
        Some(Layout { size: u64::from(t.size), fields })
    }

    fn fields(
        &self,
        t: &Type,
        base_bits: u64,
        depth: usize,
        into: &mut BTreeMap<String, Member>,
    ) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        for i in 0..t.count {
            let at = t.at + 12 * i;
            let (name, of, place) =
                (le(&self.types, at, 4)?, le(&self.types, at + 4, 4)? as u32, le(&self.types, at + 8, 4)?);
            // With the flag the upper byte is the width of a bit field.
            let (bit, width) = if t.flag { (place & 0xff_ffff, (place >> 24) as u8) } else { (place, 0) };
            let bit = base_bits + bit;
            let Some((id, inner)) = self.chase(of) else { continue };
            if name == 0 {
                if matches!(inner.kind, KIND_STRUCT | KIND_UNION) {
                    self.fields(&inner, bit, depth + 1, into)?;
                }
                continue;
            }
            let mut member = self.member(id, &inner, 0);
            member.offset = bit / 8;
            if width != 0 {
                let shift = bit % 8;
                member.size = (shift + u64::from(width)).div_ceil(8);
                member.bits = Some((shift as u8, width));
            }
            into.entry(self.string(name as u32)).or_insert(member);
        }
        Some(())
    }

    /// Size and kind of a type, its offset left 0.
    fn member(&self, id: u32, t: &Type, depth: usize) -> Member {
        let size = u64::from(t.size);
        match t.kind {
            KIND_PTR => Member { size: 8, ..Member::default() },
            KIND_INT | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT => Member { size, ..Member::default() },
            KIND_STRUCT | KIND_UNION => {
                let of = if t.name == 0 { format!("#{id}") } else { self.string(t.name) };
                Member { size, of: Some(of), ..Member::default() }
            }
            KIND_ARRAY if depth < DEPTH_MAX => {
                let count = le(&self.types, t.at + 8, 4).unwrap_or(0);
                let element = le(&self.types, t.at, 4).and_then(|id| self.chase(id as u32));
                let element = element.map(|(id, t)| self.member(id, &t, depth + 1)).unwrap_or_default();
                Member {
                    size: element.size.saturating_mul(count),
                    count: Some(count),
                    stride: Some(element.size),
                    of: element.of,
                    ..Member::default()
                }
            }
            _ => Member::default(),
        }
    }

    /// Names and values of an enum.
    pub fn enumerators(&self, name: &str) -> Option<BTreeMap<String, i64>> {
        let t = self.get(*self.enums.get(name)?)?;
        let step = if t.kind == KIND_ENUM64 { 12 } else { 8 };
        (0..t.count)
            .map(|i| {
                let at = t.at + step * i;
                let low = le(&self.types, at + 4, 4)?;
                let value = match t.kind {
                    KIND_ENUM64 => (le(&self.types, at + 8, 4)? << 32 | low) as i64,
                    _ => i64::from(low as i32),
                };
                Some((self.string(le(&self.types, at, 4)? as u32), value))
            })
            .collect()
    }
}
