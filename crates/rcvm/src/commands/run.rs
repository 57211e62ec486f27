//! `rcvm run`: boot a guest, load the driver once and show what it found, or give a shell.

use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use images::Extra;
use rustix::termios;
use torture::stream::Kind;
use torture::Plan;
use torture::Target;

use super::guest;
use super::no_agent;
use super::place;
use super::Guest;
use crate::cli::RunArgs;
use crate::control::Control;
use crate::front;
use crate::front::Got;
use crate::front::Worker;
use crate::job::Core;
use crate::job::Job;
use crate::job::Message;
use crate::job::Task;
use crate::topology::CardKind;

/// Boot and show.
pub fn run(args: &RunArgs) -> Result<u8> {
    let g = &args.guest;
    let place = place(g)?;
    let mut files = guest(g)?;
    let plan = Plan {
        target: Target::of(files.soc),
        endpoint: files.board.topology.has(CardKind::EndpointTest),
        consumers: files.board.topology.consumers(),
        boot_timeout_ms: g.boot_timeout * 1000,
        op_timeout_ms: g.op_timeout * 1000,
        ..Plan::default()
    };
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).with_context(|| format!("--out {}: cannot create it", dir.display()))?;
    }
    if args.shell {
        files.initramfs = images::initramfs_with(&files.image, &[Extra::Shell, Extra::Lspci], &mut |line| {
            eprintln!("{line}")
        })?;
    }
    let job = Job {
        kernel: files.kernel.clone(),
        initramfs: files.initramfs.clone(),
        append: g.append.clone(),
        vcpus: g.vcpus,
        memory_mib: g.memory,
        board: files.board.clone(),
        trace: false,
        core: Core::Never,
        task: if args.shell { Task::Shell } else { Task::Show(plan.clone()) },
    };
    eprintln!("{} guest: {} with {}", place.name(), files.kernel.display(), files.initramfs.display());
    let mut worker = front::start(place, &job, &files.image)?;
    let control = args.out.as_ref().and_then(|dir| Control::open(dir, &mut worker));
    let raw = if args.shell { RawTerminal::enter(&mut worker) } else { None };
    // A guest that never says anything must not keep us: the worker's own timeouts end it; this is the fallback.
    let silence = Duration::from_secs(g.boot_timeout + g.op_timeout + 30);
    let code = follow(&mut worker, &files, if args.shell { None } else { Some(silence) });
    drop((raw, control));
    worker.stop();
    code
}

fn follow(worker: &mut Worker, files: &Guest, silence: Option<Duration>) -> Result<u8> {
    let mut heard = Instant::now();
    let mut console = std::io::stdout();
    let mut heard_console = false;
    loop {
        match worker.next(Duration::from_millis(500)) {
            Got::Frame(Kind::Console, bytes) => {
                heard_console = true;
                console.write_all(&bytes).and_then(|()| console.flush()).context("standard output")?;
            }
            Got::Frame(Kind::Message, m) => {
                match serde_json::from_slice(&m).context("message of the worker")? {
                    Message::Say(line) => println!("{line}"),
                    Message::NoAgent(why) => {
                        bail!(no_agent(&why, files, heard_console.then_some(Path::new("the lines above"))))
                    }
                    Message::Failed(why) => bail!(why),
                    Message::Done => return Ok(0),
                    _ => {}
                }
            }
            Got::Frame(..) => {}
            Got::Eof => bail!("the machine that ran the guest ended unexpectedly; {}", worker.last_words()),
            Got::Silence => {
                if silence.is_some_and(|s| heard.elapsed() > s) {
                    bail!(
                        "nothing was heard of the guest for {} s; {}",
                        heard.elapsed().as_secs(),
                        worker.last_words()
                    );
                }
                continue;
            }
        }
        heard = Instant::now();
    }
}

/// The terminal in raw mode, its input going to the guest, until dropped.
struct RawTerminal(termios::Termios);

impl RawTerminal {
    fn enter(worker: &mut Worker) -> Option<RawTerminal> {
        let to = worker.sender();
        std::thread::spawn(move || {
            let mut buf = [0; 256];
            while let Ok(n @ 1..) = std::io::stdin().read(&mut buf) {
                if to.frame(Kind::Input, &buf[..n]).is_err() {
                    return;
                }
            }
        });
        let stdin = rustix::stdio::stdin();
        let old = termios::tcgetattr(stdin).ok()?;
        let mut raw = old.clone();
        raw.make_raw();
        termios::tcsetattr(stdin, termios::OptionalActions::Now, &raw).ok()?;
        Some(RawTerminal(old))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), termios::OptionalActions::Now, &self.0);
    }
}
