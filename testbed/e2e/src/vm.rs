//! A machine with a real Linux kernel, emulated: what it runs is a job of `testbed/vm`, and how the job ends is how it ends.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::poll;

/// Fetching a kernel and packing a RAM disk.
const PARTS: Duration = Duration::from_secs(300);
/// How QEMU ends when the job had nothing to complain of: with twice its exit code plus one, and one.
const DONE: i32 = 3;

/// What stands between this machine and one within it; `None` when nothing does.
#[must_use]
pub fn obstacle() -> Option<String> {
    command::missing(&["apt-get", "dpkg", "python3", "nbd-client", "mkfs.ext4", "e2fsck"])
}

/// QEMU, a kernel and a RAM disk, fetched and made once.
#[derive(Debug)]
pub struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// Those below `folder`, made if they are not there.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn ready(folder: &Path) -> Result<Self> {
        let folder = folder.join("vm");
        let mut command = Command::new("bash");
        command.arg(scripts().join("parts.sh")).arg(&folder);
        command::run(&mut command, PARTS)?.ok().context("the parts of a test machine")?;
        Ok(Self { folder })
    }

    /// Boots a machine that runs the job `name` with these variables, and waits for its end; what it printed.
    ///
    /// # Errors
    /// When the job fails or takes longer than `limit`.
    pub fn run(&self, name: &str, variables: &[(&str, &str)], limit: Duration) -> Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), job(name, variables)?)?;
        let mut machine = self.machine("initrd.cpio", file.path());
        let done = command::run(machine.args(["-serial", "stdio"]), limit)?;
        if done.code == DONE { Ok(done.text()) } else { fail(name, done.code, &(done.text() + &done.stderr)) }
    }

    /// Boots a machine with an iSCSI initiator and what belongs to one (and `fio` if the variable FIO asks for it), which runs the
    /// job `name` from `folder`, where its console goes as well.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(&self, name: &str, variables: &[(&str, &str)], folder: &Path) -> Result<Booted> {
        let (file, console) = (folder.join(name), folder.join(format!("{name}.console")));
        fs::write(&file, job(name, variables)?)?;
        let has_fio = variables.iter().any(|(variable, value)| *variable == "FIO" && !value.is_empty());
        let mut command = self.machine(if has_fio { "fio.cpio" } else { "iscsi.cpio" }, &file);
        // All of the RAM disk is in memory, and once more while it is unpacked.
        command.args(["-m", "512"]).arg("-serial").arg(format!("file:{}", console.display()));
        let child = command.stdin(Stdio::null()).spawn().context("QEMU cannot be started")?;
        Ok(Booted { child, console })
    }

    /// Makes a disk that a machine boots from.
    ///
    /// # Errors
    /// When it cannot be made: that needs root.
    pub fn make_boot_disk(&self, disk: &Path) -> Result<()> {
        let mut command = Command::new("bash");
        command.arg(scripts().join("bootdisk.sh")).arg(&self.folder).arg(disk);
        command::run(&mut command, PARTS)?.ok().map(drop)
    }

    /// Switches on a machine whose only disk is this NBD export on a unix socket. What it prints goes to `console`.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn boot(&self, socket: &Path, export: &str, console: &Path) -> Result<Booted> {
        let mut command = self.qemu();
        let disk = format!(
            "driver=nbd,node-name=disk,server.type=unix,server.path={},export={export}",
            socket.display()
        );
        command.args(["-blockdev", &disk, "-device", "virtio-blk-pci,drive=disk,bootindex=1"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        let child = command.stdin(Stdio::null()).spawn().context("QEMU cannot be started")?;
        Ok(Booted { child, console: console.to_owned() })
    }

    fn machine(&self, ramdisk: &str, job: &Path) -> Command {
        let mut command = self.qemu();
        command.arg("-kernel").arg(self.folder.join("vmlinux"));
        command.arg("-initrd").arg(self.folder.join(ramdisk));
        // On a machine that is busy elsewhere the timer fails the kernel's check, which ends in a panic.
        let kernel = "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc=reliable no_timer_check";
        command.args(["-append", kernel]);
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        command.arg("-fw_cfg").arg(format!("name=opt/job,file={}", job.display()));
        command
    }

    fn qemu(&self) -> Command {
        let qemu = self.folder.join("qemu/usr");
        let mut command = Command::new(qemu.join("bin/qemu-system-x86_64"));
        command.env("LD_LIBRARY_PATH", qemu.join("lib/x86_64-linux-gnu"));
        for firmware in ["share/qemu", "share/seabios"] {
            command.arg("-L").arg(qemu.join(firmware));
        }
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-machine",
            "q35",
            "-smp",
            "1",
            "-m",
            "256",
        ]);
        command.args(["-nographic", "-no-reboot", "-nodefaults", "-monitor", "none"]);
        command
    }
}

/// A machine that runs until it is dropped: as if its plug were pulled.
#[derive(Debug)]
pub struct Booted {
    child: Child,
    console: PathBuf,
}

impl Booted {
    /// The last number that it said in a line that begins with `what`.
    ///
    /// # Errors
    /// When its console cannot be read.
    pub fn last(&self, what: &str) -> Result<Option<u64>> {
        let printed = String::from_utf8_lossy(&fs::read(&self.console)?).into_owned();
        // The last line may be half of one.
        let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let said = |line: &str| line.split_once(what)?.1.trim().parse().ok();
        Ok(whole.lines().rev().find_map(said))
    }

    /// Waits until it says `what` with a number of at least `least`, and returns that.
    ///
    /// # Errors
    /// When it ends or takes longer than `limit`, with what it had printed.
    pub fn wait(&mut self, what: &str, least: u64, limit: Duration) -> Result<u64> {
        let waited = poll::until(&format!("`{what} {least}` on the console"), limit, || {
            let said = self.last(what)?.filter(|n| *n >= least);
            let is_off = said.is_none() && self.child.try_wait()?.is_some();
            Ok(if is_off { Some(None) } else { said.map(Some) })
        });
        let waited = waited.and_then(|said| said.context("the machine is off"));
        let printed = fs::read(&self.console).unwrap_or_default();
        waited.with_context(|| format!("it had printed:\n{}", String::from_utf8_lossy(&printed)))
    }

    /// Waits until the job `name` has ended, without complaint; what it printed.
    ///
    /// # Errors
    /// When the job fails or takes longer than `limit`.
    pub fn finish(mut self, name: &str, limit: Duration) -> Result<String> {
        let ended = poll::until(&format!("the end of {name}"), limit, || Ok(self.child.try_wait()?));
        let printed = String::from_utf8_lossy(&fs::read(&self.console)?).into_owned();
        let ended = ended.with_context(|| format!("it had printed:\n{printed}"))?;
        if ended.code() == Some(DONE) {
            return Ok(printed);
        }
        fail(name, ended.code().unwrap_or_default(), &printed)
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        command::end(&mut self.child);
    }
}

/// The job, behind its variables.
fn job(name: &str, variables: &[(&str, &str)]) -> Result<String> {
    let mut job = String::new();
    for (variable, value) in variables {
        writeln!(job, "{variable}='{value}'")?;
    }
    Ok(job + &fs::read_to_string(scripts().join(name))?)
}

fn fail(name: &str, code: i32, printed: &str) -> Result<String> {
    let code = if code & 1 == 1 {
        format!("the job's exit code is {}", (code >> 1) - 1)
    } else {
        "the machine died".to_owned()
    };
    bail!("{name}: {code}; it had printed:\n{printed}")
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vm")
}
