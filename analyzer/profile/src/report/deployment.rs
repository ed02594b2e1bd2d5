//! What comes before and after the steady flow: the first copy of the disks, and the way back.

use super::figures::Figures;
use super::{Advice, InitialFigures, RecoveryFigures, Report, bytes_text, rate_text, time_text};
use crate::model::initial::Copying;
use crate::model::recovery::Restoring;
use crate::numbers::real;

impl Figures<'_> {
    /// What there is to copy, and whether that was given.
    fn disk(&self) -> (u64, bool) {
        self.question.disk.map_or_else(|| (self.profile.reach(), false), |given| (given, true))
    }

    pub(super) fn recovery(&self) -> RecoveryFigures {
        let question = self.question;
        let restoring = Restoring {
            rate: question.local,
            decide: question.decide.as_secs_f64(),
            open: question.open.as_secs_f64(),
            start: real(question.start),
        };
        let (disk, _) = self.disk();
        RecoveryFigures {
            bytes_per_second: restoring.rate,
            decide_seconds: restoring.decide,
            open_seconds: restoring.open,
            start_bytes: question.start,
            image_seconds: restoring.from_image(),
            copied_back_seconds: restoring.copied_back(real(disk)).filter(|_| disk > 0),
            reads_carried_share: restoring.reads_carried(self.bins),
        }
    }

    pub(super) fn initial_sync(&self) -> Option<InitialFigures> {
        let (disk_bytes, disk_known) = self.disk();
        let link = self.mean_link().filter(|_| disk_bytes > 0)?;
        let copying = Copying {
            disk: real(disk_bytes),
            share: self.on_the_link().share,
            writes: self.mean() * (1.0 + self.question.growth),
            distinct: self.coalescing().map_or(1.0, |c| c.day),
            link,
            local: self.question.local,
            road: self.question.road.as_secs_f64(),
            spool: self.question.spool,
        };
        let (link_seconds, carried) = (copying.over_the_link(), copying.carried());
        let advice = match (link_seconds, carried.seconds) {
            (Some(link), Some(carried)) if carried < link => Advice::Carry,
            (Some(_), _) => Advice::Link,
            (None, _) => Advice::FasterLink,
        };
        Some(InitialFigures {
            disk_bytes,
            disk_known,
            link_seconds,
            carried_seconds: carried.seconds,
            carried_catch_up_bytes: carried.catch_up,
            carried_gap: carried.gap,
            advice,
        })
    }
}

/// The RTO as sentences.
#[must_use]
pub fn recovery_text(report: &Report) -> String {
    let r = &report.recovery;
    let Some(image) = r.image_seconds else {
        return "No RTO without a network between gateway and server.".to_owned();
    };
    let mut text = format!(
        "About {} from an image that the gateway serves: {} to decide, {} to open it, {} read over {} until the application \
         serves (all four assumed: --decide, --open, --start-reads, --local-link).",
        time_text(image),
        time_text(r.decide_seconds),
        time_text(r.open_seconds),
        bytes_text(real(r.start_bytes)),
        rate_text(r.bytes_per_second),
    );
    if let Some(copied) = r.copied_back_seconds {
        text.push_str(&format!(" {} when the disks are copied back first.", time_text(copied)));
    }
    if let Some(share) = r.reads_carried_share {
        text.push_str(&format!(
            " Run from the image, that network carries the reads of {:.2} % of the seconds that had any.",
            share * 100.0
        ));
    }
    text
}

/// The first copy as sentences; `None` without a link.
#[must_use]
pub fn initial_text(report: &Report) -> Option<String> {
    let i = report.initial_sync?;
    let disk = bytes_text(real(i.disk_bytes));
    let disk =
        if i.disk_known { disk } else { format!("at least {disk} (as far as was written; say --disk-size)") };
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "never".to_owned(), time_text);
    let gap = if i.carried_gap {
        "; the spool does not hold what is written on the road, so history has a gap there"
    } else {
        ""
    };
    let advice = match i.advice {
        Advice::Link => "Copy over the link.",
        Advice::Carry => {
            "Set the gateway up beside the servers, let it copy there, then carry it to its place."
        }
        Advice::FasterLink => "New writes alone fill the link: take a faster one.",
    };
    Some(format!(
        "{disk}: {} over the link while new writes go on; {} by a gateway that copies beside the servers and is carried \
         ({} to send when it has arrived{gap}). {advice}",
        time(i.link_seconds),
        time(i.carried_seconds),
        bytes_text(i.carried_catch_up_bytes),
    ))
}
