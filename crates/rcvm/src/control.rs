//! Questions to a run that goes on: a socket in its output directory, which `rcvm inspect --run` asks.
//!
//! A question is JSON ([`Ask`]) in one write, the answer is JSON until the end of the stream. One is answered at a time, by a thread of
//! the front-end: it sends the worker a frame and waits for another. A client can delay nobody but other clients.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use torture::stream::Kind;

use crate::front::ToWorker;
use crate::front::Worker;
use crate::view::Answer;
use crate::view::Ask;
use crate::view::Question;
use crate::view::Shown;
use crate::view::MAX_ANSWER_BYTES;

/// Name of the socket.
const SOCKET: &str = "control.sock";
/// Longest question, bytes.
const MAX_QUESTION_BYTES: usize = 4096;
/// Longest wait for a client that has something to say or to take.
const CLIENT_TIME: Duration = Duration::from_secs(2);
/// Longest wait for the worker: longer than its vCPUs may take to stand still, several times over.
const WORKER_TIME: Duration = Duration::from_secs(15);
/// Longest that a client waits: others may be before it.
const ANSWER_TIME: Duration = Duration::from_secs(40);
/// Clients that wait.
const BACKLOG: i32 = 8;

/// A run that can be asked, until it is dropped.
pub struct Control {
    listener: UnixListener,
    socket: PathBuf,
}

impl Control {
    /// Listen in `dir`. A run goes on without it if that is not possible.
    pub fn open(dir: &Path, worker: &mut Worker) -> Option<Control> {
        match Self::listen(dir, worker) {
            Ok(control) => Some(control),
            Err(e) => {
                log::warn!("`rcvm inspect --run` will not find this run: {}: {e:#}", dir.display());
                None
            }
        }
    }

    fn listen(dir: &Path, worker: &mut Worker) -> Result<Control> {
        let listener = bind(dir)?;
        let control = Control { listener: listener.try_clone()?, socket: dir.join(SOCKET) };
        let to = worker.sender();
        let answers = worker.views().context("somebody else asks")?;
        let serve = move || {
            for (id, client) in (1..).zip(listener.incoming()) {
                match client {
                    Ok(client) => serve(client, id, &to, &answers),
                    // Shut down: the run is over.
                    Err(_) => return,
                }
            }
        };
        std::thread::Builder::new().name("control".into()).spawn(serve).context("start a thread")?;
        Ok(control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// A path of a socket in `dir` that is short however long that of `dir` is: a socket's address has 107 bytes.
fn short_path(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}

/// A socket in `dir` for its owner alone: nobody can connect before the mode is set.
fn bind(dir: &Path) -> Result<UnixListener> {
    let file = dir.join(SOCKET);
    // What a run that was killed has left.
    if file.symlink_metadata().is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(&file).context("remove the old socket")?;
    }
    let dir = File::open(dir).context("open it")?;
    let path = short_path(&dir);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?).context("make a socket")?;
    rustix::fs::chmod(&path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).context("set its mode")?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// Answer one client; one that hangs up or keeps silent is left.
fn serve(mut client: UnixStream, id: u64, to: &ToWorker, answers: &Receiver<Vec<u8>>) {
    let _ = client.set_read_timeout(Some(CLIENT_TIME));
    let _ = client.set_write_timeout(Some(CLIENT_TIME));
    let mut question = vec![0; MAX_QUESTION_BYTES];
    let Ok(len) = client.read(&mut question) else { return };
    let shown = match question.get(..len).map(serde_json::from_slice) {
        Some(Ok(ask)) => ask_worker(Question { id, ask }, to, answers),
        _ => Err("not a question of this version of rcvm".into()),
    };
    if let Ok(json) = serde_json::to_vec(&shown) {
        let _ = client.write_all(&json);
    }
}

fn ask_worker(question: Question, to: &ToWorker, answers: &Receiver<Vec<u8>>) -> Result<Shown, String> {
    let json = serde_json::to_vec(&question).map_err(|e| e.to_string())?;
    to.frame(Kind::Ask, &json).map_err(|_| "the guest's machine has ended")?;
    let deadline = Instant::now() + WORKER_TIME;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = answers.recv_timeout(left).map_err(|_| "the guest's machine does not answer")?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        // That to an earlier question came too late.
        if answer.id == question.id {
            return answer.shown;
        }
    }
}

/// There is a run, but the view is not to be had at this moment.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotNow(String);

/// Ask the run that has its output in `dir`.
pub fn ask(dir: &Path, ask: Ask) -> Result<Shown> {
    let opened = File::open(dir).with_context(|| format!("--run {}", dir.display()))?;
    let Ok(mut run) = UnixStream::connect(short_path(&opened)) else {
        bail!("--run {}: no run goes on there; of one that has ended, give its core: --core", dir.display());
    };
    run.set_read_timeout(Some(ANSWER_TIME))?;
    run.set_write_timeout(Some(CLIENT_TIME))?;
    run.write_all(&serde_json::to_vec(&ask)?).context("ask the run")?;
    let mut answer = Vec::new();
    // The answer in an answer's frame, and what it is wrapped in.
    run.take(MAX_ANSWER_BYTES as u64 + 4096).read_to_end(&mut answer).context("the run does not answer")?;
    if answer.is_empty() {
        bail!("the run has ended");
    }
    let shown: Result<Shown, String> =
        serde_json::from_slice(&answer).context("the run is one of another version of rcvm")?;
    shown.map_err(|why| NotNow(why).into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::View;

    #[test]
    fn the_socket_is_its_owners_and_one_that_a_killed_run_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(200));
        std::fs::create_dir(&long).unwrap();
        drop(bind(&long).unwrap());
        let _listener = bind(&long).unwrap();
        let mode = std::fs::symlink_metadata(long.join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let opened = File::open(&long).unwrap();
        assert!(UnixStream::connect(short_path(&opened)).is_ok());
    }

    #[test]
    fn a_file_of_the_users_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(SOCKET), "mine").unwrap();
        assert!(bind(dir.path()).is_err());
        assert_eq!(std::fs::read(dir.path().join(SOCKET)).unwrap(), b"mine");
    }

    #[test]
    fn where_nothing_runs_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let what = Ask { view: View::Irqs, json: false };
        assert!(ask(dir.path(), what).unwrap_err().to_string().contains("no run goes on there"));
        // A socket that nobody listens on any more.
        drop(bind(dir.path()).unwrap());
        assert!(ask(dir.path(), what).unwrap_err().to_string().contains("no run goes on there"));
    }
}
