//! virtio over MMIO (virtio 1.2 §4.2), version 2.
//!
//! *Modelled*: the register interface, feature negotiation, queues of [`virtio_queue`], the used-buffer interrupt.
//! *Not modelled*: legacy interface, shared memory, packed queues.
//!
//! The guest is untrusted: every address is checked by vm-memory, and one kick does bounded work.

pub mod console;

use std::sync::Arc;

use virtio_queue::Queue;
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

/// Register offsets (virtio 1.2 §4.2.2).
mod off {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

const MAGIC_VALUE: u32 = 0x7472_6976;
const VENDOR: u32 = 0x6d76_6372; // "rcvm"
/// VIRTIO_F_VERSION_1.
const F_VERSION_1: u64 = 1 << 32;
/// STATUS bits: DRIVER_OK, DEVICE_NEEDS_RESET.
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;
const INT_USED: u32 = 1;
/// Entries of every queue.
const QUEUE_SIZE: u16 = 128;

/// What a device behind the transport is.
pub trait Device {
    /// Device ID (virtio 1.2 §5).
    fn id(&self) -> u32;
    /// Feature bits beside VERSION_1.
    fn features(&self) -> u64;
    /// Number of queues.
    fn queues(&self) -> usize;
    /// Configuration space.
    fn config(&self) -> &[u8];
    /// The driver kicked queue `index`; `true` if something was put into a used ring.
    fn kick(&mut self, mem: &GuestMemoryMmap, queues: &mut [Queue], index: usize) -> bool;
    /// The device is reset by its driver.
    fn reset(&mut self);
}

/// The transport.
pub struct Mmio<D> {
    /// The device.
    pub device: D,
    mem: Arc<GuestMemoryMmap>,
    queues: Vec<Queue>,
    features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    status: u32,
    interrupt_status: u32,
}

impl<D: Device> Mmio<D> {
    /// A transport for `device`, out of reset.
    pub fn new(device: D, mem: Arc<GuestMemoryMmap>) -> Mmio<D> {
        let queues = new_queues(device.queues());
        Mmio {
            device,
            mem,
            queues,
            features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            status: 0,
            interrupt_status: 0,
        }
    }

    /// Level of the interrupt line: a function of state.
    pub fn line(&self) -> bool {
        self.interrupt_status != 0
    }

    /// Whether the driver has set DRIVER_OK.
    pub fn driver_ok(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// Let the device act on queue `index`, as after a kick.
    pub fn run(&mut self, index: usize) {
        if self.driver_ok()
            && self.queues.get(index).is_some_and(QueueT::ready)
            && self.device.kick(&self.mem, &mut self.queues, index)
        {
            self.interrupt_status |= INT_USED;
        }
    }

    /// A 32-bit register read (the configuration space may be read bytewise).
    pub fn read(&self, at: u64, len: usize) -> u64 {
        if at >= off::CONFIG {
            let mut buf = [0; 8];
            let from = usize::try_from(at - off::CONFIG).unwrap_or(usize::MAX);
            for (i, b) in buf.iter_mut().enumerate().take(len) {
                *b = from.checked_add(i).and_then(|i| self.device.config().get(i)).copied().unwrap_or(0);
            }
            return u64::from_le_bytes(buf);
        }
        u64::from(self.read_register(at))
    }

    fn read_register(&self, at: u64) -> u32 {
        match at {
            off::MAGIC => MAGIC_VALUE,
            off::VERSION => 2,
            off::DEVICE_ID => self.device.id(),
            off::VENDOR_ID => VENDOR,
            off::DEVICE_FEATURES => half(self.device.features() | F_VERSION_1, self.features_sel),
            off::QUEUE_NUM_MAX => self.queue().map_or(0, |q| u32::from(q.max_size())),
            off::QUEUE_READY => self.queue().map_or(0, |q| u32::from(q.ready())),
            off::INTERRUPT_STATUS => self.interrupt_status,
            off::STATUS => self.status,
            off::CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    /// A 32-bit register write.
    pub fn write(&mut self, at: u64, v: u32) {
        match at {
            off::DEVICE_FEATURES_SEL => self.features_sel = v,
            off::DRIVER_FEATURES_SEL => self.driver_features_sel = v,
            off::DRIVER_FEATURES if self.driver_features_sel < 2 => {
                let shift = self.driver_features_sel * 32;
                self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(v) << shift;
            }
            off::QUEUE_SEL => self.queue_sel = v,
            off::QUEUE_NOTIFY => self.run(v as usize),
            off::INTERRUPT_ACK => self.interrupt_status &= !v,
            off::STATUS if v == 0 => self.reset(),
            off::STATUS => self.status = v,
            _ => self.write_queue(at, v),
        }
    }

    fn write_queue(&mut self, at: u64, v: u32) {
        let Some(q) = self.queues.get_mut(self.queue_sel as usize) else { return };
        match at {
            off::QUEUE_NUM => q.set_size(v as u16),
            off::QUEUE_READY => q.set_ready(v == 1),
            off::QUEUE_DESC_LOW => q.set_desc_table_address(Some(v), None),
            off::QUEUE_DESC_HIGH => q.set_desc_table_address(None, Some(v)),
            off::QUEUE_DRIVER_LOW => q.set_avail_ring_address(Some(v), None),
            off::QUEUE_DRIVER_HIGH => q.set_avail_ring_address(None, Some(v)),
            off::QUEUE_DEVICE_LOW => q.set_used_ring_address(Some(v), None),
            off::QUEUE_DEVICE_HIGH => q.set_used_ring_address(None, Some(v)),
            _ => {}
        }
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.queue_sel as usize)
    }

    fn reset(&mut self) {
        self.queues = new_queues(self.device.queues());
        self.device.reset();
        self.driver_features = 0;
        self.queue_sel = 0;
        self.status = 0;
        self.interrupt_status = 0;
    }
}

fn new_queues(n: usize) -> Vec<Queue> {
    // The size is a constant power of two, which is all that `Queue::new` asks.
    (0..n).filter_map(|_| Queue::new(QUEUE_SIZE).ok()).collect()
}

fn half(v: u64, sel: u32) -> u32 {
    match sel {
        0 => v as u32,
        1 => (v >> 32) as u32,
        _ => 0,
    }
}
