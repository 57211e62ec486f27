//! The common configuration structure: feature negotiation, device status, and the set-up of the queues.
//!
//! *Sources*: virtio 1.2 §2.1, §2.2, §3.1, §4.1.4.3, §4.1.5.1; Linux v6.12 drivers/virtio/virtio_pci_modern_dev.c.

use block::StateError;
use block::Width;
use serde::Deserialize;
use serde::Serialize;

use super::queue::Queue;
use super::regs;
use super::regs::feature;
use super::regs::off;
use super::regs::status;
use super::regs::NO_VECTOR;

/// Status bits that a driver sets.
const DRIVER_BITS: u8 =
    status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK | status::FEATURES_OK | status::FAILED;

/// What the device offers: fixed, and no state.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Feature bits.
    pub features: u64,
    /// Largest size of each queue.
    pub sizes: Vec<u16>,
}

impl Offer {
    /// MSI-X vectors: one for each queue, one for the configuration.
    pub fn vectors(&self) -> u16 {
        self.sizes.len() as u16 + 1
    }

    fn accept_vector(&self, v: u16) -> u16 {
        if v < self.vectors() {
            v
        } else {
            NO_VECTOR
        }
    }

    /// Whether a device may work with these features: what was offered, and never without version 1, as there is no
    /// legacy interface.
    fn accepts(&self, features: u64) -> bool {
        features & !self.features == 0 && features & feature::VERSION_1 != 0
    }
}

/// What a write did beyond the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    None,
    /// The device may use its queues from now on.
    Started,
    /// The device was reset.
    Reset,
}

/// The registers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Common {
    device_feature_select: u32,
    driver_feature_select: u32,
    /// What the driver has taken.
    pub features: u64,
    /// MSI-X vector of configuration changes.
    pub config_vector: u16,
    /// Device status.
    pub status: u8,
    queue_select: u16,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Their MSI-X vectors.
    pub vectors: Vec<u16>,
}

impl Common {
    /// Out of reset.
    pub fn new(offer: &Offer) -> Common {
        Common {
            device_feature_select: 0,
            driver_feature_select: 0,
            features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            queues: offer.sizes.iter().map(|s| Queue::new(*s)).collect(),
            vectors: vec![NO_VECTOR; offer.sizes.len()],
        }
    }

    /// Whether the device may use its queues (virtio 1.2 §2.1.2, §3.1.1).
    pub fn running(&self) -> bool {
        let bits = status::DRIVER_OK | status::FEATURES_OK;
        self.status & (bits | status::NEEDS_RESET) == bits
    }

    /// Queues that are enabled, one bit each.
    pub fn enabled(&self) -> u16 {
        self.queues.iter().enumerate().fold(0, |bits, (i, q)| bits | u16::from(q.enabled) << i)
    }

    /// A read of at most four bytes; what no register covers reads 0.
    pub fn read(&self, offer: &Offer, at: u32, w: Width) -> u64 {
        let word = rows(at).fold(0, |word, r| word | u64::from(self.get(offer, r.off)) << shift(r.off));
        word >> shift(at) & w.ones()
    }

    /// A write of at most four bytes: each register that it touches is written, the bytes that it leaves out as they were.
    pub fn write(&mut self, offer: &Offer, at: u32, w: Width, v: u64) -> Change {
        let mut change = Change::None;
        for r in rows(at).filter(|r| r.rw != 0) {
            let lane = w.ones() << shift(at) & r.width.ones() << shift(r.off);
            if lane == 0 {
                continue;
            }
            let old = u64::from(self.get(offer, r.off)) << shift(r.off);
            let new = old & !lane | v << shift(at) & lane;
            change = change.max(self.set(offer, r.off, (new >> shift(r.off)) as u32));
        }
        change
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    fn address(&self, at: u32) -> u64 {
        let Some(q) = self.queue() else { return 0 };
        match at & !7 {
            off::QUEUE_DESC => q.desc,
            off::QUEUE_AVAIL => q.avail,
            _ => q.used,
        }
    }

    fn get(&self, offer: &Offer, at: u32) -> u32 {
        let select = usize::from(self.queue_select);
        match at {
            off::DEVICE_FEATURE_SELECT => self.device_feature_select,
            off::DEVICE_FEATURE => half(offer.features, self.device_feature_select),
            off::DRIVER_FEATURE_SELECT => self.driver_feature_select,
            off::DRIVER_FEATURE => half(self.features, self.driver_feature_select),
            off::CONFIG_VECTOR => self.config_vector.into(),
            off::NUM_QUEUES => offer.sizes.len() as u32,
            off::STATUS => self.status.into(),
            off::QUEUE_SELECT => self.queue_select.into(),
            // 0: there is no such queue (virtio 1.2 §4.1.5.1.3).
            off::QUEUE_SIZE => self.queue().map_or(0, |q| q.size.into()),
            off::QUEUE_VECTOR => self.vectors.get(select).copied().unwrap_or(NO_VECTOR).into(),
            off::QUEUE_ENABLE => self.queue().is_some_and(|q| q.enabled).into(),
            off::QUEUE_NOTIFY_OFF => self.queue().map_or(0, |_| self.queue_select.into()),
            off::QUEUE_DESC.. => half(self.address(at), at >> 2 & 1),
            // CONFIG_GENERATION: the configuration never changes.
            _ => 0,
        }
    }

    fn set(&mut self, offer: &Offer, at: u32, v: u32) -> Change {
        match at {
            off::DEVICE_FEATURE_SELECT => self.device_feature_select = v,
            off::DRIVER_FEATURE_SELECT => self.driver_feature_select = v,
            off::DRIVER_FEATURE => self.set_features(v),
            off::CONFIG_VECTOR => self.config_vector = offer.accept_vector(v as u16),
            off::STATUS => return self.set_status(offer, v as u8),
            off::QUEUE_SELECT => self.queue_select = v as u16,
            off::QUEUE_VECTOR => {
                if let Some(q) = self.vectors.get_mut(usize::from(self.queue_select)) {
                    *q = offer.accept_vector(v as u16);
                }
            }
            _ => self.set_queue(offer, at, v),
        }
        Change::None
    }

    fn set_features(&mut self, v: u32) {
        // INFERRED: what was agreed stays agreed; the specification leaves such a write to the driver's good sense.
        if self.status & status::FEATURES_OK == 0 {
            set_half(&mut self.features, self.driver_feature_select, v);
        }
    }

    /// The driver sets bits one after the other and clears them all by 0 (virtio 1.2 §2.1.1).
    fn set_status(&mut self, offer: &Offer, v: u8) -> Change {
        if v == 0 {
            *self = Common::new(offer);
            return Change::Reset;
        }
        let was_running = self.running();
        let mut bits = v & DRIVER_BITS;
        if !offer.accepts(self.features) {
            bits &= !status::FEATURES_OK;
        }
        // INFERRED: a driver must not clear a bit, so one that is left out stays.
        self.status |= bits;
        if self.running() && !was_running {
            Change::Started
        } else {
            Change::None
        }
    }

    /// Registers of the selected queue that its enabling fixes.
    fn set_queue(&mut self, offer: &Offer, at: u32, v: u32) {
        let select = usize::from(self.queue_select);
        let (Some(q), Some(most)) = (self.queues.get_mut(select), offer.sizes.get(select)) else { return };
        if q.enabled {
            return;
        }
        match at {
            off::QUEUE_SIZE => {
                // INFERRED: a size that §2.7 does not allow is not taken.
                if size_fits(v as u16, *most) {
                    q.size = v as u16;
                }
            }
            off::QUEUE_ENABLE => q.enabled = v == 1,
            _ => {
                let part = match at & !7 {
                    off::QUEUE_DESC => &mut q.desc,
                    off::QUEUE_AVAIL => &mut q.avail,
                    _ => &mut q.used,
                };
                set_half(part, at >> 2 & 1, v);
            }
        }
    }

    /// Whether a device with this offer can be in this state.
    pub fn check(&self, offer: &Offer) -> Result<(), StateError> {
        StateError::unless_length("virtio queues", offer.sizes.len(), self.queues.len())?;
        StateError::unless_length("virtio vectors", offer.sizes.len(), self.vectors.len())?;
        let sizes = self.queues.iter().zip(&offer.sizes).all(|(q, most)| size_fits(q.size, *most));
        let vectors = self.vectors.iter().chain([&self.config_vector]).all(|v| offer.accept_vector(*v) == *v);
        let bits = self.status & !(DRIVER_BITS | status::NEEDS_RESET) == 0;
        let agreed = self.status & status::FEATURES_OK == 0 || offer.accepts(self.features);
        if !(sizes && vectors && bits && agreed) {
            return Err(StateError::Impossible { what: "virtio common configuration" });
        }
        Ok(())
    }
}

fn size_fits(size: u16, most: u16) -> bool {
    size.is_power_of_two() && size <= most
}

/// Registers in the word that contains byte `at`.
fn rows(at: u32) -> impl Iterator<Item = &'static block::Reg> {
    regs::COMMON.iter().filter(move |r| r.off & !3 == at & !3)
}

fn shift(at: u32) -> u32 {
    (at & 3) * 8
}

/// Half 0 or 1 of `v`; others are 0.
fn half(v: u64, select: u32) -> u32 {
    match select {
        0 => v as u32,
        1 => (v >> 32) as u32,
        _ => 0,
    }
}

fn set_half(v: &mut u64, select: u32, half: u32) {
    match select {
        0 => *v = *v & !0xffff_ffff | u64::from(half),
        1 => *v = *v & 0xffff_ffff | u64::from(half) << 32,
        // INFERRED: features beyond bit 63 are not offered, so taking one is not seen.
        _ => {}
    }
}
