//! What is written to disks. Every byte of a sector is a function of a seed, the sector's number and its generation; the
//! sector begins with all three, so that one in the wrong place, or an old one, says what it is.

use std::ops::RangeInclusive;

use guest_agent::BlockIoResult;

/// Unit of the pattern: what a disk writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;
const WORD_BYTES: usize = 8;
/// How many errors or mismatches are told in words.
const MAX_EXAMPLES: usize = 16;

/// SplitMix64 (Steele, Lea, Flood 2014): a permutation of 64-bit numbers that spreads every bit.
pub fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Numbers in an order that a seed decides.
pub struct Random(u64);

impl Random {
    /// Numbers of this seed.
    pub fn new(seed: u64) -> Random {
        Random(mix(seed))
    }

    /// The next number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % end
    }
}

fn words(seed: u64, sector: u64, generation: u64) -> impl Iterator<Item = [u8; WORD_BYTES]> {
    let base = mix(seed ^ mix(sector ^ mix(generation)));
    let head = [generation, sector, seed].into_iter();
    head.chain((0..).map(move |i: u64| mix(base.wrapping_add(i)))).map(u64::to_le_bytes)
}

/// Fill whole sectors, the first of which has number `sector`.
pub fn fill(data: &mut [u8], seed: u64, sector: u64, generation: u64) {
    for (at, out) in (sector..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
        for (out, word) in out.chunks_exact_mut(WORD_BYTES).zip(words(seed, at, generation)) {
            out.copy_from_slice(&word);
        }
    }
}

/// What was found wrong: how often, and the first of it in words.
#[derive(Debug, Default)]
pub struct Mismatches {
    /// Sectors, frames or bytes.
    pub count: u64,
    /// At most [`MAX_EXAMPLES`].
    pub examples: Vec<String>,
}

impl Mismatches {
    /// One more.
    pub fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(what());
        }
    }

    /// Check whole sectors, the first of which has number `sector`: each is undamaged and of one of `generations`.
    pub fn check(&mut self, data: &[u8], seed: u64, sector: u64, generations: &RangeInclusive<u64>) {
        for (at, data) in (sector..).zip(data.chunks_exact(SECTOR_BYTES)) {
            if let Some(why) = wrong(data, seed, at, generations) {
                self.add(|| format!("sector {at}: {why}"));
            }
        }
    }

    /// Those of one job to those of all.
    pub fn move_to(self, all: &mut BlockIoResult) {
        all.mismatches += self.count;
        all.mismatch_examples.extend(self.examples);
        all.mismatch_examples.truncate(MAX_EXAMPLES);
    }
}

/// What is wrong with a sector.
fn wrong(data: &[u8], seed: u64, sector: u64, generations: &RangeInclusive<u64>) -> Option<String> {
    let word = |i: usize| {
        let at = data.get(i * WORD_BYTES..).and_then(|d| d.first_chunk());
        at.map_or(0, |w| u64::from_le_bytes(*w))
    };
    let (generation, is_sector, is_seed) = (word(0), word(1), word(2));
    let (first, last) = (generations.start(), generations.end());
    if data.iter().all(|b| *b == 0) {
        return Some(format!("all zero instead of generation {first} to {last}"));
    }
    if (is_sector, is_seed) != (sector, seed) || !generations.contains(&generation) {
        return Some(format!(
            "holds generation {generation:#x} of sector {is_sector:#x}, seed {is_seed:#x}, instead of generation {first} to \
             {last}, seed {seed:#x}"
        ));
    }
    let expected = words(seed, sector, generation).flatten();
    let at = data.iter().zip(expected).position(|(have, want)| *have != want)?;
    Some(format!("generation {generation} is damaged from byte {at} on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_passes_only_as_itself() {
        let mut data = vec![0; 2 * SECTOR_BYTES];
        fill(&mut data, 7, 100, 3);
        for (seed, sector, generations, wrong) in [
            (7, 100, 3..=3, 0),
            (7, 100, 1..=5, 0),
            (8, 100, 3..=3, 2),
            (7, 101, 3..=3, 2),
            (7, 100, 4..=9, 2),
        ] {
            let mut m = Mismatches::default();
            m.check(&data, seed, sector, &generations);
            assert_eq!(m.count, wrong, "seed {seed} sector {sector} {generations:?}: {m:?}");
        }
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let mut data = vec![0; SECTOR_BYTES];
        fill(&mut data, 1, 2, 3);
        for at in 0..SECTOR_BYTES {
            data[at] ^= 0x10;
            assert!(wrong(&data, 1, 2, &(3..=3)).is_some(), "byte {at}");
            data[at] ^= 0x10;
        }
        assert_eq!(wrong(&data, 1, 2, &(3..=3)), None);
        assert_eq!(
            wrong(&[0; SECTOR_BYTES], 0, 0, &(0..=1)).as_deref(),
            Some("all zero instead of generation 0 to 1")
        );
    }
}
