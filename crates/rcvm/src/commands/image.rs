//! `rcvm image`.

use anyhow::Result;

use crate::cli::ImageCommand;

/// Build or list images.
pub fn run(command: ImageCommand) -> Result<u8> {
    match command {
        ImageCommand::Build { profile, series, kernel_tree } => {
            let progress: images::Progress<'_> = &mut |line| eprintln!("{line}");
            let image = match kernel_tree {
                Some(dir) => images::build_tree(&profile, &dir, progress)?,
                None if images::is_stock(&profile)? => {
                    images::build(&profile, images::stock_series(&series, true, progress)?, progress)?
                }
                None => images::build(&profile, images::series(&series, true, progress)?, progress)?,
            };
            println!("profile   {}", image.profile);
            println!("release   {}", image.release);
            println!("kernel    {}", image.kernel.display());
            println!("initramfs {}", image.initramfs.display());
            println!("key       {}", image.key);
        }
        ImageCommand::List => {
            for profile in images::profiles()? {
                for series in images::source::here()? {
                    let built = match images::find(&profile, series)? {
                        Some(image) => format!("built: Linux {}, {}", image.release, image.kernel.display()),
                        None => format!("not built: rcvm image build {profile} --series {series}"),
                    };
                    println!("{profile:12} {series:5} {built}");
                }
            }
        }
    }
    Ok(0)
}
