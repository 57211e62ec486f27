//! What lspci in a guest says of a topology file: every function where the file has it, as the file has it, and nothing else.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use toml::Table;

/// Every kind of card, a switch in a switch, an empty slot, and a device of several functions.
const FILE: &str = r#"
[[card]]
kind = "switch"
slots = 4
attention-button = true
power-control = true

[[card]]
kind = "switch"
slot = "0.0"

[[card]]
kind = "nvme"
slot = "0.0.0"
size = "16M"
queues = 4

[[card]]
kind = "virtio-net"
slot = "0.0.1"

[[card]]
kind = "endpoint-test"
slot = "0.1"
vectors = 64

[[card]]
kind = "virtio-rng"
slot = "0.1"

[[card]]
kind = "virtio-blk"
slot = "0.1"
size = "16M"
queues = 3

[[card]]
kind = "virtio-console"
slot = "0.1"

[[card]]
kind = "serial"
slot = "0.2"
"#;

/// The root port of sm8250, and its link: 8 GT/s, x1.
const ROOT_PORT: (&str, &str) = ("00:00.0", "17cb:010b");
const RATE: &str = "Speed 8GT/s, Width x1";

/// One function, as `lspci -vvvnn` tells it.
#[derive(Debug)]
struct Function<'a> {
    class: &'a str,
    id: &'a str,
    prog_if: &'a str,
    lines: Vec<&'a str>,
}

/// Text between `from` and `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let rest = &text[text.find(from)? + from.len()..];
    Some(&rest[..rest.find(to)?])
}

/// The functions of a listing by address.
fn functions(listing: &str) -> BTreeMap<&str, Function<'_>> {
    let mut all = BTreeMap::new();
    for block in listing.split("\n\n").filter(|b| !b.trim().is_empty()) {
        let mut lines = block.lines().map(str::trim);
        let head = lines.next().unwrap_or_default();
        let class = between(head, " [", "]").unwrap_or_default();
        // The last brackets of the name are the IDs.
        let id =
            head.rsplit('[').find_map(|s| s.split(']').next().filter(|t| t.len() == 9 && t.contains(':')));
        let prog_if = between(head, "(prog-if ", ")").and_then(|p| p.split(' ').next());
        let address = head.split(' ').next().unwrap_or_default();
        let f = Function {
            class,
            id: id.unwrap_or_default(),
            prog_if: prog_if.unwrap_or("00"),
            lines: lines.collect(),
        };
        assert!(all.insert(address, f).is_none(), "{address} is there twice");
    }
    all
}

impl<'a> Function<'a> {
    /// What follows `name` on its line.
    fn after(&self, name: &str) -> Option<&'a str> {
        self.lines.iter().find_map(|l| l.split_once(name).map(|(_, rest)| rest.trim()))
    }

    /// A bus number of a bridge.
    fn bus(&self, which: &str) -> Option<u8> {
        let number = self.after(&format!("{which}="))?;
        u8::from_str_radix(number.split(',').next()?, 16).ok()
    }

    /// Sizes of the memory BARs, by number.
    fn bars(&self) -> Vec<String> {
        let region = |l: &&&str| l.starts_with("Region ");
        let size = |l: &&str| format!("{} {}", &l[7..8], between(l, "[size=", "]").unwrap_or("?"));
        self.lines.iter().filter(region).map(size).collect()
    }
}

/// What a card of the file has to look like.
struct Wanted {
    class: &'static str,
    prog_if: &'static str,
    id: &'static str,
    driver: Option<&'static str>,
    bars: Vec<String>,
    msi: Option<u32>,
    msix: Option<i64>,
    pin: char,
}

fn wanted(card: &Table) -> Wanted {
    let number = |key: &str, default| card.get(key).map_or(default, |v| v.as_integer().expect("a number"));
    let own = |bars: &[&str]| bars.iter().map(|b| (*b).to_owned()).collect::<Vec<_>>();
    let virtio = |class, id, queues: i64| Wanted {
        class,
        prog_if: "00",
        id,
        driver: Some("virtio-pci"),
        bars: own(&["0 16K", "1 4K"]),
        msi: None,
        msix: Some(queues + 1),
        pin: 'A',
    };
    match card["kind"].as_str().expect("a kind") {
        "nvme" => Wanted {
            class: "0108",
            prog_if: "02",
            id: "1b36:00f0",
            driver: Some("nvme"),
            bars: own(&["0 16K"]),
            msi: Some(32),
            msix: Some(number("queues", 8) + 1),
            pin: 'A',
        },
        "endpoint-test" => Wanted {
            class: "ff00",
            prog_if: "00",
            id: "104c:b500",
            driver: Some("pci-endpoint-test"),
            bars: own(&["0 4K", "2 4K"]),
            msi: Some(32),
            msix: Some(number("vectors", 32)),
            pin: 'A',
        },
        "virtio-net" => virtio("0200", "1af4:1041", 2),
        "virtio-blk" => virtio("0180", "1af4:1042", number("queues", 1)),
        "virtio-console" => virtio("0780", "1af4:1043", 2),
        "virtio-rng" => virtio("00ff", "1af4:1044", 1),
        "serial" => Wanted {
            class: "0700",
            prog_if: "02",
            id: "1d0f:8250",
            driver: Some("serial"),
            bars: own(&["0 256"]),
            msi: None,
            msix: None,
            pin: 'A',
        },
        kind => panic!("no {kind} is expected"),
    }
}

/// A listing and a file.
struct Comparison<'a> {
    found: BTreeMap<&'a str, Function<'a>>,
    cards: Vec<Table>,
    expected: Vec<String>,
    problems: Vec<String>,
}

/// Everything in which a listing is not what the file says.
fn problems(file: &str, listing: &str) -> Vec<String> {
    let parsed: Table = file.parse().expect("TOML");
    let cards = parsed["card"].as_array().expect("cards");
    let cards = cards.iter().map(|c| c.as_table().expect("a card").clone()).collect();
    let mut c = Comparison { found: functions(listing), cards, expected: Vec::new(), problems: Vec::new() };
    if let Some((secondary, _)) = c.port(ROOT_PORT.0, ROOT_PORT.1, "Root Port (Slot+)", None) {
        c.link(ROOT_PORT.0, true);
        c.slot("0", secondary);
    }
    let extra: Vec<_> = c.found.keys().filter(|a| !c.expected.iter().any(|e| e == *a)).collect();
    let extra = extra.iter().map(|a| format!("{a}: the file has nothing there")).collect::<Vec<_>>();
    c.problems.extend(extra);
    c.problems
}

impl Comparison<'_> {
    fn check(&mut self, address: &str, what: &str, wanted: &dyn std::fmt::Debug, got: &dyn std::fmt::Debug) {
        let (wanted, got) = (format!("{wanted:?}"), format!("{got:?}"));
        if wanted != got {
            self.problems.push(format!("{address}: {what} is {got}, not {wanted}"));
        }
    }

    /// Whether the function is there, which it should be.
    fn has(&mut self, address: &str) -> bool {
        self.expected.push(address.to_owned());
        let there = self.found.contains_key(address);
        if !there {
            self.problems.push(format!("{address}: not there"));
        }
        there
    }

    /// A bridge: its secondary and subordinate bus, if it is there.
    fn port(&mut self, address: &str, id: &str, kind: &str, primary: Option<u8>) -> Option<(u8, u8)> {
        if !self.has(address) {
            return None;
        }
        let f = &self.found[address];
        let buses = ["primary", "secondary", "subordinate"].map(|b| f.bus(b));
        let got = (f.class, f.id.to_owned(), f.after("Capabilities: [70] Express (v2) ").map(str::to_owned));
        let driver = f.after("Kernel driver in use: ");
        let (class, got_id, got_kind) = got;
        self.check(address, "class", &"0604", &class);
        self.check(address, "ID", &id, &got_id);
        let got_kind = got_kind.unwrap_or_default();
        self.check(address, "port type", &kind, &got_kind.split(',').next().unwrap_or_default());
        self.check(address, "driver", &Some("pcieport"), &driver);
        self.check(address, "primary bus", &Some(primary.unwrap_or(0)), &buses[0]);
        let [_, Some(secondary), Some(subordinate)] = buses else {
            self.problems.push(format!("{address}: no bus numbers"));
            return None;
        };
        if secondary <= primary.unwrap_or(0) || subordinate < secondary {
            self.problems.push(format!("{address}: buses {secondary:#x} to {subordinate:#x}"));
        }
        Some((secondary, subordinate))
    }

    /// What is in the slot of this name, on this bus.
    fn slot(&mut self, slot: &str, bus: u8) {
        let here = |c: &&Table| c.get("slot").map_or("0", |s| s.as_str().expect("a slot")) == slot;
        let cards: Vec<Table> = self.cards.iter().filter(here).cloned().collect();
        if let Some(switch) = cards.iter().find(|c| c["kind"].as_str() == Some("switch")) {
            self.switch(slot, bus, switch);
            return;
        }
        for (n, card) in cards.iter().enumerate() {
            self.endpoint(&format!("{bus:02x}:00.{n}"), card);
        }
    }

    fn switch(&mut self, slot: &str, bus: u8, switch: &Table) {
        let upstream = format!("{bus:02x}:00.0");
        let Some((internal, last)) = self.port(&upstream, "104c:8232", "Upstream Port", Some(bus)) else {
            return;
        };
        self.link(&upstream, true);
        let ports = switch.get("slots").map_or(2, |v| v.as_integer().expect("a number"));
        let mut next = internal + 1;
        for n in 0..ports {
            let address = format!("{internal:02x}:{n:02x}.0");
            let kind = "Downstream Port (Slot+)";
            let Some((secondary, subordinate)) = self.port(&address, "104c:8233", kind, Some(internal))
            else {
                continue;
            };
            // Ranges of the ports are inside that of the switch and apart from each other.
            if secondary < next || subordinate > last {
                self.problems.push(format!("{address}: buses {secondary:#x} to {subordinate:#x}"));
            }
            next = subordinate + 1;
            let below = format!("{slot}.{n}");
            let used = self.cards.iter().any(|c| c.get("slot").and_then(|s| s.as_str()) == Some(&below));
            self.link(&address, used);
            self.hot_plug(&address, &below, switch, used);
            self.slot(&below, secondary);
        }
    }

    /// The slot's capabilities and presence.
    fn hot_plug(&mut self, address: &str, slot: &str, switch: &Table, used: bool) {
        let has = |key: &str| {
            if switch.get(key).is_some_and(|v| v.as_bool() == Some(true)) {
                '+'
            } else {
                '-'
            }
        };
        let (button, power) = (has("attention-button"), has("power-control"));
        let caps =
            format!("AttnBtn{button} PwrCtrl{power} MRL- AttnInd{button} PwrInd{button} HotPlug+ Surprise+");
        // Below the root port's own slot each number is a digit.
        let number = slot.split('.').skip(1).fold(0, |v, n| v * 8 + n.parse::<u32>().expect("a number") + 1);
        let f = &self.found[address];
        let got = f.after("SltCap:").map(str::to_owned);
        let got_number = f.after("Slot #").and_then(|s| s.split(',').next()).map(str::to_owned);
        let presence = f.after("SltSta:").map(|s| s.contains("PresDet+"));
        self.check(address, "SltCap", &Some(caps), &got);
        self.check(address, "slot number", &Some(number.to_string()), &got_number);
        self.check(address, "presence", &Some(used), &presence);
    }

    /// The link that LNKSTA is about.
    fn link(&mut self, address: &str, up: bool) {
        let got = self.found[address].after("LnkSta:").map(str::to_owned).unwrap_or_default();
        let runs = got == RATE;
        if runs != up {
            self.problems.push(format!("{address}: LnkSta is {got}"));
        }
    }

    fn endpoint(&mut self, address: &str, card: &Table) {
        if !self.has(address) {
            return;
        }
        let w = wanted(card);
        let f = &self.found[address];
        let got = (f.class, f.prog_if, f.id, f.after("Kernel driver in use: "));
        let bars = f.bars();
        let msi =
            f.after("] MSI: Enable").and_then(|s| between(s, "/", " ")).and_then(|n| n.parse::<u32>().ok());
        let msix = f
            .after("] MSI-X: Enable")
            .and_then(|s| between(s, "Count=", " "))
            .and_then(|n| n.parse::<i64>().ok());
        let pin = f.after("Interrupt: pin ").and_then(|p| p.chars().next());
        let enabled = f.lines.iter().any(|l| l.contains("] MSI") && l.contains("Enable+"));
        let express = f.lines.iter().any(|l| l.contains("Express (v2) Endpoint"));
        self.check(address, "class, interface, ID and driver", &(w.class, w.prog_if, w.id, w.driver), &got);
        self.check(address, "BARs", &w.bars, &bars);
        self.check(address, "MSI vectors", &w.msi, &msi);
        self.check(address, "MSI-X vectors", &w.msix, &msix);
        self.check(address, "interrupt pin", &Some(w.pin), &pin);
        // The driver of the endpoint-test function takes vectors when it is asked for an interrupt, in newer kernels.
        if w.id != "104c:b500" {
            self.check(address, "MSI or MSI-X in use", &w.msix.is_some(), &enabled);
        }
        self.check(address, "an endpoint", &true, &express);
        self.link(address, true);
    }
}

/// Run `rcvm lspci` of the file on a series.
fn lspci(file: &str, series: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("cards.toml");
    std::fs::write(&path, file).expect("write the topology");
    let out = Command::new(env!("CARGO_BIN_EXE_rcvm"))
        .args(["lspci", "--series", series, "--topology"])
        .arg(&path)
        .args(["--", "-vvvnn"])
        .output()
        .expect("start rcvm");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{said}");
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn lspci_in_the_guest_finds_what_the_topology_file_says_and_nothing_else() {
    for series in common::series() {
        let listing = lspci(FILE, &series);
        assert_eq!(problems(FILE, &listing), Vec::<String>::new(), "{series}\n{listing}");
        assert!(!listing.contains("libkmod"), "{listing}");
        // The comparison finds each difference.
        for (was, is, told) in [
            ("queues = 4", "queues = 5", "MSI-X vectors"),
            ("vectors = 64", "vectors = 32", "MSI-X vectors"),
            ("kind = \"virtio-rng\"", "kind = \"virtio-net\"", "class, interface, ID"),
            ("kind = \"serial\"", "kind = \"nvme\"", "BARs"),
            ("slot = \"0.2\"", "slot = \"0.3\"", "not there"),
            ("slots = 4", "slots = 3", "the file has nothing there"),
            ("power-control = true", "power-control = false", "SltCap"),
        ] {
            let other = FILE.replacen(was, is, 1);
            let found = problems(&other, &listing);
            assert!(found.iter().any(|p| p.contains(told)), "{is}: {found:?}");
        }
    }
}
