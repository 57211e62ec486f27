//! A served device behind a root complex: what works, and what happens when its server does not. By a socket and through a relay.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use block::StateError;
use block::Width;
use pcie::Device;
use pcie::Function;
use rc_fuzz::machine::MS;
use rc_fuzz::machine::RAM;
use rc_fuzz::Machine;
use rc_model::soc;
use rc_model::Config;
use rc_model::Event;
use rc_model::Slot;
use rc_model::Window;
use vfio_user_endpoint::relay;
use vfio_user_endpoint::wire;
use vfio_user_endpoint::wire::command;
use vfio_user_endpoint::wire::Header;
use vfio_user_endpoint::ConnectError;
use vfio_user_endpoint::VfioUser;
use vfio_user_endpoint::VfioUserSpec;

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By its socket.
    Socket,
    /// Through a relay.
    Relay,
}

impl Way {
    fn connect(self, socket: &Path, timeout: Duration) -> Result<VfioUser, ConnectError> {
        if self == Way::Socket {
            return VfioUser::connect(&VfioUserSpec { timeout, ..VfioUserSpec::new(socket) });
        }
        let server = UnixStream::connect(socket).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        std::thread::spawn(|| relay::serve(near, vec![server]).unwrap());
        VfioUser::through(relay::Link::new(far.into()).unwrap().channel(0), timeout)
    }
}

/// Each of these is a test for each way.
macro_rules! both_ways {
    ($($name:ident,)*) => {
        mod by_socket {
            $(#[test] fn $name() { super::$name(super::Way::Socket); })*
        }
        mod through_a_relay {
            $(#[test] fn $name() { super::$name(super::Way::Relay); })*
        }
    };
}

both_ways! {
    it_enumerates_and_its_bars_are_sized,
    accesses_to_a_bar_reach_the_server_and_a_reset_too,
    an_msi_is_latched_and_a_masked_one_waits,
    an_msi_x_vector_sends_what_the_table_says,
    the_pin_follows_the_device_after_each_look_at_it,
    dma_passes_the_gates,
    an_interrupt_does_not_overtake_the_writes_before_it,
    a_server_that_is_killed_in_the_middle_of_an_access_vanishes,
    a_server_that_ends_by_itself_or_stalls_vanishes,
    a_card_that_has_vanished_stays_silent_when_it_is_put_back,
    a_hostile_server_is_refused_at_once,
    dma_without_end_or_out_of_bounds_is_bounded,
    accesses_of_all_widths_go_through,
}

/// The test device in a process of its own.
struct Served {
    way: Way,
    child: Child,
    says: BufReader<ChildStdout>,
    dir: tempfile::TempDir,
}

impl Served {
    fn new(way: Way) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_vfio-user-test-device"))
            .arg(dir.path().join("s"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(line(&mut says), "listens\n");
        Served { way, child, says, dir }
    }

    fn machine(&self, timeout: Duration) -> Machine {
        behind_port(self.way.connect(&self.dir.path().join("s"), timeout).unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut text = String::new();
    from.read_line(&mut text).unwrap();
    text
}

fn behind_port(f: VfioUser) -> Machine {
    let mut m = Machine::with(Config::new(&soc::SM8250, Some(Device::single(f).boxed())));
    m.power_on_reset();
    m.link_up();
    m.open_downstream();
    m
}

const LONG: Duration = Duration::from_secs(60);

fn it_enumerates_and_its_bars_are_sized(way: Way) {
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    assert_eq!(m.readl(Window::Config, 0), 0x0001_1b36);
    for (bar, size) in [(0x10, 0xffff_f000), (0x14, 0), (0x18, 0xffff_f000), (0x24, 0), (0x30, 0)] {
        m.writel(Window::Config, bar, u32::MAX);
        assert_eq!(m.readl(Window::Config, bar), size, "{bar:#x}");
    }
    assert_eq!(m.readw(Window::Config, 0x04), 6);
    assert_eq!(m.readl(Window::Config, 0x100), 0, "no extended capabilities");
    assert_eq!(m.item("ep.vfio.alive"), 1);
}

fn accesses_to_a_bar_reach_the_server_and_a_reset_too(way: Way) {
    let mut served = Served::new(way);
    let mut m = served.machine(LONG);
    m.writel(Window::Mem, 0, 0x1234_5678);
    assert_eq!(m.readl(Window::Mem, 0), 0x1234_5678);
    let before = line(&mut served.says);
    m.gpio_dir_out(soc::GPIO_PERST, false);
    m.link_up();
    m.open_downstream();
    assert_eq!((before.as_str(), line(&mut served.says).as_str()), ("reset\n", "reset\n"));
    assert_eq!(m.readl(Window::Mem, 0), 0);
}

fn an_msi_is_latched_and_a_masked_one_waits(way: Way) {
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    m.arm_msi();
    m.writel(Window::Config, 0x60, 1);
    m.writel(Window::Mem, 0x04, 0);
    assert_eq!((m.item("count.msi"), m.item("ep.msi.pending")), (0, 1));
    m.writel(Window::Config, 0x60, 0);
    assert_eq!((m.item("count.msi"), m.item("ep.msi.pending")), (1, 0));
    assert_eq!(m.readl(Window::Dbi, 0x830), 1);
}

fn an_msi_x_vector_sends_what_the_table_says(way: Way) {
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    m.arm_msi();
    m.writew(Window::Config, 0x52, 0);
    // BAR 2 behind BAR 0, vector 3 sends 9.
    let (mem, _) = m.soc.window(Window::Mem);
    m.writel(Window::Config, 0x18, mem as u32 + 0x1000);
    m.writel(Window::Mem, 0x1030, rc_fuzz::machine::MSI_TARGET as u32);
    m.writel(Window::Mem, 0x1038, 9);
    m.writel(Window::Mem, 0x103c, 0);
    m.writew(Window::Config, 0x72, 0x8000);
    m.writel(Window::Mem, 0x04, 3);
    assert_eq!(m.readl(Window::Dbi, 0x830), 1 << 9);
    assert_eq!((m.readl(Window::Mem, 0x1038), m.item("ep.msix.unmasked")), (9, 1));
}

fn the_pin_follows_the_device_after_each_look_at_it(way: Way) {
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    m.writel(Window::Mem, 0x18, 1);
    assert_eq!(m.item("ep.intx"), 1);
    m.readl(Window::Mem, 0);
    assert_eq!(m.item("ep.intx"), 1, "asserted anew: nobody has served it");
    m.writel(Window::Mem, 0x18, 0);
    assert_eq!(m.item("ep.intx"), 0);
}

fn dma_passes_the_gates(way: Way) {
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    m.writel(Window::Mem, 0x00, 0xfeed_f00d);
    m.writel(Window::Mem, 0x08, RAM as u32 + 0x100);
    m.writel(Window::Mem, 0x0c, 1);
    assert_eq!(m.mem.bytes[0x100..0x104], 0xfeed_f00du32.to_le_bytes());
    m.mem.bytes[0x100..0x104].copy_from_slice(&[1, 2, 3, 4]);
    m.writel(Window::Mem, 0x10, 1);
    assert_eq!((m.readl(Window::Mem, 0), m.readl(Window::Mem, 0x14)), (0x0403_0201, 0));
    // Bus mastering off, then an address that is no memory.
    m.writew(Window::Config, 0x04, 2);
    m.writel(Window::Mem, 0x0c, 1);
    assert_eq!((m.readl(Window::Mem, 0x14), m.item("count.dma_refused")), (14, 1));
    m.writew(Window::Config, 0x04, 6);
    m.writel(Window::Mem, 0x08, 0xffff_fffe);
    m.writel(Window::Mem, 0x0c, 1);
    assert_eq!((m.readl(Window::Mem, 0x14), m.item("count.dma_refused")), (14, 2));
    assert_eq!(m.item("ep.vfio.alive"), 1);
}

fn an_interrupt_does_not_overtake_the_writes_before_it(way: Way) {
    // More than are served in one go, and more than one frame of a relay.
    const WRITES: u32 = 3000;
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    m.arm_msi();
    m.writel(Window::Mem, 0x08, RAM as u32 + 0x100);
    m.writel(Window::Mem, 0x24, WRITES);
    let begun = Instant::now();
    while m.item("count.msi") == 0 {
        assert!(begun.elapsed() < LONG, "the interrupt is not lost");
        m.sleep(MS);
    }
    assert_eq!(m.mem.bytes[0x100..0x104], WRITES.to_le_bytes());
}

/// The card is gone: accesses read all ones, and the port knows.
fn assert_gone(m: &mut Machine) {
    m.sleep(2 * MS);
    assert_eq!(m.item("ep.vfio.alive"), 0);
    assert_eq!(m.rc.slot(), Slot::Absent);
    assert_eq!((m.readl(Window::Config, 0), m.readl(Window::Mem, 0)), (u32::MAX, u32::MAX));
}

fn a_server_that_is_killed_in_the_middle_of_an_access_vanishes(way: Way) {
    let mut served = Served::new(way);
    let mut m = served.machine(LONG);
    let begun = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| {
            while line(&mut served.says) != "hangs\n" {}
            served.child.kill().unwrap();
        });
        assert_eq!(m.readl(Window::Mem, 0x1c), u32::MAX);
    });
    assert!(begun.elapsed() < LONG, "the end of the connection is noticed");
    assert_gone(&mut m);
}

fn a_server_that_ends_by_itself_or_stalls_vanishes(way: Way) {
    for (register, timeout) in [(0x20, LONG), (0x1c, Duration::from_millis(300))] {
        let served = Served::new(way);
        let mut m = served.machine(timeout);
        let begun = Instant::now();
        assert_eq!(m.readl(Window::Mem, register), u32::MAX);
        assert!(begun.elapsed() < LONG);
        assert_gone(&mut m);
    }
}

fn a_card_that_has_vanished_stays_silent_when_it_is_put_back(way: Way) {
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    m.readl(Window::Mem, 0x20);
    m.sleep(MS);
    m.with_cx(|rc, cx| rc.set_slot(cx, Slot::Present));
    m.sleep(30 * MS);
    assert_eq!(m.readl(Window::Config, 0), u32::MAX);
}

#[test]
fn a_saved_device_cannot_be_restored() {
    let served = Served::new(Way::Socket);
    let mut f = VfioUser::connect(&VfioUserSpec::new(served.dir.path().join("s"))).unwrap();
    let saved = Function::<Event>::save(&f);
    let e = Function::<Event>::restore(&mut f, &saved).unwrap_err();
    assert!(matches!(e, StateError::Malformed { what: "vfio-user", .. }), "{e}");
}

/// A server that plays `script` once it is connected to.
fn scripted(at: &Path, script: impl FnOnce(&mut UnixStream) + Send + 'static) -> JoinHandle<()> {
    let listener = UnixListener::bind(at).unwrap();
    std::thread::spawn(move || script(&mut listener.accept().unwrap().0))
}

fn receive(s: &mut UnixStream) -> Option<(Header, Vec<u8>)> {
    let mut head = [0; wire::HEADER_BYTES];
    s.read_exact(&mut head).ok()?;
    let h = Header::parse(&head)?;
    let mut payload = vec![0; h.bytes as usize - wire::HEADER_BYTES];
    s.read_exact(&mut payload).ok()?;
    Some((h, payload))
}

fn a_hostile_server_is_refused_at_once(way: Way) {
    let raw = |f: fn(Header) -> Vec<u8>| f;
    for (what, answer, says) in [
        ("wrong id", raw(|h| Header { id: 99, ..h.reply() }.message(&[&[0; 4]])), "broke the protocol"),
        ("wrong command", raw(|h| Header { command: 9, ..h.reply() }.message(&[])), "broke the protocol"),
        ("too long", raw(|_| [0u32, u32::MAX, 1, 0].map(u32::to_ne_bytes).concat()), "broke the protocol"),
        ("too short", raw(|_| [0u32, 3, 1, 0].map(u32::to_ne_bytes).concat()), "broke the protocol"),
        ("no type", raw(|h| Header { flags: 7, ..h }.message(&[])), "broke the protocol"),
        ("nothing in it", raw(|h| h.reply().message(&[])), "broke the protocol"),
        ("no JSON", raw(|h| h.reply().message(&[&[0, 0, 1, 0], b"{{{"])), "broke the protocol"),
        ("another version", raw(|h| h.reply().message(&[&[9, 0, 0, 0]])), "major version"),
        ("refusal", raw(|h| h.refusal(5).message(&[])), "refused to negotiate"),
        ("half a message", raw(|h| h.reply().message(&[&[0; 4]])[..9].to_vec()), "did not answer"),
        ("nothing", raw(|_| Vec::new()), "did not answer"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = scripted(&dir.path().join("s"), move |s| {
            let (h, _) = receive(s).unwrap();
            let _ = s.write_all(&answer(h));
            // It keeps the connection until the client gives up.
            let _ = s.read(&mut [0]);
        });
        let e = way.connect(&dir.path().join("s"), Duration::from_millis(200)).unwrap_err().to_string();
        assert!(e.contains(says), "{what}: {e}");
        server.join().unwrap();
    }
}

fn dma_without_end_or_out_of_bounds_is_bounded(way: Way) {
    let dir = tempfile::tempdir().unwrap();
    let server = scripted(&dir.path().join("s"), |s| {
        receive(s).unwrap();
        for (command, addr, count) in [
            (command::DMA_READ, 0, u64::MAX),
            (command::DMA_WRITE, u64::MAX, 8),
            (command::DMA_WRITE, 0, 1 << 40),
            (99, 0, 0),
        ] {
            let h = Header { id: 5, command, ..Header::default() };
            s.write_all(&h.message(&[&wire::longs(&[addr, count])])).unwrap();
            let (reply, _) = receive(s).unwrap();
            assert_eq!(reply.flags, wire::REPLY | wire::ERROR, "{command}");
        }
        // It never answers the version, but asks for more than anybody serves.
        let ask = Header { command: command::DMA_READ, flags: wire::NO_REPLY, ..Header::default() };
        let ask = ask.message(&[&wire::longs(&[0, 4])]);
        while s.write_all(&ask).is_ok() {}
    });
    let e = way.connect(&dir.path().join("s"), Duration::from_millis(300)).unwrap_err();
    assert!(matches!(e, ConnectError::Failed(_)), "{e}");
    server.join().unwrap();
}

#[test]
fn nobody_listens() {
    let e = VfioUser::connect(&VfioUserSpec::new("/nonexistent/socket")).unwrap_err().to_string();
    assert!(e.contains("cannot connect to /nonexistent/socket"), "{e}");
}

fn accesses_of_all_widths_go_through(way: Way) {
    let served = Served::new(way);
    let mut m = served.machine(LONG);
    m.writel(Window::Mem, 0, 0x1122_3344);
    assert_eq!(m.read(Window::Mem, 0, Width::B1), 0x44);
    assert_eq!(m.read(Window::Mem, 0, Width::B8), 0x1122_3344);
}
