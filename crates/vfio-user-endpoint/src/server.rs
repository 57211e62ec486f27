//! What a server needs: the test devices are built of it.

use std::io;
use std::io::IoSliceMut;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;

use crate::connection::MOST_FDS;
use crate::wire;
use crate::wire::Header;

/// A message with its payload and the file descriptors that came along.
pub type Received = (Header, Vec<u8>, Vec<OwnedFd>);

/// Wait for the next message; `None`: the client is gone.
pub fn receive(stream: &UnixStream) -> io::Result<Option<Received>> {
    let (mut head, mut fds) = ([0; wire::HEADER_BYTES], Vec::new());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut control, flags)?;
    for m in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = m {
            fds.extend(received);
        }
    }
    let Some(h) = Header::parse(&head[..got.bytes]) else { return Ok(None) };
    let bytes = h.bytes as usize;
    if !(wire::HEADER_BYTES..=wire::MOST_MESSAGE_BYTES).contains(&bytes) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of no possible length"));
    }
    let mut payload = vec![0; bytes - wire::HEADER_BYTES];
    (&mut &*stream).read_exact(&mut payload)?;
    Ok(Some((h, payload, fds)))
}
