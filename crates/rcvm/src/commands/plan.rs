//! `rcvm plan`: the plans that come with the program, and the user's own.

use anyhow::anyhow;
use anyhow::Context;
use anyhow::Result;
use torture::script;
use torture::script::builtin;
use torture::script::Script;

use crate::cli::PlanCommand;

/// Do it; the result is the exit code.
pub fn run(command: &PlanCommand) -> Result<u8> {
    match command {
        PlanCommand::List => {
            for b in builtin::ALL {
                let plan = script::parse(b.text)?;
                println!("{:14} {:4} cycles  {}", b.name, plan.cycles.unwrap_or(DEFAULT_CYCLES), plan.about);
            }
            Ok(0)
        }
        PlanCommand::Show { name } => {
            print!("{}", builtin::find(name).ok_or_else(|| unknown(name))?.text);
            Ok(0)
        }
        PlanCommand::Check { plans } => {
            let mut code = 0;
            for name in plans {
                match load(name) {
                    Ok((plan, _)) => println!("{name}: {} steps", plan.steps.len()),
                    Err(e) => {
                        eprintln!("rcvm: error: {e:#}");
                        code = 2;
                    }
                }
            }
            Ok(code)
        }
    }
}

/// Cycles, if neither the plan nor the command line says.
pub const DEFAULT_CYCLES: u32 = 20;

/// The plan that is called `name`, or is in the file of that name, and its text.
pub fn load(name: &str) -> Result<(Script, String)> {
    let text = match builtin::find(name) {
        Some(b) => b.text.to_owned(),
        None if name.contains(['/', '.']) => {
            std::fs::read_to_string(name).with_context(|| format!("plan {name} cannot be read"))?
        }
        None => return Err(unknown(name)),
    };
    let script = script::parse(&text).map_err(|e| anyhow!("plan {name}: {e}"))?;
    Ok((script, text))
}

fn unknown(name: &str) -> anyhow::Error {
    let names: Vec<_> = builtin::ALL.iter().map(|b| b.name).collect();
    anyhow!(
        "there is no plan {name}: there are {}, and a file is given with its path (./{name}.toml)",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_found_by_its_name_or_its_path_and_a_mistake_is_one_line() {
        assert_eq!(load("smoke").unwrap().0.name, "smoke");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("own.toml");
        std::fs::write(&file, "schema = 1\nname = \"own\"\n[[step]]\nop = \"unbnd\"\n").unwrap();
        let name = file.to_str().unwrap();
        for (name, told) in [
            ("nope", "there is no plan nope: there are smoke,"),
            ("/nowhere/x.toml", "plan /nowhere/x.toml cannot be read"),
            (name, "line 3: there is no op \"unbnd\""),
        ] {
            let got = format!("{:#}", load(name).unwrap_err());
            assert!(got.contains(told) && !got.contains('\n'), "{got}");
        }
    }
}
