//! Messages of the result channel.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// Name of the virtio-console port: `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "rcvm.agent";
/// Version of this protocol; both sides must agree.
pub const PROTO_VERSION: u32 = 5;
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
    /// Of [`Op::ExerciseIrqs`].
    Exercised(Exercised),
    /// Of [`Op::SnapshotIrqs`].
    Irqs(IrqSnapshot),
    /// Of [`Op::SystemState`].
    System(SystemState),
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
