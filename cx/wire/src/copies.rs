//! Copies of a tap's state. A server that is restored from a backup comes back with an old one: its records would have places that
//! a newer copy's have, so it is not taken. Whoever knows that its disk is the one to go on with says so, once, about the very life
//! that is refused: it begins anew above all that is known, with an epoch above that of every other copy, which are fenced from
//! then on.

use std::time::Duration;

use tap_block::{Epoch, Lsn, RunId, WallTime};

use crate::message::{Accepted, AskCode, AskError, Hello, MAX_REFUSAL, Refuse, RefuseCode};

/// A tap that is refused comes again within seconds; one that has not for so long is not there.
const AWAY: Duration = Duration::from_secs(60);

/// What a receiver knows of the copies of one stream's tap.
#[derive(Debug, Default)]
pub struct Copies {
    /// The one that came last, if it was turned away.
    refused: Option<Refused>,
    /// The one that is to begin anew, until it has.
    accepted: Option<Anew>,
    /// Of the copy that was taken last.
    epoch: Option<Epoch>,
}

#[derive(Debug)]
struct Refused {
    code: RefuseCode,
    /// In words for people.
    why: String,
    run: RunId,
    epoch: Epoch,
    first_lsn: Lsn,
    sender: String,
    since: WallTime,
    last: WallTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anew {
    run: RunId,
    epoch: Epoch,
}

impl Copies {
    /// A tap greeted and was taken.
    pub fn taken(&mut self, epoch: Epoch) {
        self.epoch = Some(epoch);
        self.refused = None;
        self.accepted = self.accepted.filter(|anew| epoch < anew.epoch);
    }

    /// It was turned away.
    pub fn refused(&mut self, hello: &Hello, refuse: &Refuse, now: WallTime) {
        let before = self.refused.as_ref().filter(|refused| refused.run == hello.run);
        self.refused = Some(Refused {
            code: refuse.code,
            why: cut(&refuse.detail),
            run: hello.run,
            epoch: hello.epoch,
            first_lsn: hello.first_lsn,
            sender: hello.sender.clone(),
            since: before.map_or(now, |refused| refused.since),
            last: now,
        });
    }

    /// Why the tap that came last was turned away.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// May the tap that greets so go on, as far as its copy is concerned? `known`: how far the stream is.
    ///
    /// # Errors
    /// The refusal, which may tell it to begin anew.
    pub fn check(&self, hello: &Hello, known: Lsn) -> Result<(), Refuse> {
        match self.accepted {
            Some(anew) if anew.run == hello.run => {
                let detail = format!(
                    "{}: this copy of the tap's state is old and was accepted: it begins anew above {known} as {}",
                    hello.name, anew.epoch
                );
                let code = RefuseCode::BeginAnew { above: known, epoch: anew.epoch };
                Err(Refuse { code, detail })
            }
            Some(anew) if hello.epoch < anew.epoch => Err(fenced(hello, anew.epoch)),
            _ => match self.epoch {
                Some(epoch) if hello.epoch < epoch => Err(fenced(hello, epoch)),
                _ => Ok(()),
            },
        }
    }

    /// The one that was refused last is to go on after all. Said again, it changes nothing.
    ///
    /// # Errors
    /// When none is refused, or for another reason, or another one runs.
    pub fn accept(&mut self, stream: Standing, now: WallTime) -> Result<Accepted, AskError> {
        let refused = self.acceptable(stream, now).map_err(|why| AskError::new(AskCode::Conflict, why))?;
        let same = self.accepted.filter(|anew| anew.run == refused.run);
        let given = [self.accepted.map(|anew| anew.epoch), self.epoch, stream.epoch, Some(refused.epoch)];
        let next = given.into_iter().flatten().map(Epoch::get).max().unwrap_or_default().saturating_add(1);
        let anew = same.unwrap_or(Anew { run: refused.run, epoch: Epoch::new(next) });
        let accepted = Accepted {
            sender: refused.sender.clone(),
            run: refused.run,
            since: refused.since,
            first_lsn: refused.first_lsn,
            known: stream.known,
            epoch: anew.epoch,
        };
        self.accepted = Some(anew);
        Ok(accepted)
    }

    fn acceptable(&self, stream: Standing, now: WallTime) -> Result<&Refused, String> {
        let nobody = "no tap of this volume is refused: there is nothing to accept";
        let refused = self.refused.as_ref().ok_or(nobody)?;
        match refused.code {
            RefuseCode::SplitHistory | RefuseCode::Fenced | RefuseCode::BeginAnew { .. } => {}
            _ => return Err(format!("its tap is not refused for being an old copy: {}", refused.why)),
        }
        if stream.is_linked {
            let why = "another tap of this volume runs: stop it first, for only one of the two can go on";
            return Err(why.to_owned());
        }
        if now.since(refused.last) >= AWAY {
            let last = refused.last;
            return Err(format!(
                "the tap that was refused has not come since {last}: start it, then accept it"
            ));
        }
        Ok(refused)
    }
}

/// Where the stream stands whose tap's copy is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The last record that is known of it.
    pub known: Lsn,
    /// Its epoch, where that is known.
    pub epoch: Option<Epoch>,
    /// A tap of it is connected.
    pub is_linked: bool,
}

fn fenced(hello: &Hello, epoch: Epoch) -> Refuse {
    let detail = format!(
        "{}: another copy of this tap's state was accepted to go on with ({epoch}, this one has {}), or this one was and was \
         restarted before it had begun: stop this tap; to go on with this one instead: chronogate volume accept-restored {}",
        hello.name, hello.epoch, hello.name
    );
    Refuse { code: RefuseCode::Fenced, detail }
}

/// As much of it as fits into a heartbeat.
fn cut(why: &str) -> String {
    let ends = why.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= MAX_REFUSAL).last().unwrap_or(0);
    why.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tap_block::{StreamId, VolumeId};

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n).unwrap()
    }

    fn hello(run: u64, first: u64) -> Hello {
        Hello {
            protocol: crate::PROTOCOL,
            stream: StreamId::new(7),
            volume: VolumeId::new(8),
            name: "web01".parse().unwrap(),
            size: 1 << 30,
            epoch: Epoch::new(1),
            run: RunId::new(run),
            first_lsn: lsn(first),
            sender: "tap 5".to_owned(),
        }
    }

    fn standing(known: u64, is_linked: bool) -> Standing {
        Standing { known: lsn(known), epoch: None, is_linked }
    }

    fn accept(copies: &mut Copies, known: u64) -> Result<Accepted, AskError> {
        copies.accept(standing(known, false), WallTime::from_nanos(20))
    }

    fn refuse(code: RefuseCode) -> Refuse {
        Refuse { code, detail: "old".to_owned() }
    }

    /// The newest copy has run 1, the old one greets with run 2.
    fn with_old_copy() -> Copies {
        let mut copies = Copies::default();
        copies.taken(Epoch::new(1));
        copies.refused(&hello(2, 16), &refuse(RefuseCode::SplitHistory), WallTime::from_nanos(5));
        copies.refused(&hello(2, 16), &refuse(RefuseCode::SplitHistory), WallTime::from_nanos(9));
        copies
    }

    #[test]
    fn an_old_copy_is_accepted_once_and_every_other_is_fenced() {
        let mut copies = with_old_copy();
        let accepted = accept(&mut copies, 75).unwrap();
        assert_eq!((accepted.run, accepted.since), (RunId::new(2), WallTime::from_nanos(5)));
        assert_eq!((accepted.first_lsn, accepted.known, accepted.epoch), (lsn(16), lsn(75), Epoch::new(2)));
        assert_eq!(accept(&mut copies, 75).unwrap(), accepted, "said again");
        let told = copies.check(&hello(2, 16), lsn(75)).unwrap_err();
        assert_eq!(told.code, RefuseCode::BeginAnew { above: lsn(75), epoch: Epoch::new(2) });
        let other = copies.check(&hello(3, 1 << 20), lsn(75)).unwrap_err();
        assert_eq!(other.code, RefuseCode::Fenced);
        assert!(
            other.detail.contains("restarted before it had begun"),
            "it may be the same one: {}",
            other.detail
        );
        let anew = Hello { epoch: Epoch::new(2), ..hello(4, 76) };
        assert_eq!(copies.check(&anew, lsn(75)), Ok(()));
        copies.taken(anew.epoch);
        let newest = hello(5, 1 << 20);
        let fenced = copies.check(&newest, lsn(80)).unwrap_err();
        assert_eq!(fenced.code, RefuseCode::Fenced);
        assert!(fenced.detail.contains("chronogate volume accept-restored web01"));
        assert!(accept(&mut copies, 80).is_err(), "nothing is refused");
        copies.refused(&newest, &fenced, WallTime::from_nanos(20));
        assert_eq!(accept(&mut copies, 80).unwrap().epoch, Epoch::new(3), "a mistake is mended so");
    }

    #[test]
    fn what_is_not_an_old_copy_is_not_accepted() {
        let mut copies = with_old_copy();
        assert_eq!(
            copies.accept(standing(75, true), WallTime::EPOCH).unwrap_err().code,
            AskCode::Conflict,
            "two taps run"
        );
        copies.refused(&hello(2, 16), &refuse(RefuseCode::NameTaken), WallTime::EPOCH);
        assert!(accept(&mut copies, 75).unwrap_err().detail.ends_with("old"));
        assert_eq!(copies.check(&hello(2, 16), lsn(75)), Ok(()));
        assert!(accept(&mut Copies::default(), 75).is_err());
        let late = WallTime::from_nanos(9).plus(AWAY);
        let away = with_old_copy().accept(standing(75, false), late).unwrap_err();
        assert!(away.detail.contains("has not come since"), "{away}");
    }

    #[test]
    fn a_reason_fits_into_a_heartbeat() {
        assert_eq!(cut("why"), "why");
        assert_eq!(cut(&"ä".repeat(MAX_REFUSAL)).len(), MAX_REFUSAL);
    }
}
