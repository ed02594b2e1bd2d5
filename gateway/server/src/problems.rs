//! The gateway's errors as problems: what happened, why, and what to do, in one place.

use cx_api::{ClockView, Code, Problem};
use cx_wire::{AskCode, AskError};
use gateway_image::{NotSelectable, Point};
use gateway_store::StoreError;
use tap_block::{Lsn, MarkId, Name, WallTime};

use crate::shortages::Told;

pub(crate) fn no_volume(name: &Name) -> Problem {
    Problem::new(Code::NotFound, format!("there is no volume {name}"))
        .because("no tap has sent anything of a volume of this name to this gateway")
        .fix("list the volumes with `chronogate volume ls`")
}

pub(crate) fn no_image(which: &str) -> Problem {
    Problem::new(Code::NotFound, format!("there is no image {which}"))
        .because("it was removed, or never made")
        .fix("list the images with `chronogate image ls`")
}

pub(crate) fn name_taken(name: &Name, by: &str) -> Problem {
    Problem::new(Code::Conflict, format!("the name {name} is taken by {by}")).fix("choose another name")
}

/// Nothing of the volume can be opened yet.
pub(crate) fn nothing_yet(volume: &Name) -> Problem {
    Problem::new(Code::NotSelectable, format!("no point of {volume} can be opened yet"))
        .because("its baseline is still under way")
        .fix("wait until `chronogate volume show` no longer says baseline")
}

pub(crate) fn not_selectable(volume: &Name, refused: &NotSelectable) -> Problem {
    Problem::new(Code::NotSelectable, format!("{volume} cannot be opened at lsn:{}", refused.lsn.get()))
        .because(refused.to_string())
        .fix(nearest(refused.nearest_before, refused.nearest_after))
}

/// The point was thinned out; the store's word names its neighbours. `short`: it went for want of room.
pub(crate) fn thinned(volume: &Name, error: &StoreError, short: Option<Told>) -> Problem {
    let StoreError::Thinned { point, before, after } = error else { return stored(error) };
    let problem =
        Problem::new(Code::NotSelectable, format!("{volume} is not kept at lsn:{} any more", point.get()));
    let by_policy = "history of that age is kept more sparsely, as its retention policy says";
    gone(problem, short, by_policy, (*before, *after))
}

/// Why something is not kept any more, and what else there is.
fn gone(
    problem: Problem,
    short: Option<Told>,
    by_policy: &str,
    (before, after): (Option<Lsn>, Option<Lsn>),
) -> Problem {
    match short {
        Some(Told { said, remedy }) => {
            problem.because(said).fix(format!("{}; {remedy}", nearest(before, after)))
        }
        None => problem.because(by_policy).fix(nearest(before, after)),
    }
}

/// Records up to the point are gone from the journal.
pub(crate) fn lost(volume: &Name, lsn: Lsn, error: &StoreError) -> Problem {
    Problem::new(Code::NotSelectable, format!("{volume} cannot be opened at lsn:{}", lsn.get()))
        .because(error.to_string())
        .fix(format!(
            "choose a point before the damage, or one after the resync that the tap was asked for (`chronogate volume resync \
             {volume}` follows it)"
        ))
}

fn nearest(before: Option<Lsn>, after: Option<Lsn>) -> String {
    let text = |lsn: Lsn| format!("lsn:{}", lsn.get());
    match (before, after) {
        (Some(b), Some(a)) => format!("choose {} or {}", text(b), text(a)),
        (Some(one), None) | (None, Some(one)) => format!("choose {}", text(one)),
        (None, None) => "wait until the baseline has ended".to_owned(),
    }
}

/// What was written by then is let go of; `short`: for want of room.
pub(crate) fn gone_by_then(
    volume: &Name,
    point: &Point,
    (oldest, at): (Lsn, WallTime),
    short: Option<Told>,
) -> Problem {
    let problem = Problem::new(Code::NotSelectable, format!("{volume} is not kept at {point} any more"));
    let fix = format!("the oldest point that is kept is lsn:{} at {at}", oldest.get());
    match short {
        Some(Told { said, remedy }) => problem.because(said).fix(format!("{fix}; {remedy}")),
        None => problem.because("history of that age is not kept, as its retention policy says").fix(fix),
    }
}

pub(crate) fn too_early(volume: &Name, point: &Point, first: Option<(Lsn, WallTime)>) -> Problem {
    let fix = match first {
        Some((lsn, at)) => format!("the oldest point that opens is lsn:{} at {at}", lsn.get()),
        None => "wait for the first point that opens: the baseline's end".to_owned(),
    };
    Problem::new(Code::NotSelectable, format!("{volume} has no history at {point}"))
        .because("that is before its first record")
        .fix(fix)
}

pub(crate) fn no_bookmark(volume: &Name, bookmark: &Name, near: &[String]) -> Problem {
    let fix = match near {
        [] => "it has none yet: make one with `chronogate bookmark create`".to_owned(),
        names => format!("did you mean {}? `chronogate bookmark ls {volume}` lists all", names.join(" or ")),
    };
    Problem::new(Code::NotFound, format!("{volume} has no bookmark {bookmark}")).fix(fix)
}

/// Its point was thinned out, or went for want of room.
pub(crate) fn bookmark_gone(
    volume: &Name,
    bookmark: &Name,
    at: WallTime,
    short: Option<Told>,
    near: (Option<Lsn>, Option<Lsn>),
) -> Problem {
    let text = format!("the bookmark {bookmark} of {volume}, made at {at}, is not kept any more");
    let problem = Problem::new(Code::NotSelectable, text);
    let by_policy = "its retention policy says how long bookmarks are kept, and its name is free again";
    gone(problem, short, by_policy, near)
}

pub(crate) fn no_mark(volume: &Name, id: MarkId) -> Problem {
    Problem::new(Code::NotFound, format!("{volume} has no {id}"))
        .because(
            "no barrier of that number was put over it, or it is not kept any more: thinned out as its policy says, or gone for want \
             of room",
        )
        .fix(format!(
            "`chronogate group point GROUP` finds those that are left, `chronogate group ls` lists the groups; `chronogate volume \
             timeline {volume}` says what went for want of room"
        ))
}

pub(crate) fn no_group(name: &Name) -> Problem {
    Problem::new(Code::NotFound, format!("there is no group {name}"))
        .because("no barrier of a group of this name has arrived at this gateway: a group is known by its first")
        .fix("list the groups with `chronogate group ls`; a group is formed at the tap, with --group NAME=VOLUME,VOLUME")
}

pub(crate) fn no_group_bookmark(group: &Name, bookmark: &Name) -> Problem {
    Problem::new(Code::NotFound, format!("the group {group} has no bookmark {bookmark}"))
        .because(
            "no barrier of the group was given that name, or it was removed; a bookmark of one member alone is none of the group",
        )
        .fix(format!(
            "`chronogate bookmark ls VOLUME` lists those of a member; `chronogate bookmark create --group {group} NAME` makes one"
        ))
}

pub(crate) fn two_groups(name: &Name, one: &str, other: &str) -> Problem {
    Problem::new(Code::Conflict, format!("two groups are called {name}"))
        .because(format!("one tap gives that name to {one}, another to {other}; no group spans several taps"))
        .fix("give one of them another name, at its tap")
}

/// No barrier there can be opened in every member.
pub(crate) fn no_group_point(name: &Name, oldest: Option<WallTime>, newest: Option<WallTime>) -> Problem {
    let fix = match oldest.zip(newest) {
        Some((oldest, newest)) => {
            format!("the oldest point of the group is of {oldest}, the newest of {newest}")
        }
        None => "wait until a barrier has arrived that every member can be opened at".to_owned(),
    };
    Problem::new(Code::NotSelectable, format!("no point of {name} lies in that time"))
        .because("a point of a group is a barrier that every member has and that no gap or retention policy took away")
        .fix(fix)
}

pub(crate) fn no_time_of_group(point: &Point) -> Problem {
    Problem::new(Code::Invalid, format!("{point} is no time"))
        .because("points of a group are looked for by time")
        .fix("give an RFC 3339 time, a time ago such as -10m, a mark:N or a bookmark of the group")
}

/// The barrier was made, and not every member's part of it has arrived.
pub(crate) fn mark_not_here(name: &Name, id: MarkId) -> Problem {
    Problem::new(Code::NotYetDurable, format!("{id} of {name} is made, and not durable in every member yet"))
        .because("a member's records arrive late, or a sync of it began")
        .fix("look for it later with `chronogate group show`")
}

/// A newer point of that time may still come.
pub(crate) fn group_not_yet(name: &Name, before: &Point, proven: Option<WallTime>) -> Problem {
    let until = proven.map_or_else(|| "nothing".to_owned(), |at| format!("all up to {at}"));
    Problem::new(
        Code::NotYetDurable,
        format!("what was the newest point of {name} before {before} is not known yet"),
    )
    .because(format!("{until} is here of every member: a newer point of that time may still come"))
    .fix("try again later, name an earlier time, or leave --before out for the newest point there is")
}

/// Waited for it, and it did not come.
pub(crate) fn not_yet(volume: &Name, point: &Point, durable: Lsn, proven: Option<WallTime>) -> Problem {
    let until = proven.map_or_else(String::new, |at| format!(", and all up to {at} is known"));
    Problem::new(Code::NotYetDurable, format!("{point} of {volume} is not durable here yet"))
        .because(format!("the newest durable point is lsn:{}{until}", durable.get()))
        .fix("try again later, or choose `now`; `chronogate volume show` says how far behind the gateway is")
}

/// Times mean the last time that they went by, and that of this one is still to come.
pub(crate) fn set_back_since(problem: Problem, clock: &ClockView) -> Problem {
    let first = clock.lsn.get();
    problem
        .because(format!(
            "the clock of its source was set back at lsn:{first}, from {} to {}, so that time is still to come by that clock",
            clock.to, clock.from
        ))
        .fix(format!("for what was written when that time went by before, choose an LSN below {first}, or a bookmark there"))
}

pub(crate) fn unreachable(volume: &Name) -> Problem {
    Problem::new(Code::Unreachable, format!("the tap of {volume} cannot be reached"))
        .because("no link that carries it is open")
        .fix("start the tap and the CX, or check the network between them and this gateway")
}

pub(crate) fn asked(volume: &Name, error: &AskError) -> Problem {
    let code = match error.code {
        AskCode::NotReachable => return unreachable(volume).because(error.detail.clone()),
        AskCode::Conflict => Code::Conflict,
        AskCode::NotFound => Code::NotFound,
        AskCode::Timeout => Code::TimedOut,
        AskCode::Failed => Code::Internal,
    };
    Problem::new(code, error.detail.clone())
}

pub(crate) fn stored(error: &StoreError) -> Problem {
    let code = match error {
        StoreError::NoSpace(_) | StoreError::OverLimit { .. } | StoreError::IndexFull(_) => Code::NoSpace,
        StoreError::Stopped => Code::Unreachable,
        StoreError::Busy => Code::Conflict,
        // What is damaged is no defect of this program, and most points do without it.
        StoreError::Damaged(_) => Code::NotSelectable,
        _ => Code::Internal,
    };
    let problem = Problem::new(code, error.to_string());
    let (why, fix) = match error {
        StoreError::Damaged(_) => (
            "a part of the journal that this needs is not what was written; all that does without it goes on",
            "`chronogate verify VOLUME` lists what is damaged, which points that affects, and how it can be put right",
        ),
        StoreError::Io(_) => (
            "the operating system refused to read or write the journal's files",
            "see to the disk and its file system (the kernel's log names the device), then try again; restart the gateway if its health \
             stays failing",
        ),
        StoreError::Stopped => {
            ("the gateway is being stopped, or its journal was closed", "start the gateway, then try again")
        }
        StoreError::Busy => ("a pass of settling is under way", "try again in a minute"),
        _ => return problem,
    };
    problem.because(why).fix(fix)
}

pub(crate) fn internal(what: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, what.to_string()).fix("see the gateway's log")
}

/// What the operating system says about a file of ours.
pub(crate) fn of_disk(e: &std::io::Error) -> Problem {
    match e.kind() {
        std::io::ErrorKind::StorageFull => {
            Problem::new(Code::NoSpace, e.to_string()).fix("make room on the disk")
        }
        std::io::ErrorKind::QuotaExceeded => Problem::new(Code::NoSpace, e.to_string()),
        std::io::ErrorKind::FileTooLarge => Problem::new(Code::Invalid, e.to_string())
            .because("the file system that the gateway's data lies on takes no file of that size")
            .fix("ask for less; more than the volume's size is never used"),
        _ => internal(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_journal_refuses_says_why_and_what_to_do() {
        let damaged = stored(&StoreError::Damaged("records 5 to 9 are lost".to_owned()));
        assert_eq!(damaged.code, Code::NotSelectable, "it is no defect of the program");
        assert!(damaged.correction.contains("chronogate verify"), "{damaged:?}");
        for error in [StoreError::Io("EIO".to_owned()), StoreError::Stopped, StoreError::Busy] {
            let problem = stored(&error);
            assert!(!problem.cause.is_empty() && !problem.correction.is_empty(), "{problem:?}");
        }
        for error in [StoreError::NoSpace("full".to_owned()), StoreError::Index("gone".to_owned())] {
            let said = stored(&error).detail;
            assert!(said.contains("free some space") || said.contains("restarted"), "{said}");
        }
    }

    #[test]
    fn a_group_without_a_bookmark_of_that_name_may_have_others() {
        let (group, name) = ("db".parse().unwrap(), "gold".parse().unwrap());
        let refused = no_group_bookmark(&group, &name);
        assert_eq!(refused.code, Code::NotFound);
        assert!(refused.cause.contains("of one member alone") && refused.correction.contains("--group db"));
        assert!(!refused.correction.contains("has none"), "{refused:?}");
    }
}
