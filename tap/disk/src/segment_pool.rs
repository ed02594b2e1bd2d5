//! Recycled segment files: taken, given back, and zeroed ahead so that nobody waits for a new one.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::pool::Pool;
use crate::segment::{DiskDir, SegmentDir, SegmentFile};

/// The number a file of a pool is named by. It stays the same when the file is recycled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNo(u32);

/// Limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// So many files lie ready to be taken, zeroed ahead in the background.
    pub ready: usize,
    /// No more files than this, in use and spare together; [`SegmentPool::take`] fails at the limit.
    pub max_files: usize,
    /// So many spare files are kept; more that are given back are removed.
    pub max_spare: usize,
    /// So many files are kept open for [`SegmentPool::get`], beside those their users hold.
    pub max_open: usize,
}

/// A directory of files of one size.
///
/// Which files are in use is the owner's knowledge: after a start all that are there count as in use until
/// the owner gives back those it has no need of.
pub struct SegmentPool {
    shared: Arc<Shared>,
    background: Pool,
}

struct Shared {
    dir: Box<dyn SegmentDir>,
    len: u64,
    options: PoolOptions,
    state: Mutex<State>,
    /// A file came, or the attempt to make one ended.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    in_use: BTreeSet<FileNo>,
    spare: VecDeque<FileNo>,
    /// So many spare files are not for everybody.
    held_back: usize,
    /// How many files are being made right now.
    making: usize,
    /// The background thread is at work, or about to be.
    preparing: bool,
    closing: bool,
    next: u32,
    open: HashMap<FileNo, Handle>,
    uses: u64,
}

/// A file in use that does not lie under its name any more: somebody removed or replaced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Astray {
    /// Which.
    pub no: FileNo,
    /// It is open: what it holds can still be read, and [`SegmentPool::restore`]d.
    pub is_open: bool,
}

/// Who takes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    Anybody,
    /// Somebody for whom some are held back.
    Beyond,
}

/// An open file: one object for all users, because a failed sync concerns them all.
struct Handle {
    file: Weak<SegmentFile>,
    kept: Option<Arc<SegmentFile>>,
    last_use: u64,
}

impl FileNo {
    /// The file with this number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// As it stands in the file's name.
impl fmt::Display for FileNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

impl fmt::Debug for FileNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file-{}", self.0)
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { ready: 2, max_files: usize::MAX, max_spare: 16, max_open: 256 }
    }
}

impl SegmentPool {
    /// Opens the pool of files of `len` bytes in `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path, len: u64) -> io::Result<Self> {
        Self::open_with(dir, len, PoolOptions::default())
    }

    /// [`SegmentPool::open`] with limits.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open_with(dir: &Path, len: u64, options: PoolOptions) -> io::Result<Self> {
        Self::over(Box::new(DiskDir::open(dir)?), len, options)
    }

    /// A pool anywhere: [`MemoryDir`](crate::MemoryDir) in tests.
    ///
    /// # Errors
    /// What the directory says.
    pub fn over(dir: Box<dyn SegmentDir>, len: u64, options: PoolOptions) -> io::Result<Self> {
        let in_use: BTreeSet<FileNo> = dir.list()?.into_iter().collect();
        let next = in_use.last().map_or(1, |last| last.0.saturating_add(1));
        let state = Mutex::new(State { in_use, next, ..State::default() });
        let shared = Shared { dir, len, options, state, changed: Condvar::new() };
        Ok(Self { shared: Arc::new(shared), background: Pool::new("segments", 1, 1) })
    }

    /// The size of each file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.shared.len
    }

    /// A file for use: a recycled one with its old content, or a new one of zeroes. Waits for one to be made
    /// if none lies ready.
    ///
    /// # Errors
    /// At the limit of files, without room on the disk, and what else the operating system says.
    pub fn take(&self) -> io::Result<(FileNo, Arc<SegmentFile>)> {
        let taken = self.shared.take(Taker::Anybody);
        if taken.is_ok() {
            self.prepare();
        }
        taken
    }

    /// The same for those who may not have what is [held back](Self::hold_back).
    ///
    /// # Errors
    /// As [`SegmentPool::take`], though files may lie there.
    pub fn take_beyond(&self) -> io::Result<(FileNo, Arc<SegmentFile>)> {
        let taken = self.shared.take(Taker::Beyond);
        if taken.is_ok() {
            self.prepare();
        }
        taken
    }

    /// From here on so many spare files are for [`SegmentPool::take`] alone. They are made ahead, beside those that lie ready, as
    /// far as there is room: nobody else can take that from the disk then.
    pub fn hold_back(&self, files: usize) {
        self.shared.lock().held_back = files;
        self.prepare();
    }

    /// Files that are made from here on have this number or a later one: one that is gone may be put back under its own.
    pub fn go_on_at(&self, no: FileNo) {
        let mut state = self.shared.lock();
        state.next = state.next.max(no.0);
    }

    /// The end of `no`'s use: it is recycled, or removed if there are spares enough or it is not fit for use
    /// any more. Nobody may read or write it from here on.
    ///
    /// # Errors
    /// When it is not in use, and what the operating system says to a removal.
    pub fn give_back(&self, no: FileNo) -> io::Result<()> {
        self.shared.give_back(no)
    }

    /// The file in use under this number, opened if it is not open.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is not in use, and what else the operating system says.
    pub fn get(&self, no: FileNo) -> io::Result<Arc<SegmentFile>> {
        let mut state = self.shared.lock();
        if !state.in_use.contains(&no) {
            return Err(not_in_use(no));
        }
        self.shared.opened(&mut state, no)
    }

    /// Files in use that are not where they should be. Looks through the directory, and at every file that is open.
    ///
    /// # Errors
    /// When the directory is not the one that was opened, and what else the operating system says.
    pub fn astray(&self) -> io::Result<Vec<Astray>> {
        self.shared.astray()
    }

    /// Makes a file that is astray, and open, once again under its name, durably. Nobody may write to it meanwhile; who has it
    /// open goes on reading what was there.
    ///
    /// # Errors
    /// When it is not open or something else has its name, and what else the operating system says.
    pub fn restore(&self, no: FileNo) -> io::Result<()> {
        self.shared.restore(no)
    }

    /// The files in use, in the order of their numbers.
    #[must_use]
    pub fn list(&self) -> Vec<FileNo> {
        self.shared.lock().in_use.iter().copied().collect()
    }

    /// How many files lie ready to be taken.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.shared.lock().spare.len()
    }

    /// Has the background thread make files if too few lie ready.
    fn prepare(&self) {
        if self.shared.begin_preparing() {
            let shared = Arc::clone(&self.shared);
            self.background.submit(move || shared.prepare());
        }
    }
}

impl Drop for SegmentPool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, taker: Taker) -> io::Result<(FileNo, Arc<SegmentFile>)> {
        let mut state = self.lock();
        loop {
            if let Some(no) = state.take_spare(taker) {
                match self.hand_out(&mut state, no)? {
                    Some(file) => return Ok((no, file)),
                    None => continue,
                }
            }
            // With some there that are held back, more are being made than one: nobody waits for all of them.
            if !state.preparing || !state.spare.is_empty() {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut state, no) = self.make(state)?;
        let file = self.hand_out(&mut state, no)?;
        file.map(|file| (no, file))
            .ok_or_else(|| io::Error::other(format!("the pool's file {no} was removed")))
    }

    /// `None`: it is not there any more.
    fn hand_out(&self, state: &mut State, no: FileNo) -> io::Result<Option<Arc<SegmentFile>>> {
        match self.opened(state, no) {
            Ok(file) if self.is_there(no, &file) => {
                state.in_use.insert(no);
                Ok(Some(file))
            }
            Ok(_) => {
                state.open.remove(&no);
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => {
                // It may work the next time (too many open files, say).
                state.spare.push_back(no);
                Err(e)
            }
        }
    }

    /// Makes a file, without the lock while the disk works.
    fn make<'a>(&'a self, mut state: MutexGuard<'a, State>) -> io::Result<(MutexGuard<'a, State>, FileNo)> {
        if state.total() >= self.options.max_files {
            return Err(self.at_limit());
        }
        let no = FileNo(state.next);
        state.next =
            state.next.checked_add(1).ok_or_else(|| io::Error::other("the file numbers are used up"))?;
        state.making += 1;
        drop(state);
        let made = self.dir.create(no, self.len);
        let mut state = self.lock();
        state.making -= 1;
        let file = made?;
        self.remember(&mut state, no, Arc::new(file));
        Ok((state, no))
    }

    fn begin_preparing(&self) -> bool {
        let mut state = self.lock();
        let needed = self.wants_more(&state) && !state.preparing;
        state.preparing |= needed;
        needed
    }

    fn wants_more(&self, state: &State) -> bool {
        let wanted = self.options.ready.saturating_add(state.held_back);
        !state.closing && state.spare.len() < wanted && state.total() < self.options.max_files
    }

    /// Fills up the spares; an error is left to the next `take`, which meets it and reports it.
    fn prepare(&self) {
        let mut state = self.lock();
        while self.wants_more(&state) {
            match self.make(state) {
                Ok((mut made, no)) => {
                    made.spare.push_back(no);
                    self.changed.notify_all();
                    state = made;
                }
                Err(_) => {
                    state = self.lock();
                    break;
                }
            }
        }
        state.preparing = false;
        drop(state);
        self.changed.notify_all();
    }

    fn give_back(&self, no: FileNo) -> io::Result<()> {
        let mut state = self.lock();
        if !state.in_use.remove(&no) {
            return Err(not_in_use(no));
        }
        let is_fit = |file: &SegmentFile| file.len() == self.len && !file.is_poisoned();
        let file = self.opened(&mut state, no);
        let is_there = !file.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            && file.as_ref().map_or(true, |file| self.is_there(no, file));
        let fit = is_there && file.is_ok_and(|file| is_fit(&file));
        if fit && state.spare.len() < self.options.max_spare.max(state.held_back) {
            state.spare.push_back(no);
            self.changed.notify_all();
            return Ok(());
        }
        state.open.remove(&no);
        drop(state);
        if is_there { self.dir.remove(no) } else { Ok(()) }
    }

    /// What anybody wrote to a file without a name would be gone with the program.
    fn is_there(&self, no: FileNo, file: &SegmentFile) -> bool {
        self.dir.holds(no, file).unwrap_or(true)
    }

    fn astray(&self) -> io::Result<Vec<Astray>> {
        let (used, open): (Vec<FileNo>, BTreeSet<FileNo>) = {
            let state = self.lock();
            (state.in_use.iter().copied().collect(), state.open.keys().copied().collect())
        };
        let there: BTreeSet<FileNo> = self.dir.list()?.into_iter().collect();
        let suspects = used.into_iter().filter(|no| open.contains(no) || !there.contains(no));
        suspects.filter_map(|no| self.look_for(no).transpose()).collect()
    }

    /// It may have been given back meanwhile.
    fn look_for(&self, no: FileNo) -> io::Result<Option<Astray>> {
        let mut state = self.lock();
        if !state.in_use.contains(&no) {
            return Ok(None);
        }
        let is_open = match state.held(no) {
            Some(file) if self.dir.holds(no, &file)? => return Ok(None),
            Some(_) => true,
            None => match self.opened(&mut state, no) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                looked => return looked.map(|_| None),
            },
        };
        Ok(Some(Astray { no, is_open }))
    }

    fn restore(&self, no: FileNo) -> io::Result<()> {
        let file = self.lock().held(no).ok_or_else(|| not_in_use(no))?;
        let made = self.dir.restore(no, &file)?;
        let mut state = self.lock();
        if state.in_use.contains(&no) {
            self.remember(&mut state, no, Arc::new(made));
            return Ok(());
        }
        drop(state);
        self.dir.remove(no)
    }

    fn opened(&self, state: &mut State, no: FileNo) -> io::Result<Arc<SegmentFile>> {
        state.uses += 1;
        let now = state.uses;
        if let Some(handle) = state.open.get_mut(&no)
            && let Some(file) = handle.file.upgrade()
        {
            handle.last_use = now;
            if handle.kept.is_some() {
                return Ok(file);
            }
            // Closed for want of room here, held open by somebody else: keep it again.
            self.remember(state, no, Arc::clone(&file));
            return Ok(file);
        }
        let file = Arc::new(self.dir.open(no)?);
        self.remember(state, no, Arc::clone(&file));
        Ok(file)
    }

    /// Keeps `file` open; the longest unused of too many kept ones goes.
    fn remember(&self, state: &mut State, no: FileNo, file: Arc<SegmentFile>) {
        let handle = Handle { file: Arc::downgrade(&file), kept: Some(file), last_use: state.uses };
        state.open.insert(no, handle);
        if state.open.values().filter(|handle| handle.kept.is_some()).count() > self.options.max_open.max(1) {
            state.close_oldest();
        }
    }

    fn at_limit(&self) -> io::Error {
        let text = format!("all {} files of the pool are in use, which is its limit", self.options.max_files);
        io::Error::new(io::ErrorKind::QuotaExceeded, text)
    }
}

impl State {
    fn take_spare(&mut self, taker: Taker) -> Option<FileNo> {
        let left = if taker == Taker::Beyond { self.held_back } else { 0 };
        if self.spare.len() > left { self.spare.pop_front() } else { None }
    }

    fn total(&self) -> usize {
        self.in_use.len() + self.spare.len() + self.making
    }

    /// The file, if anybody has it open.
    fn held(&self, no: FileNo) -> Option<Arc<SegmentFile>> {
        self.open.get(&no).and_then(|handle| handle.file.upgrade())
    }

    fn close_oldest(&mut self) {
        let kept = self.open.values_mut().filter(|handle| handle.kept.is_some());
        if let Some(oldest) = kept.min_by_key(|handle| handle.last_use) {
            oldest.kept = None;
        }
        self.open.retain(|_, handle| handle.file.strong_count() > 0);
    }
}

fn not_in_use(no: FileNo) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the pool's file {no} is not in use"))
}

impl fmt::Debug for SegmentPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        write!(f, "SegmentPool({} files in use, {} spare)", state.in_use.len(), state.spare.len())
    }
}

#[cfg(test)]
mod tests;
