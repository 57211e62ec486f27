//! The NVMe controller behind the root port: DMA both ways through the port's gates, MSIs through iMSI-RX, and what becomes of I/O in
//! flight when the way up closes or the link goes.

use block::VecMem;
use block::Width;
use endpoints::nvme::command::admin;
use endpoints::nvme::command::nvm;
use endpoints::nvme::regs::cc;
use endpoints::nvme::regs::csts;
use endpoints::nvme::regs::off;
use endpoints::Disk;
use endpoints::MemDisk;
use endpoints::Nvme;
use endpoints::NvmeSpec;
use pcie::Device;
use rc_fuzz::machine::Machine;
use rc_fuzz::machine::RAM;
use rc_model::soc;
use rc_model::Config;
use rc_model::Event;
use rc_model::Soc;
use rc_model::Window;

const LATENCY_NS: u64 = 100_000;
const DATA: u64 = RAM + 0x4_0000;
const DEPTH: u32 = 16;

fn sq_at(id: u64) -> u64 {
    RAM + 0x1_0000 + id * 0x2000
}

fn cq_at(id: u64) -> u64 {
    sq_at(id) + 0x1000
}

fn config(soc: &'static Soc, latency_ns: u64) -> Config {
    let mut disk = MemDisk::new(1 << 20);
    assert!(disk.write(0, b"first block"));
    let spec = NvmeSpec { latency_ns, ..NvmeSpec::new(Box::new(disk), "1") };
    Config::new(soc, Some(Device::single(Nvme::new(spec)).boxed()))
}

fn writel(m: &mut Machine, off: u32, v: u64) {
    m.writel(Window::Mem, off.into(), v as u32);
}

fn put(m: &mut Machine, addr: u64, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    m.mem.bytes[(addr - RAM) as usize..][..bytes.len()].copy_from_slice(&bytes);
}

/// Submit the `n`th command of queue `id`, counted from 0 and less than the queue has entries.
fn submit(m: &mut Machine, id: u64, n: u64, opcode: u8, prp1: u64, dw10: [u32; 3]) {
    let [a, b, c] = dw10;
    let sqe = [u32::from(opcode) | (n as u32) << 16, 1, 0, 0, 0, 0, prp1 as u32, 0, 0, 0, a, b, c, 0, 0, 0];
    put(m, sq_at(id) + n * 64, &sqe);
    writel(m, off::DOORBELLS + id as u32 * 8, n + 1);
}

/// Status with its phase tag of the `n`th completion of queue `id`.
fn status(m: &Machine, id: u64, n: u64) -> u16 {
    let at = (cq_at(id) - RAM + n * 16 + 14) as usize;
    u16::from_le_bytes([m.mem.bytes[at], m.mem.bytes[at + 1]])
}

/// Probed, as Linux does with one MSI: admin queue, one pair of I/O queues.
fn probed(soc: &'static Soc, latency_ns: u64) -> Machine {
    let mut m = Machine::with(config(soc, latency_ns));
    m.mem = VecMem::new(RAM, 1 << 20);
    m.link_up();
    m.open_downstream();
    m.arm_msi();
    let size = DEPTH - 1;
    writel(&mut m, off::AQA, (size | size << 16).into());
    writel(&mut m, off::ASQ, sq_at(0));
    writel(&mut m, off::ACQ, cq_at(0));
    writel(&mut m, off::CC, u64::from(6 << cc::IOSQES_SHIFT | 4 << cc::IOCQES_SHIFT | cc::EN));
    assert_eq!(m.readl(Window::Mem, off::CSTS.into()), csts::RDY);
    submit(&mut m, 0, 0, admin::CREATE_CQ, cq_at(1), [1 | size << 16, 3, 0]);
    submit(&mut m, 0, 1, admin::CREATE_SQ, sq_at(1), [1 | size << 16, 1 | 1 << 16, 0]);
    assert_eq!((status(&m, 0, 0), status(&m, 0, 1)), (1, 1), "{}", soc.name);
    m
}

fn refusals(m: &Machine) -> Vec<String> {
    let gate = |e: &Event| match e {
        Event::DmaRefused { gate, .. } => Some(gate.clone()),
        _ => None,
    };
    m.events.iter().filter_map(gate).collect()
}

#[test]
fn data_and_interrupts_come_up_through_the_port_of_every_soc() {
    for soc in soc::SOCS {
        let mut m = probed(soc, 0);
        let before = m.item("count.msi");
        submit(&mut m, 1, 0, nvm::READ, DATA, [0, 0, 0]);
        assert_eq!(status(&m, 1, 0), 1, "{}", soc.name);
        let at = (DATA - RAM) as usize;
        assert_eq!(&m.mem.bytes[at..at + 11], b"first block", "{}", soc.name);
        assert_eq!((m.item("count.msi"), refusals(&m)), (before + 1, vec![]), "{}", soc.name);
        assert_eq!((m.item("ep.nvme.enabled"), m.item("ep.nvme.queues")), (1, 2));
    }
}

#[test]
fn io_in_flight_meets_a_bridge_that_is_closed() {
    let mut m = probed(&soc::SM8250, LATENCY_NS);
    submit(&mut m, 1, 0, nvm::READ, DATA, [0, 0, 0]);
    assert_eq!(m.item("ep.nvme.inflight"), 1);
    let port = m.port_config();
    m.writew(port, 0x04, 0x103);
    m.sleep(2 * LATENCY_NS);
    assert_eq!(refusals(&m), ["bridge-bme", "bridge-bme"], "the data, then the completion");
    assert_eq!(m.readl(Window::Mem, off::CSTS.into()), csts::RDY | csts::CFS);
    assert_eq!((status(&m, 1, 0), m.item("ep.nvme.inflight")), (0, 0));
}

#[test]
fn io_in_flight_is_gone_with_the_link_and_with_perst() {
    for perst in [false, true] {
        let mut m = probed(&soc::SM8250, LATENCY_NS);
        submit(&mut m, 1, 0, nvm::READ, DATA, [0, 0, 0]);
        if perst {
            m.gpio_set(soc::GPIO_PERST, false);
        } else {
            m.with_cx(|rc, cx| rc.surprise_down(cx));
        }
        assert_eq!((m.item("ep.nvme.inflight"), m.item("ep.nvme.queues")), (0, 0));
        m.sleep(2 * LATENCY_NS);
        assert_eq!((refusals(&m), status(&m, 1, 0)), (vec![], 0), "nothing is sent");
        assert_eq!(m.read(Window::Mem, 0, Width::B4), 0xffff_ffff);
    }
}

fn port_write(m: &mut Machine, off: u64, v: u32) {
    let port = m.port_config();
    m.writel(port, off, v);
}

/// Shadow doorbells and event indices.
const BUFFERS: u64 = RAM + 0x6_0000;

#[test]
fn doorbells_that_need_no_value_are_offered_while_a_write_reaches_them() {
    let offered = |m: &mut Machine| m.with_cx(|rc, _| rc.doorbells());
    let bell = u64::from(off::DOORBELLS) + 8;
    type Change = (&'static str, fn(&mut Machine), bool);
    let changes: &[Change] = &[
        ("nothing", |_| {}, true),
        ("function's memory decoding off", |m| m.writew(Window::Config, 0x04, 0x4), false),
        ("bridge's memory decoding off", |m| port_write(m, 0x04, 0x0010_0004), false),
        ("bridge's window closed", |m| port_write(m, 0x20, 0x0000_fff0), false),
        ("iATU region disabled", |m| m.writel(Window::Atu, (1 << 9) + 4, 0), false),
        ("PERST#", |m| m.gpio_set(soc::GPIO_PERST, false), false),
        ("link lost", |m| m.with_cx(|rc, cx| rc.surprise_down(cx)), false),
        ("disabled", |m| m.writel(Window::Mem, off::CC.into(), 0), false),
    ];
    for (what, change, stays) in changes {
        let mut m = probed(&soc::SM8250, 0);
        assert!(offered(&mut m).is_empty(), "their writes have values");
        put(
            &mut m,
            sq_at(0) + 2 * 64,
            &[0x7c | 2 << 16, 0, 0, 0, 0, 0, BUFFERS as u32, 0, BUFFERS as u32 + 0x1000],
        );
        writel(&mut m, off::DOORBELLS, 3);
        assert_eq!((status(&m, 0, 2), offered(&mut m)), (1, vec![bell]), "{what}");
        change(&mut m);
        assert_eq!(offered(&mut m), if *stays { vec![bell] } else { vec![] }, "{what}");
        put(&mut m, sq_at(1), &[nvm::READ.into(), 1, 0, 0, 0, 0, DATA as u32, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        put(&mut m, BUFFERS + 8, &[1]);
        m.with_cx(|rc, cx| rc.ring(cx, bell));
        assert_eq!(status(&m, 1, 0), u16::from(*stays), "{what}: a ring that comes too late is lost");
    }
}
