//! Saving and restoring: what is saved says everything, and what does not fit is refused.

use block::StateError;
use endpoints::EndpointTest;
use pcie::Device;
use rc_fuzz::machine::Machine;
use rc_fuzz::recorder::Recorder;
use rc_model::soc;
use rc_model::Config;
use rc_model::RootComplex;
use rc_model::Soc;
use rc_model::State;
use rc_model::Window;
use serde_json::json;
use serde_json::Value;

fn config(soc: &'static Soc) -> Config {
    Config::new(soc, Some(Device::single(EndpointTest::default()).boxed()))
}

/// A machine in use: link up, MSI armed, one vector latched, a command on its way.
fn busy(soc: &'static Soc) -> Machine {
    let mut m = Machine::with(config(soc));
    m.link_up();
    assert!(m.dllla(), "{}", soc.name);
    m.open_downstream();
    m.arm_msi();
    m.raise_msi(1);
    assert_eq!((m.item("count.msi"), m.item("count.gated")), (1, 0), "{}", soc.name);
    m.writel(Window::Mem, 0x04, 2);
    m
}

#[test]
fn a_state_survives_json_and_comes_out_as_it_went_in_on_every_soc() {
    for soc in soc::SOCS {
        let m = busy(soc);
        let saved = m.rc.save();
        let text = serde_json::to_string(&saved).unwrap();
        let read: State = serde_json::from_str(&text).unwrap();
        assert_eq!(read, saved, "{}", soc.name);
        let rc = RootComplex::restore(config(soc), &read).unwrap();
        assert_eq!(rc.save(), saved, "{}", soc.name);
        assert_eq!((rc.irq_levels(), rc.next_deadline()), (m.rc.irq_levels(), m.rc.next_deadline()));
    }
}

#[test]
fn a_restored_machine_finishes_what_the_saved_one_began() {
    let mut a = busy(&soc::SM8250);
    let rc = RootComplex::restore(config(&soc::SM8250), &a.rc.save()).unwrap();
    let mut b = Machine { rc, ..Machine::new() };
    b.now = a.now;
    assert_ne!(b.rc.save(), Machine::new().rc.save(), "a saved state is not that of a new machine");
    a.events.clear();
    for m in [&mut a, &mut b] {
        m.sleep(endpoints::endpoint_test::POLL_NS);
    }
    assert!(!a.events.is_empty(), "the command raised its MSI");
    assert_eq!(a.events, b.events);
    assert_eq!(a.rc.save(), b.rc.save());
}

#[test]
fn a_foreign_state_is_refused_and_says_what_it_is_of() {
    let saved = Machine::new().rc.save();
    let refused = |config| RootComplex::restore(config, &saved).map(|_| ()).unwrap_err();
    let other = soc::find("ipq8064").unwrap();
    assert_eq!(refused(config(other)).to_string(), "soc: the state is of sm8250, not of ipq8064");
    assert_eq!(
        refused(Config::new(&soc::SM8250, None)).to_string(),
        "slot: the state is of a card, not of an empty slot"
    );
    assert_eq!(
        refused(Config::new(&soc::SM8250, Some(Device::single(Recorder::default()).boxed()))).to_string(),
        "endpoint: the state is of endpoint-test, not of recorder"
    );
}

fn restore(state: Value) -> Result<(), StateError> {
    let state: State = serde_json::from_value(state).expect("the shape is a state's");
    RootComplex::restore(config(&soc::SM8250), &state).map(|_| ())
}

#[test]
fn what_a_block_cannot_hold_is_refused() {
    let good = serde_json::to_value(busy(&soc::SM8250).rc.save()).unwrap();
    assert_eq!(restore(good.clone()), Ok(()));
    let cases: &[(&str, Value)] = &[
        ("/version", json!(0)),
        ("/gpio/edges", json!([])),
        ("/gpio/edges/0/on", json!(u64::MAX)),
        ("/gpio/regs", json!([1, 2, 3, 4])),
        ("/resets", json!([])),
        ("/parf", json!([0])),
        ("/dbi/config", json!([0])),
        ("/dbi/port", json!([0])),
        // A hole of the unrolled iATU.
        ("/iatu/regs/127", json!(1)),
        ("/iatu/selector", json!(0)),
        ("/msi", json!([0])),
        ("/link", json!({"Training": {"step": 5, "next": 0}})),
        ("/link", json!({"Training": {"step": 4_000_000_000u32, "next": 0}})),
        ("/observer/counts/msi", json!(u64::MAX)),
        ("/endpoint", json!(null)),
        ("/endpoint/functions/0/function", json!("nvme")),
        ("/endpoint/functions/0/data", json!([])),
        ("/endpoint/functions/0/data/bar0", json!([])),
        ("/endpoint/functions/0/data/scratch/0/memory/0", json!(-1)),
        ("/endpoint/functions/0/data/frame/msix/entries", json!([])),
        ("/endpoint/functions/0/data/frame/msix/pending", json!([1u64 << 32])),
        ("/endpoint/functions/0/data/frame/msix", json!(null)),
        ("/endpoint/functions", json!([])),
        ("/endpoint/cards", json!([{"functions": [], "cards": []}])),
        ("/endpoint/functions/0/data/frame/msix/entries/0/control", json!(2)),
        ("/endpoint/functions/0/data/random", json!(0)),
    ];
    for (at, bad) in cases {
        let mut state = good.clone();
        *state.pointer_mut(at).unwrap_or_else(|| panic!("no {at}")) = bad.clone();
        assert!(restore(state).is_err(), "{at} = {bad}");
    }
}

#[test]
fn what_is_no_state_at_all_does_not_parse() {
    let good = serde_json::to_value(Machine::new().rc.save()).unwrap();
    let mut more = good.clone();
    more["wiring"] = json!(1);
    let mut less = good.clone();
    less.as_object_mut().unwrap().remove("link");
    let mut emitted = good;
    emitted["observer"]["emitted"] = json!([0, 0]);
    for bad in [more, less, emitted, json!(null)] {
        assert!(serde_json::from_value::<State>(bad).is_err());
    }
}
