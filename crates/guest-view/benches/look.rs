//! One complete look at the IRQ domains and descriptors in a guest's memory, with translations forgotten as after each run of the
//! guest. The memory is a core of `rcvm torture --core always`: `RCVM_BENCH_CORE=core.elf RCVM_BENCH_IMAGE=Image cargo bench -p guest-view`.

use std::fs::File;

use criterion::Criterion;
use guest_view::Core;
use guest_view::IrqReader;
use guest_view::Kernel;
use guest_view::Memory;
use guest_view::RamImage;
use guest_view::Source;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (Ok(core), Ok(image)) = (std::env::var("RCVM_BENCH_CORE"), std::env::var("RCVM_BENCH_IMAGE")) else {
        println!("look: skipped: RCVM_BENCH_CORE and RCVM_BENCH_IMAGE name a core and its kernel's Image");
        return Ok(());
    };
    let core = Core::open(File::open(core)?)?;
    let ranges = core.ranges();
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(()) };
    let mut bytes = vec![0; (last.end - first.start) as usize];
    for r in &ranges {
        let part = (r.start - first.start) as usize..(r.end - first.start) as usize;
        core.read(r.start, &mut bytes[part])?;
    }
    let image = std::fs::read(image)?;
    let source = Source { image: Some(&image), ..Source::default() };
    let kernel = Kernel::open(RamImage::new(first.start, bytes), source)?;
    let reader = IrqReader::new(&kernel)?;
    let view = reader.read(&kernel);
    println!("{} domains, {} descriptors", view.domains.len(), view.descs.len());
    let mut c = Criterion::default().configure_from_args();
    c.bench_function("irq_look", |b| {
        b.iter(|| {
            kernel.guest_has_run();
            reader.read(&kernel)
        });
    });
    c.final_summary();
    Ok(())
}
