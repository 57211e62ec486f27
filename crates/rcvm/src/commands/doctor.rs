//! `rcvm doctor`.

use anyhow::Result;

/// Print every check; 2 if something that a run needs is missing.
pub fn run() -> Result<u8> {
    let mut missing = 0;
    for c in images::doctor::checks() {
        println!("{} {:24} {}", if c.ok { "ok     " } else { "MISSING" }, c.name, c.detail);
        if !c.ok {
            println!("        {:24} → {}", "", c.remedy);
            missing += 1;
        }
    }
    if missing == 0 {
        println!("this machine can run rcvm");
        Ok(0)
    } else {
        println!("{missing} missing");
        Ok(2)
    }
}
