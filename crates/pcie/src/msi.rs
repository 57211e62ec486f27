//! MSI of a function: which message a vector sends, and what masking holds back (PCIe §6.1.4).
//!
//! All state is in the capability's registers; the functions here act on a [`ConfigSpace`] that has one.

use crate::config::ConfigSpace;

/// A message to be written upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address.
    pub addr: u64,
    /// Data.
    pub data: u32,
}

/// The MSI capability at `at` (as made by [`ConfigSpace::add_msi`]).
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    /// Offset in configuration space.
    pub at: u32,
}

impl Msi {
    /// Whether MSI is enabled.
    pub fn enabled(self, c: &ConfigSpace) -> bool {
        c.half(self.at + 2) & 1 != 0
    }

    /// Messages granted: 1 << MME, at most 32.
    pub fn granted(self, c: &ConfigSpace) -> u32 {
        1 << (c.half(self.at + 2) >> 4 & 7).min(5)
    }

    /// The function raises `vector` (0-based): the message to send, if it is enabled, granted and not masked.
    pub fn raise(self, c: &mut ConfigSpace, vector: u32) -> Option<Message> {
        if !self.enabled(c) || vector >= self.granted(c) {
            return None;
        }
        if c.word(self.at + 0x10) & 1 << vector != 0 {
            let pending = c.word(self.at + 0x14) | 1 << vector;
            c.set_word(self.at + 0x14, pending);
            return None;
        }
        Some(self.message(c, vector))
    }

    /// After a configuration write: messages that are pending and no longer masked, with their vectors.
    pub fn take_unmasked(self, c: &mut ConfigSpace) -> Vec<(u32, Message)> {
        let pending = c.word(self.at + 0x14);
        if pending == 0 || !self.enabled(c) {
            return Vec::new();
        }
        let ready = pending & !c.word(self.at + 0x10);
        c.set_word(self.at + 0x14, pending & !ready);
        (0..self.granted(c)).filter(|v| ready & 1 << v != 0).map(|v| (v, self.message(c, v))).collect()
    }

    /// Where messages go, while MSI is enabled.
    pub fn target(self, c: &ConfigSpace) -> Option<u64> {
        self.enabled(c).then(|| u64::from(c.word(self.at + 4)) | u64::from(c.word(self.at + 8)) << 32)
    }

    fn message(self, c: &ConfigSpace, vector: u32) -> Message {
        let addr = u64::from(c.word(self.at + 4)) | u64::from(c.word(self.at + 8)) << 32;
        // The function replaces the low log2(granted) bits of the data (PCIe §6.1.4.1).
        let low = self.granted(c) - 1;
        Message { addr, data: u32::from(c.half(self.at + 0xc)) & !low | vector & low }
    }
}

#[cfg(test)]
mod tests {
    use block::Width::B2;
    use block::Width::B4;

    use super::*;
    use crate::config::Ids;

    const AT: u32 = 0x50;

    fn function(flags: u64) -> (ConfigSpace, Msi) {
        let mut c = ConfigSpace::type0(&Ids::default(), &[]);
        c.add_msi(AT);
        c.write(0x54, B4, 0x8000_0000, false);
        c.write(0x58, B4, 0x1, false);
        c.write(0x5c, B2, 0x40, false);
        c.write(0x52, B2, flags, false);
        (c, Msi { at: AT })
    }

    #[test]
    fn a_vector_replaces_the_low_bits_of_the_data() {
        let (mut c, msi) = function(0x51);
        assert_eq!(msi.raise(&mut c, 7), Some(Message { addr: 0x1_8000_0000, data: 0x47 }));
        assert_eq!(msi.raise(&mut c, 32), None, "beyond what is granted");
    }

    #[test]
    fn nothing_is_sent_or_remembered_while_disabled() {
        let (mut c, msi) = function(0x50);
        assert_eq!(msi.raise(&mut c, 0), None);
        c.write(0x52, B2, 0x51, false);
        assert_eq!(msi.take_unmasked(&mut c), vec![]);
    }

    #[test]
    fn a_masked_vector_waits_and_is_sent_once_on_unmask() {
        let (mut c, msi) = function(0x51);
        c.write(0x60, B4, 1 << 3, false);
        assert_eq!(msi.raise(&mut c, 3), None);
        assert_eq!(c.word(0x64), 1 << 3);
        assert_eq!(msi.take_unmasked(&mut c), vec![]);
        c.write(0x60, B4, 0, false);
        assert_eq!(msi.take_unmasked(&mut c).len(), 1);
        assert_eq!(msi.take_unmasked(&mut c), vec![]);
    }

    #[test]
    fn reserved_mme_values_grant_32() {
        let (mut c, msi) = function(0x71);
        assert_eq!(msi.granted(&c), 32);
        assert!(msi.raise(&mut c, 31).is_some());
    }
}
