//! Which targets are open, and the rules of those that are exported: one owner for both, so that nobody logs in by rules
//! that have just changed.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cx_api::{Code, ExportAccess, ExportCreate, Problem};
use gateway_front::ClientId;
use gateway_image::Catalogue;
use gateway_iscsi::{Credentials, Refusal, Target};
use gateway_journal::ImageRecord;
use tap_block::WallTime;
use tap_disk::ensure_dir;

use super::file;
use super::rules::{ImageKeyOfStore, Rules, is_local};
use super::seal::Key;
use crate::http::Answer;
use crate::problems;

/// The most exports.
const MOST: usize = 1024;

/// See the module.
pub(crate) struct TargetTable {
    dir: PathBuf,
    /// Initiators on other machines need no rules either: the network is trusted.
    pub(crate) open_to_all: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rules>,
    key: Option<Key>,
    /// Why the rules cannot be read; nobody logs in then.
    broken: Option<String>,
    /// Targets that somebody has, by the names of their exports.
    open: HashMap<String, Open>,
    /// Exports that are being taken away.
    closing: BTreeSet<String>,
    /// Counts changes of the rules.
    changes: u64,
}

struct Open {
    target: Weak<Target>,
    /// What the reservations of each of its disks lie under.
    kept: Kept,
}

/// What the reservations of a target's disks lie under, by LUN.
pub(super) type Kept = Vec<(u16, String)>;

/// What an export is at one moment.
pub(super) struct Seen {
    pub(super) target: Option<Arc<Target>>,
    pub(super) rules: Option<Rules>,
    /// Of the exports whose disks belong to its target as well.
    pub(super) more: Vec<Rules>,
    changes: u64,
}

/// While it lives nobody opens the export over iSCSI.
pub(crate) struct Closing<'a> {
    table: &'a TargetTable,
    export: String,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.table.lock().closing.remove(&self.export);
    }
}

impl TargetTable {
    /// Reads the rules. When they cannot be read there are no targets, and everything else is served.
    pub(crate) fn open(dir: PathBuf, open_to_all: bool) -> Self {
        let state = match file::load(&dir) {
            Ok((rules, key)) => State { rules, key, ..State::default() },
            Err(error) => {
                let broken = Some(error.to_string());
                tracing::error!(%error, "the list of exports cannot be read; no iSCSI target is served");
                State { broken, ..State::default() }
            }
        };
        Self { dir, open_to_all, state: Mutex::new(state) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// May this client open what has these rules, and see that it is there?
    pub(super) fn admits(&self, rules: Option<&Rules>, from: &ClientId) -> bool {
        self.open_to_all || is_local(from) || rules.is_some_and(Rules::is_guarded)
    }

    /// What there is under a name.
    pub(super) fn look(
        &self,
        export: &str,
        image: Option<&ImageRecord>,
        from: &ClientId,
    ) -> Result<Seen, Refusal> {
        let state = self.lock();
        if state.broken.is_some() || state.closing.contains(export) {
            return Err(Refusal::Unavailable);
        }
        let rules = state.rules_of(image).cloned();
        if rules.as_ref().is_some_and(|rules| rules.beside.is_some()) {
            // One disk under two names would be two disks to an initiator.
            return Err(Refusal::Unknown);
        }
        if !self.admits(rules.as_ref(), from) {
            return Err(Refusal::Policy);
        }
        let more = rules.iter().flat_map(|rules| state.beside(rules.key())).cloned().collect();
        Ok(Seen { target: state.target(export), rules, more, changes: state.changes })
    }

    /// Everybody has the same target of an export: this one, or that of who was faster.
    pub(super) fn share(
        &self,
        export: &str,
        target: Arc<Target>,
        kept: Kept,
        seen: &Seen,
    ) -> Result<Arc<Target>, Refusal> {
        let mut state = self.lock();
        if state.changes != seen.changes || state.closing.contains(export) {
            // Its rules may be others now; an initiator asks again.
            return Err(Refusal::Unavailable);
        }
        state.open.retain(|_, open| open.target.strong_count() > 0);
        if let Some(target) = state.target(export) {
            return Ok(target);
        }
        state.open.insert(export.to_owned(), Open { target: Arc::downgrade(&target), kept });
        Ok(target)
    }

    /// What the reservations of a disk of an open target lie under.
    pub(super) fn kept(&self, export: &str, lun: u16) -> Option<String> {
        let state = self.lock();
        let kept = &state.open.get(export)?.kept;
        kept.iter().find(|(of, _)| *of == lun).map(|(_, kept)| kept.clone())
    }

    /// What the CHAP names and secrets of all exports let in, and what the target answers.
    pub(super) fn logins(&self) -> Vec<(Credentials, Option<Credentials>)> {
        self.lock().rules.iter().filter_map(Rules::login).collect()
    }

    /// The rules of an image.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn rules(&self, image: &ImageRecord) -> Answer<Option<Rules>> {
        let state = self.lock();
        state.check_sound()?;
        Ok(state.rules_of(Some(image)).cloned())
    }

    /// The export whose target an export's disk belongs to: itself, unless it shares one.
    pub(crate) fn served_by(&self, image: &ImageRecord, catalogue: &Catalogue) -> ImageRecord {
        let state = self.lock();
        let other = state.rules_of(Some(image)).and_then(|rules| state.keyed(rules.beside?));
        other.and_then(|rules| image_of(rules, catalogue)).unwrap_or(image).clone()
    }

    /// The rules that say who may log in to an export's disk: its own, or those of the target that it shares.
    pub(crate) fn entry_rules(&self, rules: &Rules) -> Rules {
        let state = self.lock();
        rules.beside.and_then(|other| state.keyed(other)).unwrap_or(rules).clone()
    }

    /// Every export whose image is there, with that, in the order in which they were made.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn all(&self, catalogue: &Catalogue) -> Answer<Vec<(Rules, ImageRecord)>> {
        let state = self.lock();
        state.check_sound()?;
        let with_image = |rules: &Rules| Some((rules.clone(), image_of(rules, catalogue)?.clone()));
        Ok(state.rules.iter().filter_map(with_image).collect())
    }

    /// Exports an image, as a further disk of another export's target if it is to be `beside` that. Blocks until that is on disk.
    ///
    /// # Errors
    /// When it is exported or open already, or the rules cannot be written.
    pub(crate) fn export(
        &self,
        image: &ImageRecord,
        (wanted, beside): (ExportCreate, Option<&ImageRecord>),
        catalogue: &Catalogue,
        now: WallTime,
    ) -> Answer<Rules> {
        let mut state = self.lock();
        state.check_sound()?;
        state.check_new(image, &wanted, catalogue)?;
        let beside = beside.map(|other| state.check_beside(other, &wanted)).transpose()?;
        if wanted.chap.is_some() {
            state.prepare_key(&self.dir)?;
        }
        let rules = Rules::new(image, wanted, now, state.key.as_ref()).map_err(|e| problems::of_disk(&e))?;
        let rules = Rules { beside, ..rules };
        let mut all = state.kept_rules(catalogue);
        all.push(rules.clone());
        self.replace(&mut state, all)?;
        Ok(rules)
    }

    /// Gives an export's target other rules of who may log in; `open` is what is against its being open to all. Who is not on
    /// the list any more is logged out. Blocks until that is on disk.
    ///
    /// # Errors
    /// When it is not exported, has no target of its own, or the rules cannot be written: the old ones then stay.
    pub(crate) fn change_access(
        &self,
        image: &ImageRecord,
        wanted: ExportAccess,
        catalogue: &Catalogue,
        open: Answer<()>,
    ) -> Answer<Option<Rules>> {
        let mut state = self.lock();
        state.check_sound()?;
        let Some(rules) = state.rules_of(Some(image)).cloned() else { return Ok(None) };
        if let Some(other) = rules.beside.and_then(|other| catalogue.image(other.image)) {
            return Err(not_its_own(image, other));
        }
        if wanted.chap.is_some() || wanted.mutual_chap.is_some() {
            state.prepare_key(&self.dir)?;
        }
        let rules = rules.changed(wanted, state.key.as_ref()).map_err(|e| problems::of_disk(&e))?;
        check_secrets(&rules)?;
        if !rules.is_guarded() {
            open?;
        }
        let mut all = state.kept_rules(catalogue);
        all.iter_mut().filter(|other| other.is_of(image)).for_each(|other| other.clone_from(&rules));
        self.replace(&mut state, all)?;
        // Under the lock that every login passes: by the old rules nobody gets in any more.
        if let (Some(target), Some(admission)) = (state.target(image.name.as_str()), rules.admission()) {
            target.admit(admission);
        }
        Ok(Some(rules))
    }

    /// Takes an export back; whether there was one. Blocks until that is on disk.
    ///
    /// # Errors
    /// When it is open, unless that is `forced`, or the rules cannot be written.
    pub(crate) fn unexport(&self, image: &ImageRecord, catalogue: &Catalogue, forced: bool) -> Answer<bool> {
        let mut state = self.lock();
        state.check_sound()?;
        let Some(rules) = state.rules_of(Some(image)) else { return Ok(false) };
        let (key, served) = (rules.key(), rules.beside.unwrap_or(rules.key()));
        let served = catalogue.image(served.image).unwrap_or(image);
        if !forced && state.target(served.name.as_str()).is_some() {
            return Err(in_use(image));
        }
        if let Some(other) =
            state.beside(key).find_map(|other| image_of(other, catalogue)).filter(|_| !forced)
        {
            return Err(has_more_disks(image, other));
        }
        let mut all = state.kept_rules(catalogue);
        all.retain(|rules| !rules.is_of(image) && rules.beside != Some(key));
        self.replace(&mut state, all)?;
        Ok(true)
    }

    /// Nobody opens the export over iSCSI until what is returned is dropped.
    pub(crate) fn close(&self, export: &str) -> Closing<'_> {
        self.lock().closing.insert(export.to_owned());
        Closing { table: self, export: export.to_owned() }
    }

    /// Has anybody the export's target?
    pub(crate) fn is_open(&self, export: &str) -> bool {
        self.lock().target(export).is_some()
    }

    /// Rules count once they are on disk.
    fn replace(&self, state: &mut State, all: Vec<Rules>) -> Answer<()> {
        file::save(&self.dir, all.iter()).map_err(|e| problems::of_disk(&e))?;
        state.rules = all;
        state.changes += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn target(&self, export: &str) -> Option<Arc<Target>> {
        self.open.get(export).and_then(|open| open.target.upgrade())
    }

    fn rules_of(&self, image: Option<&ImageRecord>) -> Option<&Rules> {
        let image = image?;
        self.rules.iter().find(|rules| rules.is_of(image))
    }

    fn keyed(&self, key: ImageKeyOfStore) -> Option<&Rules> {
        self.rules.iter().find(|rules| rules.key() == key)
    }

    /// The exports that share the target of this one.
    fn beside(&self, key: ImageKeyOfStore) -> impl Iterator<Item = &Rules> {
        self.rules.iter().filter(move |rules| rules.beside == Some(key))
    }

    /// Those whose image is there still, and the export whose target they share.
    fn kept_rules(&self, catalogue: &Catalogue) -> Vec<Rules> {
        let there = |rules: &Rules| image_of(rules, catalogue).is_some();
        let served = |rules: &Rules| rules.beside.is_none_or(|other| self.keyed(other).is_some_and(there));
        self.rules.iter().filter(|rules| there(rules) && served(rules)).cloned().collect()
    }

    /// A further disk of a target has a number of its own there, and comes while nobody is logged in to it.
    fn check_beside(&self, other: &ImageRecord, wanted: &ExportCreate) -> Answer<ImageKeyOfStore> {
        let name = &other.name;
        let rules = self.rules_of(Some(other)).ok_or_else(|| {
            Problem::new(Code::NotFound, format!("image {name} is not exported, so it has no target"))
                .fix(format!("export it first: chronogate export create {name} --iscsi"))
        })?;
        if rules.beside.is_some() {
            return Err(Problem::new(Code::Invalid, format!("image {name} shares another export's target"))
                .fix("name the export that the target has its name from: chronogate export ls"));
        }
        if self.closing.contains(name.as_str()) || self.target(name.as_str()).is_some() {
            return Err(in_use(other));
        }
        let lun = wanted.lun.unwrap_or(super::LUN);
        let mut taken = std::iter::once(rules).chain(self.beside(rules.key()));
        if taken.any(|rules| rules.lun == lun) {
            return Err(Problem::new(
                Code::Conflict,
                format!("the target of {name} has a disk with LUN {lun}"),
            )
            .fix("choose another number: --lun N"));
        }
        Ok(rules.key())
    }

    fn check_sound(&self) -> Answer<()> {
        let Some(why) = &self.broken else { return Ok(()) };
        Err(Problem::new(Code::Internal, "the list of exports cannot be read, so no iSCSI target is served")
            .because(why.clone())
            .fix(
                "put the file right and start the gateway again; without the file it begins with no exports",
            ))
    }

    fn check_new(&self, image: &ImageRecord, wanted: &ExportCreate, catalogue: &Catalogue) -> Answer<()> {
        let name = &image.name;
        if self.rules_of(Some(image)).is_some() {
            return Err(Problem::new(Code::Conflict, format!("image {name} is exported already"))
                .fix(format!("take that back first: chronogate export rm {name}")));
        }
        if self.closing.contains(name.as_str()) || self.target(name.as_str()).is_some() {
            return Err(in_use(image));
        }
        if self.rules.len() >= MOST {
            return Err(Problem::new(Code::Busy, format!("there are {MOST} exports, which is the most"))
                .fix("take some back: chronogate export rm IMAGE"));
        }
        let original = |rules: &&Rules| {
            rules.as_original && image_of(rules, catalogue).is_some_and(|other| other.volume == image.volume)
        };
        match self.rules.iter().find(original).filter(|_| wanted.as_original) {
            Some(other) => Err(two_originals(image, image_of(other, catalogue))),
            None => Ok(()),
        }
    }

    /// A lost key may come back; a second one would lock what the first had sealed.
    fn prepare_key(&mut self, dir: &Path) -> Answer<()> {
        if self.key.is_some() {
            return Ok(());
        }
        if self.rules.iter().any(Rules::is_locked) {
            return Err(Problem::new(Code::Internal, "no CHAP secret can be kept")
                .because("the file secrets.key that others are sealed with is gone")
                .fix("put it back and start the gateway again, or take the exports with CHAP back first"));
        }
        let made = ensure_dir(dir).and_then(|()| Key::make(dir)).map_err(|e| problems::of_disk(&e))?;
        self.key = Some(made);
        Ok(())
    }
}

fn image_of<'a>(rules: &Rules, catalogue: &'a Catalogue) -> Option<&'a ImageRecord> {
    catalogue.image(rules.image).filter(|image| rules.is_of(image))
}

fn in_use(image: &ImageRecord) -> Problem {
    let name = &image.name;
    Problem::new(Code::Conflict, format!("image {name} is in use over iSCSI"))
        .because("who is logged in goes on by the rules it came in by")
        .fix(format!("log it out, or end it: chronogate export rm --force {name}"))
}

fn not_its_own(image: &ImageRecord, other: &ImageRecord) -> Problem {
    let (name, other) = (&image.name, &other.name);
    Problem::new(
        Code::Invalid,
        format!("the access rules of image {name} are those of the target of {other}"),
    )
    .because("whoever logs in to a target reaches all its disks")
    .fix(format!("change those: chronogate export set {other}"))
}

fn has_more_disks(image: &ImageRecord, other: &ImageRecord) -> Problem {
    let (name, other) = (&image.name, &other.name);
    Problem::new(Code::Conflict, format!("image {other} is a disk of the target of {name}"))
        .because("without the export that it has its name from there is no target")
        .fix(format!(
            "take that back first (chronogate export rm {other}), or all of it: chronogate export rm --force {name}"
        ))
}

/// What a request cannot be checked for by itself: it changes a part of what there is.
fn check_secrets(rules: &Rules) -> Answer<()> {
    if rules.mutual.is_some() && rules.chap.is_none() {
        return Err(Problem::new(
            Code::Invalid,
            "the target would prove who it is to initiators that need not",
        )
        .because("mutual CHAP is CHAP in both directions")
        .fix("say what initiators have to know as well (--chap)"));
    }
    if rules.is_one_secret() {
        return Err(Problem::new(Code::Invalid, "both directions of CHAP would have the same secret")
            .because("whoever knows one could then pass for the other (RFC 7143 section 9.2.1)")
            .fix("choose two secrets"));
    }
    Ok(())
}

fn two_originals(image: &ImageRecord, other: Option<&ImageRecord>) -> Problem {
    let other = other.map_or("another image", |other| other.name.as_str());
    let text = format!("image {} cannot pass for the original: {other} does already", image.name);
    Problem::new(Code::Conflict, text)
        .because(
            "an initiator that sees two disks with one identity takes them for two ways to the same disk",
        )
        .fix(format!("take that back first (chronogate export rm {other}), or leave --as-original out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_rules_is_for_other_machines_unless_the_network_is_trusted() {
        let tmp = tempfile::tempdir().unwrap();
        let guarded = Rules {
            image: gateway_journal::ImageId::new(1),
            image_created: WallTime::EPOCH,
            lun: 1,
            acl: vec!["iqn.2026-01.example:one".to_owned()],
            chap: None,
            mutual: None,
            as_original: false,
            created: WallTime::EPOCH,
            beside: None,
        };
        let open = Rules { acl: Vec::new(), ..guarded.clone() };
        let from = |ip: &str| ClientId::Tcp(ip.parse().unwrap());
        let table = TargetTable::open(tmp.path().to_owned(), false);
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(table.admits(None, &from(own)) && table.admits(Some(&open), &from(own)), "{own}");
        }
        for other in ["192.0.2.7", "::ffff:192.0.2.7", "fe80::1"] {
            assert!(!table.admits(None, &from(other)) && !table.admits(Some(&open), &from(other)), "{other}");
            assert!(table.admits(Some(&guarded), &from(other)), "{other}");
            assert_eq!(table.look("web01", None, &from(other)).err(), Some(Refusal::Policy));
        }
        let trusting = TargetTable::open(tmp.path().to_owned(), true);
        assert!(trusting.admits(None, &from("192.0.2.7")));
        let closing = trusting.close("web01");
        assert_eq!(trusting.look("web01", None, &from("::1")).err(), Some(Refusal::Unavailable));
        drop(closing);
        let seen = trusting.look("web01", None, &from("::1")).unwrap();
        assert!(seen.target.is_none() && seen.rules.is_none());
    }
}
