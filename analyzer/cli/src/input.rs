//! Files and pipes as bytes: opened, uncompressed by what they begin with, with progress.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Read};
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// Opens `path` (`-` for standard input) and uncompresses gzip, zstd, xz and bzip2, told by their magic.
///
/// # Errors
/// It cannot be opened or read.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    let raw = raw(path)?;
    uncompressed(raw).map_err(|e| Failure::new(format!("cannot read {}", path.display())).because(e))
}

fn raw(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let failed = |e: io::Error| Failure::new(format!("cannot open {}", path.display())).because(e);
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        let fix = "name the trace files in it";
        return Err(Failure::new(format!("{} is a directory", path.display())).fix(fix));
    }
    Ok(Box::new(WithBar { bar: bar(path, meta.len()), file }))
}

fn uncompressed(mut raw: Box<dyn Read>) -> io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    (&mut raw).take(6).read_to_end(&mut head)?;
    let whole = io::Cursor::new(head.clone()).chain(raw);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(whole)?),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(BufReader::new(whole), true)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        _ => Box::new(whole),
    })
}

/// Counts what is read of a file on a bar, where somebody can see one.
struct WithBar {
    bar: Option<ProgressBar>,
    file: File,
}

impl Read for WithBar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        if let Some(bar) = &self.bar {
            bar.inc(tap_block::units::count(n));
            if n == 0 {
                bar.finish_and_clear();
            }
        }
        Ok(n)
    }
}

fn bar(path: &Path, length: u64) -> Option<ProgressBar> {
    if !io::stderr().is_terminal() || length < 1 << 20 {
        return None;
    }
    let template = "{msg} [{bar:30}] {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    Some(bar)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(bytes: Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        uncompressed(Box::new(io::Cursor::new(bytes))).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn what_is_compressed_is_told_by_its_magic() {
        let text = b"1538323200,12312,8,1,1283\n".repeat(1000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).unwrap();
        assert_eq!(read(gz.finish().unwrap()), text);
        assert_eq!(read(zstd::encode_all(text.as_slice(), 1).unwrap()), text);
        let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz2.write_all(&text).unwrap();
        let bz2 = bz2.finish().unwrap();
        assert_eq!(read(bz2.clone()), text);
        assert_eq!(read(bz2.repeat(2)), text.repeat(2), "as pbzip2 writes it");
        assert_eq!(read(text.clone()), text);
        assert_eq!(read(b"BZ".to_vec()), b"BZ");
    }
}
