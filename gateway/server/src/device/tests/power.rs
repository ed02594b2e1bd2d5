//! What had reached a disk when its power went, and what becomes of an image whose disk is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// A file system in a file: a copy of that is what had reached the disk.
struct Disk {
    tmp: TempDir,
}

impl Disk {
    /// `None`, with a word on the terminal, for a user who may not mount.
    fn new() -> Option<Self> {
        let disk = Self { tmp: tempfile::tempdir().unwrap() };
        fs::File::create(disk.file()).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.file()).output();
        let is_made = made.is_ok_and(|output| output.status.success());
        (is_made && disk.mount()).then_some(disk)
    }

    fn file(&self) -> PathBuf {
        self.tmp.path().join("disk")
    }

    fn path(&self) -> PathBuf {
        self.tmp.path().join("mounted")
    }

    fn mount(&self) -> bool {
        fs::create_dir(self.path()).unwrap();
        // Nothing reaches the disk by itself meanwhile.
        let mounted =
            Command::new("mount").args(["-o", "loop,commit=900"]).args([self.file(), self.path()]).output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        if !is_mounted {
            eprintln!("not run: mounting a file system needs root");
        }
        is_mounted
    }

    /// All in memory, and little of it.
    fn of_memory(bytes: u64) -> Option<Self> {
        let disk = Self { tmp: tempfile::tempdir().unwrap() };
        fs::create_dir(disk.path()).unwrap();
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.path()).output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        if !is_mounted {
            eprintln!("not run: mounting a small file system needs root");
        }
        is_mounted.then_some(disk)
    }

    /// The disk as it is when the power goes now, in a machine that was started anew.
    fn cut_off(&self) -> Self {
        let cut = Self { tmp: tempfile::tempdir().unwrap() };
        fs::copy(self.file(), cut.file()).unwrap();
        assert!(cut.mount());
        let _ = fs::remove_file(cut.path().join("7/boot"));
        cut
    }

    fn open(&self, rig: &Rig) -> OverlayDevice {
        let room = Arc::new(Room::new(Box::new(|| None), Arc::new(RealClock)));
        let dir = OverlayDir::new(self.path(), room);
        if !dir.has(7) {
            dir.create(7, QUOTA).unwrap();
        }
        dir.open(7, Some(QUOTA), rig.image(rig.oracle.last_lsn()), Arc::clone(&rig.pool)).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn write(device: &OverlayDevice, block: u64, fill: u8) {
    let data = vec![fill; 4096].into();
    run(device, Op::Write { offset: block * BLOCK_SIZE, data, fua: false }).unwrap();
}

fn put(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// The gateway is killed between the last write of a flush and its sync. The next one finds all of it and has nothing to flush, and
/// then the power goes.
#[test]
fn what_a_killed_gateway_had_written_to_the_log_and_not_synced_is_durable_once_the_image_is_open() {
    for begins_anew in [false, true] {
        let rig = Rig::new(5);
        let Some(disk) = Disk::new() else { return };
        let map = |no: u32| disk.path().join(format!("7/map-{no}"));
        let device = disk.open(&rig);
        write(&device, 0, 1);
        run(&device, Op::Flush).unwrap();
        let before = fs::read(map(0)).unwrap();
        write(&device, 0, 2);
        if begins_anew {
            // The first references do.
            run(&device, Op::Copy { from: Extent::between(0, BLOCK_SIZE), to: 8 * BLOCK_SIZE }).unwrap();
        }
        run(&device, Op::Flush).unwrap();
        drop(device);
        let log = map(u32::from(begins_anew));
        let flushed = fs::read(&log).unwrap();
        let unwritten = if begins_anew { vec![0; flushed.len()] } else { before.clone() };
        put(&log, &unwritten);
        put(&map(0), &before);
        assert!(Command::new("sync").arg("-f").arg(&log).status().unwrap().success());
        put(&log, &flushed);
        let device = disk.open(&rig);
        assert_eq!(whole(&device)[0], 2);
        run(&device, Op::Flush).unwrap();
        let after = disk.cut_off();
        assert_eq!(whole(&after.open(&rig))[0], 2, "{begins_anew}");
    }
}

/// What is there is written over as long as it can be said; a flush makes room for that, and needs none.
#[test]
fn on_a_full_disk_what_failed_is_not_there_after_a_kill_and_all_else_is() {
    let rig = Rig::new(5);
    let Some(disk) = Disk::of_memory(2 << 20) else { return };
    let device = disk.open(&rig);
    (0..8).for_each(|block| write(&device, block, 1));
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[1; 4096]).is_ok() {}
    let over = |fill: u8| {
        let data = vec![fill; 4096].into();
        run(&device, Op::Write { offset: 0, data, fua: false })
    };
    let mut last = 1;
    let failed = (2..250).find_map(|fill| over(fill).inspect(|_| last = fill).err());
    let told = |text: &str| text.contains("recent-0") && text.contains("make room");
    assert!(matches!(&failed, Some(DeviceError::NoSpace(text)) if told(text)), "{failed:?}");
    assert_eq!(whole(&device)[..4096], [last; 4096]);
    run(&device, Op::Flush).unwrap();
    run(&device, Op::Trim { extent: Extent::between(4096, 8192), fua: false }).unwrap();
    let expected = whole(&device);
    drop((device, file));
    fs::remove_file(filler).unwrap();
    assert!(whole(&disk.open(&rig)) == expected);
}
