//! `rcvm inspect`: a guest kernel's own structures, from a core or from a guest that runs.

use std::fs::File;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use guest_view::dwarf;
use guest_view::Core;
use guest_view::Kernel;
use guest_view::Source;
use guest_view::Types;
use guest_view::VmcoreInfo;
use torture::render::visible;

use crate::cli::InspectArgs;
use crate::control;
use crate::view::Ask;
use crate::view::Changes;
use crate::view::Shown;

/// How often `--watch` looks: each look stops the guest for a moment.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Show a view of a core, or of a guest that runs.
pub fn run(args: &InspectArgs) -> Result<u8> {
    let ask = Ask { view: args.view, json: args.json && !args.watch };
    let shown = match (&args.core, &args.run) {
        (Some(core), _) => of_core(core, args, ask)?,
        (None, Some(dir)) if args.watch => return watch(dir, ask, args.json),
        (None, Some(dir)) => control::ask(dir, ask)?,
        (None, None) => bail!("give --core or --run"),
    };
    if !print(&shown.text()) {
        return Ok(0);
    }
    for why in &shown.incomplete {
        eprintln!("rcvm: incomplete: {}", visible(why));
    }
    for lock in &shown.held {
        eprintln!("rcvm: the {} was held: what it protects was being changed", visible(lock));
    }
    Ok(0)
}

/// `false`: the reader, `head` for instance, has seen enough.
fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// The whole view, then each row that appears or disappears, until the run ends.
fn watch(dir: &Path, ask: Ask, json: bool) -> Result<u8> {
    let mut changes = Changes::new(control::ask(dir, ask)?);
    if !json && !print(&changes.shown().text()) {
        return Ok(0);
    }
    loop {
        std::thread::sleep(WATCH_EVERY);
        match control::ask(dir, ask) {
            Ok(shown) => {
                for change in changes.to(shown) {
                    let line = if json { serde_json::to_string(&change)? } else { change.to_string() };
                    if !print(&format!("{line}\n")) {
                        return Ok(0);
                    }
                }
            }
            // A guest whose memory did not stand still, or that has a boot to finish, is looked at again.
            Err(e) if e.is::<control::NotNow>() => {}
            Err(_) => {
                eprintln!("rcvm: the run has ended");
                return Ok(0);
            }
        }
    }
}

fn of_core(file: &Path, args: &InspectArgs, ask: Ask) -> Result<Shown> {
    let core = if file.is_dir() { file.join("core.elf") } else { file.to_owned() };
    let k = open(&core, args).with_context(|| core.display().to_string())?;
    Shown::read(&k, ask)
}

fn open(core: &Path, args: &InspectArgs) -> Result<Kernel<Core<BufReader<File>>>> {
    let file = args.kernel.clone().or_else(|| reported_image(core));
    let image = file.as_ref().map(|file| vmm::loader::read_kernel(file)).transpose()?;
    let core = Core::open(BufReader::new(File::open(core)?))?;
    let vmcoreinfo = match &core.vmcoreinfo {
        Some(text) => Some(VmcoreInfo::parse(text)),
        None => VmcoreInfo::scan(&core),
    };
    let types = args.vmlinux.as_ref().map(|file| types(file, vmcoreinfo.as_ref())).transpose()?;
    let image = image.as_ref().map(|i| i.bytes.as_slice());
    let source = Source { image, vmcoreinfo, types, ..Source::default() };
    Kernel::open(core, source).with_context(|| match &file {
        Some(file) => file.display().to_string(),
        None => "without --kernel".to_owned(),
    })
}

/// Types of the kernel whose build ID `info` has.
fn types(vmlinux: &Path, info: Option<&VmcoreInfo>) -> Result<Types> {
    let named = || format!("--vmlinux {}", vmlinux.display());
    let bytes = std::fs::read(vmlinux).with_context(named)?;
    let ids = (info.and_then(VmcoreInfo::build_id), dwarf::build_id(&bytes));
    if let (Some(core), Some(file)) = &ids {
        if core != file {
            bail!("{}: it has build ID {file}, the kernel of the core {core}", named());
        }
    }
    dwarf::types(&bytes).with_context(named)
}

/// The Image that the report beside the core names, if it is still there.
fn reported_image(core: &Path) -> Option<PathBuf> {
    let text = std::fs::read(core.with_file_name("report.json")).ok()?;
    let report: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(PathBuf::from(report.get("kernel_image")?.as_str()?)).filter(|file| file.is_file())
}
