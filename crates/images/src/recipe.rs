//! Recipes: small edits of the kernel source, applied at build time (`guest-images/recipes/*.toml`).
//!
//! An edit names its file and a text that occurs there exactly once. One that does not fit is an error, never a
//! guess.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::series::Range;
use crate::series::Series;
use crate::Error;

/// A recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One line for people.
    pub summary: String,
    /// The module that it makes.
    pub module: String,
    /// Recipe that is applied before this one.
    pub base: Option<String>,
    /// Edits, in order.
    #[serde(rename = "edit", default)]
    pub edits: Vec<Edit>,
}

/// One edit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Oldest series that needs it; none: all.
    pub from: Option<Series>,
    /// Newest series that needs it; none: all.
    pub until: Option<Series>,
    /// Why it is needed.
    pub why: String,
    /// File, from the top of the kernel tree.
    pub file: String,
    /// Text that occurs exactly once.
    pub find: String,
    /// Text to stand in its place.
    pub replace: Option<String>,
    /// File of the recipes' folder to be put before it.
    pub insert_before: Option<String>,
}

fn path(tree: &Path, name: &str) -> std::path::PathBuf {
    tree.join("guest-images/recipes").join(name)
}

/// Read recipe `name`.
pub fn read(tree: &Path, name: &str) -> Result<Recipe, Error> {
    let file = path(tree, &format!("{name}.toml"));
    let text =
        std::fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    toml::from_str(&text).map_err(|e| Error::Data { file, why: e.to_string() })
}

/// The files that `name` changes in `series`, edited, by their path; `original` gives their pristine text.
pub fn apply(
    tree: &Path,
    name: &str,
    series: Series,
    original: &dyn Fn(&str) -> Result<String, Error>,
) -> Result<BTreeMap<String, String>, Error> {
    let recipe = read(tree, name)?;
    let mut files = match &recipe.base {
        Some(base) => apply(tree, base, series, original)?,
        None => BTreeMap::new(),
    };
    for e in edits(&recipe, series) {
        let text = match files.remove(&e.file) {
            Some(t) => t,
            None => original(&e.file)?,
        };
        let edited = edit(tree, name, e, &text)?;
        files.insert(e.file.clone(), edited);
    }
    Ok(files)
}

fn edit(tree: &Path, recipe: &str, e: &Edit, text: &str) -> Result<String, Error> {
    let matches = text.matches(&e.find).count();
    if matches != 1 {
        return Err(Error::Recipe {
            recipe: recipe.into(),
            why: e.why.clone(),
            file: e.file.clone(),
            matches,
        });
    }
    Ok(text.replacen(&e.find, &replacement(tree, recipe, e)?, 1))
}

fn edits(recipe: &Recipe, series: Series) -> impl Iterator<Item = &Edit> {
    recipe.edits.iter().filter(move |e| Range { from: e.from, until: e.until }.has(series))
}

/// What comes to stand where `e.find` was.
fn replacement(tree: &Path, recipe: &str, e: &Edit) -> Result<String, Error> {
    match (&e.replace, &e.insert_before) {
        (Some(r), None) => Ok(r.clone()),
        (None, Some(insert)) => {
            let file = path(tree, insert);
            let code = std::fs::read_to_string(&file)
                .map_err(|e| Error::io(format!("read {}", file.display()), e))?;
            Ok(code + &e.find)
        }
        _ => {
            let why = format!("\"{}\": give either replace or insert_before", e.why);
            Err(Error::Data { file: path(tree, &format!("{recipe}.toml")), why })
        }
    }
}

/// Everything that `name` does to the source of `series`: part of a kernel's key.
pub fn effect(tree: &Path, name: &str, series: Series) -> Result<Vec<u8>, Error> {
    let recipe = read(tree, name)?;
    let mut all = match &recipe.base {
        Some(base) => effect(tree, base, series)?,
        None => Vec::new(),
    };
    for e in edits(&recipe, series) {
        for text in [&e.file, &e.find, &replacement(tree, name, e)?] {
            all.extend_from_slice(text.as_bytes());
            all.push(0);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::DEFAULT;

    fn tree(recipes: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("guest-images/recipes");
        std::fs::create_dir_all(&to).unwrap();
        for (name, text) in recipes {
            std::fs::write(to.join(name), text).unwrap();
        }
        dir
    }

    const BASE: &str = "summary = 's'\nmodule = 'm.ko'\n[[edit]]\nwhy = 'bool'\nfile = 'K'\nfind = 'bool'\nreplace = 'tristate'\n";

    #[test]
    fn a_recipe_stands_on_its_base() {
        let on_top = "summary = 's'\nmodule = 'm.ko'\nbase = 'base'\n[[edit]]\nwhy = 'x'\nfile = 'K'\nfind = 'tristate'\ninsert_before = 'code.c'\n";
        let dir = tree(&[("base.toml", BASE), ("top.toml", on_top), ("code.c", "/* new */ ")]);
        let files = apply(dir.path(), "top", DEFAULT, &|_| Ok("a bool b".into())).unwrap();
        assert_eq!(files["K"], "a /* new */ tristate b");
    }

    #[test]
    fn an_anchor_must_occur_exactly_once() {
        let dir = tree(&[("base.toml", BASE)]);
        for (text, n) in [("none", 0), ("bool bool", 2)] {
            let e = apply(dir.path(), "base", DEFAULT, &|_| Ok(text.into())).unwrap_err();
            assert!(matches!(e, Error::Recipe { matches, .. } if matches == n), "{e}");
        }
    }

    #[test]
    fn an_edit_for_other_series_is_left_out() {
        let old = BASE.replace("find", "until = '6.11'\nfind");
        let dir = tree(&[("base.toml", &old)]);
        let files = |series: &str| apply(dir.path(), "base", series.parse().unwrap(), &|_| Ok("bool".into()));
        assert_eq!(files("6.1").unwrap()["K"], "tristate");
        assert!(files("6.12").unwrap().is_empty());
        let effect = |series: &str| effect(dir.path(), "base", series.parse().unwrap()).unwrap();
        assert_eq!((effect("6.12"), effect("6.1")), (vec![], b"K\0bool\0tristate\0".to_vec()));
    }
}
