//! Cards other than the endpoint-test function, and what their drivers are made to do in each cycle.

use guest_agent::BlockIo;
use guest_agent::CardAt;
use guest_agent::FoundCard;
use guest_agent::IoLimit;
use guest_agent::Op;
use guest_agent::ToolStatus;
use guest_agent::Value;
use serde::Deserialize;
use serde::Serialize;

use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;

/// I/O of one cycle on one disk, before the teardown: operations.
const IO_OPS: u64 = 120;
/// How long I/O goes on if the teardown does not end it, ms.
const IO_IN_FLIGHT_MS: u64 = 5_000;
/// How much of a disk the I/O covers, bytes.
const IO_BYTES: u64 = 2 << 20;
const IO_BLOCK_BYTES: u32 = 4096;
/// Size of the file system, KiB: mkfs of a larger one takes its time under double emulation.
const MKFS_KIB: u32 = 4096;
const MKFS_TIMEOUT_MS: u64 = 30_000;
const FILES: u32 = 6;
const FILE_BYTES: u32 = 50_000;
const FRAMES: u32 = 16;
const FRAME_BYTES: u32 = 256;
const ECHO_BYTES: u32 = 64;
const RNG_BYTES: u32 = 256;
/// Longest time for frames and characters to come back, ms.
const ECHO_TIMEOUT_MS: u64 = 15_000;

/// What a card is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An NVMe controller.
    Nvme,
    /// A virtio disk.
    VirtioBlk,
    /// A virtio network interface that sends every frame back.
    VirtioNet,
    /// virtio entropy.
    VirtioRng,
    /// A virtio console that echoes.
    VirtioConsole,
    /// A 16550 that echoes.
    Serial,
}

impl Kind {
    /// Name of the phase in which it works.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Nvme => "nvme",
            Kind::VirtioBlk => "virtio-blk",
            Kind::VirtioNet => "virtio-net",
            Kind::VirtioRng => "virtio-rng",
            Kind::VirtioConsole => "virtio-console",
            Kind::Serial => "serial",
        }
    }

    /// PCI driver.
    const fn driver(self) -> &'static str {
        match self {
            Kind::Nvme => "nvme",
            Kind::Serial => "serial",
            _ => "virtio-pci",
        }
    }

    /// Class of the device that it is used by.
    const fn class(self) -> &'static str {
        match self {
            Kind::Nvme | Kind::VirtioBlk => "block",
            Kind::VirtioNet => "net",
            Kind::Serial => "tty",
            Kind::VirtioRng => "virtio",
            Kind::VirtioConsole => "virtio-ports",
        }
    }

    /// Modules of its driver, in the order of their loading.
    pub const fn modules(self) -> &'static [&'static str] {
        match self {
            Kind::Nvme => &["nvme-core", "nvme"],
            Kind::VirtioBlk => &["virtio_blk"],
            // Built in: as a module it drags in others, and which ones changes with the series.
            Kind::VirtioNet => &[],
            Kind::VirtioRng => &["virtio-rng"],
            Kind::VirtioConsole => &[],
            Kind::Serial => &["8250_pci"],
        }
    }

    /// Whether it is a disk.
    pub const fn is_disk(self) -> bool {
        matches!(self, Kind::Nvme | Kind::VirtioBlk)
    }
}

/// How cards are to work this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Disks have been written to before.
    pub again: bool,
    /// Make, use and unmount a file system on each disk.
    pub filesystem: bool,
    /// Decides what is written; another one each time.
    pub seed: u64,
}

/// mkfs, mount, files, umount.
fn filesystem(device: String, seed: u64) -> [Op; 4] {
    let dir = String::from("/mnt/rcvm");
    let args = vec!["-F".into(), device.clone(), MKFS_KIB.to_string()];
    [
        Op::RunTool { program: "/bin/mke2fs".into(), args, env: Vec::new(), timeout_ms: MKFS_TIMEOUT_MS },
        Op::MountFs { device, dir: dir.clone(), fstype: "ext2".into() },
        Op::FileIo { dir: dir.clone(), files: FILES, bytes: FILE_BYTES, seed },
        Op::Umount { dir },
    ]
}

/// A function of a card, and what it is to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Slots on the way to it: empty is the root port's own.
    pub slot: Vec<u8>,
    /// Function.
    pub function: u8,
    /// What it is.
    pub kind: Kind,
    /// What is on the disk is the user's: it is read, and never written.
    #[serde(default)]
    pub preserved: bool,
}

impl Consumer {
    /// Where the guest is to look for it.
    pub fn at(&self) -> CardAt {
        CardAt {
            slot: self.slot.clone(),
            function: self.function,
            driver: self.kind.driver().into(),
            class: self.kind.class().into(),
        }
    }

    /// Under which name the agent keeps what was written to this disk.
    fn keep(&self) -> String {
        format!("{:?}.{}", self.slot, self.function)
    }

    /// The device node of a found disk or line, or the name of a network interface.
    fn node(&self, found: &FoundCard) -> String {
        let name = found.nodes.iter().find(|n| n.0 == self.kind.class()).map_or("", |n| &n.1);
        match self.kind {
            Kind::VirtioNet => name.to_owned(),
            // The agent's own console is the first; consoles have no directory below their device.
            Kind::VirtioConsole => "/dev/hvc1".into(),
            _ => format!("/dev/{name}"),
        }
    }

    fn io(&self, found: &FoundCard, seed: u64, limit: IoLimit) -> BlockIo {
        BlockIo {
            device: self.node(found),
            bytes: IO_BYTES,
            block_bytes: IO_BLOCK_BYTES,
            read_percent: if self.preserved { 100 } else { 50 },
            jobs: 2,
            seed,
            limit,
            direct: true,
            keep: self.keep(),
        }
    }

    /// What its driver is made to do.
    pub fn work(&self, found: &FoundCard, w: &Work) -> Vec<Op> {
        let device = self.node(found);
        match self.kind {
            Kind::Nvme | Kind::VirtioBlk if self.preserved => {
                vec![Op::BlockIo { io: self.io(found, w.seed, IoLimit::Ops(IO_OPS)) }]
            }
            Kind::Nvme | Kind::VirtioBlk => {
                let mut ops = Vec::new();
                if w.again {
                    ops.push(Op::BlockVerify { name: self.keep(), device: device.clone() });
                }
                if w.filesystem {
                    ops.extend(filesystem(device, w.seed));
                }
                ops.push(Op::BlockIo { io: self.io(found, w.seed, IoLimit::Ops(IO_OPS)) });
                ops
            }
            Kind::VirtioNet => vec![Op::NetEcho {
                interface: device,
                frames: FRAMES,
                bytes: FRAME_BYTES,
                timeout_ms: ECHO_TIMEOUT_MS,
            }],
            Kind::VirtioRng => vec![Op::ReadRng { bytes: RNG_BYTES }],
            Kind::VirtioConsole | Kind::Serial => {
                vec![Op::SerialEcho { device, bytes: ECHO_BYTES, timeout_ms: ECHO_TIMEOUT_MS }]
            }
        }
    }

    /// I/O that goes on while the driver is torn down.
    pub fn in_flight(&self, found: &FoundCard, seed: u64) -> Option<Op> {
        let limit = IoLimit::DurationMs(IO_IN_FLIGHT_MS);
        self.kind.is_disk().then(|| Op::BlockIoStart { io: self.io(found, seed, limit) })
    }

    /// What is wrong with an answer. `torn`: the driver was torn down meanwhile, and errors are its right.
    pub fn judge(&self, value: &Value, torn: bool) -> Vec<Finding> {
        let who = format!("{} in slot {:?}", self.kind.name(), self.slot);
        let lost = |n: u64, examples: &[String]| {
            (n > 0).then(|| {
                let what = format!(
                    "{who}: {n} blocks are not what was written and flushed: {}",
                    examples.join("; ")
                );
                Finding::new(Class::DataLoss, Source::GuestKernel, format!("{} data", self.kind.name()), what)
                    .fact("blocks", n)
            })
        };
        let failed = |why: String| {
            let rule = format!("{} failed", self.kind.name());
            Finding::new(Class::OperationFailed, Source::GuestKernel, rule, format!("{who}: {why}"))
        };
        let failed_with = |errors: &[String]| {
            (!torn && !errors.is_empty()).then(|| failed(format!("I/O errors: {}", errors.join("; "))))
        };
        match value {
            Value::BlockIo(r) => {
                let mut found: Vec<Finding> = lost(r.mismatches, &r.mismatch_examples).into_iter().collect();
                found.extend(failed_with(&r.errors));
                let wrote = self.preserved || r.writes > 0 && r.flushes > 0;
                if !torn && (r.reads == 0 || !wrote) {
                    let done = format!("{} reads, {} writes, {} flushes", r.reads, r.writes, r.flushes);
                    found.push(failed(format!("too little was done: {done}")));
                }
                found
            }
            Value::BlockVerify(r) => {
                let mut found: Vec<Finding> = lost(r.mismatches, &r.mismatch_examples).into_iter().collect();
                found.extend(failed_with(&r.errors));
                found
            }
            Value::FileIo(r) => {
                let mut found: Vec<Finding> = lost(r.mismatches, &r.mismatch_examples).into_iter().collect();
                if r.files == 0 {
                    found.push(failed("no file was written".into()));
                }
                found
            }
            Value::Tool(t) if t.status != ToolStatus::Exited(0) => {
                vec![failed(format!("{:?}: {}", t.status, t.output.trim()))]
            }
            Value::Echo(r) if r.mismatches > 0 || r.received < r.sent || r.sent == 0 => {
                vec![failed(format!(
                    "{} of {} came back, {} damaged: {}",
                    r.received,
                    r.sent,
                    r.mismatches,
                    r.mismatch_examples.join("; ")
                ))]
            }
            Value::Rng(r) if r.all_equal || r.bytes == 0 => {
                vec![failed(format!("{} random bytes, all equal: {}", r.bytes, r.all_equal))]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use guest_agent::BlockIoResult;
    use guest_agent::BlockVerifyResult;
    use guest_agent::EchoResult;
    use guest_agent::RngSample;

    use super::*;

    fn nvme() -> Consumer {
        Consumer { slot: vec![1], function: 0, kind: Kind::Nvme, preserved: false }
    }

    fn found(nodes: &[(&str, &str)]) -> FoundCard {
        let nodes = nodes.iter().map(|n| (n.0.to_owned(), n.1.to_owned())).collect();
        FoundCard { address: "0000:05:00.0".into(), nodes }
    }

    fn io(r: BlockIoResult) -> Value {
        Value::BlockIo(BlockIoResult { reads: 1, writes: 1, flushes: 1, ..r })
    }

    #[test]
    fn a_disk_is_verified_before_it_is_written_again() {
        let f = found(&[("block", "nvme0n1"), ("nvme", "nvme0")]);
        let work = |again| Work { again, filesystem: false, seed: 1 };
        assert!(
            matches!(&nvme().work(&f, &work(false))[..], [Op::BlockIo { io }] if io.device == "/dev/nvme0n1")
        );
        assert!(matches!(&nvme().work(&f, &work(true))[..], [Op::BlockVerify { .. }, Op::BlockIo { .. }]));
        let with_fs = nvme().work(&f, &Work { filesystem: true, ..work(true) });
        assert!(matches!(
            &with_fs[..],
            [
                Op::BlockVerify { .. },
                Op::RunTool { .. },
                Op::MountFs { .. },
                Op::FileIo { .. },
                Op::Umount { .. },
                Op::BlockIo { .. }
            ]
        ));
        let other = Consumer { slot: vec![2], ..nvme() };
        assert_ne!(nvme().keep(), other.keep());
        assert!(nvme().in_flight(&f, 1).is_some());
        let net = Consumer { kind: Kind::VirtioNet, ..nvme() };
        assert_eq!(net.in_flight(&f, 1), None);
        assert!(matches!(&net.work(&found(&[("net", "eth0")]), &work(true))[..],
            [Op::NetEcho { interface, .. }] if interface == "eth0"));
    }

    #[test]
    fn a_disk_of_the_users_is_read_and_never_written() {
        let f = found(&[("block", "nvme0n1")]);
        let disk = Consumer { preserved: true, ..nvme() };
        let mut ops = disk.work(&f, &Work { again: true, filesystem: true, seed: 1 });
        ops.extend(disk.in_flight(&f, 2));
        assert_eq!(ops.len(), 2, "{ops:?}");
        for op in ops {
            let (Op::BlockIo { io } | Op::BlockIoStart { io }) = &op else { panic!("{op:?}") };
            assert_eq!(io.read_percent, 100);
        }
        let read = BlockIoResult { reads: 1, ..BlockIoResult::default() };
        assert_eq!(disk.judge(&Value::BlockIo(read), false), []);
        assert_eq!(disk.judge(&Value::BlockIo(BlockIoResult::default()), false).len(), 1, "nothing was done");
    }

    #[test]
    fn errors_are_a_torn_drivers_right_and_lost_data_is_nobodys() {
        let errors = io(BlockIoResult { errors: vec!["EIO".into()], ..BlockIoResult::default() });
        assert_eq!(nvme().judge(&errors, false)[0].class, Class::OperationFailed);
        assert_eq!(nvme().judge(&errors, true), []);
        let lost = io(BlockIoResult { mismatches: 2, ..BlockIoResult::default() });
        assert_eq!(nvme().judge(&lost, true)[0].class, Class::DataLoss);
        let verify = Value::BlockVerify(BlockVerifyResult { mismatches: 1, ..BlockVerifyResult::default() });
        assert_eq!(nvme().judge(&verify, false)[0].class, Class::DataLoss);
        assert_eq!(
            nvme().judge(&Value::BlockIo(BlockIoResult::default()), false).len(),
            1,
            "nothing was done"
        );
        assert_eq!(nvme().judge(&io(BlockIoResult::default()), false), []);
    }

    #[test]
    fn what_does_not_come_back_and_what_is_not_random_is_told() {
        let serial = Consumer { kind: Kind::Serial, ..nvme() };
        let echo = |sent, received, mismatches| {
            Value::Echo(EchoResult { sent, received, mismatches, ..EchoResult::default() })
        };
        for (value, wrong) in [(echo(4, 4, 0), 0), (echo(4, 3, 0), 1), (echo(4, 4, 1), 1), (echo(0, 0, 0), 1)]
        {
            assert_eq!(serial.judge(&value, false).len(), wrong, "{value:?}");
        }
        for (bytes, all_equal, wrong) in [(8, false, 0), (8, true, 1), (0, false, 1)] {
            assert_eq!(serial.judge(&Value::Rng(RngSample { bytes, all_equal }), false).len(), wrong);
        }
    }
}
