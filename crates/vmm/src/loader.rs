//! Kernel images: what is one, and where it goes (Linux Documentation/arch/arm64/booting.rst).
//!
//! linux-loader's arm64 loader builds on arm64 only and does not look at what the file is instead of an Image; a user's
//! mistake must be named before anything boots, on any host. So the 64-byte header is read here.

use std::io::Read;
use std::path::Path;

use crate::layout;
use crate::Error;

const HEADER_BYTES: usize = 64;
const MAGIC: &[u8] = b"ARM\x64";
/// A kernel is not larger; a gzip bomb ends here.
const MAX_KERNEL_BYTES: u64 = 512 << 20;

/// A checked, uncompressed kernel.
#[derive(Debug)]
pub struct Kernel {
    /// The file's bytes, uncompressed.
    pub bytes: Vec<u8>,
    /// Offset of the load address from a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory that the kernel takes from its load address on, bss included.
    pub image_bytes: u64,
}

impl Kernel {
    /// Where it is loaded.
    pub const fn load_address(&self) -> u64 {
        layout::RAM + layout::FDT_MAX_BYTES + self.text_offset % layout::KERNEL_ALIGN
    }
}

/// Whether `file` is a kernel that a guest can boot; the error says what is wrong with it.
pub fn check_kernel(file: &Path) -> Result<(), Error> {
    read_kernel(file).map(drop)
}

/// Read, uncompress and check a kernel.
pub fn read_kernel(file: &Path) -> Result<Kernel, Error> {
    let read = |source| Error::Read { file: file.into(), source };
    let mut bytes = std::fs::read(file).map_err(read)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .take(MAX_KERNEL_BYTES)
            .read_to_end(&mut unpacked)
            .map_err(read)?;
        bytes = unpacked;
    }
    let not_arm64 = |what| Error::NotArm64 { file: file.into(), what };
    if bytes.len() < HEADER_BYTES {
        return Err(Error::Truncated {
            file: file.into(),
            have: bytes.len() as u64,
            need: HEADER_BYTES as u64,
        });
    }
    if &bytes[56..60] != MAGIC {
        return Err(not_arm64(what_is(&bytes)));
    }
    let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let (text_offset, image_bytes, flags) = (field(8), field(16), field(24));
    if flags & 1 != 0 {
        return Err(not_arm64("a big-endian arm64 kernel"));
    }
    // The file holds everything but the bss; a kernel whose bss is larger than the rest does not exist.
    let need = pe_file_bytes(&bytes).unwrap_or(image_bytes / 2);
    if (bytes.len() as u64) < need {
        return Err(Error::Truncated { file: file.into(), have: bytes.len() as u64, need });
    }
    let image_bytes = image_bytes.max(bytes.len() as u64);
    Ok(Kernel { bytes, text_offset, image_bytes })
}

/// Bytes that the sections of an EFI-stub kernel's PE header take in the file (arch/arm64/kernel/efi-header.S).
fn pe_file_bytes(bytes: &[u8]) -> Option<u64> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let pe = u32_at(60)? as usize;
    if pe == 0 || bytes.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let sections = pe.checked_add(24)?.checked_add(usize::from(u16_at(pe + 20)?))?;
    let ends = (0..usize::from(u16_at(pe + 6)?).min(16)).map(|i| {
        let s = sections + i * 40;
        Some(u64::from(u32_at(s + 16)?) + u64::from(u32_at(s + 20)?))
    });
    ends.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// What a file is that is no arm64 Image.
fn what_is(b: &[u8]) -> &'static str {
    match b {
        [0x7f, b'E', b'L', b'F', ..] => "an ELF file (a vmlinux?)",
        _ if b.get(0x202..0x206) == Some(b"HdrS") => "an x86 kernel (bzImage)",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd-compressed",
        [0xfd, b'7', b'z', ..] => "xz-compressed",
        [b'M', b'Z', ..] => "an EFI program of another kind",
        b if b.get(0x38..0x3c) == Some(b"RSC\x05") => "a RISC-V kernel",
        b if b.starts_with(b"0707") => "a cpio archive (an initramfs?)",
        _ => "no kernel at all",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn image(len: usize, image_bytes: u64) -> Vec<u8> {
        let mut b = vec![0; len];
        b[8..16].copy_from_slice(&0_u64.to_le_bytes());
        b[16..24].copy_from_slice(&image_bytes.to_le_bytes());
        b[56..60].copy_from_slice(MAGIC);
        b
    }

    fn check(bytes: &[u8]) -> Result<Kernel, Error> {
        let dir = std::env::temp_dir().join(format!("rcvm-loader-{}-{:p}", std::process::id(), bytes));
        std::fs::write(&dir, bytes).unwrap();
        let r = read_kernel(&dir);
        std::fs::remove_file(&dir).unwrap();
        r
    }

    #[test]
    fn an_image_and_its_gzip_are_accepted() {
        let img = image(4096, 6000);
        assert_eq!(check(&img).unwrap().image_bytes, 6000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&img).unwrap();
        assert_eq!(check(&gz.finish().unwrap()).unwrap().bytes, img);
    }

    #[test]
    fn a_truncated_image_is_named() {
        assert!(matches!(check(&image(1000, 6000)), Err(Error::Truncated { have: 1000, need: 3000, .. })));
        assert!(matches!(check(&[0; 10]), Err(Error::Truncated { .. })));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&image(100_000, 100_000)).unwrap();
        let gz = gz.finish().unwrap();
        assert!(matches!(check(&gz[..gz.len() / 2]), Err(Error::Read { .. })));
    }

    #[test]
    fn other_files_are_called_by_their_name() {
        let mut bz = vec![0; 4096];
        bz[0x202..0x206].copy_from_slice(b"HdrS");
        let cases: [(&[u8], &str); 3] = [
            (&bz, "x86"),
            (&[[0x7f, b'E', b'L', b'F'].as_slice(), &[0; 100]].concat(), "ELF"),
            (&[b'x'; 200], "no kernel"),
        ];
        for (bytes, name) in cases {
            let e = check(bytes).unwrap_err().to_string();
            assert!(e.contains(name), "{e}");
        }
    }
}
