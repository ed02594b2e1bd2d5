//! The life of a connection as stock clients have it: TLS with certificates that open some exports and not others,
//! being ended by an operator, and going on over a restart.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::{Finished, Lab, Up, command, difference, poll, run, scenario, skipped, tool};

const SIZE: usize = 8 << 20;

fn openssl(dir: &Path, words: &[&str]) -> Result<()> {
    let path = command::find("openssl").context("openssl is not installed")?;
    run(Command::new(path).args(words).current_dir(dir), command::LIMIT)?.ok().map(drop)
}

/// A CA, a server's certificate and, each in a folder of its own as clients want it, some clients'.
fn certificates(lab: &Lab, name: &str, clients: &[&str]) -> Result<PathBuf> {
    let dir = lab.path(name);
    std::fs::create_dir_all(&dir)?;
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca =
        ["req", "-x509", "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-days", "2", "-subj", "/CN=ca"];
    openssl(&dir, &[&ca[..], &curve].concat())?;
    let sign = |folder: &Path, stem: &str, subject: &str| -> Result<()> {
        let (key, cert) = (format!("{stem}-key.pem"), format!("{stem}-cert.pem"));
        let subject = format!("/CN={subject}");
        let request = ["req", "-keyout", &key, "-out", "request.pem", "-subj", &subject];
        openssl(folder, &[&request[..], &curve].concat())?;
        std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
        let (ca, ca_key) = (dir.join("ca-cert.pem"), dir.join("ca-key.pem"));
        let (ca, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
        let sign = ["x509", "-req", "-in", "request.pem", "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        openssl(folder, &[&sign[..], &["-days", "2", "-out", &cert, "-extfile", "names"]].concat())
    };
    sign(&dir, "server", "localhost")?;
    for client in clients {
        let folder = dir.join(client);
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(dir.join("ca-cert.pem"), folder.join("ca-cert.pem"))?;
        sign(&folder, "client", client)?;
    }
    Ok(dir)
}

fn fails<S: AsRef<std::ffi::OsStr>>(program: &str, words: impl IntoIterator<Item = S>) -> Result<Finished> {
    let path = command::find(program).with_context(|| format!("{program} is not installed"))?;
    let done = run(Command::new(path).args(words), command::LIMIT)?;
    ensure!(done.code != 0, "{} succeeded:\n{}", done.command, done.text());
    Ok(done)
}

/// What libnbd's programs get.
fn with_libnbd(lab: &Lab, pki: &Path, foreign: &Path, content: &[u8]) -> Result<()> {
    let port = lab.nbd_port();
    let uri = |client: &str, export: &str| {
        let dir = if client == "foreign" { foreign.to_owned() } else { pki.join(client) };
        format!("nbds://localhost:{port}/{export}?tls-certificates={}", dir.display())
    };

    let info: Value = serde_json::from_slice(&tool("nbdinfo", ["--json", &uri("backup", "web01")])?.stdout)?;
    ensure!(info["TLS"] == true && info["exports"][0]["export-size"] == SIZE, "{info}");
    let said = info["exports"][0]["description"].as_str().unwrap_or_default();
    ensure!(said.contains("crash-consistent") && said.contains(" old"), "{said}");
    let listed = tool("nbdinfo", ["--list", "--json", &uri("backup", "")])?;
    let listed: Value = serde_json::from_slice(&listed.stdout)?;
    let names: Vec<_> = listed["exports"].as_array().unwrap().iter().map(|e| &e["export-name"]).collect();
    ensure!(names == ["web01", "web01@first"], "{names:?}");
    let out = lab.path("copy.raw");
    tool("nbdcopy", [uri("backup", "web01@first").as_str(), out.to_str().unwrap()])?;
    ensure!(difference(&std::fs::read(&out)?, content).is_none(), "nbdcopy under TLS");
    for (client, export) in
        [("backup", "test"), ("hypervisor", "web01"), ("stranger", "web01"), ("foreign", "web01")]
    {
        fails("nbdinfo", [&uri(client, export)])?;
    }
    fails("nbdinfo", [format!("nbd://localhost:{port}/web01")])?;
    fails("nbdinfo", [lab.gateway("web01")])?;
    Ok(())
}

/// What QEMU's get, at the gateway and at the tap.
fn with_qemu(lab: &Lab, pki: &Path, disk: &Path) -> Result<()> {
    let port = lab.nbd_port();
    let creds =
        |client: &str| format!("tls-creds-x509,id=t,endpoint=client,dir={}", pki.join(client).display());
    let gateway = |export: &str| format!("driver=nbd,host=localhost,port={port},export={export},tls-creds=t");
    let backup = creds("backup");
    let info = tool("qemu-img", ["info", "--object", &backup, "--image-opts", &gateway("web01")])?.text();
    ensure!(info.contains(&format!("({SIZE} bytes)")), "{info}");
    let file = format!("driver=file,filename={}", disk.display());
    tool("qemu-img", ["compare", "--object", &backup, "--image-opts", &gateway("web01@first"), &file])?;
    let plain = ["info", "--image-opts", &format!("driver=nbd,host=localhost,port={port},export=web01")];
    let refused = fails("qemu-img", plain)?.stderr;
    ensure!(refused.contains("TLS"), "{refused}");
    let words = ["info", "--object", &creds("stranger"), "--image-opts", &gateway("web01")];
    let refused = fails("qemu-img", words)?.stderr;
    ensure!(refused.contains("stranger may not open web01 here"), "{refused}");
    let hypervisor = creds("hypervisor");
    let mix = ["-c", "write -P 7 64k 128k", "-c", "flush", "-c", "read -P 7 64k 128k"];
    let words = ["--object", &hypervisor, "--image-opts", &gateway("test")];
    let text = tool("qemu-io", [&words[..], &mix].concat())?.text();
    ensure!(!text.contains("failed"), "{text}");
    // The tap's own door, at its unix socket.
    let socket = lab.path("tap.sock");
    let tap = format!(
        "driver=nbd,server.type=unix,server.path={},export=web01,tls-creds=t,tls-hostname=localhost",
        socket.display()
    );
    let text = tool("qemu-io", [&["--object", &hypervisor, "--image-opts", &tap], &mix[..]].concat())?.text();
    ensure!(!text.contains("failed"), "{text}");
    fails("qemu-img", ["info", "--object", &backup, "--image-opts", &tap])?;
    ensure!(std::fs::read(disk)?[64 << 10..192 << 10].iter().all(|b| *b == 7), "the tap's disk");
    Ok(())
}

/// The list of clients is read again when the program is told to, if it is one.
fn with_another_list(lab: &Lab, pki: &Path, list: &Path, up: &Up) -> Result<()> {
    let uri = |client: &str| {
        let dir = pki.join(client);
        format!("nbds://localhost:{}/web01?tls-certificates={}", lab.nbd_port(), dir.display())
    };
    let change = |text: &str, said: &str| -> Result<()> {
        std::fs::write(list, text)?;
        let pid = Pid::from_raw(i32::try_from(up.pid())?).context("a pid")?;
        kill_process(pid, Signal::HUP)?;
        poll::until(said, command::LIMIT, || {
            Ok(std::fs::read_to_string(lab.log())?.contains(said).then_some(()))
        })
    };
    change("[[client]]\ncertificate = \"stranger\"\ngateway = [\"*\"]\n", "are read anew")?;
    tool("nbdinfo", [uri("stranger")])?;
    fails("nbdinfo", [uri("backup")])?;
    change("[[client]]\n", "what was read before stays in force")?;
    tool("nbdinfo", [uri("stranger")])?;
    Ok(())
}

#[test]
fn stock_clients_come_under_tls_and_open_what_their_certificates_may() -> Result<()> {
    const NAME: &str = "stock_clients_come_under_tls_and_open_what_their_certificates_may";
    if let Some(why) = command::missing(&["nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "openssl"]) {
        return skipped(NAME, &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 41)?;
        let content = std::fs::read(&disk)?;
        let pki = certificates(lab, "pki", &["backup", "hypervisor", "stranger"])?;
        let foreign = certificates(lab, "foreign", &["backup"])?.join("backup");
        // The client trusts our server all the same.
        std::fs::copy(pki.join("ca-cert.pem"), foreign.join("ca-cert.pem"))?;
        let list = lab.path("clients.toml");
        std::fs::write(
            &list,
            "[[client]]\ncertificate = \"backup\"\ngateway = [\"web01\", \"web01@*\"]\n\
             [[client]]\ncertificate = \"hypervisor\"\ngateway = [\"test\"]\ntap = [\"web01\"]\n",
        )?;
        let words = ["--nbd-tls-dir", pki.to_str().unwrap(), "--nbd-tls-clients", list.to_str().unwrap()];
        let mut up = lab.up_with(&[("web01", &disk)], &words)?;
        lab.settle("web01")?;
        lab.bookmark("web01", "first")?;
        let image = lab.mount("web01@first", true)?;
        ensure!(image.starts_with("nbds+unix:///"), "{image}");
        lab.verb(&["mount", "web01@first", "--rw", "--name", "test"])?;
        with_libnbd(lab, &pki, &foreign, &content)?;
        with_qemu(lab, &pki, &disk)?;
        with_another_list(lab, &pki, &list, &up)?;
        up.still_running()
    })
}

fn sessions(lab: &Lab, export: &str) -> Result<Vec<Value>> {
    let all = lab.verb(&["session", "ls"])?;
    let of = |session: &&Value| session["export"] == export;
    Ok(all.as_array().context("a list")?.iter().filter(of).cloned().collect())
}

#[test]
fn an_operator_ends_a_client_and_takes_an_image_away_from_another() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 42)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        lab.verb(&["mount", "web01@now", "--rw", "--name", "test"])?;
        let mut client = Client::connect(&lab.gateway("test"))?;
        client.call(&Request::Write(0, vec![5; 4096]))?;
        let mut guest = Client::connect(&lab.tap("web01"))?;
        let there = sessions(lab, "test")?;
        ensure!(there.len() == 1 && there[0]["bytes_written"] == 4096, "{there:?}");
        let of_tap = sessions(lab, "web01")?;
        ensure!(of_tap.len() == 1 && of_tap[0]["at"] == "tap", "{of_tap:?}");

        let id = there[0]["id"].to_string();
        let refused = lab.verb_raw(&["image", "rm", "test"])?;
        ensure!(refused.code == 5 && refused.stderr.contains(&format!("session {id}")), "{}", refused.stderr);
        lab.verb(&["session", "kick", &id])?;
        ensure!(client.call(&Request::Read(0, 512)).is_err(), "it was ended");
        ensure!(lab.verb_raw(&["session", "kick", &id])?.code == 3, "it is not there any more");

        let mut client = Client::connect(&lab.gateway("test"))?;
        let expected = vec![5; 4096];
        ensure!(client.call(&Request::Read(0, 4096))? == expected, "nothing acknowledged is lost");
        lab.verb(&["image", "rm", "--force", "test"])?;
        ensure!(client.call(&Request::Read(0, 512)).is_err(), "it was taken away");
        lab.verb(&["image", "rm", "--force", "test"])?;
        ensure!(lab.verb_raw(&["image", "rm", "test"])?.code == 3, "it is gone");
        guest.call(&Request::Read(0, 512))?;
        up.still_running()
    })
}

/// `qemu-io` at work, one command at a time.
struct QemuIo {
    child: Child,
    commands: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl QemuIo {
    fn open(options: &str) -> Result<Self> {
        let path = command::find("qemu-io").context("qemu-io is not installed")?;
        let mut command = Command::new(path);
        command.args(["-r", "--image-opts", options]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (commands, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Ok(Self { child, commands, output: BufReader::new(output) })
    }

    /// What a read of this pattern says.
    fn read(&mut self, pattern: u8) -> Result<()> {
        writeln!(self.commands, "read -P {pattern} 0 64k")?;
        self.commands.flush()?;
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "qemu-io ended");
            ensure!(!line.contains("failed"), "{line}");
            if line.contains("read 65536/65536 bytes") {
                return Ok(());
            }
        }
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        command::end(&mut self.child);
    }
}

#[test]
fn a_client_that_reconnects_goes_on_over_a_restart_with_the_disk_it_had() -> Result<()> {
    const NAME: &str = "a_client_that_reconnects_goes_on_over_a_restart_with_the_disk_it_had";
    if let Some(why) = command::missing(&["qemu-io"]) {
        return skipped(NAME, &why);
    }
    scenario(|lab| {
        let disk = lab.path("web01.img");
        std::fs::write(&disk, vec![0x11; SIZE])?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        // The head: a name that moves, but not for a client that has it open.
        let server = format!("driver=nbd,server.type=unix,server.path={}", lab.path("gw.sock").display());
        let mut client = QemuIo::open(&format!("{server},export=web01,reconnect-delay=60"))?;
        client.read(0x11)?;
        let mut guest = Client::connect(&lab.tap("web01"))?;
        guest.call(&Request::Write(0, vec![0x22; 1 << 20]))?;
        drop(guest);
        lab.settle("web01")?;
        up.stop()?;
        let up = lab.up(&[("web01", &disk)])?;
        client.read(0x11)?;
        up.kill()?;
        let mut up = lab.up(&[("web01", &disk)])?;
        client.read(0x11)?;
        // Another client has it as it is now.
        lab.settle("web01")?;
        QemuIo::open(&format!("{server},export=web01"))?.read(0x22)?;
        up.still_running()
    })
}
