//! The device tree: what the guest is told of the machine.
//!
//! The root complex' node follows spec §1.2, §1.7 and the SoC's own; its clocks, resets, supplies, PERST# and PHY are
//! mainline providers that the model can observe (spec §1.4).

use rc_model::soc;
use rc_model::Soc;
use rc_model::Window;
use vm_fdt::Error;
use vm_fdt::FdtWriter;

use crate::layout;

/// What varies between machines.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// Kernel command line.
    pub cmdline: &'a str,
    /// vCPUs.
    pub vcpus: u8,
    /// Guest memory, bytes.
    pub mem_bytes: u64,
    /// Initramfs: first byte, first byte behind it.
    pub initramfs: (u64, u64),
    /// Whose root complex.
    pub soc: &'static Soc,
    /// Whether MSIs go to an ITS instead of the root complex' own controller.
    pub its: bool,
    /// Whether the root complex has its `global` interrupt.
    pub global_irq: bool,
    /// Whether PHY and PERST# hang on the root port's node.
    pub phy_at_port: bool,
}

mod phandle {
    pub const GIC: u32 = 1;
    pub const GPIO: u32 = 2;
    pub const RESET: u32 = 3;
    pub const PHY: u32 = 4;
    pub const OSC: u32 = 5;
    pub const UART_CLK: u32 = 6;
    pub const ITS: u32 = 7;
    pub const INTX: u32 = 8;
    pub const CLK0: u32 = 16;
    pub const REG0: u32 = 32;
}

const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
const LEVEL_LOW: u32 = 8;
/// GPIO flags (include/dt-bindings/gpio/gpio.h).
const ACTIVE_HIGH: u32 = 0;
const ACTIVE_LOW: u32 = 1;

/// The flattened device tree of `m`.
pub fn build(m: &Machine<'_>) -> Result<Vec<u8>, Error> {
    let mut f = FdtWriter::new()?;
    let root = f.begin_node("")?;
    f.property_string("compatible", "rcvm,pcie")?;
    f.property_string("model", "rcvm")?;
    f.property_u32("#address-cells", 2)?;
    f.property_u32("#size-cells", 2)?;
    f.property_u32("interrupt-parent", phandle::GIC)?;
    chosen(&mut f, m)?;
    memory_and_cpus(&mut f, m)?;
    gic_and_timer(&mut f, m)?;
    uart_rtc_and_virtio(&mut f)?;
    providers(&mut f, m.soc)?;
    pcie(&mut f, m)?;
    f.end_node(root)?;
    f.finish()
}

fn reg(f: &mut FdtWriter, ranges: &[(u64, u64)]) -> Result<(), Error> {
    let cells: Vec<u64> = ranges.iter().flat_map(|r| [r.0, r.1]).collect();
    f.property_array_u64("reg", &cells)
}

fn chosen(f: &mut FdtWriter, m: &Machine<'_>) -> Result<(), Error> {
    let n = f.begin_node("chosen")?;
    f.property_string("bootargs", m.cmdline)?;
    f.property_string("stdout-path", &format!("/serial@{:x}", layout::UART.0))?;
    f.property_u64("linux,initrd-start", m.initramfs.0)?;
    f.property_u64("linux,initrd-end", m.initramfs.1)?;
    f.end_node(n)
}

fn memory_and_cpus(f: &mut FdtWriter, m: &Machine<'_>) -> Result<(), Error> {
    let n = f.begin_node(&format!("memory@{:x}", layout::RAM))?;
    f.property_string("device_type", "memory")?;
    reg(f, &[(layout::RAM, m.mem_bytes)])?;
    f.end_node(n)?;
    let n = f.begin_node("psci")?;
    f.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    f.property_string("method", "hvc")?;
    f.end_node(n)?;
    let cpus = f.begin_node("cpus")?;
    f.property_u32("#address-cells", 1)?;
    f.property_u32("#size-cells", 0)?;
    for i in 0..u32::from(m.vcpus) {
        let n = f.begin_node(&format!("cpu@{i}"))?;
        f.property_string("device_type", "cpu")?;
        f.property_string("compatible", "arm,armv8")?;
        f.property_u32("reg", i)?;
        f.property_string("enable-method", "psci")?;
        f.end_node(n)?;
    }
    f.end_node(cpus)
}

fn gic_and_timer(f: &mut FdtWriter, m: &Machine<'_>) -> Result<(), Error> {
    let n = f.begin_node(&format!("interrupt-controller@{:x}", layout::GICD.0))?;
    f.property_string("compatible", "arm,gic-v3")?;
    f.property_null("interrupt-controller")?;
    f.property_u32("#interrupt-cells", 3)?;
    f.property_u32("#address-cells", 0)?;
    f.property_phandle(phandle::GIC)?;
    reg(f, &[layout::GICD, (layout::GICR, layout::GICR_BYTES * u64::from(m.vcpus))])?;
    f.end_node(n)?;
    if m.its {
        // Not below the GIC: #address-cells = 0 there keeps the interrupt-map short, and Linux looks for it anywhere.
        let n = f.begin_node(&format!("msi-controller@{:x}", layout::ITS.0))?;
        f.property_string("compatible", "arm,gic-v3-its")?;
        f.property_null("msi-controller")?;
        f.property_u32("#msi-cells", 1)?;
        f.property_phandle(phandle::ITS)?;
        reg(f, &[layout::ITS])?;
        f.end_node(n)?;
    }
    let n = f.begin_node("timer")?;
    f.property_string("compatible", "arm,armv8-timer")?;
    f.property_null("always-on")?;
    // Secure, non-secure, virtual, hypervisor timer.
    let ppis: Vec<u32> = [13, 14, 11, 10].iter().flat_map(|&p| [PPI, p, LEVEL_LOW]).collect();
    f.property_array_u32("interrupts", &ppis)?;
    f.end_node(n)
}

fn uart_rtc_and_virtio(f: &mut FdtWriter) -> Result<(), Error> {
    fixed_clock(f, "uart-clock", phandle::UART_CLK, 1_843_200)?;
    let n = f.begin_node(&format!("serial@{:x}", layout::UART.0))?;
    f.property_string("compatible", "ns16550a")?;
    reg(f, &[layout::UART])?;
    f.property_array_u32("interrupts", &[SPI, layout::UART_SPI, EDGE_RISING])?;
    f.property_u32("clocks", phandle::UART_CLK)?;
    f.end_node(n)?;
    let n = f.begin_node(&format!("rtc@{:x}", layout::RTC.0))?;
    f.property_string_list("compatible", vec!["arm,pl031".into(), "arm,primecell".into()])?;
    reg(f, &[layout::RTC])?;
    f.property_array_u32("interrupts", &[SPI, layout::RTC_SPI, LEVEL_HIGH])?;
    f.property_u32("clocks", phandle::UART_CLK)?;
    f.property_string("clock-names", "apb_pclk")?;
    f.end_node(n)?;
    let n = f.begin_node(&format!("virtio_mmio@{:x}", layout::VIRTIO.0))?;
    f.property_string("compatible", "virtio,mmio")?;
    reg(f, &[layout::VIRTIO])?;
    f.property_array_u32("interrupts", &[SPI, layout::VIRTIO_SPI, LEVEL_HIGH])?;
    f.property_null("dma-coherent")?;
    f.end_node(n)
}

fn fixed_clock(f: &mut FdtWriter, name: &str, phandle: u32, hz: u32) -> Result<(), Error> {
    let n = f.begin_node(name)?;
    f.property_string("compatible", "fixed-clock")?;
    f.property_u32("#clock-cells", 0)?;
    f.property_u32("clock-frequency", hz)?;
    f.property_phandle(phandle)?;
    f.end_node(n)
}

/// Clocks, resets, supplies and the PHY: of a wrapper that has any.
fn providers(f: &mut FdtWriter, s: &Soc) -> Result<(), Error> {
    if !s.wrapper.has(Window::Gpio) {
        return Ok(());
    }
    fixed_clock(f, "oscillator", phandle::OSC, 19_200_000)?;
    let (gpio, _) = s.window(Window::Gpio);
    let n = f.begin_node(&format!("gpio@{gpio:x}"))?;
    f.property_string("compatible", "wd,mbl-gpio")?;
    reg(f, &[(gpio + soc::gpio::DAT, 4), (gpio + soc::gpio::SET, 4), (gpio + soc::gpio::DIROUT, 4)])?;
    f.property_string_list("reg-names", vec!["dat".into(), "set".into(), "dirout".into()])?;
    f.property_null("gpio-controller")?;
    f.property_u32("#gpio-cells", 2)?;
    f.property_phandle(phandle::GPIO)?;
    f.end_node(n)?;
    for (i, name) in (0..).zip(s.clocks) {
        let n = f.begin_node(&format!("clock-{name}"))?;
        f.property_string("compatible", "gpio-gate-clock")?;
        f.property_u32("#clock-cells", 0)?;
        f.property_u32("clocks", phandle::OSC)?;
        f.property_array_u32("enable-gpios", &[phandle::GPIO, soc::GPIO_CLK0 + i, ACTIVE_HIGH])?;
        f.property_phandle(phandle::CLK0 + i)?;
        f.end_node(n)?;
    }
    for (i, name) in (0..).zip(s.supplies) {
        let n = f.begin_node(&format!("regulator-{name}"))?;
        f.property_string("compatible", "regulator-fixed")?;
        f.property_string("regulator-name", name)?;
        f.property_u32("regulator-min-microvolt", 1_200_000)?;
        f.property_u32("regulator-max-microvolt", 1_200_000)?;
        f.property_array_u32("gpio", &[phandle::GPIO, soc::GPIO_REG0 + i, ACTIVE_HIGH])?;
        f.property_null("enable-active-high")?;
        f.property_phandle(phandle::REG0 + i)?;
        f.end_node(n)?;
    }
    reset_and_phy(f, s)
}

fn reset_and_phy(f: &mut FdtWriter, s: &Soc) -> Result<(), Error> {
    let (base, _) = s.window(Window::Reset);
    let n = f.begin_node(&format!("reset-controller@{base:x}"))?;
    f.property_string("compatible", "snps,dw-high-reset")?;
    reg(f, &[(base, 4)])?;
    f.property_u32("#reset-cells", 1)?;
    f.property_phandle(phandle::RESET)?;
    f.end_node(n)?;
    let (base, len) = s.window(Window::Phy);
    let n = f.begin_node(&format!("phy@{base:x}"))?;
    f.property_string("compatible", "qcom,pcie2-phy")?;
    reg(f, &[(base, len)])?;
    f.property_u32("clocks", phandle::OSC)?;
    f.property_array_u32("resets", &[phandle::RESET, soc::RESET_PHY, phandle::RESET, soc::RESET_PIPE])?;
    f.property_string_list("reset-names", vec!["phy".into(), "pipe".into()])?;
    f.property_string("clock-output-names", "pcie_pipe_clk")?;
    f.property_u32("#clock-cells", 0)?;
    f.property_u32("#phy-cells", 0)?;
    f.property_phandle(phandle::PHY)?;
    f.end_node(n)
}

fn pcie(f: &mut FdtWriter, m: &Machine<'_>) -> Result<(), Error> {
    let soc = m.soc;
    let wrapper = soc.wrapper;
    let there = |r: &&(&str, Window, Window)| r.1 != Window::Atu || soc.unroll;
    let regs: Vec<_> = wrapper.reg.iter().filter(there).collect();
    let base = regs.first().map_or(0, |r| soc.window(r.1).0);
    let n = f.begin_node(&format!("pcie@{base:x}"))?;
    f.property_string("compatible", soc.compatible)?;
    f.property_string("device_type", "pci")?;
    f.property_u32("linux,pci-domain", 0)?;
    f.property_array_u32("bus-range", &[0, wrapper.buses() - 1])?;
    f.property_u32("num-lanes", 1)?;
    reg(f, &regs.iter().map(|r| wrapper.span(r.1, r.2)).collect::<Vec<_>>())?;
    if regs.iter().all(|r| !r.0.is_empty()) {
        f.property_string_list("reg-names", regs.iter().map(|r| r.0.to_owned()).collect())?;
    }
    f.property_u32("#address-cells", 3)?;
    f.property_u32("#size-cells", 2)?;
    f.property_u32("#interrupt-cells", 1)?;
    f.property_null("dma-coherent")?;
    let (mem, len) = soc.window(Window::Mem);
    // 32-bit non-prefetchable memory, PCI address = CPU address.
    f.property_array_u32("ranges", &[0x0200_0000, 0, mem as u32, 0, mem as u32, 0, len as u32])?;
    interrupts(f, m)?;
    if !soc.clocks.is_empty() {
        let clocks: Vec<u32> = (0..soc.clocks.len() as u32).map(|i| phandle::CLK0 + i).collect();
        f.property_array_u32("clocks", &clocks)?;
        f.property_string_list("clock-names", soc.clocks.iter().map(|s| (*s).into()).collect())?;
    }
    if !soc.resets.is_empty() {
        let lines = soc::RESET_CORE..soc::RESET_CORE + soc.resets.len() as u32;
        f.property_array_u32("resets", &lines.flat_map(|l| [phandle::RESET, l]).collect::<Vec<_>>())?;
        f.property_string_list("reset-names", soc.resets.iter().map(|s| (*s).into()).collect())?;
    }
    for (i, name) in (0..).zip(soc.supplies) {
        f.property_u32(&format!("{name}-supply"), phandle::REG0 + i)?;
    }
    if m.phy_at_port {
        root_port(f)?;
        return f.end_node(n);
    }
    if let Some(name) = wrapper.phy {
        f.property_u32("phys", phandle::PHY)?;
        f.property_string("phy-names", name)?;
    }
    if let Some(perst) = wrapper.perst {
        let active = if perst.active_low { ACTIVE_LOW } else { ACTIVE_HIGH };
        f.property_array_u32(perst.property, &[phandle::GPIO, soc::GPIO_PERST, active])?;
    }
    if let Some(name) = wrapper.intx_node {
        intx_controller(f, name)?;
    }
    f.end_node(n)
}

/// The interrupt controller of INTx, a child of the root complex' node.
fn intx_controller(f: &mut FdtWriter, name: &str) -> Result<(), Error> {
    let n = f.begin_node(name)?;
    f.property_null("interrupt-controller")?;
    f.property_u32("#address-cells", 0)?;
    f.property_u32("#interrupt-cells", 1)?;
    f.property_array_u32("interrupts", &[SPI, soc::spi(soc::IRQ_LEGACY), LEVEL_HIGH])?;
    f.property_phandle(phandle::INTX)?;
    f.end_node(n)
}

/// The root port as a node of its own, which has the PHY and PERST# (spec §1.3). It has no `compatible` and no supply: a
/// power control device would be made for it.
fn root_port(f: &mut FdtWriter) -> Result<(), Error> {
    let n = f.begin_node("pcie@0")?;
    f.property_string("device_type", "pci")?;
    f.property_array_u32("reg", &[0, 0, 0, 0, 0])?;
    f.property_array_u32("bus-range", &[1, 0xff])?;
    f.property_u32("#address-cells", 3)?;
    f.property_u32("#size-cells", 2)?;
    f.property_null("ranges")?;
    f.property_u32("phys", phandle::PHY)?;
    f.property_array_u32("reset-gpios", &[phandle::GPIO, soc::GPIO_PERST, ACTIVE_LOW])?;
    f.end_node(n)
}

fn interrupts(f: &mut FdtWriter, m: &Machine<'_>) -> Result<(), Error> {
    let soc = m.soc;
    let wired = |l: u32| match l {
        soc::IRQ_GLOBAL => m.global_irq,
        l if l < soc::IRQ_INTA => !m.its,
        l => l > soc::IRQ_GLOBAL,
    };
    let lines: Vec<u32> = soc.lines().filter(|&l| wired(l)).collect();
    if !lines.is_empty() {
        let cells: Vec<u32> = lines.iter().flat_map(|&l| [SPI, soc::spi(l), LEVEL_HIGH]).collect();
        f.property_array_u32("interrupts", &cells)?;
        f.property_string_list("interrupt-names", lines.iter().map(|&l| soc.line_name(l).into()).collect())?;
    }
    if m.its {
        // Requester ID = device ID, for all of them.
        f.property_array_u32("msi-map", &[0, phandle::ITS, 0, 0x1_0000])?;
    }
    f.property_array_u32("interrupt-map-mask", &[0, 0, 0, 7])?;
    let pin = |i: u32| match soc.wrapper.intx_node {
        Some(_) => vec![0, 0, 0, i + 1, phandle::INTX, i],
        None => vec![0, 0, 0, i + 1, phandle::GIC, SPI, soc::spi(soc::IRQ_INTA + i), LEVEL_HIGH],
    };
    let map: Vec<u32> = (0..4).flat_map(pin).collect();
    f.property_array_u32("interrupt-map", &map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(soc: &'static Soc) -> Machine<'static> {
        Machine {
            cmdline: "console=hvc0",
            vcpus: 4,
            mem_bytes: 256 << 20,
            initramfs: (0x9000_0000, 0x9010_0000),
            soc,
            its: false,
            global_irq: false,
            phy_at_port: false,
        }
    }

    #[test]
    fn the_tree_is_well_formed_and_fits_its_place() {
        let blob = build(&machine(&soc::SM8250)).unwrap();
        assert_eq!(blob[..4], 0xd00d_feed_u32.to_be_bytes());
        assert!((blob.len() as u64) < layout::FDT_MAX_BYTES);
        let has = |s: &str| blob.windows(s.len()).any(|w| w == s.as_bytes());
        for s in [
            "qcom,pcie-sm8250",
            "msi7",
            "perst-gpios",
            "vddpe-3v3-supply",
            "cpu@3",
            "ddrss_sf_tbu",
            "pcie@1c00000",
        ] {
            assert!(has(s), "{s}");
        }
        assert!(!has("msi-map"), "it would turn iMSI-RX off (spec §1.2)");
        assert!(!has("global"), "Linux 6.12 would mask all MSIs (spec §2.2.2)");
    }

    #[test]
    fn with_an_its_the_port_has_a_msi_map_and_no_msi_lines() {
        let blob = build(&Machine { its: true, ..machine(&soc::SM8250) }).unwrap();
        let has = |s: &str| blob.windows(s.len()).any(|w| w == s.as_bytes());
        assert!(has("msi-map") && has("arm,gic-v3-its") && !has("msi7"));
    }

    #[test]
    fn a_port_that_firmware_runs_has_ecam_an_its_and_its_own_intx_lines() {
        let soc = soc::find("dw-ecam").unwrap();
        let blob = build(&Machine { its: true, ..machine(soc) }).unwrap();
        let has = |s: &[u8]| blob.windows(s.len()).any(|w| w == s);
        for s in ["snps,dw-pcie-ecam\0", "pcie@70000000\0", "msi-map\0", "interrupt-map\0", "bus-range\0"] {
            assert!(has(s.as_bytes()), "{s}");
        }
        for s in ["gpio-controller", "interrupt-names", "reset-gpios", "phy-names"] {
            assert!(!has(s.as_bytes()), "{s}");
        }
        let cells = |c: &[u32]| c.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<_>>();
        assert!(has(&cells(&[0, 63])), "64 buses");
        assert!(has(&cells(&[0, 0x7000_0000, 0, 0x400_0000])), "reg");
        for pin in 0..4 {
            let spi = soc::spi(soc::IRQ_INTA + pin);
            assert!(has(&cells(&[0, 0, 0, pin + 1, phandle::GIC, SPI, spi, LEVEL_HIGH])), "pin {pin}");
        }
    }

    #[test]
    fn global_and_the_root_port_node_are_there_if_asked() {
        let has = |blob: &[u8], s: &str| blob.windows(s.len()).any(|w| w == s.as_bytes());
        let blob = build(&Machine { global_irq: true, phy_at_port: true, ..machine(&soc::SM8250) }).unwrap();
        assert!(has(&blob, "msi7\0global") && has(&blob, "pcie@0\0") && has(&blob, "reset-gpios"));
        assert!(!has(&blob, "perst-gpios") && !has(&blob, "pciephy"));
    }

    #[test]
    fn every_soc_gets_a_tree_of_its_own() {
        for soc in soc::SOCS {
            let blob = build(&machine(soc)).unwrap();
            let has =
                |s: &str| blob.windows(s.len() + 1).any(|w| w[..s.len()] == *s.as_bytes() && w[s.len()] == 0);
            assert!(has(soc.compatible), "{}", soc.name);
            assert!(soc.clocks.iter().chain(soc.resets).all(|name| has(name)), "{}", soc.name);
            assert_eq!(has("msi7"), soc.msi_lines == 8, "{}", soc.name);
            let own_atu = soc.wrapper.reg.iter().any(|r| r.0 == "atu");
            assert_eq!(has("atu"), soc.unroll && own_atu, "{}", soc.name);
            assert_eq!(has("legacy-interrupt-controller"), soc.wrapper.intx_node.is_some(), "{}", soc.name);
            assert_eq!(has("gpio-controller"), !soc.clocks.is_empty(), "{}", soc.name);
        }
    }
}
