//! The items of a sample. Their names are the table in [`Sample`].

use std::collections::BTreeMap;

use block::SimTime;

use super::controller::Controller;
use crate::sample::Sample;
use crate::sample::SamplePoint;
use crate::wrapper::Kind;

fn controller_items(c: &Controller, put: &mut dyn FnMut(&str, u64)) {
    put("msi.addr", c.msi.addr());
    for g in 0..msi_ctrl::GROUPS {
        put(&format!("msi.enable[{g}]"), c.msi.enable(g).into());
        put(&format!("msi.mask[{g}]"), c.msi.mask(g).into());
        put(&format!("msi.status[{g}]"), c.msi.status(g).into());
        put(&format!("msi.line[{g}]"), c.levels(0) >> g & 1);
    }
    // Firmware's regions are not the driver's to take back.
    if !c.soc().wrapper.is_firmware() {
        put("iatu.ob.enabled", c.iatu.outbound_enabled().into());
        put("iatu.ib.enabled", c.iatu.inbound_enabled().into());
    }
    put("dbi.ro_wr_en", c.dbi.ro_wr_en().into());
    put("rp.command", c.dbi.command().into());
    put("rp.rtctl", c.dbi.rtctl().into());
    put("rp.aer_root_command", c.dbi.aer_root_command().into());
    put("rp.sltctl", c.dbi.sltctl().into());
    put("rp.lnkctl", c.dbi.lnkctl().into());
    put("rp.dllla", c.dbi.dllla().into());
    put("rp.msi.enable", c.dbi.msi_enable().into());
    put("rp.intx", c.dbi.intx().into());
}

/// What a wrapper does not have is not in its samples.
fn wrapper_items(c: &Controller, now: SimTime, put: &mut dyn FnMut(&str, u64)) {
    match c.soc().wrapper.kind {
        Kind::Qcom => {
            put("parf.ltssm_en", c.parf.ltssm_en().into());
            put("elbi.lt_enable", c.elbi.lt_enable().into());
            put("parf.ltssm_state", c.link.ltssm(now).into());
            put("parf.int_all_mask", c.parf.int_mask().into());
            put("parf.int_all_status", c.parf.int_status().into());
            put("parf.phy_ctrl.pwr_down", c.parf.phy_powered_down().into());
            put("parf.sid_bypass", c.parf.sid_bypass().into());
        }
        Kind::Rockchip => {
            put("apb.ltssm_en", c.client.ltssm_en().into());
            put("apb.ltssm_state", c.link.ltssm(now).into());
            put("apb.intx_mask", c.client.intx_mask().into());
            put("apb.misc_mask", c.client.misc_mask().into());
            put("apb.misc_status", c.client.misc_status().into());
        }
        Kind::Snps | Kind::SnpsEcam | Kind::QcomFirmware => {}
    }
}

fn provider_items(c: &Controller, put: &mut dyn FnMut(&str, u64)) {
    let soc = c.soc();
    if soc.wrapper.perst.is_some() {
        put("gpio.perst", c.gpio.perst().into());
        put("gpio.perst_out", c.gpio.perst_driven().into());
    }
    if !soc.clocks.is_empty() {
        put("clk.on", c.gpio.clocks().into());
    }
    for (name, e) in soc.clocks.iter().zip(c.gpio.edges()) {
        put(&format!("clk.edges[{name}].on"), e.on);
        put(&format!("clk.edges[{name}].off"), e.off);
    }
    if !soc.resets.is_empty() || !soc.supplies.is_empty() {
        put("reset.core", c.held().is_some().into());
    }
    if !soc.supplies.is_empty() {
        put("reg.on", c.gpio.supplies().into());
    }
    if soc.wrapper.phy.is_some() {
        put("phy.reset_ctrl", c.phy.software_reset().into());
        put("phy.reset", u64::from(c.resets.phy()) | u64::from(c.resets.pipe()) << 1);
    }
}

fn count_items(c: &Controller, put: &mut dyn FnMut(&str, u64)) {
    let counts = &c.observer.counts;
    put("count.gated", counts.gated);
    put("count.msi", counts.msi);
    put("count.rogue_msi", counts.rogue_msi);
    put("count.dma_refused", counts.dma_refused);
    put("count.unrouted", counts.unrouted);
    put("count.bad_input", counts.bad_input);
    put("count.after_s3", counts.after_s3);
}

/// A sample of the controller, on top of the endpoint's items.
pub(super) fn sample(
    c: &Controller,
    now: SimTime,
    point: SamplePoint,
    endpoint: BTreeMap<String, u64>,
) -> Sample {
    let mut items = endpoint;
    let mut put = |name: &str, v: u64| {
        items.insert(name.to_owned(), v);
    };
    controller_items(c, &mut put);
    wrapper_items(c, now, &mut put);
    provider_items(c, &mut put);
    count_items(c, &mut put);
    Sample { point, time_ns: now.0, life: c.observer.life, items }
}
