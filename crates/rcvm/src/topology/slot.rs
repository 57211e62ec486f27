//! Names of slots.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// The way from the root port to a slot: slot numbers of the switches on it. Empty: the root port's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotPath(Vec<u8>);

impl SlotPath {
    /// Slot numbers, from the switch in the root port's slot down.
    pub fn numbers(&self) -> &[u8] {
        &self.0
    }

    /// The slot whose switch has this one, and its number there.
    pub fn parent(&self) -> Option<(SlotPath, u8)> {
        let (last, above) = self.0.split_last()?;
        Some((SlotPath(above.to_vec()), *last))
    }

    /// Slot `n` of the switch in this one.
    #[must_use]
    pub fn child(&self, n: u8) -> SlotPath {
        SlotPath(self.0.iter().copied().chain([n]).collect())
    }
}

impl FromStr for SlotPath {
    type Err = String;

    fn from_str(s: &str) -> Result<SlotPath, String> {
        let wrong =
            || format!("\"{s}\" is no slot: \"0\" is the root port's, \"0.1\" slot 1 of the switch in it");
        let mut numbers = s.split('.').map(|n| n.parse::<u8>().map_err(|_| wrong()));
        if numbers.next() != Some(Ok(0)) {
            return Err(wrong());
        }
        numbers.collect::<Result<_, _>>().map(SlotPath)
    }
}

impl TryFrom<String> for SlotPath {
    type Error = String;

    fn try_from(s: String) -> Result<SlotPath, String> {
        s.parse()
    }
}

impl From<SlotPath> for String {
    fn from(s: SlotPath) -> String {
        s.to_string()
    }
}

impl fmt::Display for SlotPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0")?;
        self.0.iter().try_for_each(|n| write!(f, ".{n}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_named_from_the_root_port_down() {
        for (text, numbers) in [("0", vec![]), ("0.1", vec![1]), ("0.3.0", vec![3, 0])] {
            let s: SlotPath = text.parse().unwrap();
            assert_eq!((s.numbers(), s.to_string().as_str()), (numbers.as_slice(), text));
        }
        for wrong in ["", "1", "0.", "0.x", "0.256", "0.-1", ".0"] {
            assert!(wrong.parse::<SlotPath>().is_err(), "{wrong}");
        }
        let s: SlotPath = "0.3.1".parse().unwrap();
        assert_eq!(s.parent(), Some(("0.3".parse().unwrap(), 1)));
        assert_eq!(SlotPath::default().parent(), None);
        assert_eq!(s.child(2).to_string(), "0.3.1.2");
    }
}
