//! A relay whose ends do not do what they should, and more than one server.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use vfio_user_endpoint::relay;
use vfio_user_endpoint::wire;
use vfio_user_endpoint::wire::command;
use vfio_user_endpoint::wire::irq;
use vfio_user_endpoint::wire::Header;
use vfio_user_endpoint::ConnectError;
use vfio_user_endpoint::Failure;
use vfio_user_endpoint::VfioUser;

/// A relay with one server: the far end of its link, the server's end of its socket, what becomes of it.
fn relayed() -> (UnixStream, UnixStream, JoinHandle<std::io::Result<()>>) {
    let (near, far) = UnixStream::pair().unwrap();
    let (server, socket) = UnixStream::pair().unwrap();
    (far, server, std::thread::spawn(|| relay::serve(near, vec![socket])))
}

fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, channel], &(payload.len() as u32).to_le_bytes()[..], payload].concat()
}

fn read_frame(s: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut head = [0; 6];
    s.read_exact(&mut head).unwrap();
    let mut payload = vec![0; u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize];
    s.read_exact(&mut payload).unwrap();
    (head[0], payload)
}

#[test]
fn what_no_function_sends_ends_the_relay_and_does_not_reach_the_server() {
    let whole = |command, payload: &[u8]| Header { command, ..Header::default() }.message(&[payload]);
    let arm = irq::DATA_EVENTFD | irq::ACTION_TRIGGER;
    for (what, bytes) in [
        ("no frame", vec![0xff; 6]),
        ("no such server", frame(1, 1, &whole(command::RESET, &[]))),
        ("a command that the protocol does not need", frame(1, 0, &whole(3, &[]))),
        ("half a message", frame(1, 0, &whole(command::VERSION, &[0; 8])[..20])),
        ("an interrupt", frame(3, 0, &[0; 16])),
        ("more than fits", [&[1, 0], &(wire::MOST_MESSAGE_BYTES as u32 + 1).to_le_bytes()[..]].concat()),
        ("too many descriptors", frame(1, 0, &whole(command::SET_IRQS, &wire::words(&[20, arm, 2, 0, 17])))),
        ("vectors that there are not", {
            frame(1, 0, &whole(command::SET_IRQS, &wire::words(&[20, arm, 2, u32::MAX, 2])))
        }),
        ("no vectors at all", frame(1, 0, &whole(command::SET_IRQS, &[0; 3]))),
    ] {
        let (mut far, mut server, relay) = relayed();
        far.write_all(&bytes).unwrap();
        assert!(relay.join().unwrap().is_err(), "{what}");
        let mut got = Vec::new();
        server.read_to_end(&mut got).unwrap();
        assert!(got.is_empty(), "{what}: {got:?}");
    }
}

#[test]
fn a_server_that_talks_without_end_is_held_back_at_the_window() {
    let (mut far, mut server, relay) = relayed();
    let talker = std::thread::spawn(move || while server.write_all(&[0; 4096]).is_ok() {});
    let mut got = 0;
    let mut take = |far: &mut UnixStream, most: usize| {
        while got < most {
            let (kind, payload) = read_frame(far);
            assert_eq!(kind, 1);
            got += payload.len();
        }
        assert_eq!(got, most, "not a byte beyond the window");
    };
    take(&mut far, relay::WINDOW_BYTES);
    far.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(far.read(&mut [0]).is_err(), "and nothing more until it is told to go on");
    far.set_read_timeout(None).unwrap();
    far.write_all(&frame(2, 0, &1000u32.to_le_bytes())).unwrap();
    take(&mut far, relay::WINDOW_BYTES + 1000);
    drop(far);
    relay.join().unwrap().unwrap();
    talker.join().unwrap();
}

#[test]
fn the_last_words_of_a_server_come_before_its_end() {
    let (mut far, mut server, _relay) = relayed();
    server.write_all(b"last").unwrap();
    drop(server);
    assert_eq!(read_frame(&mut far), (1, b"last".to_vec()));
    assert_eq!(read_frame(&mut far), (4, Vec::new()));
}

#[test]
fn a_channel_that_is_dropped_closes_its_server_and_no_other() {
    let (near, far) = UnixStream::pair().unwrap();
    let (mut a, socket_a) = UnixStream::pair().unwrap();
    let (mut b, socket_b) = UnixStream::pair().unwrap();
    std::thread::spawn(|| relay::serve(near, vec![socket_a, socket_b]));
    let link = relay::Link::new(far.into()).unwrap();
    let (first, second) = (link.channel(0), link.channel(1));
    drop(first);
    assert_eq!(a.read(&mut [0]).unwrap(), 0);
    let server = std::thread::spawn(move || {
        let mut head = [0; wire::HEADER_BYTES];
        b.read_exact(&mut head).unwrap();
        let h = Header::parse(&head).unwrap();
        b.write_all(&h.refusal(5).message(&[])).unwrap();
        h.command
    });
    let e = VfioUser::through(second, Duration::from_secs(60)).unwrap_err();
    assert!(matches!(e, ConnectError::Refused { errno: 5, .. }), "{e}");
    assert_eq!(server.join().unwrap(), command::VERSION);
}

#[test]
fn a_link_that_ends_is_noticed_and_one_that_is_silent_or_full_takes_its_time_and_no_more() {
    let timeout = Duration::from_millis(300);
    let connect = |far: UnixStream, t| VfioUser::through(relay::Link::new(far.into()).unwrap().channel(0), t);
    let (near, far) = UnixStream::pair().unwrap();
    drop(near);
    let e = connect(far, Duration::from_secs(60)).unwrap_err();
    assert!(matches!(e, ConnectError::Failed(Failure::Closed)), "{e}");

    let (near, far) = UnixStream::pair().unwrap();
    let begun = Instant::now();
    let e = connect(far, timeout).unwrap_err();
    assert!(matches!(e, ConnectError::Failed(Failure::Stalled(_))), "{e}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    drop(near);

    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    while (&far).write(&[0; 4096]).is_ok() {}
    let e = connect(far, timeout).unwrap_err();
    assert!(matches!(e, ConnectError::Failed(Failure::Stalled(_))), "{e}");
    drop(near);
}
