//! The machine's address map and interrupts, beside those of the root complex ([`rc_model::soc`]).

/// GIC distributor.
pub const GICD: (u64, u64) = (0x0800_0000, 0x1_0000);
/// First GIC redistributor; one of 128 KiB a vCPU.
pub const GICR: u64 = 0x080a_0000;
/// Bytes of one redistributor.
pub const GICR_BYTES: u64 = 0x2_0000;
/// ITS: control and translation frame.
pub const ITS: (u64, u64) = (0x0820_0000, 0x2_0000);
/// The ITS' register that takes MSIs (GITS_TRANSLATER).
pub const ITS_TRANSLATER: u64 = ITS.0 + 0x1_0040;
/// 16550 for early output.
pub const UART: (u64, u64) = (0x0900_0000, 0x1000);
/// SPI of the UART.
pub const UART_SPI: u32 = 1;
/// PL031 clock.
pub const RTC: (u64, u64) = (0x0901_0000, 0x1000);
/// SPI of the clock.
pub const RTC_SPI: u32 = 3;
/// virtio-mmio transport of the console device.
pub const VIRTIO: (u64, u64) = (0x0a00_0000, 0x1000);
/// SPI of the virtio device.
pub const VIRTIO_SPI: u32 = 2;
/// Guest memory.
pub const RAM: u64 = 0x8000_0000;
/// SPIs of the GIC: all of the root complex' lines are below.
pub const GIC_IRQS: u32 = 128;
/// Where the device tree lies, from the start of memory; the kernel is loaded behind it.
pub const FDT_OFFSET: u64 = 0x0;
/// Most bytes of the device tree.
pub const FDT_MAX_BYTES: u64 = 0x20_0000;
/// Alignment of the kernel (Linux Documentation/arch/arm64/booting.rst).
pub const KERNEL_ALIGN: u64 = 0x20_0000;
