//! Symbols from the kallsyms tables inside a kernel's Image.
//!
//! Addresses are kept as offsets from `_text`, the first byte of an arm64 Image: they hold wherever the kernel runs.
//!
//! *Sources*: scripts/kallsyms.c `write_src` and kernel/kallsyms.c of Linux 6.1 (offsets, base, count, names, markers,
//! seqs, tokens), 6.12 (count, names, markers, tokens, offsets, base) and 7.3 (as 6.12, offsets relative to their place).

use std::collections::HashMap;
use std::collections::HashSet;

use crate::le;

/// Why an Image gives no symbols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KallsymsError {
    /// No magic number of an arm64 Image.
    #[error("not an arm64 kernel Image")]
    NotArm64,
    /// No token table.
    #[error("no kallsyms in the Image: built without CONFIG_KALLSYMS, or truncated")]
    NoTokens,
    /// Functions only: the kernel's variables cannot be found.
    #[error("kallsyms has functions only: built without CONFIG_KALLSYMS_ALL")]
    NoVariables,
    /// A table that the token table belongs to was not found.
    #[error("kallsyms {0} not found: the Image is truncated or of an unknown layout")]
    NoTable(&'static str),
}

/// One symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// The letter that `nm` gives its kind.
    pub kind: char,
    /// Bytes from `_text`; negative for what lies before it or is absolute.
    pub offset: i64,
}

/// All symbols of a kernel.
#[derive(Debug, Clone, Default)]
pub struct Symbols {
    /// In the order of the table, which is that of addresses.
    symbols: Vec<Symbol>,
    by_name: HashMap<String, usize>,
}

const TOKENS: usize = 256;
/// Names read in all while the table is searched for: mostly 256 each for numbers that are no counts, of which a large kernel has ten thousands.
const NAMES_BUDGET: usize = 1 << 26;
/// Names from one marker to the next.
const MARKER_STEP: usize = 256;
/// Markers, and the seqs that 6.1 has behind them, are of a few bytes a symbol.
const MARKERS_REACH_BYTES: usize = 16 << 20;
/// KSYM_NAME_LEN is 512 since 6.1; a longer name means that this is no table of names.
const NAME_MAX_BYTES: usize = 1024;

impl Symbols {
    /// The symbols of `image`: a file, or as it lies in memory.
    pub fn from_image(image: &[u8]) -> Result<Self, KallsymsError> {
        if le(image, 56, 4) != Some(0x644d_5241) {
            return Err(KallsymsError::NotArm64);
        }
        let tokens = Tokens::find(image).ok_or(KallsymsError::NoTokens)?;
        let names = Names::find(image, tokens.at).ok_or(KallsymsError::NoTable("names"))?;
        let expanded = names.expand(image, &tokens).ok_or(KallsymsError::NoTable("names"))?;
        if !expanded.iter().any(|(_, name)| name == "_text") {
            return Err(KallsymsError::NoVariables);
        }
        let offsets = offsets(image, &tokens, &names, &expanded).ok_or(KallsymsError::NoTable("offsets"))?;
        let symbols: Vec<_> = expanded
            .into_iter()
            .zip(offsets)
            .map(|((kind, name), offset)| Symbol { name, kind, offset })
            .collect();
        let by_name = symbols.iter().enumerate().rev().map(|(i, s)| (s.name.clone(), i)).collect();
        Ok(Self { symbols, by_name })
    }

    /// All of them, by address.
    pub fn all(&self) -> &[Symbol] {
        &self.symbols
    }

    /// Offset of the first symbol of that name.
    pub fn offset(&self, name: &str) -> Option<i64> {
        self.symbols.get(*self.by_name.get(name)?).map(|s| s.offset)
    }

    /// The last symbol at or below an offset, and how far below.
    pub fn nearest(&self, offset: i64) -> Option<(&Symbol, u64)> {
        let after = self.symbols.partition_point(|s| s.offset <= offset);
        let same = self.symbols.get(after.checked_sub(1)?)?.offset;
        // Of several names for one address the first is the usual one, as in the kernel's own look-up.
        let first = self.symbols.partition_point(|s| s.offset < same);
        self.symbols.get(first).map(|s| (s, offset.abs_diff(s.offset)))
    }
}

struct Tokens {
    at: usize,
    index_end: usize,
    text: Vec<Vec<u8>>,
}

impl Tokens {
    /// The table has the digits as tokens of their own, one after the other; its index proves it.
    fn find(image: &[u8]) -> Option<Self> {
        const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
        let mut from = 0;
        while let Some(at) = find(image, from, DIGITS) {
            if let Some(t) = Self::around(image, at) {
                return Some(t);
            }
            from = at + 1;
        }
        None
    }

    fn around(image: &[u8], digits: usize) -> Option<Self> {
        // Token '0' is number 48: 48 strings before it.
        let mut at = digits;
        for _ in 0..b'0' {
            let before = image.get(..at.checked_sub(1)?)?;
            let window = before.len().saturating_sub(NAME_MAX_BYTES);
            at = before.get(window..)?.iter().rposition(|&b| b == 0)? + window + 1;
        }
        // What lies before the first token is padding: the index says where the first one begins.
        let candidates = (at.saturating_sub(8)..=at.checked_add(8)?).filter(|a| a % 4 == 0);
        candidates.into_iter().find_map(|at| Self::at(image, at))
    }

    fn at(image: &[u8], at: usize) -> Option<Self> {
        let (mut pos, mut text, mut starts) = (at, Vec::new(), Vec::new());
        for _ in 0..TOKENS {
            let rest = image.get(pos..)?;
            let len = rest.iter().take(NAME_MAX_BYTES).position(|&b| b == 0)?;
            text.push(rest.get(..len)?.to_vec());
            starts.push(pos - at);
            pos += len + 1;
        }
        let index_at = pos.next_multiple_of(8);
        [pos.next_multiple_of(2), pos.next_multiple_of(4), index_at].into_iter().find_map(|index_at| {
            let agrees = |(i, &s): (usize, &usize)| le(image, index_at + 2 * i, 2) == Some(s as u64);
            let all = starts.iter().enumerate().all(agrees);
            all.then(|| Self { at, index_end: index_at + 2 * TOKENS, text: text.clone() })
        })
    }
}

struct Names {
    /// Where `kallsyms_num_syms` is.
    count_at: usize,
    count: usize,
    at: usize,
}

impl Names {
    /// The markers end before the token table (6.1: with the seqs between); the count lies before the names. So: walk
    /// every plausible count upwards from the far side, and take the one whose names end where the markers begin.
    fn find(image: &[u8], tokens_at: usize) -> Option<Self> {
        let mut budget = NAMES_BUDGET;
        let second = second_markers(image, tokens_at);
        let mut count_at = tokens_at.checked_sub(16)? & !3;
        while count_at >= 8 {
            let count = le(image, count_at, 4)? as usize;
            if (256..1 << 22).contains(&count) && count < tokens_at - count_at {
                // Tables are aligned to 8 bytes up to 6.12 and to 4 in 7.x; a name has no length of 0.
                for at in [count_at + 4, (count_at + 4).next_multiple_of(8)] {
                    let names = Self { count_at, count, at };
                    if names.agree_with_markers(image, tokens_at, &second, &mut budget) {
                        return Some(names);
                    }
                }
            }
            count_at -= 4;
        }
        None
    }

    fn agree_with_markers(
        &self,
        image: &[u8],
        limit: usize,
        second: &HashSet<u64>,
        budget: &mut usize,
    ) -> bool {
        let mut check = || -> Option<bool> {
            let (mut pos, mut markers) = (self.at, Vec::new());
            for i in 0..self.count {
                if i % MARKER_STEP == 0 {
                    markers.push((pos - self.at) as u64);
                }
                if i == MARKER_STEP && !second.contains(&((pos - self.at) as u64)) {
                    return None;
                }
                *budget = budget.checked_sub(1)?;
                pos = self.name(image, pos)?.1;
                if pos > limit {
                    return None;
                }
            }
            let at = pos.next_multiple_of(8);
            Some(
                [pos.next_multiple_of(4), at]
                    .into_iter()
                    .any(|at| markers.iter().enumerate().all(|(i, &m)| le(image, at + 4 * i, 4) == Some(m))),
            )
        };
        check().unwrap_or(false)
    }

    /// Codes of the name at `pos`, and where the next one is.
    fn name<'a>(&self, image: &'a [u8], pos: usize) -> Option<(&'a [u8], usize)> {
        let first = usize::from(*image.get(pos)?);
        let (len, start) = match first {
            0 => return None,
            1..=0x7f => (first, pos + 1),
            _ => ((first & 0x7f) | usize::from(*image.get(pos + 1)?) << 7, pos + 2),
        };
        Some((image.get(start..start + len)?, start + len))
    }

    fn expand(&self, image: &[u8], tokens: &Tokens) -> Option<Vec<(char, String)>> {
        let mut pos = self.at;
        let mut all = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let (codes, next) = self.name(image, pos)?;
            let mut text = Vec::new();
            for &code in codes {
                text.extend_from_slice(tokens.text.get(usize::from(code))?);
                if text.len() > NAME_MAX_BYTES {
                    return None;
                }
            }
            let (kind, name) = text.split_first()?;
            all.push((char::from(*kind), String::from_utf8_lossy(name).into_owned()));
            pos = next;
        }
        Some(all)
    }
}

/// What may be the second marker, the length of the first 256 names: it follows one that is 0. Without this each of the hundreds of
/// numbers among a large kernel's names that could be a count would cost a walk to their end.
fn second_markers(image: &[u8], tokens_at: usize) -> HashSet<u64> {
    let most = (MARKER_STEP * (NAME_MAX_BYTES + 2)) as u64;
    let places = (tokens_at.saturating_sub(MARKERS_REACH_BYTES) & !3..tokens_at).step_by(4);
    let second = places.filter(|&at| le(image, at, 4) == Some(0)).filter_map(|at| le(image, at + 4, 4));
    second.filter(|m| (1..=most).contains(m)).collect()
}

/// Offsets from `_text`, by whichever layout gives a table in ascending order whose `_text` is the Image's start.
fn offsets(image: &[u8], tokens: &Tokens, names: &Names, symbols: &[(char, String)]) -> Option<Vec<i64>> {
    let text = symbols.iter().position(|(_, name)| name == "_text")?;
    let table = |at: usize| -> Option<Vec<i64>> {
        (0..names.count).map(|i| le(image, at + 4 * i, 4).map(|v| i64::from(v as u32))).collect()
    };
    let relative = |raw: Vec<i64>| -> Option<Vec<i64>> {
        let base = *raw.get(text)?;
        Some(raw.into_iter().map(|o| o - base).collect())
    };
    let after = tokens.index_end.next_multiple_of(4);
    // 7.x: each offset counts from its own place, and the Image starts at 0.
    let by_place = table(after).map(|raw| -> Vec<i64> {
        let place = |i: usize| (after + 4 * i) as i64;
        raw.iter().enumerate().map(|(i, &o)| place(i) + i64::from(o as i32)).collect()
    });
    if let Some(o) = by_place.filter(|o| o.get(text) == Some(&0) && mostly_ascending(o)) {
        return Some(o);
    }
    // 6.12 has them there as well, from a base; 6.1 before the count, with the base between.
    let before = names.count_at.checked_sub(8).and_then(|base| base.checked_sub(4 * names.count));
    // Aligned to 8 bytes: one offset further would look as well ordered.
    let older = before.map(|at| at & !7);
    for at in std::iter::once(after.next_multiple_of(8)).chain(older) {
        let Some(raw) = table(at) else { continue };
        // CONFIG_KALLSYMS_ABSOLUTE_PERCPU: what is relative is stored as a negative number, from base - 1.
        let negative = raw.iter().filter(|&&o| (o as i32) < 0).count() * 2 > raw.len();
        let raw = if negative { raw.iter().map(|&o| -1 - i64::from(o as i32)).collect() } else { raw };
        if let Some(o) = relative(raw).filter(|o| mostly_ascending(o)) {
            return Some(o);
        }
    }
    None
}

fn mostly_ascending(offsets: &[i64]) -> bool {
    let wrong = offsets.windows(2).filter(|w| w.first() > w.last()).count();
    wrong * 100 <= offsets.len()
}

/// First place of `what` at or after `from`.
pub(crate) fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == first)?;
        if bytes.get(at..)?.starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
}
