//! The result channel: find the port, read requests, write replies.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use guest_agent::OpError;
use guest_agent::Reply;
use guest_agent::Request;
use guest_agent::Value;
use guest_agent::MAX_LINE_BYTES;
use guest_agent::PORT_NAME;

use crate::ops;
use crate::ops::Agent;

const PORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Open the port, waiting for it to appear.
pub fn open() -> io::Result<File> {
    let deadline = Instant::now() + PORT_TIMEOUT;
    loop {
        let opened = find_port().map(|dev| OpenOptions::new().read(true).write(true).open(dev));
        match opened {
            Some(Ok(f)) => return Ok(f),
            Some(Err(e)) if Instant::now() > deadline => return Err(e),
            None if Instant::now() > deadline => {
                return Err(io::Error::other(format!("no virtio port named {PORT_NAME}")));
            }
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|p| {
        let name = std::fs::read_to_string(p.path().join("name")).ok()?;
        (name.trim() == PORT_NAME).then(|| Path::new("/dev").join(p.file_name()))
    })
}

/// Answer requests until the host closes the port or a line breaks the protocol.
pub fn serve(port: File, agent: &mut Agent) {
    let hello = Reply { id: 0, result: Ok(Value::Hello(ops::system::hello(&agent.root))) };
    if say(&port, &hello).is_err() {
        return;
    }
    let mut reader = BufReader::new(&port);
    loop {
        let mut line = Vec::new();
        let n = (&mut reader).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line);
        match n {
            Ok(n) if n > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        let reply = match serde_json::from_slice::<Request>(&line) {
            Ok(r) => Reply { id: r.id, result: ops::perform(agent, &r.op) },
            // The id cannot be known: 0, which no request has.
            Err(e) => Reply {
                id: 0,
                result: Err(OpError { what: "read a request".into(), errno: 0, why: e.to_string() }),
            },
        };
        if say(&port, &reply).is_err() {
            return;
        }
    }
}

fn say(mut port: &File, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    port.write_all(&line)
}
