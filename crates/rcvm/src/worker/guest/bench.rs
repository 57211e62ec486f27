//! Random reads of an NVMe disk in memory, in a machine of ours and in one of QEMU's by turns, under the same KVM.
//!
//! Guest kernel, agent, memory, vCPUs and reads are the same in both. KVM's counters are read before and after the reads.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use guest_agent::BlockIo;
use guest_agent::IoLimit;

use super::*;
use crate::job::Bench;
use crate::job::Exits;
use crate::job::Measurement;
use crate::job::System;
use crate::job::SYSTEMS;

const DEPTHS: [u32; 2] = [1, 4];
const BLOCK_BYTES: u32 = 4096;
const DISK_NODE: &str = "/dev/nvme0n1";
/// A directory for each machine of a process, by its PID and a file descriptor (Linux v6.12 virt/kvm/kvm_main.c,
/// kvm_create_vm_debugfs).
const KVM_DEBUGFS: &str = "/sys/kernel/debug/kvm";
/// QEMU's machine is not faster than ours to boot.
const BOOT_TIME: Duration = Duration::from_secs(120);

/// A guest whose agent answers.
trait Guest {
    /// The process whose machine it is.
    fn pid(&self) -> u32;
    /// Have the agent do `op`.
    fn ask(&mut self, op: Op, timeout: Duration) -> Result<Value>;
    /// Doorbells so far that were eventfds, if it is known.
    fn doorbell_events(&self) -> Option<u64>;
}

/// Measure every system in every round, beginning with another one each time.
pub fn run(job: &Job, bench: &Bench, out: &mut Out) -> Result<()> {
    for round in 0..bench.rounds as usize {
        for n in 0..SYSTEMS.len() {
            let system = SYSTEMS[(round + n) % SYSTEMS.len()];
            let rows = measure_system(system, job, bench, out).with_context(|| format!("{system:?}"))?;
            for row in rows {
                out.message(&Message::Bench(row))?;
            }
        }
    }
    Ok(())
}

fn measure_system(system: System, job: &Job, bench: &Bench, out: &mut Out) -> Result<Vec<Measurement>> {
    let its = match system {
        System::RcvmIts => true,
        System::RcvmImsi => false,
        System::Qemu => return measure_qemu(system, job, bench, "off"),
        System::QemuIoeventfd => return measure_qemu(system, job, bench, "on"),
    };
    let mut job = job.clone();
    job.board.its = its;
    let mut link = boot(&job, out, None)?;
    link.hello(&bench.plan)?;
    let rows = measure(&mut link, system, bench, &["nvme-core", "nvme", &bench.plan.target.module]);
    link.power_off();
    rows
}

fn measure_qemu(system: System, job: &Job, bench: &Bench, ioeventfd: &str) -> Result<Vec<Measurement>> {
    let mut qemu = Qemu::start(job, bench, ioeventfd)?;
    let rows =
        qemu.reply(0, BOOT_TIME).and_then(|_| measure(&mut qemu, system, bench, &["nvme-core", "nvme"]));
    rows.with_context(|| qemu.last_words())
}

fn measure(
    guest: &mut dyn Guest,
    system: System,
    bench: &Bench,
    modules: &[&str],
) -> Result<Vec<Measurement>> {
    let timeout = Duration::from_millis(bench.plan.op_timeout_ms);
    for module in modules {
        guest.ask(Op::Insmod { module: (*module).into(), params: String::new() }, timeout)?;
    }
    let path = Op::WaitPath { path: DISK_NODE.into(), timeout_ms: bench.plan.enumerate_timeout_ms };
    guest.ask(path, timeout)?;
    DEPTHS.iter().map(|depth| reads(guest, system, bench, *depth)).collect()
}

fn reads(guest: &mut dyn Guest, system: System, bench: &Bench, depth: u32) -> Result<Measurement> {
    let timeout = Duration::from_millis(bench.plan.op_timeout_ms);
    let io = BlockIo {
        device: DISK_NODE.into(),
        bytes: bench.disk_bytes,
        block_bytes: BLOCK_BYTES,
        read_percent: 100,
        jobs: depth,
        seed: depth.into(),
        limit: IoLimit::Ops(bench.reads),
        direct: true,
        keep: String::new(),
    };
    // Once to warm up: caches of the guest, and translations of whoever emulates this machine.
    let warm = BlockIo { limit: IoLimit::Ops(bench.reads / 10), ..io.clone() };
    guest.ask(Op::BlockIo { io: warm }, timeout)?;
    let interrupts = nvme_interrupts(guest, timeout)?;
    let (exits, doorbells) = (exits_of(guest.pid())?, guest.doorbell_events());
    let Value::BlockIo(done) = guest.ask(Op::BlockIo { io }, timeout)? else {
        anyhow::bail!("the agent answered something else");
    };
    let (exits_after, doorbells_after) = (exits_of(guest.pid())?, guest.doorbell_events());
    anyhow::ensure!(done.errors.is_empty(), "reads failed: {}", done.errors.join("; "));
    Ok(Measurement {
        system,
        depth,
        reads: done.reads,
        elapsed_ms: done.elapsed_ms,
        interrupts: nvme_interrupts(guest, timeout)?.saturating_sub(interrupts),
        exits: Exits {
            all: exits_after.all.saturating_sub(exits.all),
            mmio_user: exits_after.mmio_user.saturating_sub(exits.mmio_user),
            mmio_kernel: exits_after.mmio_kernel.saturating_sub(exits.mmio_kernel),
            wfi: exits_after.wfi.saturating_sub(exits.wfi),
        },
        doorbell_events: doorbells_after.zip(doorbells).map(|(after, before)| after.saturating_sub(before)),
    })
}

/// Interrupts of the NVMe driver on all CPUs.
fn nvme_interrupts(guest: &mut dyn Guest, timeout: Duration) -> Result<u64> {
    let read = Op::ReadFile { path: "/proc/interrupts".into(), max_bytes: 64 << 10 };
    let Value::File(file) = guest.ask(read, timeout)? else {
        anyhow::bail!("the agent answered something else");
    };
    let lines = file.text.lines().filter(|l| l.contains("nvme"));
    Ok(lines.flat_map(|l| l.split_whitespace().skip(1).map_while(|w| w.parse::<u64>().ok())).sum())
}

/// What KVM has counted for the machine of process `pid`.
fn exits_of(pid: u32) -> Result<Exits> {
    let dirs = std::fs::read_dir(KVM_DEBUGFS).with_context(|| format!("{KVM_DEBUGFS}: mount debugfs"))?;
    let mine = format!("{pid}-");
    let dir = dirs.flatten().find(|d| d.file_name().to_string_lossy().starts_with(&mine));
    let dir = dir.with_context(|| format!("{KVM_DEBUGFS} has no machine of process {pid}"))?.path();
    let count = |name: &str| -> Result<u64> {
        let file = dir.join(name);
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        text.trim().parse().with_context(|| file.display().to_string())
    };
    Ok(Exits {
        all: count("exits")?,
        mmio_user: count("mmio_exit_user")?,
        mmio_kernel: count("mmio_exit_kernel")?,
        wfi: count("wfi_exit_stat")?,
    })
}

impl Guest for Link<'_> {
    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn ask(&mut self, op: Op, timeout: Duration) -> Result<Value> {
        Ok(self.call(op, timeout)?)
    }

    fn doorbell_events(&self) -> Option<u64> {
        Some(self.vm.stats().doorbell_events)
    }
}

/// A guest in QEMU's `virt` machine. Its agent's port is QEMU's standard input and output.
struct Qemu {
    child: Child,
    port: BufReader<UnixStream>,
    next_id: u64,
    dir: tempfile::TempDir,
}

impl Qemu {
    fn start(job: &Job, bench: &Bench, ioeventfd: &str) -> Result<Qemu> {
        let dir = tempfile::tempdir().context("a temporary directory")?;
        let disk = dir.path().join("disk");
        // Written, not left as a hole: as the other machine's disk it is memory, here a file in tmpfs.
        std::fs::write(&disk, vec![0; bench.disk_bytes as usize]).context("the disk")?;
        let log = File::create(dir.path().join("log")).context("a log file")?;
        let (ours, theirs) = UnixStream::pair().context("a socket")?;
        let theirs = OwnedFd::from(theirs);
        let q = &bench.qemu;
        let node = serde_json::json!({
            "node-name": "disk",
            "driver": "raw",
            "file": { "driver": "file", "filename": disk, "aio": "threads", "locking": "off" },
        });
        let child = Command::new(q.join("ld-linux-aarch64.so.1"))
            .arg("--library-path")
            .arg(q)
            .arg(q.join("qemu-system-aarch64"))
            .args([
                "-M",
                "virt,gic-version=3,its=on",
                "-accel",
                "kvm",
                "-cpu",
                "host",
                "-nodefaults",
                "-nic",
                "none",
            ])
            .args(["-display", "none", "-no-reboot", "-m", &job.memory_mib.to_string()])
            .args(["-smp", &job.vcpus.to_string()])
            .arg("-serial")
            .arg(format!("file:{}", dir.path().join("console").display()))
            .arg("-kernel")
            .arg(&job.kernel)
            .arg("-initrd")
            .arg(&job.initramfs)
            .args(["-append", "console=ttyAMA0 loglevel=7 oops=panic panic=-1"])
            .args(["-blockdev", &node.to_string()])
            .args(["-device", &format!("nvme,drive=disk,serial=1,ioeventfd={ioeventfd}")])
            .args(["-device", "virtio-serial-device", "-chardev", "stdio,id=agent,signal=off"])
            .args(["-device", &format!("virtserialport,chardev=agent,name={}", guest_agent::PORT_NAME)])
            .stdin(Stdio::from(theirs.try_clone().context("a socket")?))
            .stdout(Stdio::from(theirs))
            .stderr(log)
            .spawn()
            .context("start QEMU")?;
        Ok(Qemu { child, port: BufReader::new(ours), next_id: 1, dir })
    }

    fn reply(&mut self, id: u64, timeout: Duration) -> Result<Value> {
        self.port.get_ref().set_read_timeout(Some(timeout)).context("a socket")?;
        loop {
            let mut line = Vec::new();
            let n = (&mut self.port).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line);
            let n = n.context("no answer of the guest")?;
            anyhow::ensure!(n > 0, "QEMU ended");
            let reply: Reply = serde_json::from_slice(&line).context("the agent broke the protocol")?;
            if reply.id == id {
                return reply.result.map_err(|e| CallError::Failed(e).into());
            }
        }
    }

    /// The ends of QEMU's log and of its guest's console.
    fn last_words(&self) -> String {
        let end = |name: &str| {
            let text = std::fs::read(self.dir.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&text[text.len().saturating_sub(400)..]).into_owned()
        };
        format!("QEMU said: {} … and its guest: {}", end("log"), end("console"))
    }
}

impl Guest for Qemu {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ask(&mut self, op: Op, timeout: Duration) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_vec(&Request { id, op }).context("encode a request")?;
        line.push(b'\n');
        self.port.get_mut().write_all(&line).context("QEMU is gone")?;
        self.reply(id, timeout)
    }

    fn doorbell_events(&self) -> Option<u64> {
        None
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
