//! Sockets of the user's behind vfio-user cards.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;

use super::Card;
use super::CardKind;
use super::Topology;

/// What to do about a socket on which nobody listens.
const REMEDY: &str = "start the server of the device first";

impl Topology {
    /// vfio-user cards with their sockets; their order is the order of the channels of a relay.
    fn sockets(&self) -> impl Iterator<Item = (&Card, &Path)> {
        let of_kind = self.cards.iter().filter(|c| c.kind == CardKind::VfioUser);
        of_kind.filter_map(|c| Some((c, c.socket.as_deref()?)))
    }

    /// Which channel of a relay is this card's.
    #[cfg(any(test, target_arch = "aarch64"))]
    pub(super) fn channel(&self, card: &Card) -> Option<u8> {
        let place = self.sockets().position(|(c, _)| std::ptr::eq(c, card))?;
        u8::try_from(place).ok()
    }

    /// Whether every socket is there. Nobody connects: a server may end with its first connection.
    pub(super) fn check_sockets(&self) -> Result<()> {
        for (card, path) in self.sockets() {
            let at = || format!("vfio-user card in slot {}: socket {}", card.slot, path.display());
            let found = std::fs::metadata(path).with_context(|| format!("{}: {REMEDY}", at()))?;
            if !found.file_type().is_socket() {
                bail!("{}: it is no socket; {REMEDY}, and name the socket that it listens on", at());
            }
        }
        let n = self.sockets().count();
        if n > vfio_user_endpoint::relay::MOST_CHANNELS {
            bail!("there are {n} vfio-user cards, and at most {}", vfio_user_endpoint::relay::MOST_CHANNELS);
        }
        Ok(())
    }

    /// Connect to the servers, in the order of channels.
    pub fn connect_servers(&self) -> Result<Vec<UnixStream>> {
        let connect = |(card, path): (&Card, &Path)| {
            UnixStream::connect(path).with_context(|| {
                let at = path.display();
                format!("vfio-user card in slot {}: nobody listens on {at}: {REMEDY}", card.slot)
            })
        };
        self.sockets().map(connect).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn topology(options: &[String]) -> Topology {
        let cards = options.iter().map(|o| Card::parse(o).unwrap()).collect();
        Topology { cards, ..Topology::default() }
    }

    #[test]
    fn a_socket_without_a_server_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        drop(UnixListener::bind(path("left")).unwrap());
        let at = |name| topology(&[format!("vfio-user,socket={}", path(name).display())]);
        for (name, reach) in [("none", false), ("file", false), ("left", true)] {
            let t = at(name);
            t.check().unwrap();
            assert_eq!(t.check_reach().is_ok(), reach, "{name}");
            let e = t.check_reach().and_then(|()| t.connect_servers().map(drop)).unwrap_err();
            let says = format!("{e:#}");
            let named = says.contains(&path(name).display().to_string()) && says.contains("slot 0");
            assert!(named && says.contains(REMEDY) && !says.contains('\n'), "{name}: {says}");
        }
    }

    #[test]
    fn each_server_has_the_channel_of_its_card() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = ["a", "b"].iter().map(|n| dir.path().join(n)).collect();
        let _listeners: Vec<_> = paths.iter().map(|p| UnixListener::bind(p).unwrap()).collect();
        let mut options = vec!["switch".to_owned(), "nvme,port=0.0".into()];
        options.extend(paths.iter().map(|p| format!("vfio-user,port=0.1,socket={}", p.display())));
        let t = topology(&options);
        t.check().and_then(|()| t.check_reach()).unwrap();
        let channels: Vec<_> = t.cards.iter().map(|c| t.channel(c)).collect();
        assert_eq!(channels, [None, None, Some(0), Some(1)]);
        let peers = t.connect_servers().unwrap();
        let peers: Vec<_> = peers.iter().map(|s| s.peer_addr().unwrap()).collect();
        let peers: Vec<_> = peers.iter().map(|a| a.as_pathname().unwrap()).collect();
        assert_eq!(peers, paths);
    }

    #[test]
    fn what_a_device_is_like_says_what_torture_does_with_it() {
        let silent = Card::parse("vfio-user,socket=7").unwrap();
        assert_eq!(silent.socket, Some("7".into()), "a path though it looks like a number");
        let consumers = |o: &str| topology(&[o.to_owned()]).consumers();
        assert!(consumers("vfio-user,socket=7").is_empty());
        let disk = consumers("vfio-user,socket=7,like=nvme");
        assert_eq!((disk[0].kind.name(), disk[0].preserved), ("nvme", true), "what is on it is the user's");
        assert!(!consumers("vfio-user,socket=7,like=nvme,scratch")[0].preserved);
        let e =
            topology(&["vfio-user,socket=7,like=nvme".into()]).check_filesystem().unwrap_err().to_string();
        assert!(e.contains("what is in 7 would be lost"), "{e}");
    }
}
