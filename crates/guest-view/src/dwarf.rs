//! Types from the debug information of a `vmlinux`, for kernels whose Image has no BTF.
//!
//! *Modelled*: structures and unions of C with their members, bit fields and arrays, DWARF 4 and 5, compressed sections.
//!
//! *Not modelled*: enums, split debug information (`.dwo`), types of modules, types that another unit has (LTO).
//!
//! *Sources*: DWARF 5 §5.5, §5.7 and §5.13.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gimli::AttributeValue;
use gimli::EndianSlice;
use gimli::LittleEndian;
use gimli::UnitOffset;
use object::Object;
use object::ObjectSection;

use crate::types::Layout;
use crate::types::Member;
use crate::types::Types;

/// Typedefs, qualifiers, arrays and anonymous structures nest less than this in any real kernel.
const DEPTH_MAX: usize = 32;
/// A section that would be larger is not unpacked.
const SECTION_MAX_BYTES: u64 = 2 << 30;

/// More members than any kernel's structures have, also where those without a name are counted again in each that embeds them.
const MEMBERS_MAX: usize = 1 << 24;

/// Why there are no types.
#[derive(Debug, thiserror::Error)]
pub enum DwarfError {
    /// No object file, or a section that cannot be unpacked.
    #[error("not an ELF file whose sections can be read")]
    Object(#[from] object::Error),
    /// Nothing in it.
    #[error("no debug information: built without CONFIG_DEBUG_INFO, or stripped")]
    Absent,
    /// A section is larger than any kernel's.
    #[error("section {0} is too large")]
    TooLarge(&'static str),
    /// More members than any kernel has, as where a structure is said to embed itself.
    #[error("the debug information has more than {MEMBERS_MAX} members")]
    TooMany,
    /// The debug information contradicts itself.
    #[error("the debug information is malformed")]
    Malformed(#[from] gimli::Error),
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Unit<'a> = gimli::Unit<Slice<'a>>;
type Entry<'a> = gimli::DebuggingInformationEntry<Slice<'a>>;

/// What identifies a kernel: the build ID of a `vmlinux`, in hexadecimal.
pub fn build_id(vmlinux: &[u8]) -> Option<String> {
    let file = object::File::parse(vmlinux).ok()?;
    let id = file.build_id().ok()??;
    Some(id.iter().map(|b| format!("{b:02x}")).collect())
}

/// All structures of a `vmlinux` that have a name; the first of each name counts, as in BTF.
pub fn types(vmlinux: &[u8]) -> Result<Types, DwarfError> {
    let file = object::File::parse(vmlinux)?;
    let sections = gimli::DwarfSections::load(|id| section(&file, id.name()))?;
    let dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
    let mut reading = Reading { dwarf: &dwarf, table: BTreeMap::new(), members_left: MEMBERS_MAX };
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        reading.unit(&dwarf.unit(header)?)?;
    }
    if reading.table.is_empty() {
        return Err(DwarfError::Absent);
    }
    Ok(Types::Table(reading.table))
}

fn section<'a>(file: &object::File<'a>, name: &'static str) -> Result<Cow<'a, [u8]>, DwarfError> {
    let Some(section) = file.section_by_name(name) else { return Ok(Cow::Borrowed(&[])) };
    let data = section.compressed_data()?;
    if data.uncompressed_size > SECTION_MAX_BYTES {
        return Err(DwarfError::TooLarge(name));
    }
    Ok(data.decompress()?)
}

struct Reading<'a, 'd> {
    dwarf: &'d gimli::Dwarf<Slice<'a>>,
    table: BTreeMap<String, Layout>,
    members_left: usize,
}

impl<'a> Reading<'a, '_> {
    /// Structures stand directly below the unit, those defined within others too.
    fn unit(&mut self, unit: &Unit<'a>) -> Result<(), DwarfError> {
        let mut tree = unit.entries_tree(None)?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if !is_structure(entry) || entry.attr(gimli::DW_AT_declaration).is_some() {
                continue;
            }
            let Some(name) = self.name(unit, entry)? else { continue };
            if !self.table.contains_key(&name) {
                let layout = self.layout(unit, entry.offset(), 0)?;
                self.table.insert(name, layout);
            }
        }
        Ok(())
    }

    fn name(&self, unit: &Unit<'a>, entry: &Entry<'a>) -> Result<Option<String>, DwarfError> {
        let Some(value) = entry.attr_value(gimli::DW_AT_name) else { return Ok(None) };
        let text = self.dwarf.attr_string(unit, value)?;
        Ok(Some(String::from_utf8_lossy(text.slice()).into_owned()))
    }

    fn layout(&mut self, unit: &Unit<'a>, at: UnitOffset, depth: usize) -> Result<Layout, DwarfError> {
        let size = udata(&unit.entry(at)?, gimli::DW_AT_byte_size).unwrap_or(0);
        let mut fields = BTreeMap::new();
        self.fields(unit, at, 0, depth, &mut fields)?;
        Ok(Layout { size, fields })
    }

    fn fields(
        &mut self,
        unit: &Unit<'a>,
        at: UnitOffset,
        base_bits: u64,
        depth: usize,
        into: &mut BTreeMap<String, Member>,
    ) -> Result<(), DwarfError> {
        if depth > DEPTH_MAX {
            return Ok(());
        }
        let mut tree = unit.entries_tree(Some(at))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_member {
                continue;
            }
            self.members_left = self.members_left.checked_sub(1).ok_or(DwarfError::TooMany)?;
            let Some((of, inner)) = chase(unit, entry)? else { continue };
            // A bit field's place is in bits (DWARF 5 §5.7.6), any other's in bytes.
            let bytes = udata(entry, gimli::DW_AT_data_member_location).unwrap_or(0);
            let inside = udata(entry, gimli::DW_AT_data_bit_offset).unwrap_or(bytes.saturating_mul(8));
            let bit = base_bits.saturating_add(inside);
            let Some(name) = self.name(unit, entry)? else {
                if is_structure(&inner) {
                    self.fields(unit, of, bit, depth + 1, into)?;
                }
                continue;
            };
            let mut member = self.member(unit, of, depth + 1)?;
            member.offset = bit / 8;
            if let Some(width) = udata(entry, gimli::DW_AT_bit_size) {
                let shift = bit % 8;
                member.size = shift.saturating_add(width).div_ceil(8);
                member.bits = Some((shift as u8, u8::try_from(width).unwrap_or(u8::MAX)));
            }
            into.entry(name).or_insert(member);
        }
        Ok(())
    }

    /// Size and kind of a type, its offset left 0.
    fn member(&mut self, unit: &Unit<'a>, at: UnitOffset, depth: usize) -> Result<Member, DwarfError> {
        let entry = unit.entry(at)?;
        let size = udata(&entry, gimli::DW_AT_byte_size).unwrap_or(0);
        Ok(match entry.tag() {
            gimli::DW_TAG_pointer_type => Member { size: 8, ..Member::default() },
            gimli::DW_TAG_array_type if depth <= DEPTH_MAX => self.array(unit, at, depth)?,
            _ if is_structure(&entry) => {
                let of = match self.name(unit, &entry)? {
                    Some(name) => name,
                    None => self.anonymous(unit, at, depth)?,
                };
                Member { size, of: Some(of), ..Member::default() }
            }
            _ => Member { size, ..Member::default() },
        })
    }

    /// A structure without a name is found by one that no C has.
    fn anonymous(&mut self, unit: &Unit<'a>, at: UnitOffset, depth: usize) -> Result<String, DwarfError> {
        let place = at.to_debug_info_offset(&unit.header).map_or(0, |o| o.0);
        let name = format!("#{place:x}");
        if depth <= DEPTH_MAX && !self.table.contains_key(&name) {
            let layout = self.layout(unit, at, depth + 1)?;
            self.table.insert(name.clone(), layout);
        }
        Ok(name)
    }

    fn array(&mut self, unit: &Unit<'a>, at: UnitOffset, depth: usize) -> Result<Member, DwarfError> {
        let Some((of, _)) = chase(unit, &unit.entry(at)?)? else { return Ok(Member::default()) };
        let mut element = self.member(unit, of, depth + 1)?;
        let mut counts = Vec::new();
        let mut tree = unit.entries_tree(Some(at))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            counts.push(elements(child.entry()));
        }
        // From the innermost dimension on.
        for count in counts.into_iter().rev() {
            let stride = element.size;
            let size = stride.saturating_mul(count);
            element = Member { size, count: Some(count), stride: Some(stride), ..element };
        }
        Ok(element)
    }
}

fn is_structure(entry: &Entry<'_>) -> bool {
    matches!(entry.tag(), gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type)
}

fn udata(entry: &Entry<'_>, name: gimli::DwAt) -> Option<u64> {
    entry.attr_value(name)?.udata_value()
}

/// Elements of a dimension; 0 where none are said, as for a flexible array.
fn elements(dimension: &Entry<'_>) -> u64 {
    let upper = udata(dimension, gimli::DW_AT_upper_bound).map(|last| last.wrapping_add(1));
    udata(dimension, gimli::DW_AT_count).or(upper).unwrap_or(0)
}

/// The type of an entry, through typedefs and qualifiers.
fn chase<'a>(unit: &Unit<'a>, entry: &Entry<'a>) -> Result<Option<(UnitOffset, Entry<'a>)>, DwarfError> {
    let mut next = entry.attr_value(gimli::DW_AT_type);
    for _ in 0..DEPTH_MAX {
        let Some(AttributeValue::UnitRef(at)) = next else { return Ok(None) };
        let found = unit.entry(at)?;
        match found.tag() {
            gimli::DW_TAG_typedef
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type => next = found.attr_value(gimli::DW_AT_type),
            _ => return Ok(Some((at, found))),
        }
    }
    Ok(None)
}
