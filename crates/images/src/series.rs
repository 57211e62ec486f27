//! Kernel series: the first two numbers of a version.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A kernel series, e.g. 6.12. Ordered as releases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Series {
    major: u32,
    minor: u32,
}

/// What the default image is made of: the newest longterm series of the distribution.
pub const DEFAULT: Series = Series::new(6, 12);

impl Series {
    /// The series major.minor.
    pub const fn new(major: u32, minor: u32) -> Series {
        Series { major, minor }
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(s: &str) -> Result<Series, String> {
        let wrong = || format!("\"{s}\" is no kernel series: give two numbers, as in 6.12");
        let (major, minor) = s.split_once('.').ok_or_else(wrong)?;
        let number = |n: &str| n.parse().map_err(|_| wrong());
        Ok(Series { major: number(major)?, minor: number(minor)? })
    }
}

impl TryFrom<String> for Series {
    type Error = String;

    fn try_from(s: String) -> Result<Series, String> {
        s.parse()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The series that something applies to: both ends belong to it, and may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Range {
    /// Oldest.
    pub from: Option<Series>,
    /// Newest.
    pub until: Option<Series>,
}

impl Range {
    /// Whether `s` belongs to it.
    pub fn has(self, s: Series) -> bool {
        self.from.is_none_or(|from| from <= s) && self.until.is_none_or(|until| s <= until)
    }
}

/// `text` without the lines that are marked for other series: `OPTION=y # from 6.9`, `OPTION=y # until 6.12`.
pub fn lines_for(text: &str, series: Series) -> Result<String, String> {
    let mut out = String::new();
    for line in text.lines() {
        let (line, mark) = match line.split_once(" # ") {
            Some((line, mark)) if line.starts_with("CONFIG_") => (line, mark),
            _ => (line, ""),
        };
        let range = match mark.split_once(' ') {
            None if mark.is_empty() => Range::default(),
            Some(("from", s)) => Range { from: Some(s.parse()?), until: None },
            Some(("until", s)) => Range { from: None, until: Some(s.parse()?) },
            _ => return Err(format!("\"{mark}\" is neither \"from SERIES\" nor \"until SERIES\"")),
        };
        if range.has(series) {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(text: &str) -> Series {
        text.parse().unwrap()
    }

    #[test]
    fn series_are_ordered_by_number() {
        assert!(s("6.1") < s("6.12") && s("6.12") < s("7.3"));
        assert_eq!(s("6.12"), DEFAULT);
        assert_eq!(DEFAULT.to_string(), "6.12");
        for wrong in ["", "6", "6.x", "6.12.1", "new"] {
            assert!(wrong.parse::<Series>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_has_both_its_ends() {
        let r = Range { from: Some(s("6.2")), until: Some(s("6.12")) };
        assert_eq!(["6.1", "6.2", "6.12", "7.3"].map(|v| r.has(s(v))), [false, true, true, false]);
        assert!(Range::default().has(s("7.3")));
    }

    #[test]
    fn marked_lines_are_for_their_series_only() {
        let text = "# comment\nCONFIG_A=y\nCONFIG_B=y # from 6.9\nCONFIG_C=y # until 6.12\n";
        assert_eq!(lines_for(text, s("6.1")).unwrap(), "# comment\nCONFIG_A=y\nCONFIG_C=y\n");
        assert_eq!(lines_for(text, s("7.3")).unwrap(), "# comment\nCONFIG_A=y\nCONFIG_B=y\n");
        assert!(lines_for("CONFIG_A=y # since 6.9", DEFAULT).is_err());
    }
}
