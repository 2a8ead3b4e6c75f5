//! The disk as a real file system: the kernel's FUSE between the program and [`Disk`].
//!
//! Everything goes through the kernel's own system calls and its page cache, which writes through: what the program
//! believes to be a sync is one only if the kernel sends one. `sync_file_range` never arrives here.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Directory, Disk, File, Node, Refusal};
use crate::faults::{Course, Kind, Operation, Plan};

const NAMES_FOR: Duration = Duration::from_secs(3600);
/// Attributes are asked for again each time: a failed sync changes a length behind the kernel's back.
const ATTRIBUTES_FOR: Duration = Duration::ZERO;

#[derive(Debug)]
struct Inner {
    disk: Disk,
    course: Course,
}

#[derive(Clone, Debug)]
struct Shared(Arc<(Mutex<Inner>, Condvar)>, Arc<OnceLock<Notifier>>);

/// A mounted disk.
pub(crate) struct Mounted {
    shared: Shared,
    session: Option<BackgroundSession>,
}

/// What is left when it is unmounted.
pub(crate) struct Unmounted {
    /// The disk: as the cut left it, or as it was at the end.
    pub(crate) disk: Disk,
    /// Whether the power was cut.
    pub(crate) is_cut: bool,
    /// The operation at which it was, and what it had to decide about.
    pub(crate) cut_at: Vec<String>,
    /// The operation that failed first.
    pub(crate) struck: Option<String>,
    /// By [`Kind::ALL`]: operations that such a fault concerns.
    pub(crate) concerned: [u64; 4],
}

impl Mounted {
    /// Mounts `disk` at `path`, a directory.
    pub(crate) fn new(disk: Disk, path: &Path, plan: Plan) -> std::io::Result<Self> {
        let shared =
            Shared(Arc::new((Mutex::new(Inner { disk, course: Course::new(plan) }), Condvar::new())), Arc::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power-cuts".to_owned()), MountOption::NoAtime];
        let session = fuser::spawn_mount(Served(shared.clone()), path, &config)?;
        let _ = shared.1.set(session.notifier());
        Ok(Self { shared, session: Some(session) })
    }

    /// Waits so long for the cut at most; whether it has come.
    pub(crate) fn is_cut(&self, wait: Duration) -> bool {
        let inner = self.shared.lock();
        let waited = self.shared.0.1.wait_timeout_while(inner, wait, |inner| inner.course.image.is_none());
        waited.unwrap().0.course.image.is_some()
    }

    /// Unmounts it. Nobody uses it any more.
    pub(crate) fn unmount(mut self) -> Unmounted {
        // Not joined: whoever has made a mount namespace meanwhile, such as a container, keeps a copy of the mount.
        drop(self.session.take());
        let mut inner = self.shared.lock();
        let image = inner.course.image.take();
        let (is_cut, struck, concerned) = (image.is_some(), inner.course.struck.take(), inner.course.concerned);
        let disk = image.unwrap_or_else(|| std::mem::replace(&mut inner.disk, Disk::new()));
        Unmounted { disk, is_cut, cut_at: std::mem::take(&mut inner.course.cut_at), struck, concerned }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap()
    }

    fn step(&self, operation: Operation, name: &str) -> Result<MutexGuard<'_, Inner>, Kind> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let before = inner.course.image.is_some();
        let done = inner.course.step(&inner.disk, operation, name);
        if !before && inner.course.image.is_some() {
            self.0.1.notify_all();
        }
        done.map(|()| guard)
    }

    fn step_at(&self, operation: Operation, number: INodeNo) -> Result<MutexGuard<'_, Inner>, Kind> {
        let name = self.lock().disk.name(number.0).to_owned();
        self.step(operation, &name)
    }
}

impl Inner {
    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        let (kind, size, perm) = match self.disk.node(number)? {
            Node::File(file) => (FileType::RegularFile, file.now.len() as u64, 0o644),
            Node::Directory(_) => (FileType::Directory, 0, 0o755),
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => Errno::ENOENT,
            Refusal::Exists => Errno::EEXIST,
            Refusal::Kind => Errno::ENOTDIR,
            Refusal::NotEmpty => Errno::ENOTEMPTY,
        }
    }
}

impl From<Kind> for Errno {
    fn from(kind: Kind) -> Self {
        kind.errno()
    }
}

fn text(name: &OsStr) -> &str {
    name.to_str().unwrap_or("?")
}

struct Served(Shared);

impl Served {
    fn make(&self, parent: INodeNo, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        let mut inner = self.0.step(Operation::Create, text(name))?;
        let number = inner.disk.create(parent.0, text(name), node)?;
        inner.attributes(number)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        Ok(self.0.step(Operation::Remove, text(name))?.disk.remove(parent.0, text(name))?)
    }

    fn sync(&self, operation: Operation, number: INodeNo) -> Result<(), Errno> {
        match self.0.step_at(operation, number) {
            Ok(mut inner) => {
                if inner.course.is_deaf(&inner.disk, operation, number.0) {
                    return Ok(());
                }
                if operation == Operation::Sync {
                    Ok(inner.disk.sync_file(number.0)?)
                } else {
                    Ok(inner.disk.sync_directory(number.0)?)
                }
            }
            Err(Kind::Sync) if operation == Operation::Sync => {
                self.0.lock().disk.forget_file(number.0)?;
                // The kernel still has the pages that it could not write.
                let _ = self.0.1.get().map(|kernel| kernel.inval_inode(number, 0, 0));
                Err(Errno::EIO)
            }
            Err(kind) => Err(kind.into()),
        }
    }

    fn write_some(&self, number: INodeNo, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let at = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        match self.0.step_at(Operation::Write, number) {
            Ok(mut inner) => inner.disk.write(number.0, at, data)?,
            // A write of one byte has no part: it fails.
            Err(Kind::Short) if data.len() > 1 => {
                let part = data.len() / 2;
                self.0.lock().disk.write(number.0, at, &data[..part])?;
                return u32::try_from(part).map_err(|_| Errno::EFBIG);
            }
            Err(kind) => return Err(kind.into()),
        }
        u32::try_from(data.len()).map_err(|_| Errno::EFBIG)
    }
}

fn finish(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn enter(done: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match done {
        Ok(attributes) => {
            reply.entry_with_ttls(&NAMES_FOR, &ATTRIBUTES_FOR, &attributes, Generation(0));
        }
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, _: &mut KernelConfig) -> std::io::Result<()> {
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inner = self.0.lock();
        let found = inner.disk.lookup(parent.0, text(name)).map_err(Errno::from);
        enter(found.and_then(|number| inner.attributes(number)), reply);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attributes(number.0) {
            Ok(attributes) => reply.attr(&ATTRIBUTES_FOR, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = || -> Result<FileAttr, Errno> {
            let Some(size) = size else { return self.0.lock().attributes(number.0) };
            let mut inner = self.0.step_at(Operation::Length, number)?;
            inner.disk.set_length(number.0, usize::try_from(size).map_err(|_| Errno::EFBIG)?)?;
            inner.attributes(number.0)
        };
        match done() {
            Ok(attributes) => reply.attr(&ATTRIBUTES_FOR, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        enter(self.make(parent, name, Node::Directory(Directory::default())), reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.make(parent, name, Node::File(File::default())) {
            Ok(attributes) => {
                reply.created(&ATTRIBUTES_FOR, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.step_at(Operation::Open, number) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(kind) => reply.error(kind.into()),
        }
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.step_at(Operation::Open, number) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(kind) => reply.error(kind.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.step_at(Operation::Read, number) {
            Ok(inner) => {
                let now = inner.disk.file(number.0).map_or(&[][..], |file| &file.now);
                let from = usize::try_from(offset).map_or(now.len(), |from| from.min(now.len()));
                reply.data(&now[from..(from + size as usize).min(now.len())]);
            }
            Err(kind) => reply.error(kind.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_some(number, offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        finish(self.sync(Operation::Sync, number), reply);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        finish(self.sync(Operation::SyncDirectory, number), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(self.remove(parent, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(self.remove(parent, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = || -> Result<(), Errno> {
            let mut inner = self.0.step(Operation::Rename, text(to_name))?;
            Ok(inner.disk.rename((parent.0, text(name)), (to.0, text(to_name)))?)
        };
        finish(done(), reply);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let inner = self.0.lock();
        let names = inner.disk.directory(number.0).map(|directory| directory.now.clone()).unwrap_or_default();
        // The place of a name is its node's number: names come and go while a directory is read.
        let mut entries: Vec<_> = names.into_iter().map(|(name, node)| (node, name)).collect();
        entries.sort_unstable();
        for (node, name) in entries.into_iter().filter(|(node, _)| *node > offset) {
            let kind = match inner.disk.node(node) {
                Ok(Node::Directory(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(node), node, kind, &name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
