//! The device-side oracle's samples (spec §4.5): named values at the moments that PERST#, reset and power-off erase.
//!
//! A sample is a flat map so that checks, reports and comparisons are generic. Item names are
//! `<block>.<register>[index]`: see the table in [`Sample`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// When a sample was taken (spec §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SamplePoint {
    /// State before the access that pulled PERST# low.
    S1,
    /// State just after PERST# fell (endpoint state from just before it).
    S2,
    /// Before the access that stopped the first core clock.
    S3,
    /// On request, after unbind or rmmod returned.
    S4,
    /// Before the first access that follows S4: the start of the next probe.
    S5,
    /// On request at any other time.
    Now,
}

/// Named device-side values at one moment. What a SoC or its wrapper does not have, its samples do not have.
///
/// | item | meaning |
/// |---|---|
/// | `ep.command`, `ep.msi.enable`, `ep.msi.addr`, `ep.msi.data`, `ep.msi.mask`, `ep.msi.pending`, `ep.msix.enable`, `ep.msix.fmask`, `ep.msix.unmasked`, `ep.msix.programmed`, `ep.msix.pending`, `ep.intx` | function 0 of the card: COMMAND, MSI and MSI-X state (`unmasked`/`programmed`: entry counts), INTx pins asserted. `ep:1.…` is function 1 of the device |
/// | `ep.virtio.status`, `ep.virtio.queues_enabled` | virtio function: device status, queues that the driver has enabled |
/// | `misbehaved`, `stuck-intx` | of a card that misbehaves: how often it has, and whether it keeps INTA asserted |
/// | `ep.nvme.enabled`, `ep.nvme.queues`, `ep.nvme.inflight` | NVMe controller: whether it processes commands, I/O queues of both kinds that exist, I/O commands that it has fetched and not completed |
/// | `sw.command`, `sw.port[k].dllla`, `sw.port[k].slot_status`, `sw.port[k].sltctl`, `sw.port[k].command`, `sw.port[k].msi.enable` | a switch: its upstream port's COMMAND, its downstream ports. Cards in slots have their path behind `ep` or `sw`: `ep/0.command`, `sw/1.port[0].dllla` |
/// | `msi.addr`, `msi.enable[i]`, `msi.mask[i]`, `msi.status[i]`, `msi.line[i]` | iMSI-RX, i = 0..7 |
/// | `iatu.ob.enabled`, `iatu.ib.enabled` | bit n: window n enabled |
/// | `parf.ltssm_en`, `parf.ltssm_state`, `parf.int_all_mask`, `parf.int_all_status`, `parf.phy_ctrl.pwr_down`, `parf.sid_bypass` | PARF |
/// | `apb.ltssm_en`, `apb.ltssm_state`, `apb.intx_mask`, `apb.misc_mask`, `apb.misc_status` | Rockchip client registers |
/// | `elbi.lt_enable` | link training enable of the oldest generations |
/// | `dbi.ro_wr_en`, `rp.command`, `rp.rtctl`, `rp.aer_root_command`, `rp.sltctl`, `rp.lnkctl`, `rp.dllla`, `rp.msi.enable`, `rp.intx` | root port |
/// | `gpio.perst` (1 = asserted), `gpio.perst_out`, `clk.on` (bit n), `clk.edges[name].on`, `clk.edges[name].off`, `reset.core` (1 = asserted, or unpowered where there is none), `reg.on` (bit n), `phy.reset_ctrl`, `phy.reset` (bit 0 phy, bit 1 pipe; 1 = asserted) | providers |
/// | `count.gated`, `count.msi`, `count.rogue_msi`, `count.dma_refused`, `count.unrouted`, `count.bad_input`, `count.after_s3` | event totals since power-on |
///
/// A function that a vfio-user server has adds `ep.vfio.alive`: whether the server still answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Which point.
    pub point: SamplePoint,
    /// Simulated time, ns.
    pub time_ns: u64,
    /// How many probes the model has seen begin (S5 increments it): pairs samples with cycles.
    pub life: u32,
    /// Item name to value.
    pub items: BTreeMap<String, u64>,
}

impl Sample {
    /// The value of `item`, if this model has it.
    pub fn get(&self, item: &str) -> Option<u64> {
        self.items.get(item).copied()
    }
}
