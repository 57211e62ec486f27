//! Whatever happens to a machine: no panic, and what must hold of it holds. The operations are those of the fuzz target.

use proptest::prelude::*;
use rc_fuzz::machine::Machine;
use rc_fuzz::ops::OP_BYTES;
use rc_fuzz::ops::SETUP_BYTES;
use rc_fuzz::trial;
use rc_model::soc;
use rc_model::Window;

proptest! {
    #[test]
    fn any_sequence_on_any_machine_keeps_every_check_of_a_trial(
        setup in any::<[u8; SETUP_BYTES]>(),
        ops in proptest::collection::vec(any::<[u8; OP_BYTES]>(), 0..200),
    ) {
        let tally = trial::run_bytes(&[&setup, ops.as_flattened()].concat()).map_err(TestCaseError::fail)?;
        prop_assert_eq!(tally.ops, ops.len() as u64);
    }
}

#[test]
fn a_guest_that_toggles_everything_for_long_leaves_a_bounded_trail() {
    let mut m = Machine::new();
    m.link_up();
    m.open_downstream();
    m.arm_msi();
    for i in 0..20_000u32 {
        m.raise_msi(1);
        m.readl(Window::Mem, 0xff_0000);
        m.writew(Window::Config, 0x04, 0x2);
        m.raise_msi(1);
        m.writew(Window::Config, 0x04, 0x6);
        m.writel(Window::Dbi, 0x828, i & 1);
        if i % 16 == 0 {
            m.gpio_set(soc::GPIO_CLK0, false);
            m.readl(Window::Dbi, 0);
            m.gpio_set(soc::GPIO_PERST, false);
            m.link_up();
            m.open_downstream();
            m.arm_msi();
        }
    }
    let most = 4 * 64 + 256 + 2 * 4096;
    assert!(m.events.len() <= most, "{} events", m.events.len());
    assert!(m.item("count.dma_refused") >= 20_000);
}
