//! A real database: PostgreSQL under pgbench on a protected disk. An image at a random moment starts with
//! crash recovery, every index is sound, the balances add up, and no commit acknowledged before is missing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed_e2e::command::{LIMIT, end, is_root, postgres};
use testbed_e2e::mount::{Mounted, obstacle};
use testbed_e2e::{Lab, pick, poll, run, say, scenario, skipped, tool};

const CONFIGURATION: &str = "
listen_addresses = ''
shared_buffers = 64MB
checkpoint_timeout = 5min
";

/// pgbench's invariant: what was moved between accounts, tellers and branches adds up to the history.
const ADDS_UP: &str = "select (select sum(abalance) from pgbench_accounts) = coalesce(sum(delta), 0)
    and (select sum(tbalance) from pgbench_tellers) = coalesce(sum(delta), 0)
    and (select sum(bbalance) from pgbench_branches) = coalesce(sum(delta), 0) from pgbench_history";

/// A PostgreSQL on a data directory, stopped without ceremony when dropped.
struct Server {
    programs: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
}

impl Server {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
        command.arg(self.programs.join(program)).current_dir("/");
        command
    }

    /// A client program that finds the server.
    fn client(&self, program: &str) -> Command {
        let mut command = self.command(program);
        command.arg("-h").arg(&self.sockets).args(["-U", "postgres"]);
        command
    }

    fn start(&self) -> Result<()> {
        own(&self.sockets)?;
        let mut command = self.command("pg_ctl");
        command
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(self.sockets.join("log"))
            .args(["-w", "-t", "60", "-o"]);
        command.arg(format!("-k {}", self.sockets.display())).arg("start");
        // The server keeps the ends of pipes open for as long as it lives.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        let log = fs::read_to_string(self.sockets.join("log")).unwrap_or_default();
        ensure!(status.success(), "PostgreSQL does not start:\n{log}");
        Ok(())
    }

    fn stop(&self, mode: &str) -> Result<()> {
        run(self.command("pg_ctl").arg("-D").arg(&self.data).args(["-m", mode, "-w", "stop"]), LIMIT)?
            .ok()
            .map(drop)
    }

    fn ask(&self, query: &str) -> Result<String> {
        let done = run(self.client("psql").args(["-qAt", "-c", query, "postgres"]), LIMIT)?.ok()?;
        Ok(done.text().trim().to_owned())
    }

    fn pgbench(&self, seconds: u32) -> Result<Child> {
        let mut command = self.client("pgbench");
        command.args(["-c", "4", "-j", "2", "-T", &seconds.to_string(), "postgres"]);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop("immediate");
    }
}

fn own(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    tool("chown", ["postgres".as_ref(), folder.as_os_str()])?;
    tool("chmod", ["700".as_ref(), folder.as_os_str()]).map(drop)
}

/// A new database with pgbench's tables on `live`.
fn make(lab: &Lab, live: &Mounted, programs: PathBuf) -> Result<Server> {
    tool("chmod", ["755".as_ref(), lab.path("").as_os_str()])?;
    let data = live.path("pg");
    own(&data)?;
    let server = Server { programs, data, sockets: lab.path("live-sockets") };
    run(
        server.command("initdb").arg("-D").arg(&server.data).args(["-A", "trust", "--data-checksums", "-N"]),
        LIMIT,
    )?
    .ok()?;
    let configuration = server.data.join("postgresql.conf");
    fs::write(&configuration, fs::read_to_string(&configuration)? + CONFIGURATION)?;
    live.sync()?; // else a crash image may hold the file's size without its text
    server.start()?;
    let scale = pick("2", "10");
    run(server.client("pgbench").args(["-i", "-q", "-s", scale, "postgres"]), LIMIT)?.ok()?;
    Ok(server)
}

/// Starts what is in the image, with crash recovery, and asks it everything.
fn check(lab: &Lab, programs: &Path, point: &str, uri: &str, acknowledged: u64) -> Result<()> {
    let mounted = Mounted::new(uri, &lab.path(&point.replace(['@', ':'], "-")), "rw")?;
    let sockets = lab.path(&format!("{}-sockets", point.replace(['@', ':'], "-")));
    let server = Server { programs: programs.to_owned(), data: mounted.path("pg"), sockets };
    let _ = fs::remove_file(server.data.join("postmaster.pid"));
    server.start().with_context(|| point.to_owned())?;
    ensure!(server.ask(ADDS_UP)? == "t", "{point}: the balances do not add up");
    let history: u64 = server.ask("select count(*) from pgbench_history")?.parse()?;
    ensure!(
        history >= acknowledged,
        "{point}: {acknowledged} commits were seen before, {history} are in the image"
    );
    server.ask("create extension if not exists amcheck")?;
    run(server.client("pg_amcheck").args(["--heapallindexed", "-d", "postgres"]), LIMIT)?.ok()?;
    server.stop("fast")?;
    say(&format!("{point}: recovered, {history} transactions, balances add up, indexes are sound"));
    Ok(())
}

#[test]
fn an_image_at_a_random_moment_is_a_sound_database() -> Result<()> {
    let name = "an_image_at_a_random_moment_is_a_sound_database";
    let Some(programs) = postgres().filter(|_| is_root()) else {
        return skipped(name, "PostgreSQL is not installed, or we are not root");
    };
    if let Some(why) = obstacle() {
        return skipped(name, &why);
    }
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", pick(320 << 20, 2 << 30))?;
        let up = lab.up(&[("web01", &disk)])?;
        let live = Mounted::make(&lab.tap("web01"), &lab.path("live"))?;
        let server = make(lab, &live, programs.clone())?;
        let begun = lab.bookmark("web01", "made")?;
        let mut bench = server.pgbench(pick(6, 60))?;
        let seen = poll::until("transactions", LIMIT, || {
            let n: u64 = server.ask("select count(*) from pgbench_history")?.parse()?;
            Ok((n > pick(200, 5000)).then_some(n))
        })?;
        let middle = lab.bookmark("web01", "under-load")?;
        poll::until("the end of pgbench", LIMIT + Duration::from_secs(60), || Ok(bench.try_wait()?))?;
        end(&mut bench);
        server.stop("fast")?;
        drop(server);
        drop(live);

        check(lab, &programs, "web01@under-load", &lab.mount("web01@under-load", true)?, seen)?;
        let random = format!("web01@lsn:{}", begun + (middle - begun) / 3);
        check(lab, &programs, &random, &lab.mount(&random, true)?, 0)?;
        up.stop()
    })
}
