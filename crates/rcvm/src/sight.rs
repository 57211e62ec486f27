//! The guest's kernel as the host sees it in its memory, for the worker.
//!
//! Symbols and types are taken from the kernel's file, once a boot. Addresses are translated by the kernel's own tables (`swapper_pg_dir`),
//! not by what a vCPU has in TTBR1_EL1: in user space a kernel with KPTI has others there, which do not map it.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use guest_view::memory::MemoryError;
use guest_view::IrqReader;
use guest_view::IrqView;
use guest_view::Kernel;
use guest_view::Memory;
use guest_view::Source;
use torture::LookError;
use vmm::memory::Ram;
use vmm::Vm;

use crate::view::Ask;
use crate::view::Shown;

/// Longest wait for the vCPUs to stand still.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a look is taken again because somebody holds a lock, and how long the guest runs in between.
const TRIES: u32 = 50;
/// The same for a view that somebody asks for: it is shown all the same, with the lock's name.
const SHOW_TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(5);

struct GuestRam(Ram);

impl Memory for GuestRam {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len();
        self.0.read_at(pa, buf).then_some(()).ok_or(MemoryError::Absent { pa, len })
    }

    fn ranges(&self) -> Vec<std::ops::Range<u64>> {
        self.0.ranges()
    }
}

/// A kernel's symbols and types, and what of it is read.
pub struct Sight {
    kernel: Kernel<GuestRam>,
    reader: IrqReader,
    /// Longest time that the guest stood still for a look, µs.
    pub longest_us: u64,
}

impl Sight {
    /// Of the kernel in `image`, which runs in `vm`.
    pub fn of(vm: &Vm, image: &Path) -> Result<Sight, LookError> {
        let unreadable = |why: &dyn std::fmt::Display| LookError::Unreadable(why.to_string());
        let file = vmm::read_kernel(image).map_err(|e| unreadable(&e))?;
        let source =
            Source { image: Some(&file.bytes), image_pa: Some(file.load_address()), ..Source::default() };
        let kernel = Kernel::open(GuestRam(vm.ram()), source).map_err(|e| {
            // What stands behind says what the kernel lacks.
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            unreadable(&format!("{e}{cause}"))
        })?;
        let reader = IrqReader::new(&kernel).map_err(|e| unreadable(&e))?;
        Ok(Sight { kernel, reader, longest_us: 0 })
    }

    /// A view as somebody asks for it while the guest runs; as for a look, what is in the middle of a change is read again.
    pub fn show(&self, vm: &Vm, ask: Ask) -> Result<Shown, String> {
        for last in (0..SHOW_TRIES).rev() {
            let seen = vm.paused(PAUSE, || {
                self.kernel.guest_has_run();
                Shown::read(&self.kernel, ask)
            });
            let shown = seen.ok_or("a vCPU did not stand still")?.map_err(|e| format!("{e:#}"))?;
            if shown.held.is_empty() || last == 0 {
                return Ok(shown);
            }
            std::thread::sleep(BETWEEN);
        }
        Err("nothing was read".into())
    }

    /// Read everything while the vCPUs stand still and no lock of it is held.
    pub fn look(&mut self, vm: &Vm) -> Result<IrqView, LookError> {
        let mut held = Vec::new();
        for _ in 0..TRIES {
            let begun = Instant::now();
            let view = vm.paused(PAUSE, || {
                self.kernel.guest_has_run();
                self.reader.read(&self.kernel)
            });
            self.longest_us = self.longest_us.max(begun.elapsed().as_micros() as u64);
            match view {
                None => return Err(LookError::Unsteady("a vCPU did not stop".into())),
                Some(view) if view.held.is_empty() => return Ok(view),
                Some(view) => held = view.held,
            }
            std::thread::sleep(BETWEEN);
        }
        let why = format!("{TRIES} times somebody held the {}", held.join(" and the "));
        Err(LookError::Unsteady(why))
    }
}
