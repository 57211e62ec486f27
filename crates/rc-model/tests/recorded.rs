//! Recordings of real kernels, played to the model: every access that the guest made from power-on to the end of one insmod, use
//! and rmmod of its driver, at its time. The driver double (`driver_double.rs`) says what we think a driver does; these say
//! what it did.
//!
//! `rcvm trace DIR --record FILE` writes such a file; a file in `traces/` is tested. A change of the model that a guest can see
//! makes recordings old: `scripts/record` makes them anew.

use std::collections::BTreeMap;
use std::path::Path;

use block::Width;
use endpoints::EndpointTest;
use pcie::Device;
use rc_fuzz::machine::Machine;
use rc_model::register_name;
use rc_model::soc;
use rc_model::Config;
use rc_model::Event;
use rc_model::Sample;
use rc_model::SamplePoint;
use rc_model::Window;
use torture::check::device;

/// What happened in one recording.
struct Played {
    m: Machine,
    accesses: usize,
    phases: Vec<String>,
    /// Reads that returned something else than they did to the guest.
    different: Vec<String>,
}

fn window(name: &str) -> Window {
    serde_json::from_value(name.into()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn hex(word: &str) -> u64 {
    u64::from_str_radix(word, 16).unwrap_or_else(|e| panic!("{word}: {e}"))
}

fn play(text: &str) -> Played {
    let name = text.lines().find_map(|l| l.strip_prefix("soc ")).expect("a recording names its SoC");
    let soc = soc::find(name).expect("a SoC that there is");
    let m = Machine::with(Config::new(soc, Some(Device::single(EndpointTest::default()).boxed())));
    let mut p = Played { m, accesses: 0, phases: Vec::new(), different: Vec::new() };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["phase", phase] => p.phases.push(phase.into()),
            [ns, how, win, off, bytes, value] if !line.starts_with('#') => {
                p.m.sleep(hex(ns));
                let width = Width::from_bytes(hex(bytes) as usize).expect("1, 2, 4 or 8 bytes");
                p.access(how == "W", window(win), hex(off), width, hex(value));
            }
            _ => {}
        }
    }
    p
}

impl Played {
    fn access(&mut self, write: bool, win: Window, off: u64, width: Width, value: u64) {
        self.accesses += 1;
        if write {
            self.m.write(win, off, width, value);
            return;
        }
        let got = self.m.read(win, off, width);
        if got != value {
            let name = register_name(win, off).unwrap_or_default();
            self.different.push(format!(
                "access {} in {:?}: {win:?}+{off:#x} {name}: {got:#x}, the guest read {value:#x}",
                self.accesses,
                self.phases.last()
            ));
        }
    }
}

/// The recordings in `traces/`: name and text.
fn recordings() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let files = files.map(|f| f.unwrap().path()).filter(|f| f.extension().is_some_and(|e| e == "txt"));
    let mut all: Vec<_> = files
        .map(|f| {
            let text = std::fs::read_to_string(&f).unwrap_or_else(|e| panic!("{}: {e}", f.display()));
            (f.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn every_read_returns_what_the_guest_read() {
    for (name, text) in recordings() {
        let p = play(&text);
        assert!(p.accesses > 1000, "{name}: {} accesses", p.accesses);
        // The times are those of the recording, so that even polls of a training link have their values.
        assert_eq!(p.different, [""; 0], "{name}");
    }
}

#[test]
fn the_removal_leaves_the_hardware_as_it_must() {
    for (name, text) in recordings() {
        let mut p = play(&text);
        assert!(p.phases.iter().any(|p| p == "insmod") && p.phases.iter().any(|p| p == "rmmod"), "{name}");
        let mut samples: BTreeMap<SamplePoint, Sample> = BTreeMap::new();
        for e in &p.m.events {
            if let Event::Sampled(s) = e {
                samples.insert(s.point, s.clone());
            }
        }
        samples.remove(&SamplePoint::S5);
        let gone = p.m.sample(SamplePoint::S4);
        assert!(gone.get("count.msi").unwrap_or(0) > 0, "{name}: it did raise MSIs");
        assert_eq!((gone.get("gpio.perst"), gone.get("clk.on")), (Some(1), Some(0)), "{name}");
        samples.insert(SamplePoint::S4, gone);
        // The rules by which torture judges a run, with nothing allowed.
        assert_eq!(device::check(&samples), [], "{name}");
        assert_eq!(device::check_events(&p.m.events), [], "{name}");
        let up = |e: &&Event| matches!(e, Event::Ltssm { .. });
        assert!(p.m.events.iter().filter(up).count() > 0, "{name}: the link trained");
        assert_eq!(p.m.rc.irq_levels(), 0, "{name}: no line is high");
    }
}

#[test]
fn a_recording_with_another_value_is_noticed() {
    let (_, text) = recordings().into_iter().next().expect("there are recordings");
    let spoilt: Vec<String> = text
        .lines()
        .map(|l| if l.contains(" R dbi 8f8 ") { format!("{l}1") } else { l.to_owned() })
        .collect();
    assert!(!play(&spoilt.join("\n")).different.is_empty());
}
