//! The device with the driver side of Linux v6.12 drivers/char/virtio_console.c in guest memory.

use std::sync::mpsc::channel;
use std::sync::mpsc::Receiver;
use std::sync::Arc;

use vm_memory::Bytes;
use vm_memory::GuestAddress;

use super::super::Mmio;
use super::*;

/// A split queue laid out at `base` by a driver: 16 descriptors, one buffer each.
struct Driver {
    index: u32,
    base: u64,
    avail: u16,
}

const N: u16 = 16;
const BUF_BYTES: u32 = 64;

impl Driver {
    fn buf(&self, i: u16) -> GuestAddress {
        GuestAddress(self.base + 0x1000 + u64::from(i) * u64::from(BUF_BYTES))
    }

    fn set_up(index: u32, m: &mut Mmio<Console>) -> Driver {
        let base = 0x8000_0000 + u64::from(index) * 0x2000;
        m.write(0x30, index);
        m.write(0x38, N.into());
        for (at, v) in [(0x80, base), (0x90, base + 0x400), (0xa0, base + 0x800)] {
            m.write(at, v as u32);
            m.write(at + 4, (v >> 32) as u32);
        }
        m.write(0x44, 1);
        Driver { index, base, avail: 0 }
    }

    fn offer(&mut self, m: &mut Mmio<Console>, data: Option<&[u8]>) {
        let mem = Arc::clone(&m.mem);
        let i = self.avail % N;
        let (len, flags) = data.map_or((BUF_BYTES, 2_u16), |d| (d.len() as u32, 0));
        if let Some(d) = data {
            mem.write_slice(d, self.buf(i)).unwrap();
        }
        let desc = GuestAddress(self.base + u64::from(i) * 16);
        let mut bytes = self.buf(i).0.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0, 0]);
        mem.write_slice(&bytes, desc).unwrap();
        mem.write_obj(i, GuestAddress(self.base + 0x400 + 4 + u64::from(i) * 2)).unwrap();
        self.avail += 1;
        mem.write_obj(self.avail, GuestAddress(self.base + 0x402)).unwrap();
        m.write(0x50, self.index);
    }

    /// Contents of used buffer `i`.
    fn used(&self, m: &Mmio<Console>, i: u16) -> Vec<u8> {
        let len: u32 = m.mem.read_obj(GuestAddress(self.base + 0x800 + 4 + u64::from(i) * 8 + 4)).unwrap();
        let mut buf = vec![0; len as usize];
        m.mem.read_slice(&mut buf, self.buf(i)).unwrap();
        buf
    }
}

fn started() -> (Mmio<Console>, Vec<Driver>, Receiver<Output>) {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x8000_0000), 0x20000)]).unwrap();
    let (tx, rx) = channel();
    let mut m = Mmio::new(Console::new(Box::new(move |o| tx.send(o).unwrap())), Arc::new(mem));
    assert_eq!((m.read(0, 4), m.read(4, 4), m.read(8, 4)), (0x7472_6976, 2, 3));
    let queues = (0..6).map(|i| Driver::set_up(i, &mut m)).collect();
    m.write(0x70, 0xf);
    (m, queues, rx)
}

fn control(port: u32, what: u16, value: u16) -> Vec<u8> {
    [&port.to_le_bytes()[..], &what.to_le_bytes(), &value.to_le_bytes()].concat()
}

#[test]
fn the_handshake_adds_both_ports_and_names_the_channel() {
    let (mut m, mut q, _rx) = started();
    for _ in 0..8 {
        q[2].offer(&mut m, None);
    }
    q[3].offer(&mut m, Some(&control(0xffff_ffff, event::DEVICE_READY, 1)));
    assert_eq!(q[2].used(&m, 0), control(0, event::PORT_ADD, 1));
    assert_eq!(q[2].used(&m, 1), control(1, event::PORT_ADD, 1));
    q[3].offer(&mut m, Some(&control(1, event::PORT_READY, 1)));
    assert_eq!(q[2].used(&m, 2), [control(1, event::PORT_NAME, 1), b"rcvm.agent".to_vec()].concat());
    assert_eq!(q[2].used(&m, 3), control(1, event::PORT_OPEN, 1));
    assert!(m.line(), "used buffers raise the line");
    m.write(0x64, 1);
    assert!(!m.line(), "acknowledging lowers it");
}

#[test]
fn what_the_guest_writes_comes_out_and_what_is_sent_waits_for_buffers() {
    let (mut m, mut q, rx) = started();
    q[5].offer(&mut m, Some(b"hello"));
    assert_eq!(rx.try_recv(), Ok(Output::Bytes(CHANNEL, b"hello".to_vec())));
    q[1].offer(&mut m, Some(b"console"));
    assert_eq!(rx.try_recv(), Ok(Output::Bytes(CONSOLE, b"console".to_vec())));
    m.device.send(CHANNEL, &[b'x'; 100]);
    m.run(Console::queue_of(CHANNEL));
    q[4].offer(&mut m, None);
    assert_eq!(q[4].used(&m, 0), [b'x'; 64]);
    q[4].offer(&mut m, None);
    assert_eq!(q[4].used(&m, 1), [b'x'; 36]);
}

#[test]
fn a_hostile_driver_gets_nowhere() {
    let (mut m, mut q, rx) = started();
    // Descriptor outside memory, ring index far ahead, unknown queues and ports, short control messages.
    m.mem.write_obj(u64::MAX - 8, GuestAddress(q[5].base)).unwrap();
    m.mem.write_obj(0xfff_u32, GuestAddress(q[5].base + 8)).unwrap();
    m.mem.write_obj(0x4000_u16, GuestAddress(q[5].base + 0x402)).unwrap();
    m.write(0x50, 5);
    m.write(0x50, 77);
    q[3].offer(&mut m, Some(&[1, 2, 3]));
    q[3].offer(&mut m, Some(&control(9, event::PORT_OPEN, 1)));
    m.write(0x30, 1000);
    m.write(0x44, 1);
    assert_eq!(m.read(0x34, 4), 0);
    assert_eq!(rx.try_iter().filter(|o| matches!(o, Output::Bytes(..))).count(), 0);
    m.write(0x70, 0);
    assert!(!m.driver_ok());
}

#[test]
fn input_that_nobody_reads_is_bounded() {
    let (mut m, _, _rx) = started();
    for _ in 0..20 {
        m.device.send(CONSOLE, &[0; 100_000]);
    }
    assert_eq!(m.device.to_guest[CONSOLE].len(), MAX_PENDING_BYTES);
}
