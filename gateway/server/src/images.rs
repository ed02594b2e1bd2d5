//! Images and their overlays: made, opened, removed.

mod place;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cx_api::{Code, ImageClone, Problem};
use gateway_image::Catalogue;
use gateway_journal::{ImageId, ImageRecord, MetaRecord};
use gateway_store::{Store, StoreError};
use tap_block::{BlockDevice, Clock, Lsn, Name, VolumeId};
use tap_disk::{Pool, set_aside};
use tokio::sync::oneshot;

use crate::device::flat::{FlatDir, FlatSlot};
use crate::device::overlay::OverlayDir;
use crate::device::{Guarded, Image, ImageDevice, OverlayDevice, Workers};
use crate::http::{Answer, ImageKey};
use crate::jobs::Job;
use crate::names::{Holder, Names, Reserved};
use crate::points::Resolved;
use crate::problems;

use place::OverlayPlace;

/// What opens moments as disks.
pub(crate) struct Images {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    workers: Workers,
    dir: OverlayDir,
    pub(crate) flats: FlatDir,
    default_quota: u64,
    names: Arc<Names>,
    /// One change of the list of images at a time.
    changing: tokio::sync::Mutex<()>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: HashMap<ImageId, Open>,
    /// Images that are being taken out of use.
    frozen: HashSet<ImageId>,
}

/// An image that was opened since the start.
struct Open {
    /// Each connection has a clone.
    users: Arc<()>,
    /// All connections to a read/write image share its overlay.
    overlay: Arc<OverlayPlace>,
    /// Everything that reads the image looks here for its flat copy.
    flat: Arc<FlatSlot>,
    /// What makes the flat copy, or made it.
    copying: Option<Arc<Job>>,
    /// Why what is written on it cannot be opened.
    unreadable: Option<String>,
}

/// An image that nobody can open; it is what it was when this goes.
pub(crate) struct Frozen<'a> {
    images: &'a Images,
    record: ImageRecord,
}

impl Frozen<'_> {
    /// How many connections still have it open.
    pub(crate) fn users(&self) -> usize {
        self.images.table().users(self.record.id)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.images.table().frozen.remove(&self.record.id);
    }
}

/// How an image is to be made.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) at: Resolved,
    pub(crate) name: Option<Name>,
    pub(crate) writable: bool,
    pub(crate) quota: Option<u64>,
}

impl Images {
    /// Throws away overlays and flat copies that no image has: an image's creation or removal was cut short.
    ///
    /// # Errors
    /// When their directories cannot be read.
    pub(crate) fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        pool: Arc<Pool>,
        (dir, flats): (OverlayDir, FlatDir),
        (names, default_quota): (Arc<Names>, u64),
    ) -> std::io::Result<Self> {
        let catalogue = store.catalogue();
        // An image that the journal does not know was removed; unless it is the journal that has lost something.
        let lost = store.has_own_loss();
        for id in dir.list()? {
            match catalogue.image(ImageId::new(id)) {
                Some(_) => {}
                None if lost => put_aside(&dir.of(id))?,
                None => dir.remove(id)?,
            }
        }
        let mut table = Table::default();
        for id in flats.list()? {
            match catalogue.image(ImageId::new(id)) {
                Some(record) => {
                    // The journal has all of it: a copy that cannot be had keeps no gateway from starting.
                    if let Err(e) = table.load_flat(&flats, record, size_of(&catalogue, record)) {
                        tracing::warn!("image {} is read without its flat copy: {e}", record.name);
                    }
                }
                None if lost => put_aside(&flats.of(id))?,
                None => flats.remove(id)?,
            }
        }
        let (changing, table) = (tokio::sync::Mutex::new(()), Mutex::new(table));
        let workers = Workers::from(pool);
        Ok(Self { store, clock, workers, dir, flats, default_quota, names, changing, table })
    }

    /// Makes an image.
    ///
    /// # Errors
    /// When the name is taken, or it cannot be recorded.
    pub(crate) async fn create(&self, wanted: Wanted) -> Answer<ImageRecord> {
        let _one_at_a_time = self.changing.lock().await;
        let catalogue = self.store.catalogue();
        // From here until it is on record nothing may thin it out.
        let _held = self.image(wanted.at.volume, wanted.at.lsn)?;
        let (record, _reserved) = self.record_of(&catalogue, wanted)?;
        let (dir, id, quota, writable) = (self.dir.clone(), record.id.get(), record.quota, record.writable);
        // What was made under the number for an image that did not come to be is not this one's.
        blocking(move || if writable { dir.create(id, quota) } else { dir.remove(id) }).await?;
        self.write(MetaRecord::ImageCreated(record.clone())).await?;
        Ok(record)
    }

    /// Makes an image of an image: it shows what that shows now, and goes its own way from there.
    ///
    /// # Errors
    /// When there is no such image, the name is taken, or what is written on it does not fit into the quota.
    pub(crate) async fn clone_of(
        self: &Arc<Self>,
        which: &ImageKey,
        wanted: ImageClone,
    ) -> Answer<ImageRecord> {
        let source = self.find(which)?;
        // Before anybody waits for this.
        let overlay = self.overlay_to_copy(&source).await?;
        let _one_at_a_time = self.changing.lock().await;
        self.check_there(&self.table(), &source)?;
        let id = self.store.catalogue().next_image();
        let reserved = self.reserve(wanted.name, &source.name, id)?;
        let name = reserved.name().clone();
        let writable = wanted.writable;
        let quota = wanted.quota_bytes.unwrap_or_else(|| source.quota.max(self.default_quota));
        let used = overlay.as_ref().map_or(0, |overlay| overlay.used());
        let (dir, held) = (self.dir.clone(), if writable { quota } else { used });
        blocking(move || match overlay {
            Some(from) => dir.fork(&from, id.get(), held),
            None if writable => dir.create(id.get(), quota),
            None => dir.remove(id.get()),
        })
        .await?;
        let quota = if writable { quota } else { 0 };
        let (parent, created_at) = (Some(source.id), self.clock.wall());
        let record = ImageRecord { id, name, writable, quota, created_at, parent, ..source };
        self.write(MetaRecord::ImageCreated(record.clone())).await?;
        Ok(record)
    }

    async fn overlay_to_copy(self: &Arc<Self>, source: &ImageRecord) -> Answer<Option<Arc<OverlayDevice>>> {
        let (images, source) = (Arc::clone(self), source.clone());
        tokio::task::spawn_blocking(move || images.overlay(&source)).await.map_err(problems::internal)?
    }

    /// The name that is wanted, or one made of `stem`, for nobody else until it is on record.
    fn reserve(&self, wanted: Option<Name>, stem: &Name, id: ImageId) -> Answer<Reserved> {
        let reserve = |name: &Name| {
            self.names.reserve(name, Holder::Image, || free_name(&self.store.catalogue(), name))
        };
        match wanted {
            Some(name) => reserve(&name),
            None => {
                let mut free = generated_names(stem, id).filter_map(|name| reserve(&name).ok());
                free.next()
                    .ok_or_else(|| problems::internal("no free name for the image; choose one with --name"))
            }
        }
    }

    fn record_of(&self, catalogue: &Catalogue, wanted: Wanted) -> Answer<(ImageRecord, Reserved)> {
        let id = catalogue.next_image();
        let reserved = self.reserve(wanted.name, &wanted.at.name, id)?;
        let stream =
            catalogue.volume(wanted.at.volume).ok_or_else(|| problems::no_volume(&wanted.at.name))?;
        let quota = if wanted.writable { wanted.quota.unwrap_or(self.default_quota) } else { 0 };
        let record = ImageRecord {
            id,
            name: reserved.name().clone(),
            volume: wanted.at.volume,
            stream: stream.stream(),
            point: wanted.at.lsn,
            at: wanted.at.time.unwrap_or_default(),
            writable: wanted.writable,
            quota,
            created_at: self.clock.wall(),
            parent: None,
        };
        Ok((record, reserved))
    }

    /// Removes an image with what was written on it.
    ///
    /// # Errors
    /// When there is none, or it is open.
    pub(crate) async fn remove(&self, which: &ImageKey) -> Answer<()> {
        let record = self.find(which)?;
        let (frozen, _) = self.freeze(&record, None).await?;
        self.retire(frozen, || Ok(())).await
    }

    /// From here on nobody can open the image, until it is [retired](Self::retire) or what is returned is dropped; with what is
    /// written on it, for a job that takes it out of use.
    ///
    /// # Errors
    /// When it is open, or somebody else is at it.
    pub(crate) async fn freeze(
        &self,
        record: &ImageRecord,
        by: Option<&Arc<Job>>,
    ) -> Answer<(Frozen<'_>, Option<Arc<OverlayDevice>>)> {
        let record = self.find(&ImageKey::Id(record.id.get()))?;
        // Only who is to get it needs it open; a broken one can be removed. Before anybody waits for this.
        let overlay = if by.is_some() { self.overlay(&record)? } else { None };
        let _one_at_a_time = self.changing.lock().await;
        let record = self.find(&ImageKey::Id(record.id.get()))?;
        let mut table = self.table();
        table.check_unused(&record, by)?;
        table.frozen.insert(record.id);
        drop(table);
        Ok((Frozen { images: self, record }, overlay))
    }

    /// From here on nobody can open the image, as with [`Images::freeze`]; who has it open has it still.
    ///
    /// # Errors
    /// When somebody else is at it.
    pub(crate) async fn freeze_in_use(&self, record: &ImageRecord) -> Answer<Frozen<'_>> {
        let _one_at_a_time = self.changing.lock().await;
        let record = self.find(&ImageKey::Id(record.id.get()))?;
        let mut table = self.table();
        table.check_idle(&record, None)?;
        table.frozen.insert(record.id);
        drop(table);
        Ok(Frozen { images: self, record })
    }

    /// Takes a frozen image out of use for good. When `hand_over`, which is quick, has succeeded the image is gone.
    ///
    /// # Errors
    /// When `hand_over` fails, or that is not journalled: the image is then what it was.
    pub(crate) async fn retire(
        &self,
        frozen: Frozen<'_>,
        hand_over: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    ) -> Answer<()> {
        let _one_at_a_time = self.changing.lock().await;
        let record = &frozen.record;
        let mut retired = blocking(hand_over).await;
        if retired.is_ok() {
            retired = self.write(MetaRecord::ImageRemoved { id: record.id }).await;
        }
        if retired.is_err() {
            // What was read once can be read again; if not, the journal has it.
            let size = size_of(&self.store.catalogue(), record);
            let _ = self.table().load_flat(&self.flats, record, size);
            return retired;
        }
        self.table().open.remove(&record.id);
        let (dir, flats, id) = (self.dir.clone(), self.flats.clone(), record.id.get());
        // What stays behind is thrown away at the next start.
        if let Err(e) = blocking(move || dir.remove(id).and_then(|()| flats.remove(id))).await {
            tracing::warn!("the files of image {id} are not all removed: {e}");
        }
        Ok(())
    }

    /// # Errors
    /// When there is none.
    pub(crate) fn find(&self, which: &ImageKey) -> Answer<ImageRecord> {
        let catalogue = self.store.catalogue();
        let (record, text) = match which {
            ImageKey::Id(id) => (catalogue.image(ImageId::new(*id)), id.to_string()),
            ImageKey::Name(name) => (catalogue.image_named(name), name.to_string()),
        };
        record.cloned().ok_or_else(|| problems::no_image(&text))
    }

    /// Opens an image for a connection; it counts as open until the device is dropped. May block.
    ///
    /// # Errors
    /// When it is being removed, or its overlay cannot be read.
    pub(crate) fn open(&self, record: &ImageRecord) -> Answer<Arc<dyn BlockDevice>> {
        let (users, flat) = {
            let mut table = self.table();
            self.check_there(&table, record)?;
            let entry = table.open.entry(record.id).or_default();
            (Arc::clone(&entry.users), Arc::clone(&entry.flat))
        };
        let device: Arc<dyn BlockDevice> = match self.overlay(record)? {
            Some(overlay) => overlay,
            None => self.device(self.image(record.volume, record.point)?.with_flat(flat)),
        };
        // Somebody may have begun to remove it meanwhile.
        self.check_there(&self.table(), record)?;
        Ok(Arc::new(Guarded::new(device, users)))
    }

    fn check_there(&self, table: &Table, record: &ImageRecord) -> Answer<()> {
        match table.frozen.contains(&record.id) || self.store.catalogue().image(record.id).is_none() {
            true => Err(problems::no_image(record.name.as_str())),
            false => Ok(()),
        }
    }

    /// What is written on an image, opened if need be, which may take long; the image counts as open meanwhile. Blocks.
    fn overlay(&self, record: &ImageRecord) -> Answer<Option<Arc<OverlayDevice>>> {
        if !record.writable && !self.dir.has(record.id.get()) {
            return Ok(None);
        }
        let (place, flat, _user) = {
            let mut table = self.table();
            // From here on it has a user: nobody takes its files away.
            self.check_there(&table, record)?;
            let entry = table.open.entry(record.id).or_default();
            (Arc::clone(&entry.overlay), Arc::clone(&entry.flat), Arc::clone(&entry.users))
        };
        if let Some(overlay) = place.get() {
            return Ok(Some(overlay));
        }
        let below = Arc::new(self.image(record.volume, record.point)?.with_flat(flat));
        let overlay = place.or_open(|| {
            let quota = record.writable.then_some(record.quota);
            let opened = self.dir.open(record.id.get(), quota, below, self.workers.clone());
            let mut table = self.table();
            table.open.entry(record.id).or_default().note_opened(&record.name, opened.as_ref().err());
            opened
        });
        overlay.map(Some).map_err(problems::internal)
    }

    /// What is written on an image.
    #[cfg(test)]
    pub(crate) fn overlay_of(&self, which: &ImageKey) -> Arc<OverlayDevice> {
        let record = self.find(which).unwrap();
        self.overlay(&record).unwrap().unwrap()
    }

    /// Bytes written on an image; `None` for a read-only one, or when they cannot be told, as while somebody opens it. Blocks.
    pub(crate) fn used(&self, record: &ImageRecord) -> Option<u64> {
        let is_told = {
            let table = self.table();
            let is_being_opened = |open: &Open| open.overlay.is_being_opened();
            !table.frozen.contains(&record.id) && !table.open.get(&record.id).is_some_and(is_being_opened)
        };
        if !record.writable || !is_told {
            return None;
        }
        self.overlay(record).ok().flatten().map(|overlay| overlay.used())
    }

    /// What is to be said of images: that they find no room on the disk, and that what was written on them is damaged, as far as
    /// anybody has come past it.
    pub(crate) fn alerts(&self) -> Vec<String> {
        let catalogue = self.store.catalogue();
        let short = self.dir.room().short().into_iter().filter_map(|id| catalogue.image(ImageId::new(id)));
        let said = short.map(|record| {
            format!(
                "image {} finds no room: what is left of the disk is what the journal needs to go on, so its writes to new \
                 blocks fail; remove images, or make room on the disk",
                record.name
            )
        });
        said.chain(self.damaged(&catalogue)).collect()
    }

    fn damaged(&self, catalogue: &Catalogue) -> Vec<String> {
        let table = self.table();
        let named = |id: &ImageId| catalogue.image(*id).map(|record| record.name.clone());
        let said = table.open.iter().filter_map(|(id, open)| Some(open.damage(&named(id)?)));
        let mut said: Vec<String> = said.flatten().collect();
        said.sort_unstable();
        said
    }

    /// A volume at one point, as a read-only disk.
    ///
    /// # Errors
    /// When there is no such volume.
    pub(crate) fn moment(&self, volume: VolumeId, point: Lsn) -> Answer<Arc<dyn BlockDevice>> {
        Ok(self.device(self.image(volume, point)?))
    }

    fn device(&self, image: Image) -> Arc<dyn BlockDevice> {
        Arc::new(ImageDevice::new(Arc::new(image), self.workers.clone()))
    }

    /// The same, for programs of our own.
    ///
    /// # Errors
    /// When there is no such volume, or the point is not kept any more.
    pub(crate) fn image(&self, volume: VolumeId, point: Lsn) -> Answer<Image> {
        let catalogue = self.store.catalogue();
        let known =
            catalogue.volume(volume).ok_or_else(|| problems::internal(format!("{volume} is gone")))?;
        Image::open(Arc::clone(&self.store), volume, point, known.size_at(point)).map_err(|e| match e {
            StoreError::Thinned { .. } => problems::thinned(known.name(), &e, None),
            e => problems::stored(&e),
        })
    }

    /// Makes durable what was written on images. Blocks.
    pub(crate) fn flush_all(&self) {
        let overlays: Vec<_> = self.table().open.iter().map(|(id, o)| (*id, o.overlay.get())).collect();
        for (id, overlay) in overlays {
            if let Some(Err(e)) = overlay.map(|o| o.flush()) {
                tracing::error!("what was last written on {id} is not durable: {e}");
            }
        }
    }

    /// Journals a record of the gateway's own; durable when this returns.
    pub(crate) async fn write(&self, record: MetaRecord) -> Answer<()> {
        self.write_all(vec![record]).await
    }

    /// Several: they count together, or not at all.
    pub(crate) async fn write_all(&self, records: Vec<MetaRecord>) -> Answer<()> {
        let (done, written) = oneshot::channel();
        // Should the asker be gone, nobody is left to tell.
        let tell = move |result| drop(done.send(result));
        self.store.record_all(records, Box::new(tell));
        let result = written.await.map_err(|_| problems::internal("the gateway is stopping"))?;
        result.map(drop).map_err(|e| problems::stored(&e))
    }

    /// May the image become the volume `name`? Its own name becomes free.
    ///
    /// # Errors
    /// When somebody else has the name.
    pub(crate) fn check_free(&self, record: &ImageRecord, name: &Name) -> Answer<()> {
        let catalogue = self.store.catalogue();
        if catalogue.volume_named(name).is_some() {
            return Err(problems::name_taken(name, "a volume"));
        }
        match catalogue.image_named(name) {
            Some(image) if image.id != record.id => Err(problems::name_taken(name, "another image")),
            _ => Ok(()),
        }
    }

    /// Where an image's flat copy is found.
    pub(crate) fn flat(&self, image: ImageId) -> Arc<FlatSlot> {
        Arc::clone(&self.table().open.entry(image).or_default().flat)
    }

    /// Notes what makes the image's flat copy.
    ///
    /// # Errors
    /// When the image is being removed, or another job is at it.
    pub(crate) fn copied_by(&self, record: &ImageRecord, job: &Arc<Job>) -> Answer<()> {
        let mut table = self.table();
        if let Some(other) = table.open.get(&record.id).and_then(|open| open.copying.as_ref())
            && other.is_running()
        {
            let text = format!("job {} works on image {} already", other.id(), record.name);
            return Err(Problem::new(Code::Conflict, text).fix("wait for it, or cancel it"));
        }
        self.check_there(&table, record)?;
        table.open.entry(record.id).or_default().copying = Some(Arc::clone(job));
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Open {
    fn default() -> Self {
        let (users, flat) = (Arc::new(()), Arc::default());
        Self { users, overlay: Arc::default(), flat, copying: None, unreadable: None }
    }
}

impl Open {
    /// Its overlay was opened, or could not be.
    fn note_opened(&mut self, name: &Name, failed: Option<&std::io::Error>) {
        let unreadable = failed.map(ToString::to_string);
        if unreadable != self.unreadable
            && let Some(why) = &unreadable
        {
            tracing::warn!("image {name} cannot be opened: {why}");
        }
        self.unreadable = unreadable;
    }

    /// What is to be said of what is written on it.
    fn damage(&self, name: &Name) -> Vec<String> {
        let rotten = self.overlay.get().and_then(|overlay| overlay.rotten()).map(|(first, n)| {
            format!(
                "of what was written on image {name} {n} blocks have rotted, the first at byte {}: they are refused; write them \
                 again, or remove the image and create it anew",
                first.offset()
            )
        });
        let unreadable = self.unreadable.as_ref().map(|why| format!("image {name} cannot be opened: {why}"));
        unreadable.into_iter().chain(rotten).collect()
    }
}

impl Table {
    fn load_flat(&mut self, flats: &FlatDir, record: &ImageRecord, size: u64) -> std::io::Result<()> {
        let flat = flats.open(record.id.get(), size)?;
        self.open.entry(record.id).or_default().flat.set(flat);
        Ok(())
    }

    fn users(&self, id: ImageId) -> usize {
        self.open.get(&id).map_or(0, |open| Arc::strong_count(&open.users) - 1)
    }

    fn check_unused(&self, record: &ImageRecord, by: Option<&Arc<Job>>) -> Answer<()> {
        self.check_idle(record, by)?;
        match self.users(record.id) {
            0 => Ok(()),
            connections => {
                let text = format!("image {} is open ({connections} connections)", record.name);
                Err(Problem::new(Code::Conflict, text).fix("close what uses it, then try again"))
            }
        }
    }

    /// No job is at it.
    fn check_idle(&self, record: &ImageRecord, by: Option<&Arc<Job>>) -> Answer<()> {
        if self.frozen.contains(&record.id) {
            let text = format!("image {} is being removed or committed", record.name);
            return Err(
                Problem::new(Code::Conflict, text).fix("wait for that, or cancel it: chronogate job ls")
            );
        }
        let Some(open) = self.open.get(&record.id) else { return Ok(()) };
        let others = |job: &&Arc<Job>| job.is_running() && !by.is_some_and(|by| Arc::ptr_eq(by, job));
        if let Some(job) = open.copying.as_ref().filter(others) {
            let text = format!("job {} works on image {}", job.id(), record.name);
            return Err(Problem::new(Code::Conflict, text)
                .fix(format!("wait for it, or cancel it: chronogate job cancel {}", job.id())));
        }
        Ok(())
    }
}

fn size_of(catalogue: &Catalogue, record: &ImageRecord) -> u64 {
    catalogue.volume(record.volume).map_or(0, |volume| volume.size_at(record.point))
}

fn free_name(catalogue: &Catalogue, name: &Name) -> Answer<()> {
    if catalogue.volume_named(name).is_some() {
        return Err(problems::name_taken(name, "a volume"));
    }
    match catalogue.image_named(name) {
        Some(_) => Err(problems::name_taken(name, "another image")),
        None => Ok(()),
    }
}

/// `VOLUME-ID`, cut so that it stays a name, and more for when that is taken.
fn generated_names(volume: &Name, id: ImageId) -> impl Iterator<Item = Name> + use<> {
    let stem: String = volume.as_str().chars().take(150).collect();
    let names = (0..100).map(move |n| match n {
        0 => format!("{stem}-{}", id.get()),
        n => format!("{stem}-{}-{n}", id.get()),
    });
    names.filter_map(|text| text.parse().ok())
}

/// Does file work off the runtime's threads.
async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Answer<()> {
    let done = tokio::task::spawn_blocking(work).await.map_err(problems::internal)?;
    done.map_err(|e| problems::of_disk(&e))
}

/// What was written on an image of which the journal may have lost the record stays, under another name, until somebody removes it.
fn put_aside(dir: &Path) -> std::io::Result<()> {
    if let Some(aside) = set_aside(dir)? {
        tracing::warn!(
            "records of the journal are lost, maybe that of the image with this number: what was written on it is kept in {}",
            aside.display()
        );
    }
    Ok(())
}
