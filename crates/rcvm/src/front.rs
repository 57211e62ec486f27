//! Starts the worker that runs a job, natively or in an outer machine, and hands over what it streams.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use torture::stream;
use torture::stream::Kind;
use vfio_user_endpoint::relay;

use crate::cli::Mode;
use crate::job::Job;
use crate::job::Task;
use crate::outer;
use crate::topology::CardKind;

/// Longest wait for the outer machine to boot, seconds.
const OUTER_BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory of the outer machine beyond the guest's, MiB: kernel, page tables, worker, initramfs copies.
const OUTER_EXTRA_MIB: u64 = 512;

/// Memory that a comparison needs beyond that, MiB: QEMU and its libraries twice, in the initramfs and unpacked, and its disk.
const OUTER_BENCH_MIB: u64 = 512;

/// What runs the outer machine.
const QEMU: &str = "qemu-system-aarch64";
/// What to do where there is none.
const QEMU_REMEDY: &str = "apt-get install qemu-system-arm (scripts/setup does)";

/// Socket of the stream of frames, in the worker's directory.
const WORKER_SOCKET: &str = "worker.sock";
/// Socket of the outer machine's port to the servers of vfio-user cards, in the worker's directory.
const SERVERS_SOCKET: &str = "servers.sock";
/// Name of the outer machine's initramfs in the worker's directory.
const OUTER_INITRAMFS: &str = "outer.cpio";

/// Kind and payload.
type Frame = (Kind, Vec<u8>);

/// A running worker.
pub struct Worker {
    child: Child,
    frames: Receiver<Frame>,
    to_worker: ToWorker,
    /// Answers about the guest's memory, until somebody takes them.
    views: Option<Receiver<Vec<u8>>>,
    /// From the start to the worker's first word, ms.
    pub start_ms: u64,
    /// Keeps socket, initramfs and outer console until the worker is gone.
    dir: tempfile::TempDir,
}

/// The way to the worker, for the threads that have something to say: each frame is written whole.
#[derive(Clone)]
pub struct ToWorker(Arc<Mutex<UnixStream>>);

impl ToWorker {
    /// Send one frame.
    pub fn frame(&self, kind: Kind, payload: &[u8]) -> std::io::Result<()> {
        let mut stream = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream::write_frame(&mut *stream, kind, payload)
    }
}

/// What the front-end gets while it waits.
pub enum Got {
    /// A frame.
    Frame(Kind, Vec<u8>),
    /// Nothing in time.
    Silence,
    /// The worker is gone.
    Eof,
}

/// `native` or `nested`, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// This machine's KVM.
    Native,
    /// In QEMU.
    Nested,
}

impl Where {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Where::Native => "native",
            Where::Nested => "nested",
        }
    }
}

/// Decide where guests run.
pub fn decide(mode: Mode) -> Result<Where> {
    let native = native_works();
    match mode {
        Mode::Native => match native {
            Ok(()) => Ok(Where::Native),
            Err(why) => bail!("--mode native is not possible here: {why}; use --mode nested"),
        },
        Mode::Nested => Ok(Where::Nested),
        Mode::Auto => Ok(if native.is_ok() { Where::Native } else { Where::Nested }),
    }
}

fn native_works() -> Result<(), String> {
    if !cfg!(target_arch = "aarch64") {
        return Err(format!("this machine is {}, not arm64", std::env::consts::ARCH));
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("/dev/kvm: {e}")),
    }
}

/// Start a worker for `job`. `outer` has the kernel that boots the outer machine, and the arm64 build of this program.
pub fn start(place: Where, job: &Job, outer: &images::Image) -> Result<Worker> {
    let dir = tempfile::Builder::new()
        .prefix("rcvm-")
        .tempdir()
        .context("cannot create a temporary directory (set TMPDIR)")?;
    let relay = match place {
        Where::Nested if job.board.topology.has(CardKind::VfioUser) => {
            Some((listen(dir.path(), SERVERS_SOCKET)?, job.board.topology.connect_servers()?))
        }
        _ => None,
    };
    let begun = Instant::now();
    let listener = listen(dir.path(), WORKER_SOCKET)?;
    let mut cmd = match place {
        Where::Native => native_command(job, dir.path())?,
        Where::Nested => nested_command(job, outer, dir.path())?,
    };
    // A group of its own: Ctrl-C at the terminal is for this process, which ends the worker in order.
    let mut child = cmd.process_group(0).spawn().with_context(|| match place {
        Where::Native => "cannot start the worker".to_owned(),
        Where::Nested => format!("cannot start {QEMU}: {QEMU_REMEDY}"),
    })?;
    let connected = accept(&listener, &mut child, begun + OUTER_BOOT_TIMEOUT).and_then(|stream| {
        if let Some((listener, servers)) = relay {
            start_relay(accept(&listener, &mut child, begun + OUTER_BOOT_TIMEOUT)?, servers)?;
        }
        Ok(stream)
    });
    let stream = match connected {
        Ok(s) => s,
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(e.context(last_words(dir.path())));
        }
    };
    let reader = stream.try_clone().context("clone the stream")?;
    let (frames, views) = read_in_background(reader);
    let to_worker = ToWorker(Arc::new(Mutex::new(stream)));
    let mut w = Worker { child, frames, to_worker, views: Some(views), start_ms: 0, dir };
    w.await_ready(begun)?;
    // It is in the machine's memory now; if this process is killed, less is left behind.
    let _ = std::fs::remove_file(w.dir.path().join(OUTER_INITRAMFS));
    w.start_ms = begun.elapsed().as_millis() as u64;
    Ok(w)
}

fn listen(dir: &Path, name: &str) -> Result<UnixListener> {
    let socket = dir.join(name);
    UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))
}

/// Relay between the outer machine and the servers of vfio-user cards until the machine ends.
fn start_relay(link: UnixStream, servers: Vec<UnixStream>) -> Result<()> {
    let relay = move || {
        if let Err(e) = relay::serve(link, servers) {
            log::warn!("relay of vfio-user devices: {e}");
        }
    };
    std::thread::Builder::new().name("vfio-user relay".into()).spawn(relay).context("start a thread")?;
    Ok(())
}

fn native_command(job: &Job, dir: &Path) -> Result<Command> {
    let file = dir.join("job.json");
    std::fs::write(&file, serde_json::to_vec(job)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let me = std::env::current_exe().context("cannot find my own program file")?;
    let mut cmd = Command::new(me);
    cmd.arg("worker")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("worker.log"))?);
    Ok(cmd)
}

fn nested_command(job: &Job, outer: &images::Image, dir: &Path) -> Result<Command> {
    let found =
        std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(QEMU).is_file()));
    anyhow::ensure!(found, "there is no {QEMU} in PATH: {QEMU_REMEDY}");
    let initramfs = dir.join(OUTER_INITRAMFS);
    outer_initramfs(job, outer, &initramfs)?;
    let log = File::create(dir.join("worker.log")).context("cannot create a log file")?;
    let bench = if matches!(job.task, Task::Bench(_)) { OUTER_BENCH_MIB } else { 0 };
    let memory = job.memory_mib + OUTER_EXTRA_MIB + bench;
    // The outer machine dies with this process, whatever kills it; without setpriv only an orderly end does that.
    let mut cmd = if Path::new("/usr/bin/setpriv").exists() {
        let mut c = Command::new("/usr/bin/setpriv");
        c.args(["--pdeathsig", "KILL", QEMU]);
        c
    } else {
        Command::new(QEMU)
    };
    cmd.args(["-M", "virt,virtualization=on,gic-version=3", "-cpu", "neoverse-n1", "-smp", "2"])
        .args(["-accel", "tcg,thread=multi", "-nic", "none", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-m", &memory.to_string()])
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(&outer.outer_kernel)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyAMA0 quiet loglevel=4 panic=-1 rdinit=/init"])
        .args(["-device", "virtio-serial-device"])
        .arg("-chardev")
        .arg(format!("socket,id=worker,path={}", dir.join(WORKER_SOCKET).display()))
        .args(["-device", &format!("virtserialport,chardev=worker,name={}", outer::PORT_NAME)])
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("clone the log")?)
        .stderr(log);
    if job.board.topology.has(CardKind::VfioUser) {
        cmd.arg("-chardev")
            .arg(format!("socket,id=servers,path={}", dir.join(SERVERS_SOCKET).display()))
            .args(["-device", &format!("virtserialport,chardev=servers,name={}", outer::SERVERS_PORT_NAME)]);
    }
    for (n, (file, read_only)) in job.board.topology.files().enumerate() {
        add_disk(&mut cmd, &outer::disk_serial(n), file, read_only);
    }
    Ok(cmd)
}

/// A file as a disk of the outer machine. Its errors are the outer kernel's to see: QEMU stops the machine otherwise.
fn add_disk(cmd: &mut Command, name: &str, file: &Path, read_only: bool) {
    let node = serde_json::json!({
        "node-name": name,
        "driver": "raw",
        "read-only": read_only,
        "file": { "driver": "file", "filename": file },
    });
    let device = format!("virtio-blk-device,drive={name},serial={name},werror=report,rerror=report");
    cmd.args(["-blockdev", &node.to_string(), "-device", &device]);
}

/// The outer machine's initramfs: this program as /init, the job, and the guest's files.
fn outer_initramfs(job: &Job, image: &images::Image, to: &Path) -> Result<()> {
    let read = |p: &Path| std::fs::read(p).with_context(|| format!("cannot read {}", p.display()));
    let mut inner =
        Job { kernel: "/guest/kernel".into(), initramfs: "/guest/initramfs".into(), ..job.clone() };
    inner.board.topology = job.board.topology.with_files_at(outer::disk_path);
    let mut a = images::cpio::Archive::new();
    if let Task::Bench(b) = &mut inner.task {
        a.dir("qemu");
        for file in
            std::fs::read_dir(&b.qemu).with_context(|| format!("read {}", b.qemu.display()))?.flatten()
        {
            a.file(&format!("qemu/{}", file.file_name().to_string_lossy()), 0o755, &read(&file.path())?);
        }
        b.qemu = outer::QEMU_DIR.into();
    }
    a.dir("dev");
    a.dir("proc");
    a.dir("sys");
    a.dir("guest");
    a.char_device("dev/console", 0o600, 5, 1);
    a.char_device("dev/null", 0o666, 1, 3);
    a.file("init", 0o755, &read(&image.worker)?);
    a.file("job.json", 0o644, &serde_json::to_vec(&inner)?);
    a.file("guest/kernel", 0o644, &read(&job.kernel)?);
    a.file("guest/initramfs", 0o644, &read(&job.initramfs)?);
    if job.board.topology.files().next().is_some() {
        let driver = image.outer_modules.iter().find(|m| m.ends_with(outer::DISK_DRIVER));
        let driver = driver.with_context(|| format!("the outer kernel has no {}", outer::DISK_DRIVER))?;
        a.file(outer::DISK_DRIVER, 0o644, &read(driver)?);
    }
    std::fs::write(to, a.finish())
        .with_context(|| format!("cannot write {}: free some space or set TMPDIR", to.display()))
}

fn accept(listener: &UnixListener, child: &mut Child, deadline: Instant) -> Result<UnixStream> {
    listener.set_nonblocking(true).context("listen")?;
    loop {
        match listener.accept() {
            Ok((s, _)) => {
                s.set_nonblocking(false).context("stream")?;
                return Ok(s);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("accept"),
        }
        if let Some(status) = child.try_wait().context("wait for the worker")? {
            bail!("the worker ended at once ({status})");
        }
        if Instant::now() > deadline {
            bail!("the worker did not come up within {} s", OUTER_BOOT_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Frames as they come; answers about the guest's memory apart from the others, for whoever asked.
fn read_in_background(mut stream: UnixStream) -> (Receiver<Frame>, Receiver<Vec<u8>>) {
    let (tx, frames) = channel();
    let (answers, views) = channel();
    std::thread::spawn(move || {
        while let Ok(Some((kind, payload))) = stream::read_frame(&mut stream as &mut dyn Read) {
            if kind == Kind::View {
                // Nobody waits for it any more if this fails.
                let _ = answers.send(payload);
            } else if tx.send((kind, payload)).is_err() {
                return;
            }
        }
    });
    (frames, views)
}

/// What the worker (or the outer machine's console) said last, for an error message.
fn last_words(dir: &Path) -> String {
    let log = std::fs::read(dir.join("worker.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let tail: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(5).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    if tail.is_empty() {
        "the worker said nothing".into()
    } else {
        format!("the worker's last words: {}", tail.join(" | "))
    }
}

impl Worker {
    fn await_ready(&mut self, begun: Instant) -> Result<()> {
        let deadline = begun + OUTER_BOOT_TIMEOUT;
        loop {
            match self.next(Duration::from_millis(200)) {
                Got::Frame(Kind::Message, m) if m == serde_json::to_vec(&crate::job::Message::Ready)? => {
                    return Ok(())
                }
                Got::Frame(..) => {
                    bail!("the worker is of another version of rcvm: rebuild with `rcvm image build`")
                }
                Got::Eof => bail!("the worker ended before it was ready; {}", last_words(self.dir.path())),
                Got::Silence if Instant::now() > deadline => bail!(
                    "the outer machine did not boot within {} s; {}",
                    OUTER_BOOT_TIMEOUT.as_secs(),
                    last_words(self.dir.path())
                ),
                Got::Silence => {}
            }
        }
    }

    /// The next frame, waiting at most `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Got {
        match self.frames.recv_timeout(timeout) {
            Ok((kind, payload)) => Got::Frame(kind, payload),
            Err(RecvTimeoutError::Timeout) => match self.child.try_wait() {
                // What it sent before it ended is still in the channel or the reader has seen the end.
                Ok(Some(_)) => self
                    .frames
                    .recv_timeout(Duration::from_millis(200))
                    .map_or(Got::Eof, |f| Got::Frame(f.0, f.1)),
                _ => Got::Silence,
            },
            Err(RecvTimeoutError::Disconnected) => Got::Eof,
        }
    }

    /// The way to it.
    pub fn sender(&self) -> ToWorker {
        self.to_worker.clone()
    }

    /// Its answers to frames of [`Kind::Ask`], for one who asks.
    pub fn views(&mut self) -> Option<Receiver<Vec<u8>>> {
        self.views.take()
    }

    /// The last words of the worker's own log.
    pub fn last_words(&self) -> String {
        last_words(self.dir.path())
    }

    /// End the worker, whatever it does.
    pub fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stream of a native worker: the socket beside its job file.
pub fn native_stream(job: &Path) -> Result<File> {
    let socket: PathBuf = job.with_file_name(WORKER_SOCKET);
    let s = UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
    Ok(File::from(std::os::fd::OwnedFd::from(s)))
}
