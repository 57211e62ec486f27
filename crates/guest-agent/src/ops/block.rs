//! Random I/O on a block device that checks what it reads, now or after the device was bound again.

use std::collections::BTreeMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use guest_agent::BlockIo;
use guest_agent::BlockIoResult;
use guest_agent::BlockVerifyResult;
use guest_agent::IoLimit;
use guest_agent::OpError;
use guest_agent::Value;
use rustix::fs::Advice;

use super::files;
use super::invalid;
use super::pattern;
use super::pattern::Mismatches;
use super::pattern::Random;
use super::pattern::SECTOR_BYTES;
use super::timed_out;
use super::Root;

const MAX_JOBS: u32 = 16;
const MAX_BLOCK_BYTES: u32 = 1 << 20;
/// Bounds the memory of a table of blocks: 32 MiB.
const MAX_BLOCKS: u64 = 1 << 22;
/// One of so many operations is followed by fdatasync.
const OPS_PER_FLUSH: u64 = 32;
/// What O_DIRECT may ask of an address: no logical block is larger than this in our devices.
const ALIGN_BYTES: usize = 4096;

/// The I/O that runs, and the tables of that which is over.
#[derive(Default)]
pub struct Runs {
    last_id: u64,
    running: BTreeMap<u64, mpsc::Receiver<(BlockIoResult, Table)>>,
    kept: BTreeMap<String, Table>,
}

impl Runs {
    /// [`Op::BlockIoStart`](guest_agent::Op::BlockIoStart).
    pub fn start(&mut self, root: &Root, io: &BlockIo) -> Result<u64, OpError> {
        check(io)?;
        let path = files::guarded(root, &io.device)?;
        let (done, receiver) = mpsc::channel();
        let io = io.clone();
        std::thread::spawn(move || {
            // Nobody joins any more: the agent ends.
            let _ = done.send(run(&path, io));
        });
        self.last_id += 1;
        self.running.insert(self.last_id, receiver);
        Ok(self.last_id)
    }

    /// [`Op::BlockIoJoin`](guest_agent::Op::BlockIoJoin); without a timeout, until it ends.
    pub fn join(&mut self, id: u64, timeout_ms: Option<u64>) -> Result<Value, OpError> {
        let what = || format!("join block I/O {id}");
        let run = self.running.get(&id).ok_or_else(|| invalid(what(), "there is none of that id"))?;
        let ended = match timeout_ms {
            Some(ms) => run.recv_timeout(Duration::from_millis(ms)),
            None => run.recv().map_err(RecvTimeoutError::from),
        };
        if let Err(RecvTimeoutError::Timeout) = ended {
            return Err(timed_out(what(), timeout_ms.unwrap_or(0)));
        }
        self.running.remove(&id);
        let (result, table) = ended.map_err(|e| invalid(what(), e))?;
        if !table.io.keep.is_empty() {
            self.kept.insert(table.io.keep.clone(), table);
        }
        Ok(Value::BlockIo(result))
    }

    /// [`Op::BlockVerify`](guest_agent::Op::BlockVerify).
    pub fn verify(&self, root: &Root, name: &str, device: &str) -> Result<Value, OpError> {
        let table = self.kept.get(name);
        let table =
            table.ok_or_else(|| invalid(format!("verify {device}"), format!("no run kept {name}")))?;
        Ok(Value::BlockVerify(table.verify(&files::guarded(root, device)?)))
    }
}

fn check(io: &BlockIo) -> Result<(), OpError> {
    let what = || format!("do block I/O on {}", io.device);
    if io.block_bytes == 0
        || io.block_bytes > MAX_BLOCK_BYTES
        || !(io.block_bytes as usize).is_multiple_of(SECTOR_BYTES)
    {
        return Err(invalid(what(), format!("{} bytes are no size of a block", io.block_bytes)));
    }
    if io.jobs == 0 || io.jobs > MAX_JOBS {
        return Err(invalid(what(), format!("{} are no number of jobs", io.jobs)));
    }
    let blocks = io.bytes / u64::from(io.block_bytes);
    if blocks < io.jobs.into() || blocks > MAX_BLOCKS {
        return Err(invalid(what(), format!("{blocks} are no number of blocks for {} jobs", io.jobs)));
    }
    Ok(())
}

/// Run all jobs to their end.
fn run(path: &Path, io: BlockIo) -> (BlockIoResult, Table) {
    let begun = Instant::now();
    let blocks = io.bytes / u64::from(io.block_bytes) / u64::from(io.jobs);
    let outcomes: Vec<(BlockIoResult, Region)> = std::thread::scope(|s| {
        let spawned: Vec<_> = (0..io.jobs)
            .map(|number| {
                let region = Region::new(u64::from(number) * blocks, blocks);
                let io = &io;
                s.spawn(move || job(path, io, number, region))
            })
            .collect();
        // A job that panics has ended the agent already (main.rs).
        spawned.into_iter().filter_map(|j| j.join().ok()).collect()
    });
    let mut all = BlockIoResult::default();
    let mut regions = Vec::new();
    for (r, region) in outcomes {
        all.reads += r.reads;
        all.reads_verified += r.reads_verified;
        all.writes += r.writes;
        all.flushes += r.flushes;
        all.bytes += r.bytes;
        all.errors.extend(r.errors);
        Mismatches { count: r.mismatches, examples: r.mismatch_examples }.move_to(&mut all);
        regions.push(region);
    }
    all.elapsed_ms = begun.elapsed().as_millis() as u64;
    (all, Table { io, regions })
}

/// One thread's run. A failed system call ends it.
fn job(path: &Path, io: &BlockIo, number: u32, region: Region) -> (BlockIoResult, Region) {
    let file = match open(path, io) {
        Ok(f) => f,
        Err(e) => {
            let errors = vec![format!("job {number}: open {}: {e}", path.display())];
            return (BlockIoResult { errors, ..BlockIoResult::default() }, region);
        }
    };
    let mut job = Job {
        file,
        io,
        region,
        dirty: Vec::new(),
        random: Random::new(pattern::mix(io.seed) ^ u64::from(number)),
        buffer: Buffer::new(io.block_bytes as usize),
        result: BlockIoResult::default(),
        mismatches: Mismatches::default(),
    };
    if let Err(e) = job.run() {
        job.result.errors.push(format!("job {number}: {e}"));
    }
    job.mismatches.move_to(&mut job.result);
    (job.result, job.region)
}

fn open(path: &Path, io: &BlockIo) -> io::Result<File> {
    let flags = if io.direct { libc::O_DIRECT } else { 0 };
    // A disk that is only read may be read-only.
    let writes = io.read_percent < 100;
    let file = OpenOptions::new().read(true).write(writes).custom_flags(flags).open(path)?;
    // What was read earlier says nothing of the device. Not every file knows the advice.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    Ok(file)
}

struct Job<'a> {
    file: File,
    io: &'a BlockIo,
    region: Region,
    /// Blocks written since the last flush; some more than once.
    dirty: Vec<usize>,
    random: Random,
    buffer: Buffer,
    result: BlockIoResult,
    mismatches: Mismatches,
}

impl Job<'_> {
    fn run(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let jobs = u64::from(self.io.jobs);
        let mut ops = 0;
        loop {
            let over = match self.io.limit {
                IoLimit::DurationMs(ms) => begun.elapsed() >= Duration::from_millis(ms),
                IoLimit::Ops(all) => ops >= all.div_ceil(jobs),
            };
            if over {
                return self.flush();
            }
            self.step()?;
            ops += 1;
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let index = self.random.below(self.region.blocks.len() as u64) as usize;
        if self.random.below(100) < self.io.read_percent.into() {
            self.read(index)?;
        } else {
            self.write(index)?;
        }
        if self.random.below(OPS_PER_FLUSH) == 0 {
            self.flush()?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<(), String> {
        let number = self.region.first + index as u64;
        let data = self.buffer.bytes();
        self.file
            .read_exact_at(data, number * u64::from(self.io.block_bytes))
            .map_err(|e| format!("read block {number}: {e}"))?;
        self.result.reads += 1;
        self.result.bytes += data.len() as u64;
        let written = u64::from(self.region.blocks[index].tried);
        if written > 0 {
            let first = first_sector(self.io, number);
            self.mismatches.check(data, self.io.seed, first, &(written..=written));
            self.result.reads_verified += 1;
        }
        Ok(())
    }

    fn write(&mut self, index: usize) -> Result<(), String> {
        let number = self.region.first + index as u64;
        let data = self.buffer.bytes();
        let block = &mut self.region.blocks[index];
        block.tried = block.tried.checked_add(1).ok_or("a block was written 2^32 times")?;
        pattern::fill(data, self.io.seed, first_sector(self.io, number), block.tried.into());
        self.file
            .write_all_at(data, number * u64::from(self.io.block_bytes))
            .map_err(|e| format!("write block {number}: {e}"))?;
        self.dirty.push(index);
        self.result.writes += 1;
        self.result.bytes += data.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        self.file.sync_data().map_err(|e| format!("fdatasync: {e}"))?;
        for index in self.dirty.drain(..) {
            let block = &mut self.region.blocks[index];
            // A write that failed ends the job: what was tried has been written.
            block.flushed = block.tried;
        }
        self.result.flushes += 1;
        Ok(())
    }
}

fn first_sector(io: &BlockIo, block: u64) -> u64 {
    block * (u64::from(io.block_bytes) / SECTOR_BYTES as u64)
}

/// Generations of a block. 0: none.
#[derive(Clone, Copy, Default)]
struct Block {
    /// The last that a write began with.
    tried: u32,
    /// The last that a flush followed.
    flushed: u32,
}

/// The blocks of one job.
struct Region {
    first: u64,
    blocks: Vec<Block>,
}

impl Region {
    fn new(first: u64, blocks: u64) -> Region {
        Region { first, blocks: vec![Block::default(); blocks as usize] }
    }
}

/// What a run left on its device.
struct Table {
    io: BlockIo,
    regions: Vec<Region>,
}

impl Table {
    /// Every sector of a block holds what was flushed, or what was tried after that: a disk that lost its power may have
    /// written any part of it.
    fn verify(&self, path: &Path) -> BlockVerifyResult {
        let (mut blocks, mut mismatches) = (0, Mismatches::default());
        let mut compare = || -> io::Result<()> {
            let file = open(path, &self.io)?;
            let mut buffer = Buffer::new(self.io.block_bytes as usize);
            for region in &self.regions {
                for (number, block) in (region.first..).zip(&region.blocks).filter(|(_, b)| b.flushed > 0) {
                    let data = buffer.bytes();
                    file.read_exact_at(data, number * u64::from(self.io.block_bytes))?;
                    let generations = block.flushed.into()..=block.tried.into();
                    mismatches.check(data, self.io.seed, first_sector(&self.io, number), &generations);
                    blocks += 1;
                }
            }
            Ok(())
        };
        let errors = compare().err().map(|e| format!("read {} after {blocks} blocks: {e}", path.display()));
        BlockVerifyResult {
            blocks,
            errors: errors.into_iter().collect(),
            mismatches: mismatches.count,
            mismatch_examples: mismatches.examples,
        }
    }
}

/// Memory at an address that O_DIRECT takes.
pub struct Buffer {
    memory: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// Zeroed.
    pub fn new(len: usize) -> Buffer {
        Buffer { memory: vec![0; len + ALIGN_BYTES], len }
    }

    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        let at = self.memory.as_ptr().align_offset(ALIGN_BYTES);
        &mut self.memory[at..at + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::PathBuf;

    const BLOCK_BYTES: u32 = 1024;
    const BLOCKS: u64 = 64;
    const LONG_MS: u64 = 60_000;

    fn io(device: &str) -> BlockIo {
        BlockIo {
            device: device.into(),
            bytes: BLOCKS * u64::from(BLOCK_BYTES),
            block_bytes: BLOCK_BYTES,
            read_percent: 50,
            jobs: 2,
            seed: 5,
            limit: IoLimit::Ops(1000),
            direct: false,
            keep: "t".into(),
        }
    }

    fn disk() -> (tempfile::TempDir, Root, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        std::fs::create_dir(root.path("dev")).unwrap();
        let path = root.path("dev/vda");
        std::fs::write(&path, vec![0xee; 64 << 10]).unwrap();
        (dir, root, path)
    }

    fn go(runs: &mut Runs, root: &Root, io: &BlockIo) -> BlockIoResult {
        let id = runs.start(root, io).unwrap();
        match runs.join(id, Some(LONG_MS)).unwrap() {
            Value::BlockIo(r) => r,
            other => panic!("{other:?}"),
        }
    }

    fn verify(runs: &Runs, root: &Root) -> BlockVerifyResult {
        match runs.verify(root, "t", "/dev/vda").unwrap() {
            Value::BlockVerify(r) => r,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_disk_passes_and_a_seed_repeats_a_run() {
        let (_dir, root, path) = disk();
        let mut runs = Runs::default();
        let first = go(&mut runs, &root, &io("/dev/vda"));
        assert_eq!(
            (first.reads + first.writes, first.mismatches, first.errors.len()),
            (1000, 0, 0),
            "{first:?}"
        );
        assert!(first.reads_verified > 300 && first.flushes > 10, "{first:?}");
        let v = verify(&runs, &root);
        assert!(v.blocks > 50 && v.mismatches == 0 && v.errors.is_empty(), "{v:?}");
        let content = std::fs::read(&path).unwrap();
        let again = go(&mut runs, &root, &io("/dev/vda"));
        assert_eq!(BlockIoResult { elapsed_ms: 0, ..again }, BlockIoResult { elapsed_ms: 0, ..first });
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }

    #[test]
    fn a_disk_that_forgets_is_found_while_it_is_used() {
        // Takes every write and reads as zero; fdatasync is EINVAL and ends the job.
        let r = go(&mut Runs::default(), &Root("/".into()), &io("/dev/zero"));
        assert!(r.mismatches > 0 && r.mismatch_examples[0].contains("all zero"), "{r:?}");
        assert!(r.errors.len() == 2 && r.errors[0].contains("fdatasync"), "{r:?}");
    }

    #[test]
    fn errors_end_jobs_and_are_told() {
        let mut runs = Runs::default();
        let r = go(&mut runs, &Root("/".into()), &io("/dev/full"));
        assert!(r.errors.len() == 2 && r.errors.iter().all(|e| e.contains("write block")), "{r:?}");
        let (_dir, root, path) = disk();
        std::fs::remove_file(path).unwrap();
        let r = go(&mut runs, &root, &io("/dev/vda"));
        assert!(r.errors.len() == 2 && r.errors.iter().all(|e| e.contains("open")), "{r:?}");
        assert_eq!(verify(&runs, &root).blocks, 0);
    }

    #[test]
    fn a_disk_that_is_only_read_is_not_opened_for_writing() {
        let (_dir, root, path) = disk();
        // Nobody can open a running program for writing, not even root.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &path).unwrap();
        let r = go(&mut Runs::default(), &root, &BlockIo { read_percent: 100, ..io("/dev/vda") });
        assert_eq!((r.reads, r.writes, r.errors.len()), (1000, 0, 0), "{r:?}");
        let r = go(&mut Runs::default(), &root, &io("/dev/vda"));
        assert!(r.errors.iter().all(|e| e.contains("open")) && !r.errors.is_empty(), "{r:?}");
    }

    #[test]
    fn damage_and_loss_of_what_was_flushed_are_found_after_the_run() {
        let (_dir, root, path) = disk();
        let mut runs = Runs::default();
        go(&mut runs, &root, &io("/dev/vda"));
        let good = std::fs::read(&path).unwrap();
        let number = runs.kept["t"].regions[0].blocks.iter().position(|b| b.flushed > 1).unwrap();
        let generation = runs.kept["t"].regions[0].blocks[number].flushed;
        let (start, sector) = (number * BLOCK_BYTES as usize, number as u64 * 2);

        let mut bad = good.clone();
        bad[start + 700] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let v = verify(&runs, &root);
        assert_eq!(v.mismatches, 1);
        assert!(v.mismatch_examples[0].contains("damaged from byte 188"), "{v:?}");

        let mut old = good.clone();
        pattern::fill(&mut old[start..start + BLOCK_BYTES as usize], 5, sector, u64::from(generation) - 1);
        std::fs::write(&path, old).unwrap();
        let v = verify(&runs, &root);
        assert_eq!(v.mismatches, 2, "both sectors: {v:?}");

        std::fs::write(&path, &good[..1 << 10]).unwrap();
        assert_eq!(verify(&runs, &root).errors.len(), 1);
    }

    #[test]
    fn of_a_write_that_was_not_flushed_any_part_may_be_there() {
        let (_dir, root, path) = disk();
        let mut runs = Runs::default();
        go(&mut runs, &root, &io("/dev/vda"));
        let number = runs.kept["t"].regions[0].blocks.iter().position(|b| b.flushed > 0).unwrap();
        let block = &mut runs.kept.get_mut("t").unwrap().regions[0].blocks[number];
        block.tried += 1;
        let tried = block.tried.into();
        let mut torn = std::fs::read(&path).unwrap();
        let start = number * BLOCK_BYTES as usize;
        pattern::fill(&mut torn[start..start + SECTOR_BYTES], 5, number as u64 * 2, tried);
        std::fs::write(&path, torn).unwrap();
        assert_eq!(verify(&runs, &root).mismatches, 0);
    }

    #[test]
    fn a_run_in_the_background_is_joined_once() {
        let (_dir, root, _path) = disk();
        let mut runs = Runs::default();
        let id = runs.start(&root, &BlockIo { limit: IoLimit::DurationMs(300), ..io("/dev/vda") }).unwrap();
        assert_eq!(runs.join(id, Some(0)).unwrap_err().errno, libc::ETIMEDOUT);
        assert!(runs.verify(&root, "t", "/dev/vda").is_err(), "nothing is kept yet");
        assert!(matches!(runs.join(id, None), Ok(Value::BlockIo(r)) if r.elapsed_ms >= 300 && r.writes > 0));
        assert_eq!(runs.join(id, None).unwrap_err().errno, libc::EINVAL);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let (_dir, root, _path) = disk();
        let good = io("/dev/vda");
        for bad in [
            BlockIo { block_bytes: 0, ..good.clone() },
            BlockIo { block_bytes: 700, ..good.clone() },
            BlockIo { block_bytes: 2 << 20, ..good.clone() },
            BlockIo { jobs: 0, ..good.clone() },
            BlockIo { jobs: 17, ..good.clone() },
            BlockIo { bytes: 1024, ..good.clone() },
            BlockIo { bytes: u64::MAX, ..good.clone() },
            BlockIo { device: "/etc/passwd".into(), ..good.clone() },
        ] {
            assert!(Runs::default().start(&root, &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn buffers_are_aligned() {
        for len in [512, 1 << 20] {
            let mut b = Buffer::new(len);
            assert_eq!((b.bytes().as_ptr().align_offset(ALIGN_BYTES), b.bytes().len()), (0, len));
        }
    }
}
