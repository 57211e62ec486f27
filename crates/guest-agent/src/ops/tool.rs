//! Programs of the image: the kernel's own tests, and applets of busybox.

use std::collections::VecDeque;
use std::io;
use std::io::PipeReader;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use guest_agent::OpError;
use guest_agent::ToolOutput;
use guest_agent::ToolStatus;
use guest_agent::Value;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;

use super::failed;
use super::files;

/// How often the end of the program and of its time are looked for while it says nothing.
const POLL: Duration = Duration::from_millis(5);
/// How long a killed program may take to end before it counts as stuck in the kernel: the endpoint driver waits for its
/// device uninterruptibly (drivers/misc/pci_endpoint_test.c: `wait_for_completion`, v6.12).
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Run `program` to its end or its timeout.
pub fn run(
    program: &str,
    args: &[String],
    env: &[(String, String)],
    timeout_ms: u64,
) -> Result<Value, OpError> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let output = start(program, args, env)
        .and_then(|(child, pipe)| watch(child, pipe, deadline))
        .map_err(|e| failed(format!("run {program}"), &e))?;
    Ok(Value::Tool(output))
}

fn start(program: &str, args: &[String], env: &[(String, String)]) -> io::Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    // The command, and with it our ends of the pipe to write to, are gone when this returns.
    let child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/bin:/sbin")
        .envs(env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    Ok((child, reader))
}

fn watch(mut child: Child, mut pipe: PipeReader, deadline: Instant) -> io::Result<ToolOutput> {
    let mut output = Bounded::new(files::MAX_TEXT_BYTES);
    let group = Pid::from_child(&child);
    let mut timed_out = !wait(group, &mut pipe, &mut output, deadline)?;
    // Not reaped yet, so that the group's number is still its own. Ends what the program left running, too.
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let status = if !timed_out || wait(group, &mut pipe, &mut output, Instant::now() + KILL_TIMEOUT)? {
        let status = child.wait()?;
        // It may have ended by itself between the last look and the kill.
        timed_out &= status.signal() == Some(libc::SIGKILL);
        told(status)
    } else {
        ToolStatus::Stuck
    };
    reap_orphans();
    output.fill(&mut pipe)?;
    Ok(ToolOutput { status, output: output.into_text(), timed_out })
}

/// Collect output until the program ends; false if `deadline` comes first. The program stays to be reaped.
fn wait(pid: Pid, pipe: &mut PipeReader, output: &mut Bounded, deadline: Instant) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        if rustix::process::waitid(WaitId::Pid(pid), options)?.is_some() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        if output.fill(pipe)? {
            std::thread::sleep(POLL);
        } else {
            let mut fds = [PollFd::new(&*pipe, PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: POLL.subsec_nanos().into() };
            rustix::event::poll(&mut fds, Some(&timeout))?;
        }
    }
}

fn told(status: ExitStatus) -> ToolStatus {
    match (status.code(), status.signal()) {
        (Some(code), _) => ToolStatus::Exited(code),
        (None, signal) => ToolStatus::Signal(signal.unwrap_or(0)),
    }
}

/// PID 1 inherits what programs leave behind; no operation has a child of its own at this point.
fn reap_orphans() {
    if rustix::process::getpid().is_init() {
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
}

/// The beginning and the end of a stream.
struct Bounded {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    half: usize,
    left_out: u64,
}

impl Bounded {
    fn new(max_bytes: usize) -> Bounded {
        Bounded { head: Vec::new(), tail: VecDeque::new(), half: max_bytes / 2, left_out: 0 }
    }

    /// Take what the pipe holds now; true at its end. At most one round: a program that writes without end does not keep
    /// its time from being looked at.
    fn fill(&mut self, pipe: &mut PipeReader) -> io::Result<bool> {
        let mut buffer = [0; 65536];
        match pipe.read(&mut buffer) {
            Ok(n) => {
                self.push(&buffer[..n]);
                Ok(n == 0)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let (head, tail) = bytes.split_at(bytes.len().min(self.half - self.head.len()));
        self.head.extend(head);
        self.tail.extend(tail);
        let excess = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..excess);
        self.left_out += excess as u64;
    }

    fn into_text(self) -> String {
        let (mut text, tail) = (self.head, Vec::from(self.tail));
        if self.left_out > 0 {
            text.extend(format!("\n[{} bytes left out]\n", self.left_out).as_bytes());
        }
        text.extend(tail);
        files::printable(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout_ms: u64) -> ToolOutput {
        let args = ["-c".to_owned(), script.to_owned()];
        let env = [("WORD".to_owned(), "here".to_owned())];
        match run("/bin/sh", &args, &env, timeout_ms).unwrap() {
            Value::Tool(t) => t,
            other => panic!("{other:?}"),
        }
    }

    const LONG_MS: u64 = 60_000;

    #[test]
    fn output_and_errors_come_in_their_order_with_the_code() {
        let t = sh("echo $WORD $PATH; echo b >&2; echo c; exit 3", LONG_MS);
        let output = "here /bin:/sbin\nb\nc\n".to_owned();
        assert_eq!(t, ToolOutput { status: ToolStatus::Exited(3), output, timed_out: false });
    }

    #[test]
    fn the_whole_group_ends_at_the_timeout() {
        let t = sh("sleep 1000 & wait", 300);
        assert_eq!((t.status, t.timed_out), (ToolStatus::Signal(libc::SIGKILL), true));
    }

    #[test]
    fn what_a_program_leaves_running_does_not_keep_it_from_ending() {
        let t = sh("sleep 1000 & echo done", LONG_MS);
        assert_eq!((t.status, t.timed_out), (ToolStatus::Exited(0), false));
        assert_eq!(t.output, "done\n");
    }

    #[test]
    fn the_middle_of_a_long_output_is_left_out() {
        let t = sh("echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last", LONG_MS);
        assert!(t.output.starts_with("first\nxxx") && t.output.ends_with("xxx\nlast\n"));
        let note = "\n[737868 bytes left out]\n";
        assert!(t.output.contains(note));
        assert_eq!(t.output.len(), files::MAX_TEXT_BYTES + note.len());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert_eq!(run("/bin/no-such", &[], &[], 1).unwrap_err().errno, libc::ENOENT);
    }
}
