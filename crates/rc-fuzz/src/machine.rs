//! A root complex with memory, time and recorded events, driven like a bus would.

use block::Cx;
use block::MemPort;
use block::SimTime;
use block::VecMem;
use block::Width;
use endpoints::EndpointTest;
use pcie::Device;
use rc_model::soc;
use rc_model::wrapper::Kind;
use rc_model::Config;
use rc_model::Event;
use rc_model::RootComplex;
use rc_model::Sample;
use rc_model::SamplePoint;
use rc_model::Window;

/// First byte of guest memory.
pub const RAM: u64 = 0x4000_0000;
/// The page that holds the driver's MSI target, as dmam_alloc_coherent() gives it.
pub const MSI_TARGET: u64 = RAM + 0x8000;
/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// The bus.
pub struct Machine {
    /// Which SoC it is.
    pub soc: &'static rc_model::Soc,
    /// The model.
    pub rc: RootComplex,
    /// Guest memory.
    pub mem: VecMem,
    /// Everything that the model has let an observer know.
    pub events: Vec<Event>,
    /// Time since power-on.
    pub now: SimTime,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::new()
    }
}

impl Machine {
    /// An sm8250 with the endpoint-test function behind its port.
    pub fn new() -> Machine {
        Machine::with(Config::new(&soc::SM8250, Some(Device::single(EndpointTest::default()).boxed())))
    }

    /// Whatever `config` says.
    pub fn with(config: Config) -> Machine {
        Machine {
            soc: config.soc,
            rc: RootComplex::new(config),
            mem: VecMem::new(RAM, 0x1_0000),
            events: Vec::new(),
            now: SimTime::ZERO,
        }
    }

    /// Call the model with this machine's time, memory and recorder.
    pub fn with_cx<R>(&mut self, f: impl FnOnce(&mut RootComplex, &mut Cx<'_, Event>) -> R) -> R {
        let mut cx = Cx { now: self.now, mem: &mut self.mem, events: &mut self.events };
        f(&mut self.rc, &mut cx)
    }

    /// A guest read.
    pub fn read(&mut self, win: Window, off: u64, w: Width) -> u64 {
        self.with_cx(|rc, cx| rc.read(cx, win, off, w))
    }

    /// A guest write.
    pub fn write(&mut self, win: Window, off: u64, w: Width, v: u64) {
        self.with_cx(|rc, cx| rc.write(cx, win, off, w, v));
    }

    /// A 32-bit read.
    pub fn readl(&mut self, win: Window, off: u64) -> u32 {
        self.read(win, off, Width::B4) as u32
    }

    /// A 32-bit write.
    pub fn writel(&mut self, win: Window, off: u64, v: u32) {
        self.write(win, off, Width::B4, u64::from(v));
    }

    /// A 16-bit read.
    pub fn readw(&mut self, win: Window, off: u64) -> u16 {
        self.read(win, off, Width::B2) as u16
    }

    /// A 16-bit write.
    pub fn writew(&mut self, win: Window, off: u64, v: u16) {
        self.write(win, off, Width::B2, u64::from(v));
    }

    /// Read 32 bits, change some, write them back.
    pub fn rmw(&mut self, win: Window, off: u64, clear: u32, set: u32) {
        let v = self.readl(win, off);
        self.writel(win, off, (v & !clear) | set);
    }

    /// Let `ns` pass, with a tick at every deadline on the way.
    pub fn sleep(&mut self, ns: u64) {
        let end = self.now.after_ns(ns);
        while let Some(d) = self.rc.next_deadline().filter(|d| *d <= end) {
            self.now = self.now.max(d);
            self.with_cx(|rc, cx| rc.tick(cx));
            assert!(
                self.rc.next_deadline() > Some(self.now) || self.rc.next_deadline().is_none(),
                "a tick leaves nothing that is due"
            );
        }
        self.now = end;
    }

    /// Power applied to the machine.
    pub fn power_on_reset(&mut self) {
        self.with_cx(|rc, cx| rc.power_on_reset(cx));
    }

    /// A sample of the oracle.
    pub fn sample(&mut self, point: SamplePoint) -> Sample {
        self.rc.sample(self.now, point)
    }

    /// One item of a sample taken now.
    pub fn item(&mut self, name: &str) -> u64 {
        self.sample(SamplePoint::Now).get(name).unwrap_or_else(|| panic!("no item {name}"))
    }

    /// The latest emitted sample of `point`.
    pub fn sampled(&self, point: SamplePoint) -> Option<&Sample> {
        self.events.iter().rev().find_map(|e| match e {
            Event::Sampled(s) if s.point == point => Some(s),
            _ => None,
        })
    }

    /// Whether interrupt output `line` is high.
    pub fn line(&self, line: u32) -> bool {
        self.rc.irq_levels() >> line & 1 == 1
    }

    /// gpio-mmio.c bgpio_set_set() on line `n`.
    pub fn gpio_set(&mut self, n: u32, high: bool) {
        let (clear, set) = if high { (0, 1 << n) } else { (1 << n, 0) };
        self.rmw(Window::Gpio, soc::gpio::SET, clear, set);
    }

    /// gpio-mmio.c bgpio_dir_out_val_first().
    pub fn gpio_dir_out(&mut self, n: u32, high: bool) {
        self.gpio_set(n, high);
        self.rmw(Window::Gpio, soc::gpio::DIROUT, 0, 1 << n);
    }

    /// reset-simple.c reset_simple_update() with active-high lines.
    pub fn reset_line(&mut self, n: u32, asserted: bool) {
        let (clear, set) = if asserted { (0, 1 << n) } else { (1 << n, 0) };
        self.rmw(Window::Reset, 0, clear, set);
    }

    /// Clocks on and resets off, nothing else: every window answers. A core without a reset needs its supplies too.
    pub fn wake(&mut self) {
        for n in 0..self.soc.clocks.len() as u32 {
            self.gpio_dir_out(soc::GPIO_CLK0 + n, true);
        }
        if self.soc.resets.is_empty() {
            for n in 0..self.soc.supplies.len() as u32 {
                self.gpio_dir_out(soc::GPIO_REG0 + n, true);
            }
        }
        let core = soc::RESET_CORE..soc::RESET_CORE + self.soc.resets.len() as u32;
        for n in core.chain([soc::RESET_PHY, soc::RESET_PIPE]) {
            self.reset_line(n, false);
        }
    }

    /// Everything that link training needs, and the time that it takes.
    pub fn link_up(&mut self) {
        self.wake();
        self.writel(Window::Phy, 0x44, 0);
        match self.soc.wrapper.kind {
            Kind::Qcom => {
                self.writel(Window::Parf, 0x40, 0);
                match self.soc.ops {
                    "1_0_0" | "2_1_0" => self.writel(Window::Elbi, 0x04, 1),
                    _ => self.writel(Window::Parf, 0x1b0, 1 << 8),
                }
            }
            // GENERAL_CON: RC mode, then APP_LTSSM_ENABLE.
            Kind::Rockchip => {
                self.writel(Window::Apb, 0, 0x0040_0040);
                self.writel(Window::Apb, 0, 0x000c_000c);
            }
            // They train by themselves.
            Kind::Snps | Kind::SnpsEcam | Kind::QcomFirmware => {}
        }
        self.gpio_dir_out(soc::GPIO_PERST, true);
        self.sleep(30 * MS);
    }

    /// LNKSTA.DLLLA.
    pub fn dllla(&mut self) -> bool {
        self.readw(self.port_config(), 0x82) & 1 << 13 != 0
    }

    /// Where the port's configuration space is: DBI, or ECAM of a port that firmware runs.
    pub fn port_config(&self) -> Window {
        if self.soc.wrapper.has(Window::Dbi) {
            Window::Dbi
        } else {
            Window::Ecam
        }
    }

    /// Where the configuration space of 01:00.0 is, once bus 1 is below the port: window and offset.
    pub fn card_config(&self) -> (Window, u64) {
        if self.soc.wrapper.has(Window::Config) {
            (Window::Config, 0)
        } else {
            (Window::Ecam, 1 << 20)
        }
    }

    /// OB0 as CFG0 of 01:00.0, OB1 as the MEM window, the bridge open, BAR 0 of the endpoint at its start.
    pub fn open_downstream(&mut self) {
        let (mem, mem_len) = self.soc.window(Window::Mem);
        if self.soc.wrapper.has(Window::Config) {
            let (cfg, cfg_len) = self.soc.window(Window::Config);
            self.outbound(0, cfg, cfg + cfg_len - 1, 0x0100_0000, 4);
            self.outbound(1, mem, mem + mem_len - 1, mem, 0);
        }
        let (port, (card, at)) = (self.port_config(), self.card_config());
        self.writel(port, 0x18, 0x00ff_0100);
        self.writel(port, 0x20, ((mem + mem_len - 1) & 0xfff0_0000) as u32 | (mem >> 16) as u32);
        self.writew(port, 0x04, 0x107);
        self.writel(card, at + 0x10, mem as u32);
        self.writew(card, at + 0x04, 0x6);
    }

    /// Program outbound iATU region `n`, in the order of dw_pcie_prog_outbound_atu().
    pub fn outbound(&mut self, n: u64, base: u64, last: u64, target: u64, kind: u32) {
        let (window, at) = if self.soc.unroll {
            (Window::Atu, n << 9)
        } else {
            self.writel(Window::Dbi, 0x900, n as u32);
            (Window::Dbi, 0x904)
        };
        for (reg, v) in [
            (0x08, base),
            (0x0c, base >> 32),
            (0x10, last),
            (0x20, last >> 32),
            (0x14, target),
            (0x18, target >> 32),
            (0x00, u64::from(kind)),
            (0x04, 1 << 31),
        ] {
            self.writel(window, at + reg, v as u32);
        }
    }

    /// iMSI-RX for group 0 at [`MSI_TARGET`], and the endpoint's MSI with one message.
    pub fn arm_msi(&mut self) {
        let (port, (card, at)) = (self.port_config(), self.card_config());
        self.writel(port, 0x82c, 0);
        self.writel(port, 0x828, 0xffff_ffff);
        self.writel(port, 0x820, MSI_TARGET as u32);
        self.writel(port, 0x824, 0);
        self.writel(card, at + 0x54, MSI_TARGET as u32);
        self.writel(card, at + 0x58, 0);
        self.writew(card, at + 0x5c, 0);
        self.writew(card, at + 0x52, 1);
    }

    /// Write to guest memory, `off` bytes from its start.
    pub fn poke(&mut self, off: u64, bytes: &[u8]) {
        self.mem.write(RAM + off, bytes);
    }

    /// Enable an NVMe controller: admin queues of 16 entries at 0x1000 and 0x2000 of memory.
    pub fn start_nvme(&mut self) {
        for (off, v) in [
            (0x14, 0),
            (0x24, 0x000f_000f),
            (0x28, RAM as u32 + 0x1000),
            (0x2c, 0),
            (0x30, RAM as u32 + 0x2000),
            (0x34, 0),
            (0x14, 0x0046_0001),
        ] {
            self.writel(Window::Mem, off, v);
        }
    }

    /// Bring a virtio function to DRIVER_OK with queue 0, of 8 entries, at 0x3000, 0x4000 and 0x5000 of memory (virtio 1.2 §4.1.4.3).
    pub fn start_virtio(&mut self) {
        let byte = |m: &mut Machine, off, v| m.write(Window::Mem, off, Width::B1, v);
        for status in [0, 1, 3] {
            byte(self, 0x14, status);
        }
        for (select, features) in [(0, 0), (1, 3)] {
            self.writel(Window::Mem, 0x08, select);
            self.writel(Window::Mem, 0x0c, features);
        }
        byte(self, 0x14, 0xb);
        self.writew(Window::Mem, 0x16, 0);
        self.writew(Window::Mem, 0x18, 8);
        for (off, at) in [(0x20, 0x3000), (0x28, 0x4000), (0x30, 0x5000)] {
            self.writel(Window::Mem, off, RAM as u32 + at);
            self.writel(Window::Mem, off + 4, 0);
        }
        self.writew(Window::Mem, 0x1c, 1);
        byte(self, 0x14, 0xf);
    }

    /// The endpoint's RAISE_MSI of vector `n` (1-based).
    pub fn raise_msi(&mut self, n: u32) {
        self.raise(1, n);
    }

    /// The endpoint's RAISE_* command of IRQ type `kind`.
    pub fn raise(&mut self, kind: u32, n: u32) {
        self.writel(Window::Mem, 0x24, kind);
        self.writel(Window::Mem, 0x28, n);
        self.command(1 << kind);
    }

    /// Give the endpoint a command and let it look.
    pub fn command(&mut self, bits: u32) {
        self.writel(Window::Mem, 0x04, bits);
        self.sleep(endpoints::endpoint_test::POLL_NS);
    }
}
