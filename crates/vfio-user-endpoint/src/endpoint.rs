//! The function.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use pcie::config::regs::COMMAND_BME;
use pcie::Bdf;
use pcie::Completion;
use pcie::Function;
use pcie::FunctionState;
use pcie::LinkFailure;
use pcie::Message;
use pcie::Outcome;
use pcie::Rate;
use pcie::Sender;
use pcie::Upstream;
use thiserror::Error;

use crate::connection::Answer;
use crate::connection::Connection;
use crate::connection::Dma;
use crate::connection::DmaAnswer;
use crate::connection::Failure;
use crate::connection::Host;
use crate::connection::MOST_FDS;
use crate::registers::Mode;
use crate::registers::Place;
use crate::registers::Registers;
use crate::registers::BYTES;
use crate::relay::Channel;
use crate::transport::Socket;
use crate::transport::Transport;
use crate::wire;
use crate::wire::command;
use crate::wire::irq;
use crate::wire::Fields;

/// How often eventfds and socket are looked at while the server lives.
pub const POLL_NS: u64 = 1_000_000;
/// Longest time of one call, unless the spec says otherwise.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bus addresses that the server is told it may ask for. What is really there, the gates decide.
/// INFERRED: below the largest span that libvfio-user takes (lib/dma.h, 8 TiB).
const DMA_SPAN: u64 = 1 << 40;
/// Vectors that have eventfds. DEVIATION: those beyond are never sent.
pub const MOST_VECTORS: u32 = 256;
/// DMA passes the gates in pieces that end where a page ends, as no request crosses 4 KiB (PCIe §2.2.7).
const PAGE: u64 = 4096;
const NAME: &str = "vfio-user";

/// Which server.
#[derive(Clone, Debug)]
pub struct VfioUserSpec {
    /// Its UNIX socket.
    pub socket: PathBuf,
    /// Longest host time of one exchange. An access has at most three: itself, the unmask of INTx, what the server wants.
    pub timeout: Duration,
}

impl VfioUserSpec {
    /// The server at `socket`, with the usual timeout of 2 s.
    pub fn new(socket: impl Into<PathBuf>) -> VfioUserSpec {
        VfioUserSpec { socket: socket.into(), timeout: TIMEOUT }
    }
}

/// Why there is no function.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody listens.
    #[error("cannot connect to {socket}: {why}")]
    Connect {
        /// Where.
        socket: String,
        /// Why not.
        #[source]
        why: io::Error,
    },
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The server refused what every server must do.
    #[error("the server refused to {what} (errno {errno})")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Why, if it says.
        errno: u32,
    },
    /// A device that cannot be put behind the port.
    #[error("the server's device cannot be used: {0}")]
    Device(String),
}

/// A function that a server has.
#[derive(Debug)]
pub struct VfioUser {
    registers: Registers,
    /// `None`: the server failed; it is not asked again.
    server: Option<Server>,
    /// The server failed and the port has not been told.
    untold: bool,
    intx: bool,
    bdf: Bdf,
    next_poll: SimTime,
}

#[derive(Debug)]
struct Server {
    connection: Connection,
    config_bytes: u64,
    resettable: bool,
    /// Vectors and flags by interrupt type.
    irqs: [(u32, u32); 3],
    most_fds: u32,
    /// The interrupt type that the server can trigger, and how many vectors of it.
    armed: Option<(u32, u32)>,
    /// Vectors that were triggered and are not sent yet: before them come writes that are still to be served.
    triggered: BTreeSet<u32>,
}

/// No way up: what the server asks for waits.
fn later(_: Dma<'_>) -> DmaAnswer {
    DmaAnswer::Later
}

/// In reset a device sends nothing.
fn refuse(_: Dma<'_>) -> DmaAnswer {
    DmaAnswer::Refused
}

/// Guest memory, through the gates of the port above.
fn through_gates<E>(cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, from: Sender, dma: Dma<'_>) -> DmaAnswer {
    let (addr, mut data) = match dma {
        Dma::Read { addr, bytes } => (addr, vec![0; bytes]),
        Dma::Write { addr, data } => (addr, data.to_vec()),
    };
    if addr.checked_add(data.len() as u64).is_none() {
        return DmaAnswer::Refused;
    }
    let mut done = 0;
    while done < data.len() {
        let at = addr + done as u64;
        let end = (done + (PAGE - at % PAGE) as usize).min(data.len());
        let piece = &mut data[done..end];
        let status = match dma {
            Dma::Read { .. } => up.mem_read(cx, from.rid, from.bme, at, piece),
            Dma::Write { .. } => up.mem_write(cx, from.rid, from.bme, at, piece),
        };
        if status != Completion::Success {
            return DmaAnswer::Refused;
        }
        done = end;
    }
    match dma {
        Dma::Read { .. } => DmaAnswer::Done(data),
        Dma::Write { .. } => DmaAnswer::Done(Vec::new()),
    }
}

impl Server {
    /// A command whose reply has at least `bytes` bytes.
    fn ask(
        &mut self,
        what: &'static str,
        command: u16,
        payload: &[u8],
        bytes: usize,
    ) -> Result<Vec<u8>, ConnectError> {
        self.connection.begin();
        match self.connection.call(command, &[payload], 0..0, &mut later)? {
            Answer::Done(reply) if reply.len() >= bytes => Ok(reply),
            Answer::Done(_) => Err(Failure::Protocol(format!("the reply to {what} is too short")).into()),
            Answer::Refused(errno) => Err(ConnectError::Refused { what, errno }),
        }
    }

    fn negotiate(&mut self) -> Result<(), ConnectError> {
        // Descriptors of regions are dropped as they come, but a server may not describe a region that it cannot send with them.
        let ours = format!(
            "{{\"capabilities\":{{\"max_msg_fds\":16,\"max_data_xfer_size\":{}}}}}\0",
            wire::MOST_DATA_BYTES
        );
        let version = [&0u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), ours.as_bytes()].concat();
        let reply = self.ask("negotiate a version", command::VERSION, &version, 4)?;
        let mut f = Fields(&reply);
        let (major, _minor) = (f.half(), f.half());
        if major != Some(0) {
            return Err(ConnectError::Device(
                "it speaks another major version of the protocol than 0".into(),
            ));
        }
        let text: Vec<u8> = f.rest().iter().copied().take_while(|b| *b != 0).collect();
        let theirs: serde_json::Value = match text.is_empty() {
            true => serde_json::Value::Null,
            false => serde_json::from_slice(&text).map_err(|e| Failure::Protocol(e.to_string()))?,
        };
        let most = theirs.pointer("/capabilities/max_msg_fds").and_then(serde_json::Value::as_u64);
        self.most_fds = most.unwrap_or(1).clamp(1, MOST_FDS as u64) as u32;
        Ok(())
    }

    fn region_bytes(&mut self, index: u32) -> Result<u64, ConnectError> {
        let request = [wire::words(&[32, 0, index, 0]), wire::longs(&[0, 0])].concat();
        let reply = self.ask("tell of a region", command::GET_REGION_INFO, &request, 32)?;
        let mut f = Fields(&reply[16..]);
        Ok(f.long().unwrap_or(0))
    }

    /// Ask what device it is; returns its configuration space and the sizes of its BARs' regions.
    fn describe(&mut self) -> Result<([u8; BYTES], [u64; 6]), ConnectError> {
        let info = self.ask("tell of its device", command::GET_INFO, &wire::words(&[16, 0, 0, 0]), 16)?;
        let mut f = Fields(&info[4..]);
        let (flags, regions, irqs) = (f.word().unwrap_or(0), f.word().unwrap_or(0), f.word().unwrap_or(0));
        if flags & wire::DEVICE_PCI == 0 || regions <= wire::CONFIG_REGION {
            return Err(ConnectError::Device("it is no PCI device".into()));
        }
        self.resettable = flags & wire::DEVICE_RESET != 0;
        let mut bars = [0; 6];
        for (index, bytes) in (0..).zip(&mut bars) {
            *bytes = self.region_bytes(index)?;
        }
        self.config_bytes = self.region_bytes(wire::CONFIG_REGION)?;
        if self.config_bytes < BYTES as u64 {
            return Err(ConnectError::Device(format!(
                "it has {} bytes of configuration space",
                self.config_bytes
            )));
        }
        for index in (0..3u32).filter(|i| *i < irqs) {
            let request = wire::words(&[16, 0, index, 0]);
            let reply = self.ask("tell of an interrupt", command::GET_IRQ_INFO, &request, 16)?;
            let mut f = Fields(&reply[4..]);
            let (flags, _, count) = (f.word().unwrap_or(0), f.word(), f.word().unwrap_or(0));
            self.irqs[index as usize] = (count.min(MOST_VECTORS), flags);
        }
        let mut config = [0; BYTES];
        for (off, word) in (0u64..).step_by(4).zip(config.chunks_exact_mut(4)) {
            let read = self.region_read(wire::CONFIG_REGION, off, 4, &mut later)?;
            let read = read.ok_or(ConnectError::Refused { what: "read configuration space", errno: 0 })?;
            word.copy_from_slice(&(read as u32).to_le_bytes());
        }
        Ok((config, bars))
    }

    fn map_memory(&mut self) -> Result<(), ConnectError> {
        let request = [wire::words(&[32, 3]), wire::longs(&[0, 0, DMA_SPAN])].concat();
        self.ask("do DMA without a file descriptor of memory", command::DMA_MAP, &request, 0).map(drop)
    }

    /// Read up to 8 bytes; `None`: the server refused.
    fn region_read(
        &mut self,
        region: u32,
        off: u64,
        bytes: usize,
        host: &mut Host<'_>,
    ) -> Result<Option<u64>, Failure> {
        let at = [wire::longs(&[off]), wire::words(&[region, bytes as u32])].concat();
        let Answer::Done(reply) = self.connection.call(command::REGION_READ, &[&at], 0..0, host)? else {
            return Ok(None);
        };
        // The reply repeats the request, with the data behind it.
        match reply.split_at_checked(at.len()) {
            Some((head, data)) if head == at && data.len() == bytes && bytes <= 8 => {
                let mut v = [0; 8];
                v[..bytes].copy_from_slice(data);
                Ok(Some(u64::from_le_bytes(v)))
            }
            _ => Err(Failure::Protocol("the reply to a read is of another read".into())),
        }
    }

    fn region_write(
        &mut self,
        region: u32,
        off: u64,
        (v, w): (u64, Width),
        host: &mut Host<'_>,
    ) -> Result<bool, Failure> {
        let bytes = w.bytes() as usize;
        let at = [wire::longs(&[off]), wire::words(&[region, bytes as u32])].concat();
        let answer =
            self.connection.call(command::REGION_WRITE, &[&at, &v.to_le_bytes()[..bytes]], 0..0, host)?;
        Ok(matches!(answer, Answer::Done(_)))
    }

    /// `vectors`: whose triggers go with it; `range`: what it is about.
    fn set_irqs(
        &mut self,
        (index, flags): (u32, u32),
        range: Range<u32>,
        vectors: Range<u32>,
        host: &mut Host<'_>,
    ) -> Result<(), Failure> {
        let request = wire::words(&[20, flags, index, range.start, range.end - range.start]);
        // A type that the server cannot switch stays silent: that is the device's affair.
        self.connection.call(command::SET_IRQS, &[&request], vectors, host).map(drop)
    }

    /// Let the server trigger interrupts of this kind, and no other.
    fn arm(&mut self, index: u32, host: &mut Host<'_>) -> Result<(), Failure> {
        if self.armed.is_some_and(|a| a.0 == index) {
            return Ok(());
        }
        self.disarm(host)?;
        let count = self.irqs[index as usize % 3].0;
        self.connection.set_triggers(index, count)?;
        self.armed = Some((index, count));
        let mut start = 0;
        while start < count {
            let end = count.min(start + self.most_fds);
            self.set_irqs((index, irq::DATA_EVENTFD | irq::ACTION_TRIGGER), start..end, start..end, host)?;
            start = end;
        }
        Ok(())
    }

    fn disarm(&mut self, host: &mut Host<'_>) -> Result<(), Failure> {
        self.triggered.clear();
        match self.armed.take() {
            Some((index, 1..)) => {
                self.set_irqs((index, irq::DATA_NONE | irq::ACTION_TRIGGER), 0..0, 0..0, host)
            }
            _ => Ok(()),
        }
    }

    /// Serve what the server has sent by itself. Then the interrupts that may be sent: all writes before them are served.
    fn serve_pending(&mut self, host: &mut Host<'_>) -> Result<Vec<u32>, Failure> {
        self.triggered.extend(self.connection.take_triggered()?);
        if !self.connection.serve_pending(host)? {
            return Ok(Vec::new());
        }
        Ok(std::mem::take(&mut self.triggered).into_iter().collect())
    }

    /// The guest has looked at the device: it may assert INTx anew.
    fn unmask_intx(&mut self, host: &mut Host<'_>) -> Result<(), Failure> {
        if self.irqs[irq::INTX as usize].1 & irq::MASKABLE == 0 {
            return Ok(());
        }
        self.set_irqs((irq::INTX, irq::DATA_NONE | irq::ACTION_UNMASK), 0..1, 0..0, host)
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.disarm(&mut refuse)?;
        if self.resettable {
            self.connection.call(command::RESET, &[], 0..0, &mut refuse)?;
        }
        self.connection.serve_pending(&mut refuse)?;
        self.arm(irq::INTX, &mut refuse)
    }
}

impl VfioUser {
    /// Connect to the server and ask what device it has.
    pub fn connect(spec: &VfioUserSpec) -> Result<VfioUser, ConnectError> {
        let socket = Socket::open(&spec.socket)
            .map_err(|why| ConnectError::Connect { socket: spec.socket.display().to_string(), why })?;
        VfioUser::with(Box::new(socket), spec.timeout)
    }

    /// Ask the server at the other end of a relay what device it has. `timeout`: as in [`VfioUserSpec`].
    pub fn through(channel: Channel, timeout: Duration) -> Result<VfioUser, ConnectError> {
        VfioUser::with(Box::new(channel), timeout)
    }

    fn with(way: Box<dyn Transport>, timeout: Duration) -> Result<VfioUser, ConnectError> {
        let mut server = Server {
            connection: Connection::new(way, timeout),
            config_bytes: 0,
            resettable: false,
            irqs: [(0, 0); 3],
            most_fds: 1,
            armed: None,
            triggered: BTreeSet::new(),
        };
        server.negotiate()?;
        server.map_memory()?;
        let (config, bars) = server.describe()?;
        let registers = Registers::new(config, &bars).map_err(ConnectError::Device)?;
        server.arm(irq::INTX, &mut later)?;
        Ok(VfioUser {
            registers,
            server: Some(server),
            untold: false,
            intx: false,
            bdf: Bdf::default(),
            next_poll: SimTime::ZERO,
        })
    }

    /// Do something with the server; `None`: it has failed, now or before.
    fn with_server<R>(&mut self, f: impl FnOnce(&mut Server) -> Result<R, Failure>) -> Option<R> {
        let server = self.server.as_mut()?;
        server.connection.begin();
        match f(server) {
            Ok(done) => Some(done),
            Err(why) => {
                log::warn!("vfio-user device lost: {why}");
                self.server = None;
                self.untold = true;
                self.intx = false;
                None
            }
        }
    }

    /// The same, with guest memory at hand.
    fn with_memory<E, R>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        f: impl FnOnce(&mut Server, &mut Host<'_>) -> Result<R, Failure>,
    ) -> Option<R> {
        let from = self.sender();
        self.with_server(|s| f(s, &mut |dma| through_gates(cx, up, from, dma)))
    }

    fn sender(&self) -> Sender {
        Sender { rid: self.bdf, bme: self.registers.command() & COMMAND_BME != 0 }
    }

    fn send<E>(&self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, (vector, m): (u32, Message)) {
        up.message(cx, self.sender(), vector, m);
    }

    /// Serve what the server has sent by itself, then its interrupts.
    fn service<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        let taken = self.with_memory(cx, up, |s, host| {
            let index = s.armed.map(|a| a.0);
            Ok((index, s.serve_pending(host)?))
        });
        if let Some((Some(index), vectors)) = taken {
            for vector in vectors {
                if index == irq::INTX {
                    self.intx = true;
                } else if let Some(m) = self.registers.raise(vector) {
                    self.send(cx, up, (vector, m));
                }
            }
        }
        self.report_loss(cx, up);
    }

    fn report_loss<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        if std::mem::take(&mut self.untold) {
            up.fail_link(cx, LinkFailure::Vanish);
        }
    }

    /// What follows each access to a BAR of the server.
    fn accessed<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        if std::mem::take(&mut self.intx) {
            self.with_memory(cx, up, Server::unmask_intx);
        }
        self.service(cx, up);
    }

    fn send_unmasked<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        for m in self.registers.take_unmasked() {
            self.send(cx, up, m);
        }
    }
}

impl<E> Function<E> for VfioUser {
    fn config_read(&mut self, _cx: &mut Cx<'_, E>, _link: Option<Rate>, off: u16, w: Width) -> u64 {
        let theirs = self.with_server(|s| {
            if u64::from(off) + w.bytes() > s.config_bytes {
                return Ok(Some(0));
            }
            s.region_read(wire::CONFIG_REGION, u64::from(off), w.bytes() as usize, &mut later)
        });
        match theirs {
            Some(v) => self.registers.overlay(off, w, v.unwrap_or(w.ones())),
            None => w.ones(),
        }
    }

    fn config_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        bdf: Bdf,
        off: u16,
        w: Width,
        v: u64,
    ) {
        self.bdf = bdf;
        self.registers.write(off, w, v);
        let index = match self.registers.mode() {
            Mode::Intx => irq::INTX,
            Mode::Msi => irq::MSI,
            Mode::Msix => irq::MSIX,
        };
        self.with_memory(cx, up, |s, host| {
            if u64::from(off) + w.bytes() <= s.config_bytes {
                s.region_write(wire::CONFIG_REGION, off.into(), (v, w), host)?;
            }
            s.arm(index, host)
        });
        self.send_unmasked(cx, up);
        self.service(cx, up);
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome {
        let (region, off) = match self.registers.hit(addr, w) {
            Some(Place::Region(region, off)) => (region, off),
            Some(place) if self.server.is_some() => return Outcome::ok(self.registers.read_msix(place, w)),
            Some(_) => return Outcome::refused(Completion::Timeout, w),
            None => return Outcome::refused(Completion::UnsupportedRequest, w),
        };
        let read = self.with_memory(cx, up, |s, host| s.region_read(region, off, w.bytes() as usize, host));
        self.accessed(cx, up);
        match read {
            Some(Some(v)) => Outcome::ok(v),
            Some(None) => Outcome::refused(Completion::CompleterAbort, w),
            None => Outcome::refused(Completion::Timeout, w),
        }
    }

    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        w: Width,
        v: u64,
    ) -> Completion {
        match self.registers.hit(addr, w) {
            Some(Place::Region(region, off)) => {
                let done = self.with_memory(cx, up, |s, host| s.region_write(region, off, (v, w), host));
                self.accessed(cx, up);
                match done {
                    Some(true) => Completion::Success,
                    Some(false) => Completion::CompleterAbort,
                    None => Completion::Timeout,
                }
            }
            Some(Place::Table(off)) => {
                self.registers.write_table(off, w, v);
                self.send_unmasked(cx, up);
                Completion::Success
            }
            Some(Place::Pba(_) | Place::Nothing) => Completion::Success,
            None => Completion::UnsupportedRequest,
        }
    }

    fn intx(&self) -> u8 {
        let pin = self.registers.pin();
        let on = self.intx && self.registers.intx_enabled() && pin != 0;
        u8::from(on) << (pin.wrapping_sub(1) & 3)
    }

    fn decodes(&self, addr: u64, w: Width) -> bool {
        self.registers.hit(addr, w).is_some()
    }

    fn make_multifunction(&mut self) {
        self.registers.make_multifunction();
    }

    fn claims(&self) -> Vec<(u64, u64)> {
        self.registers.claims()
    }

    fn msi_target(&self) -> Option<u64> {
        self.registers.msi_target()
    }

    fn next_deadline(&self) -> Option<SimTime> {
        (self.server.is_some() || self.untold).then_some(self.next_poll)
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        self.next_poll = cx.now.after_ns(POLL_NS);
        self.service(cx, up);
    }

    fn reset(&mut self, _cx: &mut Cx<'_, E>, _kind: ResetKind) {
        self.registers.reset();
        self.intx = false;
        self.bdf = Bdf::default();
        self.with_server(Server::reset);
    }

    fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        self.registers.sample(out);
        out("intx", Function::<E>::intx(self).into());
        out("vfio.alive", self.server.is_some().into());
    }

    /// The device's state is in its server: nothing is saved, and what is returned restores nothing.
    fn save(&self) -> FunctionState {
        FunctionState::new(NAME, &())
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        StateError::unless_of("endpoint", NAME, &saved.function)?;
        Err(StateError::Malformed {
            what: NAME,
            why: "the state of an external device is in its server and cannot be restored".into(),
        })
    }
}
