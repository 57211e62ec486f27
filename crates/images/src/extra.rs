//! Our own guest modules (`guest-images/modules/`), built against a built kernel: changing one does not build the kernel again.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::cache;
use crate::cache::Cache;
use crate::kernel;
use crate::kernel::Built;
use crate::Error;
use crate::Progress;

/// Source files of the modules.
fn sources(tree: &Path) -> Result<Vec<PathBuf>, Error> {
    kernel::files_in(&tree.join("guest-images/modules"))
}

fn entry(tree: &Path, built: &Built) -> Result<String, Error> {
    let mut parts = vec![built.key.clone().into_bytes()];
    for file in sources(tree)? {
        parts.push(file.file_name().unwrap_or_default().as_encoded_bytes().to_vec());
        parts.push(super::read(&file)?);
    }
    Ok(format!("modules-{}", cache::key(parts.iter().map(Vec::as_slice))))
}

/// The modules if they are built.
pub fn find(cache: &Cache, tree: &Path, built: &Built) -> Result<Option<Vec<PathBuf>>, Error> {
    cache.entry(&entry(tree, built)?).map(|dir| kernel::files_in(&dir)).transpose()
}

/// Build the modules, or take them from the cache.
pub fn build(
    cache: &Cache,
    tree: &Path,
    built: &Built,
    progress: Progress<'_>,
) -> Result<Vec<PathBuf>, Error> {
    if let Some(files) = find(cache, tree, built)? {
        return Ok(files);
    }
    let _lock = cache.lock("modules")?;
    progress("building our guest modules");
    let scratch = cache.scratch("modules")?;
    let (src, out) = (scratch.join("src"), scratch.join("out"));
    for dir in [&src, &out] {
        std::fs::create_dir(dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
    }
    for file in sources(tree)? {
        let to = src.join(file.file_name().unwrap_or_default());
        std::fs::copy(&file, &to).map_err(|e| Error::io(format!("copy {}", file.display()), e))?;
    }
    let log = cache.dir().join("modules-build.log");
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(built.devel())
        .args(["ARCH=arm64", "modules"])
        .arg(format!("CROSS_COMPILE={}", kernel::cross_compile()))
        .arg(format!("M={}", src.display()));
    kernel::run_logged("make of our guest modules", &mut make, &log, &mut |_| {})?;
    for module in kernel::files_in(&src)?.iter().filter(|f| f.extension().is_some_and(|e| e == "ko")) {
        kernel::strip(module, &out, &log)?;
    }
    let name = entry(tree, built)?;
    // Of a developer's tree there is an old one.
    let _ = std::fs::remove_dir_all(cache.dir().join(&name));
    let dir = cache.publish(&out, &name)?;
    std::fs::remove_dir_all(&scratch).map_err(|e| Error::io(format!("remove {}", scratch.display()), e))?;
    kernel::files_in(&dir)
}
