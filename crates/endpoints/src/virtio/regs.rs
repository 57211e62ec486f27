//! Numbers of virtio over PCI: the common configuration structure, capabilities, status and feature bits.

use block::Reg;
use block::Width::B1;
use block::Width::B2;

/// PCI vendor ID (virtio 1.2 §4.1.2).
pub const VENDOR: u16 = 0x1af4;
/// PCI device ID of virtio device ID 0 (virtio 1.2 §4.1.2.1).
pub const DEVICE_BASE: u16 = 0x1040;
/// Vendor-specific capability (PCI Code and ID Assignment Specification §2).
pub const CAP_VNDR: u8 = 0x09;
/// "No vector" (virtio 1.2 §4.1.5.1.2; Linux v6.12 include/uapi/linux/virtio_pci.h VIRTIO_MSI_NO_VECTOR).
pub const NO_VECTOR: u16 = 0xffff;

/// ISR status: a queue was used (virtio 1.2 §4.1.4.5).
pub const ISR_QUEUE: u8 = 1;
/// ISR status: the configuration changed, or the device needs a reset.
pub const ISR_CONFIG: u8 = 2;

/// Structure types of the capabilities (virtio 1.2 §4.1.4).
pub mod cap {
    /// Common configuration.
    pub const COMMON: u8 = 1;
    /// Notifications.
    pub const NOTIFY: u8 = 2;
    /// ISR status.
    pub const ISR: u8 = 3;
    /// Device-specific configuration.
    pub const DEVICE: u8 = 4;
    /// Access to the BARs through configuration space.
    pub const PCI_CFG: u8 = 5;
}

/// Device status bits (virtio 1.2 §2.1).
pub mod status {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// It knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error that it cannot recover from.
    pub const NEEDS_RESET: u8 = 0x40;
    /// The driver has given up.
    pub const FAILED: u8 = 0x80;
}

/// Feature bits that no device type owns (virtio 1.2 §6).
pub mod feature {
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Version 1 of the specification.
    pub const VERSION_1: u64 = 1 << 32;
    /// Memory is reached as the platform says: bus addresses, not guest-physical ones.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Offsets in the common configuration structure.
pub mod off {
    /// Which half of the device features.
    pub const DEVICE_FEATURE_SELECT: u32 = 0x00;
    /// That half.
    pub const DEVICE_FEATURE: u32 = 0x04;
    /// Which half of the driver's features.
    pub const DRIVER_FEATURE_SELECT: u32 = 0x08;
    /// That half.
    pub const DRIVER_FEATURE: u32 = 0x0c;
    /// MSI-X vector of configuration changes.
    pub const CONFIG_VECTOR: u32 = 0x10;
    /// Queues of the device.
    pub const NUM_QUEUES: u32 = 0x12;
    /// Device status.
    pub const STATUS: u32 = 0x14;
    /// Configuration generation.
    pub const CONFIG_GENERATION: u32 = 0x15;
    /// Which queue the registers from here on are of.
    pub const QUEUE_SELECT: u32 = 0x16;
    /// Its size.
    pub const QUEUE_SIZE: u32 = 0x18;
    /// Its MSI-X vector.
    pub const QUEUE_VECTOR: u32 = 0x1a;
    /// Whether it is enabled.
    pub const QUEUE_ENABLE: u32 = 0x1c;
    /// Its place in the notification structure.
    pub const QUEUE_NOTIFY_OFF: u32 = 0x1e;
    /// Descriptor table (64 bits).
    pub const QUEUE_DESC: u32 = 0x20;
    /// Available ring (64 bits).
    pub const QUEUE_AVAIL: u32 = 0x28;
    /// Used ring (64 bits).
    pub const QUEUE_USED: u32 = 0x30;
}

/// Bytes of the common configuration structure, without what queue reset and notification data would add.
pub const COMMON_BYTES: u32 = 0x38;

const SRC: &str =
    "virtio 1.2 §4.1.4.3; Linux v6.12 include/uapi/linux/virtio_pci.h struct virtio_pci_common_cfg";

/// Rows of the common configuration structure.
pub const COMMON: &[Reg] = &[
    Reg::rw("DEVICE_FEATURE_SELECT", off::DEVICE_FEATURE_SELECT, 0, u32::MAX, SRC),
    Reg::ro("DEVICE_FEATURE", off::DEVICE_FEATURE, 0, SRC)
        .effect("the half that DEVICE_FEATURE_SELECT names"),
    Reg::rw("DRIVER_FEATURE_SELECT", off::DRIVER_FEATURE_SELECT, 0, u32::MAX, SRC),
    Reg::rw("DRIVER_FEATURE", off::DRIVER_FEATURE, 0, u32::MAX, SRC)
        .effect("the half that DRIVER_FEATURE_SELECT names; fixed once FEATURES_OK is set"),
    Reg::rw("CONFIG_VECTOR", off::CONFIG_VECTOR, 0xffff, 0xffff, SRC)
        .width(B2)
        .effect("a vector that is not there reads back as NO_VECTOR"),
    Reg::ro("NUM_QUEUES", off::NUM_QUEUES, 0, SRC).width(B2),
    Reg::rw("STATUS", off::STATUS, 0, 0xff, SRC).width(B1).effect("0 resets the device"),
    Reg::ro("CONFIG_GENERATION", off::CONFIG_GENERATION, 0, SRC).width(B1),
    Reg::rw("QUEUE_SELECT", off::QUEUE_SELECT, 0, 0xffff, SRC).width(B2),
    Reg::rw("QUEUE_SIZE", off::QUEUE_SIZE, 0, 0xffff, SRC)
        .width(B2)
        .effect("fixed once the queue is enabled"),
    Reg::rw("QUEUE_VECTOR", off::QUEUE_VECTOR, 0xffff, 0xffff, SRC)
        .width(B2)
        .effect("a vector that is not there reads back as NO_VECTOR"),
    Reg::rw("QUEUE_ENABLE", off::QUEUE_ENABLE, 0, 0xffff, SRC)
        .width(B2)
        .effect("1 enables; only a reset disables"),
    Reg::ro("QUEUE_NOTIFY_OFF", off::QUEUE_NOTIFY_OFF, 0, SRC).width(B2),
    Reg::rw("QUEUE_DESC_LO", off::QUEUE_DESC, 0, u32::MAX, SRC).effect("fixed once the queue is enabled"),
    Reg::rw("QUEUE_DESC_HI", off::QUEUE_DESC + 4, 0, u32::MAX, SRC).effect("fixed once the queue is enabled"),
    Reg::rw("QUEUE_AVAIL_LO", off::QUEUE_AVAIL, 0, u32::MAX, SRC).effect("fixed once the queue is enabled"),
    Reg::rw("QUEUE_AVAIL_HI", off::QUEUE_AVAIL + 4, 0, u32::MAX, SRC)
        .effect("fixed once the queue is enabled"),
    Reg::rw("QUEUE_USED_LO", off::QUEUE_USED, 0, u32::MAX, SRC).effect("fixed once the queue is enabled"),
    Reg::rw("QUEUE_USED_HI", off::QUEUE_USED + 4, 0, u32::MAX, SRC).effect("fixed once the queue is enabled"),
];
