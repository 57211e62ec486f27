//! Identify data structures (NVMe 1.4 §5.15.2).

use super::log::CRITICAL_K;
use super::log::ERROR_ENTRIES;
use super::log::WARNING_K;
use super::prp::PAGE_BYTES;
use super::regs::VERSION;
use super::AERS;
use super::DEVICE;
use super::MAX_TRANSFER_BYTES;
use super::VENDOR;

/// A data structure or log page as it is transferred.
pub type Page = [u8; PAGE_BYTES];

/// CNS values.
pub mod cns {
    /// Identify Namespace.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace Identification Descriptor list.
    pub const DESCRIPTORS: u8 = 0x03;
    /// I/O Command Set specific Identify Controller (TP4040, later NVMe 2.0).
    pub const CONTROLLER_NVM: u8 = 0x06;
}

/// Firmware revision.
pub const FIRMWARE: &[u8; 8] = b"1.0     ";
const MODEL: &[u8] = b"rcvm NVMe controller";
/// log2 of the largest transfer in pages.
const MDTS: u8 = (MAX_TRANSFER_BYTES / PAGE_BYTES).trailing_zeros() as u8;
/// Commands that Abort may be outstanding for, less one. They end at once.
const ACL: u8 = 3;
/// Namespace Attribute Notices: Linux arms its asynchronous event only for a controller that has some. Nothing here ever
/// changes the namespace, so none is sent.
const OAES: u32 = 1 << 8;
/// Doorbell Buffer Config (OACS).
const OACS: u16 = 1 << 8;
/// Extended data of Get Log Page: 32-bit length and an offset.
const LPA: u8 = 1 << 2;
/// Dataset Management and Write Zeroes.
const ONCS: u16 = 1 << 2 | 1 << 3;
/// A volatile write cache is present; Flush takes all namespaces too.
const VWC: u8 = 0b111;
/// Namespace descriptor: a UUID, 16 bytes.
const UUID_DESCRIPTOR: [u8; 4] = [3, 16, 0, 0];

/// Store `bytes` at `at`.
pub fn put(p: &mut Page, at: usize, bytes: &[u8]) {
    if let Some(to) = p.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

/// Who the controller is.
#[derive(Clone, Debug)]
pub struct Identity {
    serial: [u8; 20],
    uuid: [u8; 16],
}

impl Identity {
    /// Of a serial number: printable ASCII, cut or filled with spaces.
    pub fn new(serial: &str) -> Identity {
        let mut s = [b' '; 20];
        for (to, b) in s.iter_mut().zip(serial.bytes().filter(|b| (0x20..0x7f).contains(b))) {
            *to = b;
        }
        Identity { serial: s, uuid: uuid_of(&s) }
    }

    /// Identify Controller.
    pub fn controller(&self) -> Page {
        let mut p = [0; PAGE_BYTES];
        put(&mut p, 0, &VENDOR.to_le_bytes());
        put(&mut p, 2, &VENDOR.to_le_bytes());
        put(&mut p, 4, &self.serial);
        p[24..64].fill(b' ');
        put(&mut p, 24, MODEL);
        put(&mut p, 64, FIRMWARE);
        p[77] = MDTS;
        put(&mut p, 78, &1u16.to_le_bytes());
        put(&mut p, 80, &VERSION.to_le_bytes());
        put(&mut p, 92, &OAES.to_le_bytes());
        // Controller type: I/O.
        p[111] = 1;
        put(&mut p, 256, &OACS.to_le_bytes());
        p[258] = ACL;
        p[259] = AERS as u8 - 1;
        // One firmware slot, read only.
        p[260] = 1 << 1 | 1;
        p[261] = LPA;
        p[262] = ERROR_ENTRIES as u8 - 1;
        put(&mut p, 266, &WARNING_K.to_le_bytes());
        put(&mut p, 268, &CRITICAL_K.to_le_bytes());
        // Required and maximum entry sizes: 64 and 16 bytes.
        p[512] = 0x66;
        p[513] = 0x44;
        put(&mut p, 516, &1u32.to_le_bytes());
        put(&mut p, 520, &ONCS.to_le_bytes());
        p[525] = VWC;
        let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{}", hyphenated(&self.uuid));
        put(&mut p, 768, nqn.as_bytes());
        // Power state 0: at most 10 W, in units of 10 mW.
        put(&mut p, 2048, &1000u16.to_le_bytes());
        p
    }

    /// Identify Namespace, of `blocks` blocks of `1 << shift` bytes. Thin provisioning, protection and metadata: none.
    pub fn namespace(&self, blocks: u64, shift: u32, read_only: bool) -> Page {
        let mut p = [0; PAGE_BYTES];
        for at in [0, 8, 16] {
            put(&mut p, at, &blocks.to_le_bytes());
        }
        // NSATTR: write protected (Linux v6.12 drivers/nvme/host/core.c, nvme_update_ns_info_block, takes it for a read-only disk).
        p[99] = read_only.into();
        // The one LBA format: data size in bits 23:16.
        put(&mut p, 128, &(shift << 16).to_le_bytes());
        p
    }

    /// Namespace Identification Descriptor list.
    pub fn descriptors(&self) -> Page {
        let mut p = [0; PAGE_BYTES];
        put(&mut p, 0, &UUID_DESCRIPTOR);
        put(&mut p, 4, &self.uuid);
        p
    }
}

/// I/O Command Set specific Identify Controller: Write Zeroes is limited as transfers are.
pub fn controller_nvm() -> Page {
    let mut p = [0; PAGE_BYTES];
    p[1] = MDTS;
    p
}

/// A list of the active namespaces above `nsid`.
pub fn active_above(nsid: u32) -> Page {
    let mut p = [0; PAGE_BYTES];
    if nsid < super::command::NSID {
        put(&mut p, 0, &super::command::NSID.to_le_bytes());
    }
    p
}

/// A custom UUID (RFC 9562 version 8) that depends on the serial number alone: FNV-1a twice, from different starts.
fn uuid_of(serial: &[u8; 20]) -> [u8; 16] {
    let hash = |start: u64| {
        serial.iter().fold(start, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let seed = 0xcbf2_9ce4_8422_2325;
    let high = u128::from(hash(seed)) << 64;
    let mut u = (high | u128::from(hash(seed ^ u64::from(DEVICE)))).to_be_bytes();
    u[6] = u[6] & 0x0f | 0x80;
    u[8] = u[8] & 0x3f | 0x80;
    u
}

fn hyphenated(u: &[u8; 16]) -> String {
    let hex: Vec<String> = u.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(|p| p.concat()).join("-")
}
