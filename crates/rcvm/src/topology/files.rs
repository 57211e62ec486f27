//! Files of the user's behind disks: what is asked of them, and whether they are there.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;

use super::Card;
use super::CardKind;
use super::Topology;

/// Smallest file, bytes: what torture makes of a disk, file system included, fits.
const LEAST_BYTES: u64 = 4 << 20;

impl Card {
    /// Whether what is on a disk is the user's, and torture must not overwrite it.
    pub(super) fn is_preserved(&self) -> bool {
        (self.file.is_some() || self.kind == CardKind::VfioUser) && self.scratch != Some(true)
    }

    /// Whether nobody can write to a disk.
    pub(super) fn is_read_only(&self) -> bool {
        self.readonly == Some(true)
    }

    fn is_disk(&self) -> bool {
        self.like.unwrap_or(self.kind).consumer().is_some_and(torture::consumer::Kind::is_disk)
    }

    pub(super) fn check_file_settings(&self) -> Result<()> {
        // What is behind a vfio-user device is the user's as a file is.
        let scratch = self.scratch.is_some() && self.kind != CardKind::VfioUser;
        if self.file.is_none() && (self.readonly.is_some() || scratch) {
            bail!("readonly and scratch are about a file: give file=PATH too");
        }
        if self.file.is_some() && self.size.is_some() {
            bail!("a disk has the size of its file: leave size out");
        }
        if self.is_read_only() && self.scratch == Some(true) {
            bail!("a file is readonly or scratch, not both");
        }
        Ok(())
    }

    fn check_file(&self, path: &Path) -> Result<(u64, u64)> {
        let at = path.display();
        let found = std::fs::metadata(path).with_context(|| format!("file {at}: cannot be used"))?;
        if !found.is_file() {
            bail!("file {at}: is no regular file; make one with truncate -s 64M {at}");
        }
        let block = u64::from(self.block.unwrap_or(512));
        if !found.len().is_multiple_of(block) {
            bail!(
                "file {at}: {} bytes are not a multiple of {block}; fill it up with truncate -s %{block} {at}",
                found.len()
            );
        }
        if found.len() < LEAST_BYTES {
            bail!(
                "file {at}: has {} bytes, and a disk at least {}M; enlarge it with truncate -s 64M {at}",
                found.len(),
                LEAST_BYTES >> 20
            );
        }
        File::options().read(true).write(!self.is_read_only()).open(path).with_context(|| {
            let remedy = if self.is_read_only() { "" } else { " for writing (readonly needs less)" };
            format!("file {at}: cannot be opened{remedy}")
        })?;
        Ok((found.dev(), found.ino()))
    }
}

impl Topology {
    /// Whether every file behind a disk can be used, and is used once.
    pub(super) fn check_files(&self) -> Result<()> {
        let mut seen = Vec::new();
        for (n, card) in self.cards.iter().enumerate() {
            let Some(path) = &card.file else { continue };
            let who = || format!("card {} (slot {}, {})", n + 1, card.slot, card.kind.name());
            let identity = card.check_file(path).with_context(who)?;
            if seen.contains(&identity) {
                bail!("{}: file {}: another card has it already; give each its own", who(), path.display());
            }
            seen.push(identity);
        }
        Ok(())
    }

    /// Whether a file system can be made on each disk without loss of something that the user wants to keep.
    pub fn check_filesystem(&self) -> Result<()> {
        // On one that is read-only nothing is made.
        let kept = |c: &&Card| c.is_preserved() && !c.is_read_only() && c.is_disk();
        let place = |c: &Card| c.file.clone().or_else(|| c.socket.clone());
        if let Some(path) = self.cards.iter().find(kept).and_then(place) {
            bail!(
                "--filesystem: what is in {} would be lost; say scratch beside it if it may be, or readonly of a file",
                path.display()
            );
        }
        Ok(())
    }

    /// The files behind disks, each with whether it is read-only, in the order of their cards.
    pub fn files(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.cards.iter().filter_map(|c| Some((c.file.as_deref()?, c.is_read_only())))
    }

    /// The same topology where file `n` of [`Topology::files`] is found at `path(n)`.
    pub fn with_files_at(&self, path: impl Fn(usize) -> PathBuf) -> Topology {
        let mut t = self.clone();
        for (n, file) in t.cards.iter_mut().filter_map(|c| c.file.as_mut()).enumerate() {
            *file = path(n);
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dir: &Path, options: &[&str]) -> Result<(), String> {
        let option = |o: &&str| Card::parse(&o.replace("DIR", dir.to_str().unwrap())).unwrap();
        let t = Topology { cards: options.iter().map(option).collect(), ..Topology::default() };
        t.check().and_then(|()| t.check_reach()).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn files_that_cannot_be_disks_are_named_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes| File::create(dir.path().join(name)).unwrap().set_len(bytes).unwrap();
        file("good", 4 << 20);
        file("odd", (4 << 20) + 100);
        file("sectors", (4 << 20) + 512);
        file("small", 512);
        std::os::unix::fs::symlink("good", dir.path().join("link")).unwrap();
        for (options, says) in [
            (&["nvme,file=DIR/none"][..], "none: cannot be used: No such file"),
            (&["nvme,file=DIR"], "no regular file"),
            (&["nvme,file=/dev/null"], "no regular file"),
            (&["nvme,file=DIR/odd"], "not a multiple of 512; fill it up with truncate -s %512 "),
            (&["nvme,file=DIR/sectors,block=4096"], "not a multiple of 4096"),
            (&["virtio-blk,file=DIR/small"], "has 512 bytes, and a disk at least 4M"),
            (&["virtio-blk,file=/proc/self/exe/x"], "Not a directory"),
            (
                &["nvme,file=DIR/good", "virtio-blk,file=DIR/link,readonly"],
                "card 2 (slot 0, virtio-blk): file",
            ),
        ] {
            let e = check(dir.path(), options).unwrap_err();
            assert!(e.contains(says) && e.contains("card ") && !e.contains('\n'), "{options:?}: {e}");
        }
        let running = format!("nvme,file={}", std::env::current_exe().unwrap().display());
        let e = check(dir.path(), &[&running]).unwrap_err();
        assert!(
            e.contains("for writing") || e.contains("multiple"),
            "nobody writes to a running program: {e}"
        );
        check(dir.path(), &["nvme,file=DIR/good", "nvme,file=DIR/sectors,readonly"]).unwrap();
    }

    #[test]
    fn what_torture_may_write_to() {
        let t = |o: &str| Topology { cards: vec![Card::parse(o).unwrap()], ..Topology::default() };
        for (option, preserved, filesystem) in [
            ("nvme", false, true),
            ("nvme,file=12", true, false),
            ("nvme,file=true,readonly", true, true),
            ("virtio-blk,file=a,scratch", false, true),
            ("virtio-blk,file=a,scratch=false", true, false),
        ] {
            let t = t(option);
            t.check().unwrap();
            assert_eq!(t.consumers()[0].preserved, preserved, "{option}");
            assert_eq!(t.check_filesystem().is_ok(), filesystem, "{option}");
        }
    }

    #[test]
    fn files_have_another_place_in_the_outer_machine() {
        let cards = ["nvme", "nvme,file=a", "virtio-blk,file=b,readonly"];
        let cards = cards.iter().map(|c| Card::parse(c).unwrap()).collect();
        let t = Topology { cards, ..Topology::default() };
        assert_eq!(t.files().collect::<Vec<_>>(), [(Path::new("a"), false), (Path::new("b"), true)]);
        let moved = t.with_files_at(|n| format!("/disks/{n}").into());
        let files: Vec<_> = moved.files().map(|f| f.0.to_owned()).collect();
        assert_eq!(files, [Path::new("/disks/0"), Path::new("/disks/1")]);
    }
}
