//! Profiles: which driver variant, which modules (`guest-images/profiles/*.toml`).

use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Recipe of the driver under test.
    pub driver: String,
    /// Other modules of the kernel tree in the image.
    pub modules: Vec<String>,
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
            crate::recipe::read(&tree, &p.driver).unwrap();
        }
    }

    #[test]
    fn an_unknown_profile_is_told_with_the_known_ones() {
        let e = read(&crate::source_tree().unwrap(), "../../etc").unwrap_err().to_string();
        assert!(e.contains("modular, naive"), "{e}");
    }
}
