//! GPIO bank with PERST#, the clock gates and the regulator enables.
//!
//! *Modelled*: data, output latch and direction as Linux' gpio-mmio drives them; edges of each clock gate.
//! *Not modelled*: interrupts, pin configuration.
//! *Sources*: spec/dwc-qcom-registers.md §1.4; Linux v6.12 gpio-mmio.c, clk-gpio.c.
//!
//! INFERRED: every line has a pull-down. So out of power-on, and whenever a line is an input, PERST# is
//! asserted and clocks and supplies are off, as on a board.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;
use serde::Deserialize;
use serde::Serialize;

use crate::soc;
use crate::soc::Soc;

/// How often one clock gate was switched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges {
    /// Off to on.
    pub on: u64,
    /// On to off.
    pub off: u64,
}

/// The bank's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    regs: Words,
    edges: Vec<Edges>,
}

/// The bank.
#[derive(Clone, Debug)]
pub struct Gpio {
    regs: RegFile,
    edges: Vec<Edges>,
    soc: &'static Soc,
}

const fn field(level: u32, first: u32, count: usize) -> u32 {
    (level >> first) & ((1 << count) - 1)
}

impl Gpio {
    /// The bank of `soc`, after power-on.
    pub fn new(soc: &'static Soc) -> Gpio {
        Gpio { regs: RegFile::new(0xc, regs::REGS), edges: vec![Edges::default(); soc.clocks.len()], soc }
    }

    /// A guest read.
    pub fn read(&self, off: u64, w: Width) -> u64 {
        if off & !3 == u64::from(regs::DAT) {
            return (u64::from(self.level()) >> ((off & 3) * 8)) & w.ones();
        }
        self.regs.read(off, w)
    }

    /// A guest write; counts the edges it makes on the clock gates.
    pub fn write(&mut self, off: u64, w: Width, v: u64) {
        let before = self.clocks();
        self.regs.write(off, w, v, false);
        let after = self.clocks();
        for (n, e) in self.edges.iter_mut().enumerate() {
            match (before >> n & 1, after >> n & 1) {
                (0, 1) => e.on += 1,
                (1, 0) => e.off += 1,
                _ => {}
            }
        }
    }

    /// Level of every line: driven by an output, pulled low otherwise.
    pub fn level(&self) -> u32 {
        self.regs.word(regs::SET) & self.regs.word(regs::DIROUT)
    }

    /// Whether PERST# is asserted (its line is low). Where software has no PERST#, the board has released it.
    pub fn perst(&self) -> bool {
        self.soc.wrapper.perst.is_some() && self.level() >> soc::GPIO_PERST & 1 == 0
    }

    /// Whether PERST# is driven.
    pub fn perst_driven(&self) -> bool {
        self.regs.word(regs::DIROUT) >> soc::GPIO_PERST & 1 == 1
    }

    /// Clock gates that are on, bit n = [`Soc::clocks`]\[n\].
    pub fn clocks(&self) -> u32 {
        field(self.level(), soc::GPIO_CLK0, self.soc.clocks.len())
    }

    /// Whether every core clock runs.
    pub fn clocks_on(&self) -> bool {
        self.clocks() == (1 << self.soc.clocks.len()) - 1
    }

    /// Whether the AHB clock runs, which alone lets the wrapper answer (spec §2.1), or none is needed.
    pub fn ahb_clock_on(&self) -> bool {
        self.soc.ahb_clock.is_none_or(|i| self.clocks() >> i & 1 == 1)
    }

    /// Supplies that are on, bit n = [`Soc::supplies`]\[n\].
    pub fn supplies(&self) -> u32 {
        field(self.level(), soc::GPIO_REG0, self.soc.supplies.len())
    }

    /// Whether every supply is on.
    pub fn supplies_on(&self) -> bool {
        self.supplies() == (1 << self.soc.supplies.len()) - 1
    }

    /// Edges of each clock gate since power-on, in the order of [`Soc::clocks`].
    pub fn edges(&self) -> &[Edges] {
        &self.edges
    }

    /// The bank's state.
    pub fn save(&self) -> State {
        let Gpio { regs, edges, soc: _ } = self;
        State { regs: regs.save(), edges: edges.clone() }
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &State) -> Result<(), StateError> {
        let State { regs, edges } = saved;
        StateError::unless_length("gpio clock gates", self.edges.len(), edges.len())?;
        if edges.iter().any(|e| e.on.max(e.off) > crate::MAX_COUNT) {
            return Err(StateError::Impossible { what: "gpio clock edges" });
        }
        self.regs.restore("gpio", regs)?;
        self.edges.clone_from(edges);
        Ok(())
    }

    /// Power applied: all lines are inputs, edge counts start again.
    pub fn power_on(&mut self) {
        self.regs.reset(ResetKind::PowerOn);
        self.edges.fill(Edges::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(g: &mut Gpio, line: u32, high: bool) {
        let v = g.read(u64::from(regs::SET), Width::B4) as u32;
        let v = if high { v | 1 << line } else { v & !(1 << line) };
        g.write(u64::from(regs::SET), Width::B4, u64::from(v));
    }

    #[test]
    fn out_of_power_on_perst_is_asserted_and_everything_is_off() {
        let g = Gpio::new(&soc::SM8250);
        assert!(g.perst() && !g.perst_driven() && !g.clocks_on());
        assert_eq!((g.clocks(), g.supplies(), g.read(0, Width::B4)), (0, 0, 0));
        assert!(!g.ahb_clock_on() && !g.supplies_on());
    }

    #[test]
    fn a_latch_drives_its_line_only_as_an_output() {
        let mut g = Gpio::new(&soc::SM8250);
        set(&mut g, soc::GPIO_PERST, true);
        assert!(g.perst(), "still an input");
        g.write(u64::from(regs::DIROUT), Width::B4, 1 << soc::GPIO_PERST);
        assert!(!g.perst());
        assert_eq!(g.read(u64::from(regs::DAT), Width::B4), 1 << soc::GPIO_PERST);
        g.write(u64::from(regs::DIROUT), Width::B4, 0);
        assert!(g.perst(), "released: pulled low again");
    }

    #[test]
    fn edges_count_level_changes_not_writes() {
        let mut g = Gpio::new(&soc::SM8250);
        g.write(u64::from(regs::DIROUT), Width::B4, u64::from(u32::MAX));
        for _ in 0..3 {
            set(&mut g, soc::GPIO_CLK0 + 2, true);
        }
        set(&mut g, soc::GPIO_CLK0 + 2, false);
        assert_eq!(g.edges()[2], Edges { on: 1, off: 1 });
        assert_eq!(g.edges()[0], Edges::default());
    }

    #[test]
    fn dat_ignores_writes() {
        let mut g = Gpio::new(&soc::SM8250);
        g.write(u64::from(regs::DIROUT), Width::B4, u64::from(u32::MAX));
        g.write(u64::from(regs::DAT), Width::B4, u64::from(u32::MAX));
        assert_eq!(g.level(), 0);
    }
}
