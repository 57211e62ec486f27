//! The controller against a naive model of 256 independent vectors, over random operations.

use block::Width;
use msi_ctrl::regs;
use msi_ctrl::Match;
use msi_ctrl::MsiCtrl;
use proptest::prelude::*;

/// 256 vectors as three arrays of flags: no words, no shifts shared with the code under test.
struct Naive {
    addr: [u32; 2],
    enable: [bool; 256],
    mask: [bool; 256],
    status: [bool; 256],
}

impl Naive {
    fn word(bits: &[bool; 256], group: usize) -> u32 {
        (0..32).map(|b| u32::from(bits[group * 32 + b]) << b).sum()
    }

    fn line(&self, group: usize) -> bool {
        (group * 32..group * 32 + 32).any(|v| self.status[v] && !self.mask[v])
    }
}

#[derive(Clone, Debug)]
enum Op {
    Addr { half: usize, v: u32 },
    Enable { group: usize, v: u32 },
    Mask { group: usize, v: u32 },
    Ack { group: usize, v: u32 },
    Mwr { addr: u64, data: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    // Few distinct addresses, so that writes often match.
    let half = prop_oneof![Just(0u32), Just(0x4000_0000), any::<u32>()];
    let addr = prop_oneof![Just(0u64), Just(0x4000_0000), Just(0x4000_0000_4000_0000), any::<u64>()];
    prop_oneof![
        1 => (0..2usize, half).prop_map(|(half, v)| Op::Addr { half, v }),
        1 => (0..8usize, any::<u32>()).prop_map(|(group, v)| Op::Enable { group, v }),
        1 => (0..8usize, any::<u32>()).prop_map(|(group, v)| Op::Mask { group, v }),
        1 => (0..8usize, any::<u32>()).prop_map(|(group, v)| Op::Ack { group, v }),
        4 => (addr, any::<u32>()).prop_map(|(addr, data)| Op::Mwr { addr, data }),
    ]
}

proptest! {
    #[test]
    fn controller_agrees_with_the_naive_model(ops in proptest::collection::vec(op(), 0..200)) {
        let mut m = MsiCtrl::new();
        let mut n = Naive { addr: [0; 2], enable: [false; 256], mask: [false; 256], status: [false; 256] };
        for op in ops {
            match op {
                Op::Addr { half, v } => {
                    m.write(u64::from(regs::ADDR_LO) + 4 * half as u64, Width::B4, u64::from(v));
                    n.addr[half] = v;
                }
                Op::Enable { group, v } => {
                    m.write(0x828 + 12 * group as u64, Width::B4, u64::from(v));
                    (0..32).for_each(|b| n.enable[group * 32 + b] = v >> b & 1 == 1);
                }
                Op::Mask { group, v } => {
                    m.write(0x82c + 12 * group as u64, Width::B4, u64::from(v));
                    (0..32).for_each(|b| n.mask[group * 32 + b] = v >> b & 1 == 1);
                }
                Op::Ack { group, v } => {
                    m.write(0x830 + 12 * group as u64, Width::B4, u64::from(v));
                    (0..32).filter(|b| v >> b & 1 == 1).for_each(|b| n.status[group * 32 + b] = false);
                }
                Op::Mwr { addr, data } => {
                    let got = m.mem_write(addr, data);
                    let v = (data % 256) as usize;
                    let want = if addr != u64::from(n.addr[1]) * 0x1_0000_0000 + u64::from(n.addr[0]) {
                        Match::Missed
                    } else if !n.enable[v] {
                        Match::Ignored(v as u8)
                    } else {
                        n.status[v] = true;
                        Match::Latched(v as u8)
                    };
                    prop_assert_eq!(got, want);
                }
            }
            for g in 0..8usize {
                prop_assert_eq!(m.read(0x830 + 12 * g as u64, Width::B4), u64::from(Naive::word(&n.status, g)));
                prop_assert_eq!(m.levels() >> g & 1 == 1, n.line(g));
            }
        }
    }
}
