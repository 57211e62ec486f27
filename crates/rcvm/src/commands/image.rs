//! `rcvm image`.

use anyhow::Result;

use crate::cli::ImageCommand;

/// Build or list images.
pub fn run(command: ImageCommand) -> Result<u8> {
    match command {
        ImageCommand::Build { profile } => {
            let image = images::build(&profile, &mut |line| eprintln!("{line}"))?;
            println!("profile   {}", image.profile);
            println!("release   {}", image.release);
            println!("kernel    {}", image.kernel.display());
            println!("initramfs {}", image.initramfs.display());
            println!("key       {}", image.key);
        }
        ImageCommand::List => {
            for profile in images::profiles()? {
                let built = match images::find(&profile)? {
                    Some(image) => format!("built: Linux {}, {}", image.release, image.kernel.display()),
                    None => format!("not built: rcvm image build {profile}"),
                };
                println!("{profile:10} {built}");
            }
        }
    }
    Ok(0)
}
