//! A small device that serves vfio-user at the socket given to it, for tests and as an example: one client, then it ends.
//!
//! BAR 0: 0x00 scratch, 0x04 raise the MSI or MSI-X vector written, 0x08 address of DMA, 0x0c DMA write of scratch there, 0x10 DMA
//! read from there into scratch, 0x14 errno of the last DMA, 0x18 level of INTx, 0x1c a read never returns, 0x20 a read ends the
//! process, 0x24 after the reply as many posted DMA writes there as are written, of their number, then MSI or MSI-X vector 0. BAR 2:
//! MSI-X table. A line on stdout says when it listens, when a read hangs and when it was reset.
#![forbid(unsafe_code)]

use std::io;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;

use vfio_user_endpoint::server;
use vfio_user_endpoint::wire;
use vfio_user_endpoint::wire::command;
use vfio_user_endpoint::wire::irq;
use vfio_user_endpoint::wire::Fields;
use vfio_user_endpoint::wire::Header;

const BAR_BYTES: u64 = 0x1000;
const MSIX_VECTORS: u32 = 4;
const EINVAL: u32 = 22;
const ENOTSUP: u32 = 95;

struct Device {
    stream: UnixStream,
    config: Vec<u8>,
    scratch: u32,
    dma_addr: u32,
    dma_errno: u32,
    level: bool,
    posted: u32,
    triggers: [Vec<Option<OwnedFd>>; 3],
}

fn config() -> Vec<u8> {
    let mut c = vec![0; 256];
    let mut put = |at: usize, bytes: &[u8]| c[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &[0x36, 0x1b, 0x01, 0x00, 0, 0, 0x10, 0, 0, 0, 0, 0xff]);
    put(0x34, &[0x50]);
    put(0x3d, &[1]);
    // MSI: 64-bit, maskable, four messages. MSI-X: table and PBA in BAR 2.
    put(0x50, &[0x05, 0x70, 0x84, 0x01]);
    put(0x70, &[0x11, 0x00, MSIX_VECTORS as u8 - 1, 0, 2, 0, 0, 0, 2, 8, 0, 0]);
    c
}

impl Device {
    fn serve(&mut self) -> io::Result<()> {
        while let Some((h, payload, fds)) = server::receive(&self.stream)? {
            let reply = match self.answer(h, &payload, fds)? {
                Ok(reply) => h.reply().message(&[&reply]),
                Err(errno) => h.refusal(errno).message(&[]),
            };
            self.stream.write_all(&reply)?;
            self.burst()?;
        }
        Ok(())
    }

    /// Writes that nobody answers, and an interrupt that tells of them.
    fn burst(&mut self) -> io::Result<()> {
        let posted = std::mem::take(&mut self.posted);
        let h = Header { command: command::DMA_WRITE, flags: wire::NO_REPLY, ..Header::default() };
        for n in 1..=posted {
            let at = wire::longs(&[self.dma_addr.into(), 4]);
            self.stream.write_all(&h.message(&[&at, &n.to_le_bytes()]))?;
        }
        if posted > 0 {
            self.trigger(irq::MSI, 0)?;
            self.trigger(irq::MSIX, 0)?;
        }
        Ok(())
    }

    fn answer(&mut self, h: Header, payload: &[u8], fds: Vec<OwnedFd>) -> io::Result<Result<Vec<u8>, u32>> {
        let mut f = Fields(payload);
        Ok(match h.command {
            command::VERSION => {
                let version = [&0u16.to_ne_bytes()[..], &1u16.to_ne_bytes()].concat();
                Ok([&version, &b"{\"capabilities\":{\"max_msg_fds\":3}}\0"[..]].concat())
            }
            command::DMA_MAP => Ok(Vec::new()),
            command::GET_INFO => Ok(wire::words(&[16, wire::DEVICE_PCI | wire::DEVICE_RESET, 9, 3])),
            command::GET_REGION_INFO => {
                let index = Fields(payload.get(8..).unwrap_or_default()).word().unwrap_or(0);
                let bytes = match index {
                    0 | 2 => BAR_BYTES,
                    wire::CONFIG_REGION => 256,
                    _ => 0,
                };
                Ok([wire::words(&[32, 3, index, 0]), wire::longs(&[bytes, 0])].concat())
            }
            command::GET_IRQ_INFO => {
                let index = Fields(payload.get(8..).unwrap_or_default()).word().unwrap_or(0);
                let count = [1, 4, MSIX_VECTORS].get(index as usize).copied().unwrap_or(0);
                Ok(wire::words(&[16, 1 | irq::MASKABLE, index, count]))
            }
            command::SET_IRQS => self.set_irqs(f, fds)?,
            command::REGION_READ => {
                let (off, region, count) = (f.long(), f.word(), f.word());
                let data =
                    self.read(region.unwrap_or(0), off.unwrap_or(0), count.unwrap_or(0).min(64) as usize);
                Ok([payload, &data].concat())
            }
            command::REGION_WRITE => {
                let (off, region, count) = (f.long().unwrap_or(0), f.word().unwrap_or(0), f.word());
                if count == Some(4) && region == 0 {
                    self.write(off, f.word().unwrap_or(0))?;
                }
                Ok(payload[..16].to_vec())
            }
            command::RESET => {
                (self.scratch, self.level) = (0, false);
                println!("reset");
                Ok(Vec::new())
            }
            _ => Err(ENOTSUP),
        })
    }

    fn set_irqs(&mut self, mut f: Fields<'_>, fds: Vec<OwnedFd>) -> io::Result<Result<Vec<u8>, u32>> {
        let (_, flags, index) = (f.word(), f.word().unwrap_or(0), f.word().unwrap_or(9));
        let (start, count) = (f.word().unwrap_or(0) as usize, f.word().unwrap_or(0));
        let Some(triggers) = self.triggers.get_mut(index as usize) else { return Ok(Err(EINVAL)) };
        if flags == irq::DATA_NONE | irq::ACTION_TRIGGER && count == 0 {
            triggers.clear();
        } else if flags == irq::DATA_EVENTFD | irq::ACTION_TRIGGER && start < 64 {
            triggers.resize_with(triggers.len().max(start + fds.len()), || None);
            triggers.iter_mut().skip(start).zip(fds).for_each(|(t, fd)| *t = Some(fd));
        }
        if index == irq::INTX && self.level {
            self.trigger(irq::INTX, 0)?;
        }
        Ok(Ok(Vec::new()))
    }

    fn trigger(&self, index: u32, vector: u32) -> io::Result<()> {
        if let Some(Some(fd)) = self.triggers[index as usize].get(vector as usize) {
            rustix::io::write(fd, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }

    fn read(&self, region: u32, off: u64, count: usize) -> Vec<u8> {
        let mut data = match (region, off) {
            (wire::CONFIG_REGION, _) => self.config.iter().skip(off as usize).take(count).copied().collect(),
            (0, 0x00) => self.scratch.to_le_bytes().to_vec(),
            (0, 0x14) => self.dma_errno.to_le_bytes().to_vec(),
            (0, 0x1c) => {
                println!("hangs");
                loop {
                    std::thread::park();
                }
            }
            (0, 0x20) => std::process::exit(0),
            _ => Vec::new(),
        };
        data.resize(count, 0);
        data
    }

    fn write(&mut self, off: u64, v: u32) -> io::Result<()> {
        match off {
            0x00 => self.scratch = v,
            0x04 => {
                self.trigger(irq::MSI, v)?;
                self.trigger(irq::MSIX, v)?;
            }
            0x08 => self.dma_addr = v,
            0x0c => {
                let data = self.scratch.to_le_bytes();
                self.dma(command::DMA_WRITE, &data)?;
            }
            0x10 => {
                let data = self.dma(command::DMA_READ, &[])?;
                if let Some(word) = data.get(16..20) {
                    self.scratch = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                }
            }
            0x24 => self.posted = v,
            0x18 => {
                self.level = v != 0;
                if self.level {
                    self.trigger(irq::INTX, 0)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// DMA of four bytes; the reply's payload.
    fn dma(&mut self, command: u16, data: &[u8]) -> io::Result<Vec<u8>> {
        let at = wire::longs(&[self.dma_addr.into(), 4]);
        let h = Header { id: 0x77, command, ..Header::default() };
        self.stream.write_all(&h.message(&[&at, data]))?;
        let Some((h, payload, _)) = server::receive(&self.stream)? else { return Ok(Vec::new()) };
        self.dma_errno = h.error;
        Ok(payload)
    }
}

fn main() -> io::Result<()> {
    let socket =
        std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: vfio-user-test-device SOCKET"))?;
    let listener = UnixListener::bind(socket)?;
    println!("listens");
    io::stdout().flush()?;
    let (stream, _) = listener.accept()?;
    let triggers = [Vec::new(), Vec::new(), Vec::new()];
    let mut d = Device {
        stream,
        config: config(),
        scratch: 0,
        dma_addr: 0,
        dma_errno: 0,
        level: false,
        posted: 0,
        triggers,
    };
    d.serve()
}
