//! One DBI read, natively, through interposer, bus, lock and model.

use block::SimTime;
use block::VecMem;
use block::Width;
use criterion::criterion_group;
use criterion::criterion_main;
use criterion::Criterion;
use rc_model::soc;
use rc_model::Config;
use rc_model::RootComplex;
use rc_model::Window;
use vmm::bus::Answer;
use vmm::bus::Lines;
use vmm::bus::Origin;
use vmm::bus::RcBus;

struct NoLines;

impl Lines for NoLines {
    fn set(&mut self, _: u32, _: bool) {}
    fn its_msi(&mut self, _: rc_model::Bdf, _: u64, _: u32) {}
}

fn cpu(vcpu: u8) -> Origin {
    Origin { vcpu, pc: 0 }
}

fn dispatch(c: &mut Criterion) {
    let started = std::time::Instant::now();
    let bus = RcBus::new(
        RootComplex::new(Config::new(&soc::SM8250, None)),
        Box::new(VecMem::new(0x8000_0000, 0x1000)),
        Box::new(NoLines),
        Box::new(move || SimTime(started.elapsed().as_nanos() as u64)),
        Box::new(|_, _| {}),
        0,
    );
    let gpio = soc::window(Window::Gpio).0;
    let clocks = ((1_u64 << soc::SM8250.clocks.len()) - 1) << soc::GPIO_CLK0;
    bus.write(cpu(0), gpio + soc::gpio::DIROUT, Width::B4, clocks);
    bus.write(cpu(0), gpio + soc::gpio::SET, Width::B4, clocks);
    bus.write(cpu(0), soc::window(Window::Reset).0, Width::B4, 0);
    let dbi = soc::window(Window::Dbi).0;
    assert_eq!(bus.read(cpu(0), dbi, Width::B2), Answer::Value(0x17cb), "the core answers");
    c.bench_function("dbi_read", |b| b.iter(|| bus.read(cpu(0), dbi + 0x80, Width::B4)));
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
