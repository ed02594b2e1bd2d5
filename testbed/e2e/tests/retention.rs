//! History over time: it grows sparse as its policy says, its files are used again, and every moment that is kept stays
//! byte for byte what it was, also when everything is killed while history is settled.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed_e2e::{Lab, Up, Writer, digest, pick, say, scenario, seed};
use testbed_model::Random;

const LIMIT: Duration = Duration::from_secs(60);

/// A moment with a name or an image of its own, which is kept, or one without, which is not.
struct Moment {
    point: String,
    lsn: u64,
    digest: u128,
}

struct Story<'l> {
    lab: &'l Lab,
    writer: Writer,
    kept: Vec<Moment>,
    plain: Vec<Moment>,
}

/// Only bookmarks and images outlive the moment.
fn bookmarks_only(lab: &Lab) -> Result<()> {
    let file = lab.path("retention.toml");
    std::fs::write(&file, "[general]\nevery_write = \"0s\"\nbookmarks = \"1y\"\n")?;
    lab.verb(&["policy", "apply", "-f", &file.to_string_lossy()]).map(drop)
}

impl Story<'_> {
    fn moments(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            self.writer.burst(pick(30, 1000), 16)?;
            let name = format!("m{}", self.kept.len());
            let lsn = self.lab.bookmark("web01", &name)?;
            self.kept.push(Moment { point: name, lsn, digest: digest(self.writer.content()) });
            self.writer.burst(pick(10, 300), 16)?;
            let lsn = self.lab.volume("web01")?.head.context("the tap cannot be reached")?;
            self.plain.push(Moment {
                point: format!("lsn:{lsn}"),
                lsn,
                digest: digest(self.writer.content()),
            });
        }
        Ok(())
    }

    /// Has everything settled that there is so far.
    fn settle(&self) -> Result<Value> {
        let last = self.plain.last().context("nothing was written")?.lsn;
        let deadline = Instant::now() + LIMIT;
        loop {
            // A rule that is set has history looked at.
            bookmarks_only(self.lab)?;
            let timeline = self.lab.verb(&["volume", "timeline", "web01"])?;
            if timeline["every_write_after"].as_u64().is_some_and(|lsn| lsn >= last) {
                return Ok(timeline);
            }
            ensure!(Instant::now() < deadline, "history is not settled: {timeline}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn check(&self, moment: &Moment) -> Result<()> {
        let content = self.lab.content(&self.lab.gateway(&format!("web01@{}", moment.point)))?;
        ensure!(digest(&content) == moment.digest, "{} is not what the disk was", moment.point);
        Ok(())
    }

    fn check_kept(&self) -> Result<()> {
        self.kept.iter().try_for_each(|moment| self.check(moment))?;
        say(&format!("{} kept moments match", self.kept.len()));
        Ok(())
    }

    /// Moments that nobody asked to keep are refused, and what is kept around them is named.
    fn check_thinned(&self, moments: &[Moment]) -> Result<()> {
        for moment in moments {
            let refused = self.lab.verb_raw(&["point", "resolve", "web01", "--at", &moment.point])?;
            let said = &refused.stderr;
            ensure!(refused.code == 5 && said.contains("choose lsn:"), "{}: {said}", moment.point);
        }
        Ok(())
    }
}

/// What is settled and was not read since the start is packed at once.
fn start(lab: &Lab, disk: &std::path::Path) -> Result<Up> {
    lab.up_with(&[("web01", disk)], &["--pack-after", "0s"])
}

/// Nobody reads anything: history is packed, if it was not before.
fn pack(lab: &Lab, disk: &std::path::Path) -> Result<()> {
    let settles = || Ok::<_, std::io::Error>(std::fs::read_to_string(lab.log())?.matches(" settle ").count());
    let (before, deadline) = (settles()?, Instant::now() + LIMIT / 4);
    let up = start(lab, disk)?;
    lab.settle("web01")?;
    while settles()? == before && Instant::now() < deadline {
        // A rule that is set has history looked at.
        bookmarks_only(lab)?;
        std::thread::park_timeout(Duration::from_millis(100));
    }
    up.stop()
}

#[test]
fn what_is_kept_stays_and_the_rest_goes_whatever_is_killed() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", pick(4 << 20, 64 << 20), 1)?;
        let mut up = start(lab, &disk)?;
        lab.settle("web01")?;
        bookmarks_only(lab)?;
        let writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 1)?;
        let mut story = Story { lab, writer, kept: Vec::new(), plain: Vec::new() };
        let mut random = Random::new(seed(1));
        for round in 0..pick(3u64, 12) {
            let first = story.plain.len();
            story.moments(4)?;
            // An image keeps its moment as a bookmark does.
            let held = story.plain.pop().context("no moment")?;
            lab.verb(&["image", "create", "web01", "--at", &held.point, "--name", &format!("held-{round}")])?;
            story.kept.push(held);
            if round % 2 == 1 {
                up = kill_while_it_settles(&story, up, &disk, random.below(400))?;
                story.writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, round)?;
            }
            story.settle()?;
            story.check_kept()?;
            story.check_thinned(&story.plain[first..story.plain.len() - 1])?;
        }
        let status = lab.verb(&["status"])?;
        ensure!(status["journal"]["damaged"] == 0, "{status}");
        up.stop()?;
        pack(lab, &disk)?;
        let said = lab.jverify()?.ok()?.text();
        ensure!(said.contains("in packs") && !said.contains("(0 in packs)"), "{said}");
        for folder in lab.folders("fjall")? {
            std::fs::remove_dir_all(folder)?;
        }
        let _up = start(lab, &disk)?;
        story.check_kept()
    })
}

/// Everything is killed somewhere in the middle, and comes back.
fn kill_while_it_settles(story: &Story<'_>, up: Up, disk: &std::path::Path, wait: u64) -> Result<Up> {
    bookmarks_only(story.lab)?;
    std::thread::park_timeout(Duration::from_millis(wait));
    up.kill()?;
    let up = start(story.lab, disk)?;
    story.lab.settle("web01")?;
    story.writer.check(&std::fs::read(disk)?)?;
    story.check_kept()?;
    Ok(up)
}

#[test]
fn a_pin_keeps_a_moment_and_a_diff_says_what_changed_since() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 2)?;
        let _up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 2)?;
        let mut story = Story { lab, writer, kept: Vec::new(), plain: Vec::new() };
        story.moments(1)?;
        let pinned = story.plain.pop().context("no moment")?;
        lab.verb(&["point", "pin", "web01", "--at", &pinned.point, "--note", "why"])?;
        let old = story.writer.content().to_vec();
        story.moments(2)?;
        bookmarks_only(lab)?;
        story.settle()?;
        story.check(&pinned)?;
        let timeline = lab.verb(&["volume", "timeline", "web01"])?;
        ensure!(timeline["pins"][0]["lsn"] == pinned.lsn, "{timeline}");
        let diff = lab.verb(&["volume", "diff", "web01", &pinned.point, "now"])?;
        let extents = diff["extents"].as_array().context("no extents")?;
        let within = |block: u64| {
            extents.iter().any(|e| {
                let (offset, length) = (e["offset"].as_u64().unwrap_or(0), e["length"].as_u64().unwrap_or(0));
                offset <= block && block < offset + length
            })
        };
        let now = story.writer.content();
        for (block, (a, b)) in (0u64..).step_by(4096).zip(old.chunks(4096).zip(now.chunks(4096))) {
            ensure!(a == b || within(block), "byte {block} changed and is not in the diff");
        }
        lab.verb(&["point", "unpin", "web01", "--at", &pinned.point])?;
        story.moments(1)?;
        story.settle()?;
        story.check_thinned(&[pinned])
    })
}
