//! Profiles: which driver variant, which modules (`guest-images/profiles/*.toml`).

use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Recipe of the driver under test; none in the distribution's own kernel.
    #[serde(default)]
    pub driver: String,
    /// Whether it is the distribution's own kernel, of which nothing is built.
    #[serde(default)]
    pub stock: bool,
    /// Whether it is for a developer's kernel tree only (`--kernel-tree`).
    #[serde(default)]
    pub tree_only: bool,
    /// Whether it is what is taken for its driver if no profile is named.
    #[serde(default)]
    pub default: bool,
}

/// The host bridge driver of the distribution's own kernel that can be unbound as it is.
const STOCK_DRIVER: &str = "pci-host-generic";

/// The driver module that profile `name` is about: the file's name without suffix, e.g. `pcie-qcom`.
pub fn driver_module(tree: &Path, name: &str) -> Result<String, Error> {
    let profile = read(tree, name)?;
    if profile.stock {
        return Ok(STOCK_DRIVER.into());
    }
    let module = crate::recipe::read(tree, &profile.driver)?.module;
    let stem = Path::new(&module).file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    Ok(stem.to_owned())
}

/// Profiles about the driver module `module`, the default one first.
pub fn of_module(tree: &Path, module: &str) -> Result<Vec<String>, Error> {
    let mut fitting = Vec::new();
    for name in names(tree)? {
        if driver_module(tree, &name)? == module {
            fitting.push((!read(tree, &name)?.default, name));
        }
    }
    fitting.sort_unstable();
    Ok(fitting.into_iter().map(|(_, name)| name).collect())
}

/// Read profile `name`.
pub fn read(tree: &Path, name: &str) -> Result<Profile, Error> {
    let known = names(tree)?;
    if !known.iter().any(|k| k == name) {
        return Err(Error::Profile { name: name.into(), known: known.join(", ") });
    }
    let file = tree.join("guest-images/profiles").join(format!("{name}.toml"));
    let text =
        std::fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    toml::from_str(&text).map_err(|e| Error::Data { file, why: e.to_string() })
}

/// Names of all profiles, in order.
pub fn names(tree: &Path) -> Result<Vec<String>, Error> {
    let dir = tree.join("guest-images/profiles");
    let entries = std::fs::read_dir(&dir).map_err(|e| Error::io(format!("read {}", dir.display()), e))?;
    let file_names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> =
        file_names.filter_map(|n| n.strip_suffix(".toml").map(str::to_owned)).collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_of_the_tree_can_be_read_and_name_recipes_that_exist() {
        let tree = crate::source_tree().unwrap();
        let names = names(&tree).unwrap();
        assert!(names.contains(&"modular".into()) && names.contains(&"naive".into()));
        for n in names {
            let p = read(&tree, &n).unwrap();
            if p.stock {
                assert_eq!(p.driver, "", "{n}: there is nothing to apply it to");
            } else {
                crate::recipe::read(&tree, &p.driver).unwrap();
            }
        }
    }

    #[test]
    fn every_driver_has_one_default_profile() {
        let tree = crate::source_tree().unwrap();
        for (module, default) in [
            ("pcie-qcom", "modular"),
            ("pcie-dw-rockchip", "rk-modular"),
            ("pcie-designware-plat", "snps"),
            ("pci-host-generic", "stock"),
        ] {
            let all = of_module(&tree, module).unwrap();
            assert_eq!(all.first().map(String::as_str), Some(default));
            let defaults = all.iter().filter(|n| read(&tree, n).unwrap().default).count();
            assert_eq!(defaults, 1, "{module}");
        }
    }

    #[test]
    fn an_unknown_profile_is_told_with_the_known_ones() {
        let e = read(&crate::source_tree().unwrap(), "../../etc").unwrap_err().to_string();
        assert!(e.contains("modular, naive"), "{e}");
    }
}
