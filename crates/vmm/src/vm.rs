//! A machine under KVM: set-up, vCPU threads, stop.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use block::SimTime;
use block::Width;
use kvm_bindings::*;
use kvm_ioctls::DeviceFd;
use kvm_ioctls::Kvm;
use kvm_ioctls::VcpuExit;
use kvm_ioctls::VcpuFd;
use kvm_ioctls::VmFd;
use rc_model::soc;
use rc_model::soc::SpiState;
use rc_model::Bdf;
use rc_model::RootComplex;
use rc_model::Sample;
use rc_model::SamplePoint;
use rc_model::Soc;
use vm_memory::Bytes;
use vm_memory::GuestAddress;
use vm_memory::GuestMemoryBackend;
use vm_memory::GuestMemoryMmap;
use vm_memory::GuestMemoryRegion;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;
use vmm_sys_util::signal::Killable;
use vmm_sys_util::signal::SIGRTMIN;

use crate::bus::Answer;
use crate::bus::Lines;
use crate::bus::Origin;
use crate::bus::RcBus;
use crate::core_dump;
use crate::core_dump::Registers;
use crate::core_dump::BLOCK_BYTES;
use crate::doorbells::Switchboard;
use crate::fdt;
use crate::interposer::Interposer;
use crate::layout;
use crate::loader;
use crate::memory;
use crate::memory::touched_from;
use crate::memory::Ram;
use crate::rtc::Rtc;
use crate::serial::Pulse;
use crate::serial::Uart;
use crate::timer::Timer;
use crate::trace::Taken;
use crate::virtio::console;
use crate::virtio::console::Console;
use crate::virtio::Mmio;
use crate::Error;
use crate::ExitReason;
use crate::Stats;
use crate::VmEvent;
use crate::VmSpec;

/// Stack of a vCPU or timer thread: they do little but ioctls, and this machine counts its pages.
const STACK_BYTES: usize = 256 << 10;
/// Register IDs (Linux Documentation/virt/kvm/api.rst, KVM_SET_ONE_REG, arm64 core registers).
const REG_X0: u64 = 0x6030_0000_0010_0000;
const REG_PC: u64 = 0x6030_0000_0010_0040;
const REG_PSTATE: u64 = 0x6030_0000_0010_0042;
const REG_SP_EL0: u64 = 0x6030_0000_0010_003e;
const REG_SP_EL1: u64 = 0x6030_0000_0010_0044;
/// What a reader of a core wants beside the general registers: ELR_EL1 is a core register, the others system registers by
/// op0, op1, CRn, CRm, op2 in bits 15:0 (api.rst, "ARM64_SYS_REG").
const REGS_SYSTEM: [(&str, u64); 5] = [
    ("TTBR1_EL1", 0x6030_0000_0013_c101),
    ("TCR_EL1", 0x6030_0000_0013_c102),
    ("ESR_EL1", 0x6030_0000_0013_c290),
    ("FAR_EL1", 0x6030_0000_0013_c300),
    ("ELR_EL1", 0x6030_0000_0010_0046),
];
/// PSTATE.M: EL0 with AArch64, the one level of a guest without EL2 that uses SP_EL0.
const PSTATE_MODE: u64 = 0xf;
/// Bytes of a piece of a core.
const CORE_PIECE_BYTES: u64 = 1 << 20;
/// EL1h with D, A, I and F masked: how arm64 kernels are entered.
const PSTATE_BOOT: u64 = 0x3c5;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kvm_err(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |e| Error::Kvm { what, why: e.to_string() }
}

/// A running machine. Dropping it stops it.
pub struct Vm {
    shared: Arc<Shared>,
    vcpus: Vec<Vcpu>,
    timers: Vec<JoinHandle<()>>,
    gic: DeviceFd,
    /// Lives as long as the machine.
    _its: Option<DeviceFd>,
    soc: &'static Soc,
}

/// What the vCPU threads share.
struct Shared {
    vm: Arc<VmFd>,
    /// Keeps guest memory mapped as long as a vCPU can run.
    mem: Arc<GuestMemoryMmap>,
    bus: RcBus,
    uart: Mutex<Uart>,
    rtc: Mutex<Rtc>,
    rtc_timer: Timer,
    started: Instant,
    virtio: Mutex<Virtio>,
    events: Mutex<Sender<VmEvent>>,
    gate: Gate,
    exited: AtomicBool,
    mmio_exits: AtomicU64,
    unmapped: AtomicU64,
}

struct Virtio {
    dev: Mmio<Console>,
    line: bool,
}

struct Vcpu {
    /// Hands back the vCPU at its end, so that `immediate_exit` stays mapped until it is joined.
    thread: Option<JoinHandle<VcpuFd>>,
    /// `immediate_exit` of this vCPU's `kvm_run`; not to be touched when `thread` is `None`.
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer is to a `kvm_run` mapping that belongs to the `VcpuFd` which the thread owns and returns: it lives
// as long as `thread` is `Some`, and `set_immediate_exit` looks. It is only ever accessed atomically.
unsafe impl Send for Vcpu {}

/// Lets the owner take all vCPUs out of KVM_RUN and hold them there.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    paused: bool,
    stopping: bool,
    outside: u32,
    /// Registers of each vCPU when it last came out, for a pause or for good.
    registers: Vec<Registers>,
}

/// Interrupt lines of the root complex, as SPIs of KVM's GIC.
struct KvmLines(Arc<VmFd>);

impl Lines for KvmLines {
    fn set(&mut self, line: u32, level: bool) {
        set_spi(&self.0, soc::spi(line), level);
    }

    fn its_msi(&mut self, rid: Bdf, addr: u64, data: u32) {
        let msi = kvm_msi {
            address_lo: addr as u32,
            address_hi: (addr >> 32) as u32,
            data,
            flags: KVM_MSI_VALID_DEVID,
            devid: rid.0.into(),
            ..kvm_msi::default()
        };
        // An event that the guest's ITS tables do not have is dropped there, as on hardware: 0 or an error, and no harm.
        if let Err(e) = self.0.signal_msi(msi) {
            log::debug!("KVM_SIGNAL_MSI of {rid} event {data}: {e}");
        }
    }
}

/// KVM_IOEVENTFD (Linux Documentation/virt/kvm/api.rst).
struct KvmSwitchboard(Arc<VmFd>);

impl KvmSwitchboard {
    /// kvm-ioctls has no event without a value that has a width.
    fn ioeventfd(&self, addr: u64, fd: &EventFd, flags: u32) -> bool {
        let e = kvm_ioeventfd { addr, len: 4, fd: fd.as_raw_fd(), flags, ..kvm_ioeventfd::default() };
        // SAFETY: the ioctl reads the structure, which lives through the call.
        unsafe { vmm_sys_util::ioctl::ioctl_with_ref(self.0.as_ref(), KVM_IOEVENTFD(), &e) == 0 }
    }
}

impl Switchboard for KvmSwitchboard {
    fn connect(&mut self, addr: u64, fd: &EventFd) -> bool {
        self.ioeventfd(addr, fd, 0)
    }

    fn disconnect(&mut self, addr: u64, fd: &EventFd) {
        if !self.ioeventfd(addr, fd, 1 << kvm_ioeventfd_flag_nr_deassign) {
            log::error!("KVM_IOEVENTFD: cannot remove the doorbell at {addr:#x}");
        }
    }
}

vmm_sys_util::ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

fn set_spi(vm: &VmFd, spi: u32, level: bool) {
    // KVM_IRQ_LINE, arm64: type in bits 31:24, INTID in bits 15:0. It fails only for numbers that do not exist.
    let irq = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (spi + 32);
    if let Err(e) = vm.set_irq_line(irq, level) {
        log::error!("KVM_IRQ_LINE for SPI {spi}: {e}");
    }
}

impl Vm {
    /// Boot a machine; what happens in it comes over `events`.
    pub fn start(spec: VmSpec, events: Sender<VmEvent>) -> Result<Vm, Error> {
        let kvm = Kvm::new().map_err(kvm_err("open /dev/kvm"))?;
        let vm = Arc::new(kvm.create_vm().map_err(kvm_err("create a VM"))?);
        let mem = Arc::new(memory::map(spec.mem_bytes)?);
        map_memory(&vm, &mem)?;
        let entry = load(&spec, &mem)?;
        let mut fds = Vec::new();
        for i in 0..spec.vcpus {
            let fd = vm.create_vcpu(i.into()).map_err(kvm_err("create a vCPU"))?;
            init_vcpu(&vm, &fd, i)?;
            fds.push(fd);
        }
        let gic = create_gic(&vm, spec.vcpus)?;
        let its = spec.rc.its_translater.map(|_| create_its(&vm)).transpose()?;
        let boot = &fds[0];
        for (reg, value) in
            [(REG_X0, layout::RAM + layout::FDT_OFFSET), (REG_PC, entry), (REG_PSTATE, PSTATE_BOOT)]
        {
            boot.set_one_reg(reg, &value.to_le_bytes()).map_err(kvm_err("set a register"))?;
        }
        let soc = spec.rc.soc;
        let shared = Arc::new(Shared::new(vm, mem, spec.rc, spec.trace_entries, events));
        Vm::run(shared, fds, gic, its, soc)
    }

    fn run(
        shared: Arc<Shared>,
        fds: Vec<VcpuFd>,
        gic: DeviceFd,
        its: Option<DeviceFd>,
        soc: &'static Soc,
    ) -> Result<Vm, Error> {
        register_signal_handler(SIGRTMIN(), on_kick)
            .map_err(|e| Error::Kvm { what: "handle a signal", why: e.to_string() })?;
        let mut vm =
            Vm { shared: Arc::clone(&shared), vcpus: Vec::new(), timers: Vec::new(), gic, _its: its, soc };
        let s = Arc::clone(&shared);
        vm.timers.push(spawn("rc-timer".into(), move || s.bus.run_timer())?);
        let s = Arc::clone(&shared);
        vm.timers.push(spawn("doorbells".into(), move || s.bus.run_doorbells())?);
        let s = Arc::clone(&shared);
        vm.timers.push(spawn("rtc-timer".into(), move || {
            s.rtc_timer.run(|| s.now(), || s.with_rtc(|rtc, now| rtc.tick(now)));
        })?);
        for (i, mut fd) in (0..).zip(fds) {
            let immediate_exit = std::ptr::from_mut(&mut fd.get_kvm_run().immediate_exit).cast::<AtomicU8>();
            let s = Arc::clone(&shared);
            let thread = spawn(format!("vcpu{i}"), move || {
                s.run_vcpu(i, &mut fd);
                fd
            })?;
            vm.vcpus.push(Vcpu { thread: Some(thread), immediate_exit });
        }
        Ok(vm)
    }

    /// Send bytes to the agent.
    pub fn channel_write(&self, bytes: &[u8]) {
        self.shared.send(console::CHANNEL, bytes);
    }

    /// Type on the guest's console.
    pub fn console_write(&self, bytes: &[u8]) {
        self.shared.send(console::CONSOLE, bytes);
    }

    /// Device-side state now.
    pub fn sample(&self, point: SamplePoint) -> Sample {
        self.shared.bus.sample(point)
    }

    /// Let the world act on the root complex, as between two accesses.
    pub fn act(&self, f: impl FnOnce(&mut rc_model::RootComplex, &mut block::Cx<'_, rc_model::Event>)) {
        self.shared.bus.act(f);
    }

    /// The interposer, for stalls. One that is to hold a doorbell counts from the next access or [`Vm::act`] on: then doorbells
    /// are no eventfds any more.
    pub fn interposer(&self) -> &Arc<Interposer> {
        &self.shared.bus.interposer
    }

    /// Time since power-on.
    pub fn now(&self) -> SimTime {
        self.shared.now()
    }

    /// Empty the access trace.
    pub fn take_trace(&self) -> Taken {
        self.shared.bus.take_trace()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            mmio_exits: self.shared.mmio_exits.load(Ordering::Relaxed),
            doorbell_events: self.shared.bus.doorbell_events(),
            unmapped: self.shared.unmapped.load(Ordering::Relaxed),
        }
    }

    /// Our SPIs in the GIC. The vCPUs are paused meanwhile: KVM gives GIC registers to userspace only then.
    pub fn spi_state(&self) -> Vec<SpiState> {
        self.pause();
        let first = soc::spi(0) + 32;
        let word = first & !31;
        // GICD registers: ISENABLER 0x100, ISPENDR 0x200, ISACTIVER 0x300, one bit an INTID.
        let read = |base: u32| self.gic_word(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, u64::from(base + word / 8));
        let (enabled, pending, active) = (read(0x100), read(0x200), read(0x300));
        let level = self.gic_word(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, u64::from(word));
        self.resume();
        self.soc
            .lines()
            .map(|line| {
                let bit = |w: u32| w >> (soc::spi(line) + 32 - word) & 1 != 0;
                SpiState {
                    name: self.soc.line_name(line).into(),
                    spi: soc::spi(line),
                    enabled: bit(enabled),
                    // For a level interrupt ISPENDR gives userspace the latch only (arm-vgic-v3.rst).
                    pending: bit(pending) || bit(level),
                    active: bit(active),
                    level: bit(level),
                }
            })
            .collect()
    }

    fn gic_word(&self, group: u32, attr: u64) -> u32 {
        let mut value = 0_u32;
        let mut a = kvm_device_attr { flags: 0, group, attr, addr: std::ptr::from_mut(&mut value) as u64 };
        // SAFETY: `addr` points to a u32 that lives through the call, which is what these groups write.
        if let Err(e) = unsafe { self.gic.get_device_attr(&mut a) } {
            log::error!("read GIC register group {group} {attr:#x}: {e}");
        }
        value
    }

    /// Guest memory.
    pub fn ram(&self) -> Ram {
        Ram(Arc::clone(&self.shared.mem))
    }

    /// What `look` sees while the vCPUs are paused; `None`: one did not stop within `wait`, as one whose access is held does not.
    pub fn paused<R>(&self, wait: Duration, look: impl FnOnce() -> R) -> Option<R> {
        let seen = self.pause_until(Some(Instant::now() + wait)).then(look);
        self.resume();
        seen
    }

    /// Hand the guest, paused meanwhile, to `sink` as an ELF core, piece by piece, until that has enough; an
    /// empty piece only asks whether it has. What is in it; `None`: a
    /// vCPU did not stop within `wait`, as one whose access is held does not.
    pub fn core(&self, wait: Duration, sink: &mut dyn FnMut(&[u8]) -> bool) -> Option<CoreContents> {
        let contents = self.pause_until(Some(Instant::now() + wait)).then(|| {
            let mut registers = lock(&self.shared.gate.state).registers.clone();
            registers.resize(self.vcpus.len(), Registers::default());
            self.shared.core(registers, sink)
        });
        self.resume();
        contents
    }

    fn set_immediate_exit(&self, value: u8) {
        for v in self.vcpus.iter().filter(|v| v.thread.is_some()) {
            // SAFETY: see `Vcpu`: the mapping is alive while there is a thread to join, the access is atomic.
            unsafe { (*v.immediate_exit).store(value, Ordering::SeqCst) };
        }
    }

    fn kick(&self) {
        self.set_immediate_exit(1);
        for t in self.vcpus.iter().filter_map(|v| v.thread.as_ref()) {
            let _ = t.kill(SIGRTMIN());
        }
    }

    fn pause(&self) {
        self.pause_until(None);
    }

    /// `false`: not all of them stood still by `deadline`.
    fn pause_until(&self, deadline: Option<Instant>) -> bool {
        lock(&self.shared.gate.state).paused = true;
        self.kick();
        let changed = &self.shared.gate.changed;
        let mut s = lock(&self.shared.gate.state);
        while s.outside < self.vcpus.len() as u32 {
            s = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                None => changed.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return false,
                Some(left) => changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }

    fn resume(&self) {
        self.set_immediate_exit(0);
        lock(&self.shared.gate.state).paused = false;
        self.shared.gate.changed.notify_all();
    }

    /// Stop the machine and wait for its threads.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        lock(&self.shared.gate.state).stopping = true;
        self.shared.gate.changed.notify_all();
        self.shared.bus.interposer.close();
        self.shared.bus.stop_timer();
        self.shared.bus.stop_doorbells();
        self.shared.rtc_timer.stop();
        self.kick();
        for v in &mut self.vcpus {
            if let Some(t) = v.thread.take() {
                let _ = t.join();
            }
        }
        for t in self.timers.drain(..) {
            let _ = t.join();
        }
        self.shared.exit(ExitReason::Stopped);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Does nothing: its arrival makes KVM_RUN return.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Shared {
    fn new(
        vm: Arc<VmFd>,
        mem: Arc<GuestMemoryMmap>,
        rc: rc_model::Config,
        trace: usize,
        events: Sender<VmEvent>,
    ) -> Shared {
        let started = Instant::now();
        let observer = events.clone();
        let mut bus = RcBus::new(
            RootComplex::new(rc),
            Box::new(memory::Ram(Arc::clone(&mem))),
            Box::new(KvmLines(Arc::clone(&vm))),
            Box::new(move || SimTime(started.elapsed().as_nanos() as u64)),
            sender(observer, |(e, t)| VmEvent::Model(e, t)),
            trace,
        );
        if let Err(e) = bus.set_switchboard(Box::new(KvmSwitchboard(Arc::clone(&vm)))) {
            log::warn!("doorbells go through MMIO exits: {e}");
        }
        let uart_vm = Arc::clone(&vm);
        let pulse = Pulse(Box::new(move || {
            set_spi(&uart_vm, layout::UART_SPI, true);
            set_spi(&uart_vm, layout::UART_SPI, false);
        }));
        let uart_out = events.clone();
        let uart = Uart::new(pulse, Box::new(move |b| drop(uart_out.send(VmEvent::Console(b)))));
        let port_out = events.clone();
        let dev = Console::new(Box::new(move |o| {
            let e = match o {
                console::Output::Bytes(console::CONSOLE, b) => VmEvent::Console(b),
                console::Output::Bytes(_, b) => VmEvent::Channel(b),
                console::Output::Open(console::CHANNEL, open) => VmEvent::ChannelOpen(open),
                console::Output::Open(..) => return,
            };
            drop(port_out.send(e));
        }));
        Shared {
            bus,
            uart: Mutex::new(uart),
            rtc: Mutex::new(Rtc::new(seconds_since_1970())),
            rtc_timer: Timer::default(),
            started,
            virtio: Mutex::new(Virtio { dev: Mmio::new(dev, Arc::clone(&mem)), line: false }),
            mem,
            vm,
            events: Mutex::new(events),
            gate: Gate::default(),
            exited: AtomicBool::new(false),
            mmio_exits: AtomicU64::new(0),
            unmapped: AtomicU64::new(0),
        }
    }

    fn send(&self, port: usize, bytes: &[u8]) {
        let mut v = lock(&self.virtio);
        v.dev.device.send(port, bytes);
        v.dev.run(Console::queue_of(port));
        self.sync_virtio(&mut v);
    }

    fn sync_virtio(&self, v: &mut Virtio) {
        if v.dev.line() != v.line {
            v.line = v.dev.line();
            set_spi(&self.vm, layout::VIRTIO_SPI, v.line);
        }
    }

    fn now(&self) -> SimTime {
        SimTime(self.started.elapsed().as_nanos() as u64)
    }

    /// Let `f` act on the clock; its line and deadline follow.
    fn with_rtc<R>(&self, f: impl FnOnce(&mut Rtc, SimTime) -> R) -> R {
        let now = self.now();
        let mut rtc = lock(&self.rtc);
        let before = rtc.line();
        let r = f(&mut rtc, now);
        if rtc.line() != before {
            set_spi(&self.vm, layout::RTC_SPI, rtc.line());
        }
        self.rtc_timer.arm(rtc.next_deadline(now));
        r
    }

    /// The first reason counts.
    fn exit(&self, why: ExitReason) {
        if !self.exited.swap(true, Ordering::SeqCst) {
            lock(&self.uart).flush();
            drop(lock(&self.events).send(VmEvent::Exited(why)));
        }
    }

    fn run_vcpu(&self, index: u8, fd: &mut VcpuFd) {
        loop {
            if !self.pass_gate(index, fd) {
                return;
            }
            let why = match fd.run() {
                Ok(VcpuExit::MmioRead(addr, data)) => {
                    let len = data.len();
                    let (answer, value) = self.mmio_read(self.origin(index, addr, fd), addr, len);
                    fd.get_kvm_run().__bindgen_anon_1.mmio.data = value.to_le_bytes();
                    if answer == Answer::Abort {
                        inject_abort(fd);
                    }
                    continue;
                }
                Ok(VcpuExit::MmioWrite(addr, data)) => {
                    let len = data.len();
                    let mut bytes = [0; 8];
                    bytes[..len].copy_from_slice(data);
                    let (origin, value) = (self.origin(index, addr, fd), u64::from_le_bytes(bytes));
                    if self.mmio_write(origin, addr, len, value) == Answer::Abort {
                        inject_abort(fd);
                    }
                    continue;
                }
                Ok(VcpuExit::Intr) => continue,
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => continue,
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => ExitReason::PowerOff,
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => ExitReason::Reset,
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => ExitReason::Crash,
                Ok(other) => {
                    let what = format!("{other:?}");
                    ExitReason::Internal(format!("vCPU {index}: {what} at PC {:#x}", pc(fd)))
                }
                Err(e) => ExitReason::Internal(format!("vCPU {index}: KVM_RUN: {e} at PC {:#x}", pc(fd))),
            };
            self.exit(why);
            self.leave_for_good(index, fd);
            return;
        }
    }

    /// Wait while the machine is paused; `false`: it stops.
    fn pass_gate(&self, index: u8, fd: &VcpuFd) -> bool {
        let mut s = lock(&self.gate.state);
        if s.paused && !s.stopping {
            keep(&mut s, index, fd);
            s.outside += 1;
            self.gate.changed.notify_all();
            while s.paused && !s.stopping {
                s = self.gate.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
            s.outside -= 1;
        }
        !s.stopping
    }

    /// A vCPU that has ended stays outside: nobody shall wait for it.
    fn leave_for_good(&self, index: u8, fd: &VcpuFd) {
        let mut s = lock(&self.gate.state);
        keep(&mut s, index, fd);
        s.outside += 1;
        drop(s);
        self.gate.changed.notify_all();
    }

    fn core(&self, registers: Vec<Registers>, sink: &mut dyn FnMut(&[u8]) -> bool) -> CoreContents {
        let (mut runs, mut note, mut end, mut complete) = (Vec::new(), None, 0, true);
        let mut block = vec![0; BLOCK_BYTES as usize];
        for region in self.mem.iter() {
            let start = region.start_addr().0;
            end = start + region.len();
            let mut at = start;
            while at < end && complete {
                // A region's file begins with it.
                let data =
                    region.file_offset().map_or(Some(at - start), |f| touched_from(f.file(), at - start));
                let Some(data) = data else { break };
                at = start + data / BLOCK_BYTES * BLOCK_BYTES;
                complete = sink(&[]) && self.mem.read_slice(&mut block, GuestAddress(at)).is_ok();
                if block.iter().any(|b| *b != 0) {
                    core_dump::add_block(&mut runs, at, BLOCK_BYTES);
                    if note.is_none() {
                        let mut pages = (0..block.len()).step_by(core_dump::PAGE_BYTES as usize);
                        note = pages.find_map(|i| core_dump::vmcoreinfo(&block[i..]).map(<[u8]>::to_vec));
                    }
                }
                at += BLOCK_BYTES;
            }
        }
        let head = core_dump::headers(&registers, note.as_deref(), &runs, end);
        let mut bytes = head.len() as u64;
        complete = complete && sink(&head);
        let mut piece = vec![0; CORE_PIECE_BYTES as usize];
        'runs: for run in &runs {
            let mut at = run.start;
            while at < run.start + run.len {
                let len = CORE_PIECE_BYTES.min(run.start + run.len - at);
                let piece = &mut piece[..len as usize];
                complete = complete && self.mem.read_slice(piece, GuestAddress(at)).is_ok() && sink(piece);
                if !complete {
                    break 'runs;
                }
                bytes += len;
                at += len;
            }
        }
        CoreContents { complete, bytes, vmcoreinfo: note.is_some(), registers }
    }

    /// Who makes the access that `fd` has just left; the program counter only where it is recorded.
    fn origin(&self, vcpu: u8, addr: u64, fd: &VcpuFd) -> Origin {
        Origin { vcpu, pc: if self.bus.traces(addr) { pc(fd) } else { 0 } }
    }

    /// What became of a read, and the value that the guest gets.
    fn mmio_read(&self, by: Origin, addr: u64, len: usize) -> (Answer, u64) {
        self.mmio_exits.fetch_add(1, Ordering::Relaxed);
        let Some(w) = Width::from_bytes(len) else { return (Answer::Nobody, u64::MAX) };
        let answer = match addr {
            a if within(a, layout::VIRTIO) => {
                Answer::Value(lock(&self.virtio).dev.read(a - layout::VIRTIO.0, len))
            }
            a if within(a, layout::UART) => {
                Answer::Value(u64::from(lock(&self.uart).read(a - layout::UART.0)))
            }
            a if within(a, layout::RTC) => {
                Answer::Value(self.with_rtc(|rtc, now| rtc.read(now, a - layout::RTC.0)).into())
            }
            a => self.bus.read(by, a, w),
        };
        let value = match answer {
            Answer::Value(v) => v,
            Answer::Abort => w.ones(),
            Answer::Nobody => self.nobody(addr, w),
        };
        (answer, value)
    }

    fn mmio_write(&self, by: Origin, addr: u64, len: usize, value: u64) -> Answer {
        self.mmio_exits.fetch_add(1, Ordering::Relaxed);
        let Some(w) = Width::from_bytes(len) else { return Answer::Nobody };
        match addr {
            a if within(a, layout::VIRTIO) => {
                let mut v = lock(&self.virtio);
                v.dev.write(a - layout::VIRTIO.0, value as u32);
                self.sync_virtio(&mut v);
                Answer::Value(value)
            }
            a if within(a, layout::UART) => {
                lock(&self.uart).write(a - layout::UART.0, value as u8);
                Answer::Value(value)
            }
            a if within(a, layout::RTC) => {
                self.with_rtc(|rtc, now| rtc.write(now, a - layout::RTC.0, value as u32));
                Answer::Value(value)
            }
            a => {
                let answer = self.bus.write(by, a, w, value);
                if answer == Answer::Nobody {
                    self.nobody(a, w);
                }
                answer
            }
        }
    }

    /// An access where nothing is: all ones, counted, and logged the first few times.
    fn nobody(&self, addr: u64, w: Width) -> u64 {
        if self.unmapped.fetch_add(1, Ordering::Relaxed) < 8 {
            log::warn!("guest access at {addr:#x}, where nothing is");
        }
        w.ones()
    }
}

/// Have the access that this vCPU has just left end in an external abort (Linux Documentation/virt/kvm/api.rst,
/// KVM_SET_VCPU_EVENTS: `ext_dabt_pending` after an MMIO exit).
fn inject_abort(fd: &VcpuFd) {
    let mut events = kvm_vcpu_events::default();
    events.exception.ext_dabt_pending = 1;
    if let Err(e) = fd.set_vcpu_events(&events) {
        log::error!("KVM_SET_VCPU_EVENTS: {e}: the guest reads all ones instead of an abort");
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let builder = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
    builder.spawn(f).map_err(|e| Error::Kvm { what: "start a thread", why: e.to_string() })
}

/// What the guest's clock starts with.
fn seconds_since_1970() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32)
}

fn within(addr: u64, range: (u64, u64)) -> bool {
    addr.checked_sub(range.0).is_some_and(|off| off < range.1)
}

/// A `Sender` is not `Sync`; the observer is called from several threads.
fn sender<T: 'static>(
    tx: Sender<VmEvent>,
    f: fn((T, SimTime)) -> VmEvent,
) -> Box<dyn Fn(T, SimTime) + Send + Sync> {
    let tx = Mutex::new(tx);
    Box::new(move |e, t| drop(lock(&tx).send(f((e, t)))))
}

/// What a core that was handed over has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreContents {
    /// Whether all of it was taken.
    pub complete: bool,
    /// Bytes handed over.
    pub bytes: u64,
    /// Whether the guest had a VMCOREINFO note: early in boot it has none, and drgn and crash need it.
    pub vmcoreinfo: bool,
    /// Registers by vCPU.
    pub registers: Vec<Registers>,
}

fn keep(s: &mut GateState, index: u8, fd: &VcpuFd) {
    let index = usize::from(index);
    if s.registers.len() <= index {
        s.registers.resize(index + 1, Registers::default());
    }
    s.registers[index] = registers(fd);
}

/// Registers of a vCPU outside of KVM_RUN; 0 what KVM does not tell.
fn registers(fd: &VcpuFd) -> Registers {
    let get = |reg: u64| {
        let mut b = [0; 8];
        fd.get_one_reg(reg, &mut b).map_or(0, |_| u64::from_le_bytes(b))
    };
    let pstate = get(REG_PSTATE);
    Registers {
        x: (0..31).map(|i| get(REG_X0 + 2 * i)).collect(),
        sp: get(if pstate & PSTATE_MODE == 0 { REG_SP_EL0 } else { REG_SP_EL1 }),
        pc: get(REG_PC),
        pstate,
        system: REGS_SYSTEM.iter().map(|(name, reg)| ((*name).to_owned(), get(*reg))).collect(),
    }
}

/// Program counter of a vCPU outside of KVM_RUN: after an MMIO exit, the instruction that made the access. 0 if KVM does not tell.
fn pc(fd: &VcpuFd) -> u64 {
    let mut b = [0; 8];
    fd.get_one_reg(REG_PC, &mut b).map_or(0, |_| u64::from_le_bytes(b))
}

fn map_memory(vm: &VmFd, mem: &GuestMemoryMmap) -> Result<(), Error> {
    for (slot, region) in (0..).zip(mem.iter()) {
        let r = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the region is a live mapping of that size; `Shared` keeps it until the last vCPU is gone.
        unsafe { vm.set_user_memory_region(r) }.map_err(kvm_err("set guest memory"))?;
    }
    Ok(())
}

fn init_vcpu(vm: &VmFd, fd: &VcpuFd, index: u8) -> Result<(), Error> {
    let mut kvi = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut kvi).map_err(kvm_err("ask for the CPU type"))?;
    kvi.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    if index > 0 {
        kvi.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    fd.vcpu_init(&kvi).map_err(kvm_err("initialise a vCPU"))
}

fn create_gic(vm: &VmFd, vcpus: u8) -> Result<DeviceFd, Error> {
    let mut dev = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
    let gic = vm.create_device(&mut dev).map_err(kvm_err("create a GICv3"))?;
    let dist = layout::GICD.0;
    // Redistributor region: count in bits 63:52, base in 51:16, index 0 (arm-vgic-v3.rst).
    let redist = u64::from(vcpus) << 52 | layout::GICR;
    let irqs = layout::GIC_IRQS;
    let attrs = [
        (KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, std::ptr::from_ref(&dist) as u64),
        (KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, std::ptr::from_ref(&redist) as u64),
        (KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, std::ptr::from_ref(&irqs) as u64),
        (KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0),
    ];
    for (group, attr, addr) in attrs {
        let a = kvm_device_attr { flags: 0, group, attr: attr.into(), addr };
        gic.set_device_attr(&a).map_err(kvm_err("set up the GIC"))?;
    }
    Ok(gic)
}

fn create_its(vm: &VmFd) -> Result<DeviceFd, Error> {
    let mut dev = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, fd: 0, flags: 0 };
    let its = vm.create_device(&mut dev).map_err(kvm_err("create an ITS"))?;
    let base = layout::ITS.0;
    for (group, attr, addr) in [
        (KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, std::ptr::from_ref(&base) as u64),
        (KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0),
    ] {
        let a = kvm_device_attr { flags: 0, group, attr: attr.into(), addr };
        its.set_device_attr(&a).map_err(kvm_err("set up the ITS"))?;
    }
    Ok(its)
}

/// Load kernel, initramfs and device tree; the result is the entry point.
fn load(spec: &VmSpec, mem: &GuestMemoryMmap) -> Result<u64, Error> {
    let kernel = loader::read_kernel(&spec.kernel)?;
    let initramfs = read(&spec.initramfs)?;
    if initramfs.is_empty() {
        return Err(Error::Empty { file: spec.initramfs.clone() });
    }
    let end = layout::RAM + spec.mem_bytes;
    let entry = kernel.load_address();
    let kernel_end = entry + kernel.image_bytes;
    let initramfs_at = end.saturating_sub(initramfs.len() as u64) & !0xfff;
    // The kernel wants some memory to start with; what is below this does not boot anyway.
    if initramfs_at < kernel_end + (16 << 20) {
        let need = kernel_end - layout::RAM + initramfs.len() as u64 + (32 << 20);
        return Err(Error::TooLarge {
            file: spec.kernel.clone(),
            need_mib: need >> 20,
            have_mib: spec.mem_bytes >> 20,
        });
    }
    let put = |bytes: &[u8], at: u64| {
        let why =
            |e: vm_memory::GuestMemoryError| Error::Memory { mib: spec.mem_bytes >> 20, why: e.to_string() };
        mem.write_slice(bytes, GuestAddress(at)).map_err(why)
    };
    put(&kernel.bytes, entry)?;
    put(&initramfs, initramfs_at)?;
    let tree = fdt::build(&fdt::Machine {
        cmdline: &spec.cmdline,
        vcpus: spec.vcpus,
        mem_bytes: spec.mem_bytes,
        initramfs: (initramfs_at, initramfs_at + initramfs.len() as u64),
        soc: spec.rc.soc,
        its: spec.rc.its_translater.is_some(),
        global_irq: spec.global_irq,
        phy_at_port: spec.phy_at_port,
    })?;
    put(&tree, layout::RAM + layout::FDT_OFFSET)?;
    Ok(entry)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|source| Error::Read { file: file.into(), source })
}
