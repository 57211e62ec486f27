//! Messages of the result channel.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::lanes::Injected;
use crate::lanes::Lane;
use crate::lanes::LaneResult;
use crate::work::BlockIo;
use crate::work::BlockIoResult;
use crate::work::BlockVerifyResult;
use crate::work::EchoResult;
use crate::work::FileIoResult;
use crate::work::FileText;
use crate::work::PciFunction;
use crate::work::RngSample;
use crate::work::ToolOutput;

/// Name of the virtio-console port: `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "rcvm.agent";
/// Version of this protocol; both sides must agree.
pub const PROTO_VERSION: u32 = 6;
/// Longest line either side accepts, bytes.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// A request of the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host, from 1 upwards.
    pub id: u64,
    /// What to do.
    pub op: Op,
}

/// An answer of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id; 0 for the unsolicited [`Hello`].
    pub id: u64,
    /// What came of it: a value, or one line that says what failed and with which errno.
    pub result: Result<Value, OpError>,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpError {
    /// What was tried, e.g. `write /sys/bus/platform/drivers/qcom-pcie/bind`.
    pub what: String,
    /// errno, 0 if the cause was not a system call.
    pub errno: i32,
    /// Text of the cause.
    pub why: String,
}

/// Kind of PCI interrupt, with the number pci_endpoint_test gives it (spec §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IrqKind {
    /// INTx.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    MsiX,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Op {
    /// `finit_module` of /lib/modules/rcvm/`module`.ko with `params`.
    Insmod {
        /// Module name without directory and suffix, e.g. `pcie-qcom`.
        module: String,
        /// Module parameters, may be empty.
        params: String,
    },
    /// `delete_module` (O_NONBLOCK) of the module with this kernel name, e.g. `pcie_qcom`.
    Rmmod {
        /// Name as in /proc/modules.
        module: String,
    },
    /// Write `device` to `bind` of a driver.
    Bind {
        /// Bus of the driver: `platform` or `pci`.
        bus: String,
        /// Driver name, e.g. `qcom-pcie`.
        driver: String,
        /// Device name, e.g. `1c00000.pcie`.
        device: String,
    },
    /// Write `device` to `unbind` of a driver.
    Unbind {
        /// Bus of the driver.
        bus: String,
        /// Driver name.
        driver: String,
        /// Device name.
        device: String,
    },
    /// Wait until a PCI device `vendor:device` exists, is bound to `driver` and /dev/pci-endpoint-test.0 exists.
    WaitEndpoint {
        /// Vendor ID.
        vendor: u16,
        /// Device ID.
        device: u16,
        /// PCI driver name, e.g. `pci-endpoint-test`.
        driver: String,
        /// Give up after this many milliseconds of guest time.
        timeout_ms: u64,
    },
    /// Wait until the PCI device at `address` exists and is bound to `driver`.
    WaitDevice {
        /// e.g. `0000:00:00.0`.
        address: String,
        /// PCI driver name, e.g. `pcieport`.
        driver: String,
        /// Give up after this many milliseconds of guest time.
        timeout_ms: u64,
    },
    /// Wait until each of these cards is there, bound to its driver, and has its class device.
    WaitCards {
        /// Which.
        cards: Vec<CardAt>,
        /// Give up after this many milliseconds of guest time.
        timeout_ms: u64,
    },
    /// Through pci_endpoint_test: SET_IRQTYPE `kind`, then raise vectors 1..=`vectors` (INTx: once) one by one, as far as
    /// the driver has got them.
    /// Takes an [`IrqSnapshot`] after SET_IRQTYPE and reads handler counts before and after.
    ExerciseIrqs {
        /// Which kind.
        kind: IrqKind,
        /// How many vectors to raise; ignored for INTx.
        vectors: u32,
        /// virqs whose chip and domain must not be looked at: they may be gone.
        #[serde(default)]
        shun: Vec<u32>,
    },
    /// Through pci_endpoint_test: raise one vector of the kind that is set already, and wait for its handler as the driver does.
    Fire {
        /// Which kind.
        kind: IrqKind,
        /// From 1; ignored for INTx.
        vector: u32,
    },
    /// Snapshot of every IRQ descriptor and domain. `details`: look at chips and domains of descriptors too; not after a
    /// teardown, where following a dangling pointer may crash.
    SnapshotIrqs {
        /// Read chip_name and /sys/kernel/debug/irq/irqs/N.
        details: bool,
    },
    /// Suspend to idle; the clock (rtc0) wakes the system.
    Suspend {
        /// From now to the alarm.
        seconds: u32,
    },
    /// Write 1 to the `reset` attribute of a PCI device.
    ResetFunction {
        /// e.g. `0000:01:00.0`.
        address: String,
    },
    /// Set bits of LNKCTL of a port, hold them, take them back, and wait until the link is up.
    LinkControl {
        /// e.g. `0000:00:00.0`.
        address: String,
        /// LNKCTL bits: 0x10 link disable, 0x20 retrain.
        bits: u16,
        /// How long they stay, ms.
        hold_ms: u64,
    },
    /// State of modules, PCI devices and taint.
    SystemState,
    /// Run a program to its end, in a process group of its own that is killed at the timeout.
    RunTool {
        /// Path, e.g. `/bin/pcitest`.
        program: String,
        /// Its arguments, without its name.
        args: Vec<String>,
        /// Its whole environment is `PATH=/bin:/sbin` and this.
        #[serde(default)]
        env: Vec<(String, String)>,
        /// Kill it after this many milliseconds of guest time.
        timeout_ms: u64,
    },
    /// Wait until there is something at `path`. This and every other path of the operations below must lead below /sys,
    /// /proc, /dev, /tmp or /mnt.
    WaitPath {
        /// e.g. `/dev/nvme0n1`.
        path: String,
        /// Give up after this many milliseconds of guest time.
        timeout_ms: u64,
    },
    /// Read the beginning of a file.
    ReadFile {
        /// e.g. `/sys/class/net/eth0/carrier`.
        path: String,
        /// At most this much, and at most 256 KiB.
        max_bytes: u32,
    },
    /// Write `text` to an existing file with one system call if it takes that; below /tmp and /mnt, create or replace it.
    WriteFile {
        /// e.g. `/sys/bus/pci/rescan`.
        path: String,
        /// As it is, no newline is added.
        text: String,
    },
    /// Read and write a block device at random, and check it.
    BlockIo {
        /// What to do.
        io: BlockIo,
    },
    /// Begin [`Op::BlockIo`] and answer at once: the host does something else meanwhile.
    BlockIoStart {
        /// What to do.
        io: BlockIo,
    },
    /// Wait for the end of what [`Op::BlockIoStart`] began.
    BlockIoJoin {
        /// Of [`Value::Started`].
        id: u64,
        /// Give up after this many milliseconds of guest time; it can then be joined again.
        timeout_ms: u64,
    },
    /// Compare a device with what a [`BlockIo`] of that `keep` wrote: every sector of a block that was flushed holds a
    /// generation from the last flushed to the last tried, undamaged.
    BlockVerify {
        /// [`BlockIo::keep`].
        name: String,
        /// The device, which may have another name now.
        device: String,
    },
    /// Mount, making the directory if need be.
    MountFs {
        /// e.g. `/dev/nvme0n1`.
        device: String,
        /// e.g. `/mnt/a`.
        dir: String,
        /// e.g. `ext2`.
        fstype: String,
    },
    /// Unmount.
    Umount {
        /// Where.
        dir: String,
    },
    /// Write files, sync them, read them back past the page cache, compare, delete every second of them.
    FileIo {
        /// Where; names are `rcvm-0` and so on.
        dir: String,
        /// How many, at most 65536.
        files: u32,
        /// Size of each, at most 64 MiB.
        bytes: u32,
        /// Decides their content.
        seed: u64,
    },
    /// Bring a network interface up, send Ethernet frames of type 0x88b5 and expect each back with its addresses swapped.
    NetEcho {
        /// e.g. `eth0`.
        interface: String,
        /// How many.
        frames: u32,
        /// Size of each with its header and without FCS, 60 to 9014.
        bytes: u32,
        /// End after this many milliseconds of guest time, carrier detection included.
        timeout_ms: u64,
    },
    /// Read /dev/hwrng.
    ReadRng {
        /// At most 1 MiB.
        bytes: u32,
    },
    /// Send bytes over a serial line, a virtio console or a virtio port, and expect each back in order. No more than a UART's
    /// FIFO holds is under way at a time.
    SerialEcho {
        /// e.g. `/dev/ttyS1`, `/dev/hvc1`, `/dev/vport2p1`.
        device: String,
        /// How many.
        bytes: u32,
        /// End after this many milliseconds of guest time.
        timeout_ms: u64,
    },
    /// Every PCI function, or one, with its configuration space as the guest sees it.
    PciConfig {
        /// e.g. `0000:01:00.0`; empty: all.
        #[serde(default)]
        address: String,
    },
    /// Do several things at the same time, each lane in a thread.
    Together {
        /// What.
        lanes: Vec<Lane>,
        /// Answer after this many milliseconds of guest time, whatever is still under way.
        timeout_ms: u64,
    },
    /// Do `op`, and let the `nth` place in the kernel that can have a fault injected fail on the way (failslab, and what else the
    /// kernel has).
    FailNth {
        /// From 1.
        nth: u32,
        /// What to do.
        op: Box<Op>,
    },
    /// Ask for every interrupt to go to these CPUs. Those that cannot move stay.
    Affinity {
        /// As in `smp_affinity_list`, e.g. `0-1`.
        cpus: String,
    },
    /// Do nothing for some guest time.
    Pause {
        /// How long, ms.
        ms: u64,
    },
    /// Flush and power off by PSCI SYSTEM_OFF.
    PowerOff,
    /// Panic on purpose (sysrq-c), for the harness' own tests.
    Crash,
    /// Stop answering for ever, for the harness' own tests.
    Hang,
}

/// The value of a successful operation.
// Not internally tagged: serde buffers such a value, and a buffered map has no integer keys any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// First message of the agent.
    Hello(Hello),
    /// Nothing to tell.
    Done,
    /// Of [`Op::Insmod`]: the module's functions, to name addresses in traces; none if the kernel does not tell.
    Loaded(Vec<Symbol>),
    /// Of [`Op::WaitEndpoint`].
    Endpoint(Endpoint),
    /// Of [`Op::WaitCards`], in the order of the request.
    Cards(Vec<FoundCard>),
    /// Of [`Op::ExerciseIrqs`].
    Exercised(Exercised),
    /// Of [`Op::SnapshotIrqs`].
    Irqs(IrqSnapshot),
    /// Of [`Op::SystemState`].
    System(SystemState),
    /// Of [`Op::RunTool`].
    Tool(ToolOutput),
    /// Of [`Op::ReadFile`].
    File(FileText),
    /// Of [`Op::BlockIo`] and [`Op::BlockIoJoin`].
    BlockIo(BlockIoResult),
    /// Of [`Op::BlockIoStart`]: the id to join it by.
    Started(u64),
    /// Of [`Op::BlockVerify`].
    BlockVerify(BlockVerifyResult),
    /// Of [`Op::FileIo`].
    FileIo(FileIoResult),
    /// Of [`Op::NetEcho`], in frames, and of [`Op::SerialEcho`], in bytes.
    Echo(EchoResult),
    /// Of [`Op::ReadRng`].
    Rng(RngSample),
    /// Of [`Op::PciConfig`], by address.
    Pci(Vec<PciFunction>),
    /// Of [`Op::Together`], in the order of the request.
    Lanes(Vec<LaneResult>),
    /// Of [`Op::FailNth`].
    Injected(Injected),
}

/// A function of a loaded module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Its first byte.
    pub address: u64,
    /// Its size.
    pub len_bytes: u64,
    /// Its name.
    pub name: String,
}

/// Who the agent is and what it runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTO_VERSION`] of the agent.
    pub proto: u32,
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// Modules present in the image.
    pub modules: Vec<String>,
    /// Modules that the kernel has built in, as far as the image says so.
    #[serde(default)]
    pub builtin: Vec<String>,
    /// Content of `/rcvm-image` (name of the profile), empty if there is none.
    pub image: String,
    /// Whether /sys/kernel/debug/irq exists (GENERIC_IRQ_DEBUGFS).
    pub irq_debugfs: bool,
    /// Kernel log up to the agent's start, cut to what fits a message. The console misses its beginning: Linux drops what
    /// it would replay to a virtio console (drivers/char/virtio_console.c: `init_port_console`).
    pub boot_log: String,
}

/// An enumerated endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// e.g. `0000:01:00.0`.
    pub address: String,
    /// Legacy `irq` attribute.
    pub irq: u32,
    /// All PCI devices present: address, `vendor:device`, driver or empty.
    pub devices: Vec<(String, String, String)>,
}

/// A function of a card, by the slot that the card is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardAt {
    /// Slots on the way: empty is the root port's own, `[1]` slot 1 of the switch in it.
    pub slot: Vec<u8>,
    /// Function.
    pub function: u8,
    /// PCI driver that has to be bound, e.g. `nvme`.
    pub driver: String,
    /// Class whose device has to be there, e.g. `block`; empty: none.
    pub class: String,
}

/// Where the guest has a card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundCard {
    /// e.g. `0000:01:00.0`.
    pub address: String,
    /// Class devices of it and of what its drivers made: class and name, e.g. `block` and `nvme0n1`.
    pub nodes: Vec<(String, String)>,
}

/// What raising interrupts showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exercised {
    /// Which kind.
    pub kind: IrqKind,
    /// Snapshot with all vectors requested.
    pub snapshot: IrqSnapshot,
    /// Vectors that the driver has got; INTx: 1.
    pub allocated: u32,
    /// One row a raised vector.
    pub vectors: Vec<RaisedVector>,
}

/// One raised vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RaisedVector {
    /// 1-based vector number; 0 for INTx.
    pub number: u32,
    /// Whether the driver's ioctl said that its handler ran on the right vector.
    pub ok: bool,
    /// virq that the vector maps to, 0 if unknown.
    pub virq: u32,
    /// Handler count (all CPUs) before the first raise.
    pub before: u64,
    /// Handler count after the last.
    pub after: u64,
}

/// What stands for the nameless action of a chained handler in [`IrqDesc::actions`].
pub const CHAINED: &str = "chained handler";

/// All IRQ descriptors and domains at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IrqSnapshot {
    /// Descriptors by virq.
    pub irqs: BTreeMap<u32, IrqDesc>,
    /// Domains by name; empty without GENERIC_IRQ_DEBUGFS.
    pub domains: BTreeMap<String, IrqDomain>,
}

/// One IRQ descriptor, from /sys/kernel/irq/N (and debugfs irqs/N).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IrqDesc {
    /// Outermost chip's name, e.g. `PCI-MSI`, if details were read.
    pub chip: String,
    /// Hardware number in the outermost domain, if any.
    pub hwirq: Option<u64>,
    /// `edge` or `level`.
    pub kind: String,
    /// Names of the actions, comma-separated; `chained handler` for one; empty if nobody requested it.
    pub actions: String,
    /// Outermost domain's name, if details were read.
    pub domain: String,
    /// Owning PCI device (from its msi_irqs or irq attribute) or empty.
    pub owner: String,
}

/// One IRQ domain, from /sys/kernel/debug/irq/domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrqDomain {
    /// Size of the linear map.
    pub size: u64,
    /// Mappings that the domain counts.
    pub mapped: u64,
}

/// Modules, devices, taint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemState {
    /// Loaded modules and their reference counts.
    pub modules: BTreeMap<String, i64>,
    /// PCI device addresses present.
    pub pci_devices: Vec<String>,
    /// /proc/sys/kernel/tainted.
    pub taint: u64,
    /// Devices bound to the platform driver `qcom-pcie`.
    pub bound: Vec<String>,
    /// Class devices, `class/name`, and where each is below /sys/devices as its link tells, e.g. `pci0000:00/0000:00:00.0/tty/x`.
    pub class_devices: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::IoLimit;

    #[test]
    fn an_operation_keeps_what_it_holds_over_the_channel() {
        let io = BlockIo {
            device: "/dev/vda".into(),
            bytes: 1 << 40,
            block_bytes: 4096,
            read_percent: 50,
            jobs: 2,
            seed: u64::MAX,
            limit: IoLimit::Ops(7),
            direct: true,
            keep: String::new(),
        };
        let env = vec![("A".to_owned(), "b".to_owned())];
        for op in [
            Op::BlockIoStart { io },
            Op::RunTool { program: "/bin/sh".into(), args: vec!["-c".into()], env, timeout_ms: 1 },
        ] {
            let sent = Request { id: 1, op };
            let line = serde_json::to_string(&sent).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), sent);
        }
    }

    #[test]
    fn a_snapshot_keeps_its_virqs_over_the_channel() {
        let irqs =
            BTreeMap::from([(24, IrqDesc { chip: "GICv3".into(), hwirq: Some(141), ..IrqDesc::default() })]);
        let snapshot = IrqSnapshot { irqs, domains: BTreeMap::from([("d".into(), IrqDomain::default())]) };
        let exercised =
            Exercised { kind: IrqKind::Msi, snapshot: snapshot.clone(), allocated: 0, vectors: vec![] };
        for value in [Value::Irqs(snapshot), Value::Exercised(exercised)] {
            let sent = Reply { id: 1, result: Ok(value) };
            let line = serde_json::to_string(&sent).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), sent);
        }
    }
}
