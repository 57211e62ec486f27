//! The IRQ domains and descriptors in an arm64 core, as JSON: `irqs CORE [IMAGE]`.

use std::fs::File;

use guest_view::Core;
use guest_view::IrqReader;
use guest_view::Kernel;
use guest_view::Source;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: irqs CORE [IMAGE]")?;
    let image = std::env::args().nth(2).map(std::fs::read).transpose()?;
    let source = Source { image: image.as_deref(), ..Source::default() };
    let kernel = Kernel::open(Core::open(File::open(path)?)?, source)?;
    let reader = IrqReader::new(&kernel)?;
    println!("{}", serde_json::to_string_pretty(&reader.read(&kernel))?);
    Ok(())
}
