//! The NVMe model of `endpoints` as a vfio-user server, for tests: `vfio-user-test-nvme SOCKET [--die-at N]`.
//!
//! One client, then it ends. With `--die-at` it ends in the middle of access N (from 1) to its BAR: without an answer. A disk of
//! 16 MiB in memory. A line on stdout says that it listens.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::VecMem;
use block::Width;
use endpoints::MemDisk;
use endpoints::Nvme;
use endpoints::NvmeSpec;
use pcie::Bdf;
use pcie::Completion;
use pcie::Function;
use pcie::Message;
use pcie::Sender;
use pcie::Upstream;
use vfio_user_endpoint::server;
use vfio_user_endpoint::server::Received;
use vfio_user_endpoint::wire;
use vfio_user_endpoint::wire::command;
use vfio_user_endpoint::wire::irq;
use vfio_user_endpoint::wire::Fields;

const DISK_BYTES: usize = 16 << 20;
const IO_QUEUES: u16 = 4;
const CONFIG_BYTES: u64 = 256;
/// Where BAR 0 of the model is: its client has its own idea, and asks by offset.
const BAR: u64 = 0x4000_0000;
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const BARS_END: u16 = 0x28;
/// Memory space and bus mastering: the client decides about both.
const COMMAND_ON: u64 = 6;
const CAPS: u16 = 0x34;
const MSIX: u64 = 0x11;
const EINVAL: u32 = 22;
const ENOTSUP: u32 = 95;

/// The client: guest memory, and what it can be told.
struct Client {
    stream: UnixStream,
    /// Commands that came while a DMA was waited for.
    waiting: VecDeque<Received>,
    triggers: [Vec<Option<OwnedFd>>; 3],
}

struct Device {
    nvme: Nvme,
    client: Client,
    begun: Instant,
    /// Accesses to the BAR until the end, if there is one.
    left: Option<u64>,
}

impl Client {
    fn dma(&mut self, command: u16, addr: u64, bytes: usize, data: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let h = wire::Header { id: 1, command, ..wire::Header::default() };
        self.stream.write_all(&h.message(&[&wire::longs(&[addr, bytes as u64]), data]))?;
        loop {
            let Some(received) = server::receive(&self.stream)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            if received.0.flags & wire::TYPE != wire::REPLY {
                self.waiting.push_back(received);
                continue;
            }
            let done = received.0.flags & wire::ERROR == 0;
            return Ok(done.then(|| received.1.get(16..).unwrap_or_default().to_vec()));
        }
    }

    fn trigger(&self, index: u32, vector: u32) {
        if let Some(Some(fd)) = self.triggers[index as usize].get(vector as usize) {
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }
}

impl Upstream<()> for Client {
    fn mem_write(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: bool, addr: u64, data: &[u8]) -> Completion {
        match self.dma(command::DMA_WRITE, addr, data.len(), data) {
            Ok(Some(_)) => Completion::Success,
            _ => Completion::UnsupportedRequest,
        }
    }

    fn mem_read(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: bool, addr: u64, buf: &mut [u8]) -> Completion {
        match self.dma(command::DMA_READ, addr, buf.len(), &[]) {
            Ok(Some(data)) if data.len() == buf.len() => {
                buf.copy_from_slice(&data);
                Completion::Success
            }
            _ => {
                buf.fill(0xff);
                Completion::UnsupportedRequest
            }
        }
    }

    fn message(&mut self, _: &mut Cx<'_, ()>, _: Sender, vector: u32, _: Message) -> Completion {
        // The client has armed one of them.
        self.trigger(irq::MSI, vector);
        self.trigger(irq::MSIX, vector);
        Completion::Success
    }
}

impl Device {
    /// Do something with the model at this time. It has no memory but what the client gives it.
    fn with<R>(&mut self, f: impl FnOnce(&mut Nvme, &mut Cx<'_, ()>, &mut Client) -> R) -> R {
        let (mut mem, mut events) = (VecMem::default(), Vec::new());
        let now = SimTime(self.begun.elapsed().as_nanos() as u64);
        let mut cx = Cx { now, mem: &mut mem, events: &mut events };
        f(&mut self.nvme, &mut cx, &mut self.client)
    }

    fn config_read(&mut self, off: u16, w: Width) -> u64 {
        self.with(|nvme, cx, _| nvme.config_read(cx, None, off, w))
    }

    fn config_write(&mut self, off: u16, w: Width, v: u64) {
        self.with(|nvme, cx, up| nvme.config_write(cx, up, Bdf::default(), off, w, v));
    }

    fn reset(&mut self, kind: ResetKind) {
        self.with(|nvme, cx, _| Function::<()>::reset(nvme, cx, kind));
        self.config_write(BAR0, Width::B4, BAR);
        self.config_write(COMMAND, Width::B2, COMMAND_ON);
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let next = match self.client.waiting.pop_front() {
                Some(next) => Some(next),
                None => server::receive(&self.client.stream)?,
            };
            let Some((h, payload, fds)) = next else { return Ok(()) };
            let reply = match self.answer(h.command, &payload, fds) {
                Ok(reply) => h.reply().message(&[&reply]),
                Err(errno) => h.refusal(errno).message(&[]),
            };
            // What one call of the model leaves to the next tick, the next call does.
            while Function::<()>::next_deadline(&self.nvme).is_some() {
                self.with(|nvme, cx, up| nvme.tick(cx, up));
            }
            if Function::<()>::intx(&self.nvme) != 0 {
                self.client.trigger(irq::INTX, 0);
            }
            self.client.stream.write_all(&reply)?;
        }
    }

    fn answer(&mut self, command: u16, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<u8>, u32> {
        let mut f = Fields(payload);
        let of = |at: usize| Fields(payload.get(at..).unwrap_or_default()).word().ok_or(EINVAL);
        match command {
            command::VERSION => {
                Ok([&[0, 0, 1, 0], &b"{\"capabilities\":{\"max_msg_fds\":8}}\0"[..]].concat())
            }
            command::DMA_MAP => Ok(Vec::new()),
            command::GET_INFO => Ok(wire::words(&[16, wire::DEVICE_PCI | wire::DEVICE_RESET, 9, 3])),
            command::GET_REGION_INFO => {
                let bytes = match of(8)? {
                    0 => endpoints::nvme::BAR0_BYTES.into(),
                    wire::CONFIG_REGION => CONFIG_BYTES,
                    _ => 0,
                };
                Ok([wire::words(&[32, 3, of(8)?, 0]), wire::longs(&[bytes, 0])].concat())
            }
            command::GET_IRQ_INFO => {
                let vectors = [1, 1, u32::from(IO_QUEUES) + 1];
                let count = vectors.get(of(8)? as usize).copied().unwrap_or(0);
                Ok(wire::words(&[16, 1 | irq::MASKABLE, of(8)?, count]))
            }
            command::SET_IRQS => {
                let (_, flags, index) = (f.word(), f.word().unwrap_or(0), f.word().unwrap_or(9));
                let start = f.word().unwrap_or(0).min(64);
                self.set_irqs(flags, index, start as usize, fds)
            }
            command::REGION_READ => {
                let (off, region, bytes) = (f.long().ok_or(EINVAL)?, f.word(), f.word().ok_or(EINVAL)?);
                let v = self.region_read(region, off, width(bytes)?);
                Ok([payload, &v.to_le_bytes()[..bytes as usize]].concat())
            }
            command::REGION_WRITE => {
                let (off, region, bytes) = (f.long().ok_or(EINVAL)?, f.word(), f.word().ok_or(EINVAL)?);
                let v = f.rest().iter().rev().fold(0, |v: u64, b| v << 8 | u64::from(*b));
                self.region_write(region, off, width(bytes)?, v);
                Ok(payload.get(..16).unwrap_or_default().to_vec())
            }
            command::RESET => {
                self.reset(ResetKind::Perst);
                Ok(Vec::new())
            }
            _ => Err(ENOTSUP),
        }
    }

    fn set_irqs(&mut self, flags: u32, index: u32, start: usize, fds: Vec<OwnedFd>) -> Result<Vec<u8>, u32> {
        let triggers = self.client.triggers.get_mut(index as usize).ok_or(EINVAL)?;
        if flags == irq::DATA_NONE | irq::ACTION_TRIGGER {
            triggers.clear();
        } else if flags == irq::DATA_EVENTFD | irq::ACTION_TRIGGER {
            let armed = start..start + fds.len();
            triggers.resize_with(triggers.len().max(armed.end), || None);
            triggers.iter_mut().skip(start).zip(fds).for_each(|(t, fd)| *t = Some(fd));
            if index == irq::MSIX {
                armed.for_each(|vector| self.unmask(vector as u64));
            }
        }
        Ok(Vec::new())
    }

    /// The client has the guest's MSI-X table and masks by it: in the model's own every vector sends.
    fn unmask(&mut self, vector: u64) {
        let mut cap = self.config_read(CAPS, Width::B1) as u16;
        while cap != 0 && self.config_read(cap, Width::B1) != MSIX {
            cap = self.config_read(cap + 1, Width::B1) as u16;
        }
        let table = self.config_read(cap + 4, Width::B4) & !7;
        let entry = BAR + table + vector * 16;
        for (at, v) in [(0, 0x1000), (4, 0), (8, vector), (12, 0)] {
            self.with(|nvme, cx, up| nvme.mem_write(cx, up, entry + at, Width::B4, v));
        }
    }

    fn region_read(&mut self, region: Option<u32>, off: u64, w: Width) -> u64 {
        match region {
            Some(0) => {
                self.count_down();
                self.with(|nvme, cx, up| nvme.mem_read(cx, up, BAR + off, w).data)
            }
            Some(wire::CONFIG_REGION) => self.config_read(off as u16, w),
            _ => w.ones(),
        }
    }

    fn region_write(&mut self, region: Option<u32>, off: u64, w: Width, v: u64) {
        match (region, off as u16) {
            (Some(0), _) => {
                self.count_down();
                self.with(|nvme, cx, up| nvme.mem_write(cx, up, BAR + off, w, v));
            }
            (Some(wire::CONFIG_REGION), BAR0..BARS_END) => {}
            (Some(wire::CONFIG_REGION), COMMAND) => self.config_write(COMMAND, w, v | COMMAND_ON),
            (Some(wire::CONFIG_REGION), off) => self.config_write(off, w, v),
            _ => {}
        }
    }

    fn count_down(&mut self) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                std::process::exit(0);
            }
        }
    }
}

fn width(bytes: u32) -> Result<Width, u32> {
    [Width::B1, Width::B2, Width::B4, Width::B8]
        .into_iter()
        .find(|w| w.bytes() == u64::from(bytes))
        .ok_or(EINVAL)
}

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: vfio-user-test-nvme SOCKET [--die-at N]");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (socket, left) = match &args[..] {
        [socket] => (socket, None),
        [socket, option, n] if option == "--die-at" => (socket, Some(n.parse().map_err(|_| usage())?)),
        _ => return Err(usage()),
    };
    let listener = UnixListener::bind(socket)?;
    println!("listens");
    io::stdout().flush()?;
    let client = Client {
        stream: listener.accept()?.0,
        waiting: VecDeque::new(),
        triggers: [Vec::new(), Vec::new(), Vec::new()],
    };
    let spec =
        NvmeSpec { io_queues: IO_QUEUES, ..NvmeSpec::new(Box::new(MemDisk::new(DISK_BYTES)), "vfio-user") };
    let mut d = Device { nvme: Nvme::new(spec), client, begun: Instant::now(), left };
    d.reset(ResetKind::PowerOn);
    d.serve()
}
