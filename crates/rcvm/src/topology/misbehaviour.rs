//! Misbehaviours as files and options name them.

use std::str::FromStr;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use pcie::misbehave::Act;
use pcie::misbehave::On;
use pcie::misbehave::Rule;
use pcie::LinkFailure;
use serde::Deserialize;
use serde::Serialize;

use super::slot::SlotPath;

/// What happens; see [`Act`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActName {
    /// An MSI after the trigger, bus mastering or not.
    LateMsi,
    /// A DMA write after the trigger, bus mastering or not.
    LateDma,
    /// Many MSIs.
    MsiStorm,
    /// INTA stays asserted.
    StuckIntx,
    /// MSIs of one vector are lost.
    LoseVector,
    /// Configuration requests are to be retried, for a time.
    Retry,
    /// A request gets no completion.
    Timeout,
    /// A request is unsupported.
    Unsupported,
    /// A request reads ones, a write is lost.
    AllOnes,
    /// A BAR claims another size.
    BarSize,
    /// The link goes down and trains again.
    Flap,
    /// The card is gone.
    Vanish,
}

impl ActName {
    /// Name in files and options.
    pub const fn name(self) -> &'static str {
        match self {
            ActName::LateMsi => "late-msi",
            ActName::LateDma => "late-dma",
            ActName::MsiStorm => "msi-storm",
            ActName::StuckIntx => "stuck-intx",
            ActName::LoseVector => "lose-vector",
            ActName::Retry => "retry",
            ActName::Timeout => "timeout",
            ActName::Unsupported => "unsupported",
            ActName::AllOnes => "all-ones",
            ActName::BarSize => "bar-size",
            ActName::Flap => "flap",
            ActName::Vanish => "vanish",
        }
    }

    /// Settings that it has, beside those of every misbehaviour.
    const fn settings(self) -> &'static [&'static str] {
        match self {
            ActName::LateMsi | ActName::LateDma => &["delay-us"],
            ActName::MsiStorm => &["count", "every-us"],
            ActName::LoseVector => &["vector"],
            ActName::Retry => &["for-ms"],
            ActName::BarSize => &["bar", "bytes"],
            ActName::StuckIntx
            | ActName::Timeout
            | ActName::Unsupported
            | ActName::AllOnes
            | ActName::Flap
            | ActName::Vanish => &[],
        }
    }

    /// What it waits for if nothing is said.
    fn usual(self) -> Option<On> {
        match self {
            ActName::LateMsi | ActName::LateDma => Some(On::BmeClear),
            ActName::MsiStorm | ActName::LoseVector => Some(On::Msi),
            ActName::Retry => Some(On::ConfigRead(0)),
            ActName::BarSize => Some(On::Config),
            ActName::Timeout
            | ActName::Unsupported
            | ActName::AllOnes
            | ActName::StuckIntx
            | ActName::Flap
            | ActName::Vanish => None,
        }
    }
}

/// One misbehaviour of the card in a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Misbehaviour {
    /// Which slot's card.
    #[serde(default)]
    pub slot: SlotPath,
    /// What happens.
    pub act: ActName,
    /// What it waits for: `config`, `config-read:REG`, `config-write:REG`, `mem-read`, `mem-write`, `msi`, `bme-clear`,
    /// `phase:NAME`, `time-ms:N`.
    pub on: Option<String>,
    /// The first occurrence that counts, from 1.
    pub nth: Option<u64>,
    /// How many are acted on; 0: all from then on.
    pub times: Option<u64>,
    /// Probability of each, 0 to 1.
    pub chance: Option<f64>,
    /// From the trigger to what happens, µs.
    pub delay_us: Option<u64>,
    /// How many messages.
    pub count: Option<u32>,
    /// From one to the next, µs.
    pub every_us: Option<u64>,
    /// Which vector, from 0.
    pub vector: Option<u32>,
    /// How long, ms.
    pub for_ms: Option<u64>,
    /// Which BAR.
    pub bar: Option<u8>,
    /// Which size, bytes.
    pub bytes: Option<u32>,
}

impl Misbehaviour {
    /// `ACT,KEY=VALUE,…`, as options have it.
    pub fn parse(text: &str) -> Result<Misbehaviour> {
        super::parse_option("act", text)
    }

    /// The model's rule.
    pub fn rule(&self) -> Result<Rule> {
        if let Some(key) = self.given().into_iter().find(|k| !self.act.settings().contains(k)) {
            bail!("{} has no setting {key}", self.act.name());
        }
        let on = match &self.on {
            Some(text) => trigger(text)?,
            None => self.act.usual().with_context(|| {
                format!("{} needs a trigger: on=…, e.g. on=phase:rmmod or on=config-write:4", self.act.name())
            })?,
        };
        let chance = self.chance.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&chance) {
            bail!("a chance is 0 to 1");
        }
        // A vector is lost, and a BAR has its size, until somebody says otherwise.
        let lasting = matches!(self.act, ActName::LoseVector | ActName::BarSize);
        Ok(Rule {
            on,
            nth: self.nth.unwrap_or(1),
            times: self.times.unwrap_or(u64::from(!lasting)),
            permille: (chance * 1000.0).round() as u16,
            act: self.act()?,
        })
    }

    fn act(&self) -> Result<Act> {
        let delay_ns = self.delay_us.unwrap_or(1000).saturating_mul(1000);
        Ok(match self.act {
            ActName::LateMsi => Act::LateMsi { delay_ns },
            ActName::LateDma => Act::LateDma { delay_ns },
            ActName::MsiStorm => Act::MsiStorm {
                count: self.count.unwrap_or(1000),
                every_ns: self.every_us.unwrap_or(100).saturating_mul(1000),
            },
            ActName::StuckIntx => Act::StuckIntx,
            ActName::LoseVector => Act::LoseVector(self.vector.context("which vector=N?")?),
            ActName::Retry => Act::Retry { for_ns: self.for_ms.unwrap_or(100).saturating_mul(1_000_000) },
            ActName::Timeout => Act::Timeout,
            ActName::Unsupported => Act::Unsupported,
            ActName::AllOnes => Act::AllOnes,
            ActName::BarSize => {
                let (bar, bytes) =
                    (self.bar.context("which bar=N?")?, self.bytes.context("how many bytes=N?")?);
                if bar > 5 || !bytes.is_power_of_two() || bytes < 16 {
                    bail!("bar is 0 to 5, bytes a power of two from 16 up");
                }
                Act::BarSize { bar, bytes }
            }
            ActName::Flap => Act::Link(LinkFailure::Flap),
            ActName::Vanish => Act::Link(LinkFailure::Vanish),
        })
    }

    fn given(&self) -> Vec<&'static str> {
        [
            ("delay-us", self.delay_us.is_some()),
            ("count", self.count.is_some()),
            ("every-us", self.every_us.is_some()),
            ("vector", self.vector.is_some()),
            ("for-ms", self.for_ms.is_some()),
            ("bar", self.bar.is_some()),
            ("bytes", self.bytes.is_some()),
        ]
        .into_iter()
        .filter(|s| s.1)
        .map(|s| s.0)
        .collect()
    }
}

fn trigger(text: &str) -> Result<On> {
    let (name, value) = text.split_once(':').map_or((text, None), |(n, v)| (n, Some(v)));
    Ok(match (name, value) {
        ("config", None) => On::Config,
        ("config-read", Some(v)) => On::ConfigRead(number(v)?),
        ("config-write", Some(v)) => On::ConfigWrite(number(v)?),
        ("mem-read", None) => On::MemRead,
        ("mem-write", None) => On::MemWrite,
        ("msi", None) => On::Msi,
        ("bme-clear", None) => On::BmeClear,
        ("phase", Some(v)) => On::Phase(v.into()),
        ("time-ms", Some(v)) => On::Time(number::<u64>(v)?.saturating_mul(1_000_000)),
        _ => bail!(
            "on={text}: there is config, config-read:REG, config-write:REG, mem-read, mem-write, msi, bme-clear, phase:NAME, \
             time-ms:N"
        ),
    })
}

/// A decimal or 0x number.
fn number<T: FromStr + TryFrom<u64>>(text: &str) -> Result<T> {
    let n = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    n.and_then(|n| T::try_from(n).ok()).with_context(|| format!("{text} is no number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<Rule> {
        Misbehaviour::parse(text)?.rule()
    }

    #[test]
    fn options_are_rules() {
        for (text, expected) in [
            ("late-msi", Rule::once(On::BmeClear, Act::LateMsi { delay_ns: 1_000_000 })),
            (
                "late-dma,delay-us=5,on=phase:rmmod,times=3",
                Rule { times: 3, ..Rule::once(On::Phase("rmmod".into()), Act::LateDma { delay_ns: 5000 }) },
            ),
            ("msi-storm,count=7,every-us=2", Rule::once(On::Msi, Act::MsiStorm { count: 7, every_ns: 2000 })),
            ("lose-vector,vector=3", Rule { times: 0, ..Rule::once(On::Msi, Act::LoseVector(3)) }),
            ("retry,for-ms=20", Rule::once(On::ConfigRead(0), Act::Retry { for_ns: 20_000_000 })),
            (
                "vanish,on=config-write:0x4,nth=12",
                Rule { nth: 12, ..Rule::once(On::ConfigWrite(4), Act::Link(LinkFailure::Vanish)) },
            ),
            (
                "all-ones,on=mem-read,chance=0.25,times=0",
                Rule { times: 0, permille: 250, ..Rule::once(On::MemRead, Act::AllOnes) },
            ),
            (
                "bar-size,bar=0,bytes=65536",
                Rule { times: 0, ..Rule::once(On::Config, Act::BarSize { bar: 0, bytes: 65536 }) },
            ),
            ("flap,on=time-ms:100", Rule::once(On::Time(100_000_000), Act::Link(LinkFailure::Flap))),
        ] {
            assert_eq!(rule(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn wrong_ones_are_told_what_there_is() {
        for (text, says) in [
            ("explode", "late-msi"),
            ("vanish", "needs a trigger"),
            ("flap,on=noon", "there is config"),
            ("flap,on=config-write:70000", "70000"),
            ("late-msi,vector=1", "no setting vector"),
            ("lose-vector", "which vector"),
            ("bar-size,bar=0,bytes=100", "power of two"),
            ("late-msi,chance=2.0", "0 to 1"),
            ("late-msi,delay-us", "KEY=VALUE"),
            ("late-msi,colour=red", "colour"),
            ("late-msi,nth=1,nth=2", "twice"),
        ] {
            let e = format!("{:#}", rule(text).unwrap_err());
            assert!(e.contains(says), "{text}: {e}");
        }
    }
}
