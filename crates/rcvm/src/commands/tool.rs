//! A program that is run once in a guest: how it is started, and what comes of it.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use guest_agent::ToolOutput;
use torture::stream::Kind;

use super::no_agent;
use super::Guest;
use crate::artifacts::Log;
use crate::cli::GuestArgs;
use crate::front;
use crate::front::Got;
use crate::front::Where;
use crate::front::Worker;
use crate::job::Core;
use crate::job::Job;
use crate::job::Message;
use crate::job::Task;
use crate::job::Tool;

/// Why there is no output.
pub enum Lost {
    /// The guest ended or hung.
    Crash(String),
    /// The guest ran, and the program could not be.
    Failed(String),
    /// Nobody said anything of it.
    Silent,
}

/// Release of the guest's kernel, and what the program said.
pub type Ran = (String, Result<ToolOutput, Lost>);

/// Where a program is run.
pub struct Session<'a> {
    /// Which machine runs the guest.
    pub place: Where,
    /// What was asked of the guest.
    pub guest: &'a GuestArgs,
    /// Its files.
    pub files: &'a Guest,
    /// Keeps the console.
    pub dir: &'a Path,
    /// Longest that the worker may say nothing.
    pub silence: Duration,
}

impl Session<'_> {
    /// Boot, run `tool`, power off; `say` hears what is done on the way.
    pub fn run(&self, tool: Tool, say: &mut dyn FnMut(&str)) -> Result<Ran> {
        let (g, files) = (self.guest, self.files);
        let job = Job {
            kernel: files.kernel.clone(),
            initramfs: files.initramfs.clone(),
            append: g.append.clone(),
            vcpus: g.vcpus,
            memory_mib: g.memory,
            board: files.board.clone(),
            trace: false,
            core: Core::Never,
            task: Task::Tool(tool),
        };
        let mut worker = front::start(self.place, &job, &files.image)?;
        let ran = self.follow(&mut worker, say);
        worker.stop();
        ran
    }

    /// Until the guest is gone.
    fn follow(&self, worker: &mut Worker, say: &mut dyn FnMut(&str)) -> Result<Ran> {
        let mut console = Log::console(self.dir)?;
        let mut release = String::new();
        let mut told = Err(Lost::Silent);
        let mut heard = Instant::now();
        loop {
            match worker.next(Duration::from_millis(500)) {
                Got::Frame(Kind::Console, bytes) => console.append(&bytes)?,
                Got::Frame(Kind::Message, m) => {
                    match serde_json::from_slice(&m).context("message of the worker")? {
                        Message::Say(line) => say(&line),
                        Message::Release(r) => release = r,
                        Message::Tool(output) => told = Ok(output),
                        Message::Crashed(why) => told = Err(Lost::Crash(why)),
                        Message::NoAgent(why) => {
                            bail!(no_agent(&why, self.files, Some(&self.dir.join("console.log"))))
                        }
                        // With a release, the guest ran: its failure is a result.
                        Message::Failed(why) if !release.is_empty() => told = Err(Lost::Failed(why)),
                        Message::Failed(why) => bail!(why),
                        Message::Done => return Ok((release, told)),
                        _ => {}
                    }
                }
                Got::Frame(..) => {}
                Got::Eof => {
                    bail!("the machine that ran the guest ended unexpectedly; {}", worker.last_words())
                }
                Got::Silence => {
                    if heard.elapsed() > self.silence {
                        bail!("nothing was heard of the guest for {} s", heard.elapsed().as_secs());
                    }
                    continue;
                }
            }
            heard = Instant::now();
        }
    }
}
