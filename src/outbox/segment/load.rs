//! Reading a closed segment whole.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tracing::warn;

use super::{
    FORMAT, FORMAT_KEY, FORMAT_SEALED, HEADER_TREE, KEY_KEY, Key, RUN_KEY, SALT_KEY, SegmentError, classify, config,
};
use crate::outbox::cipher::Keys;
use crate::outbox::manifest::use_reserve;

/// A segment of a few MiB opens in milliseconds; one that takes this long never will.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A file that cannot be read is tried again so often …
const READ_ATTEMPTS: u32 = 3;
/// … this long apart.
const READ_PAUSE: Duration = Duration::from_millis(200);
/// A segment that only waits behind one that hangs is tried so often.
const LOAD_ATTEMPTS: u32 = 3;
/// How many segments are being loaded.
static LOADING: AtomicUsize = AtomicUsize::new(0);

/// What is wrong with a value that does not open.
pub(super) const CHANGED: &str = "a value was changed after it was encrypted";

/// All that a closed segment holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The run that wrote it; `None` if that cannot be read.
    pub(crate) run: Option<String>,
    /// Its values, in the order of their keys.
    pub(crate) values: Vec<(Key, Vec<u8>)>,
    /// The id of the key that it is encrypted with.
    pub(crate) key: Option<String>,
    /// What could not be read, for the log. The rest is there.
    pub(crate) damage: Option<String>,
}

/// Reads a closed segment whole and closes it again. A segment is a few MiB, so this bounds memory, keeps no second
/// database open, and finds damage before anything is made of it.
///
/// # Errors
/// When nothing of it can be read; [`SegmentError::Damaged`] alone means damage. A panic of the database is damage, a key
/// that is not there is none.
pub(crate) fn load(path: &Path, keys: &Keys) -> Result<Contents, SegmentError> {
    let file = path.join("db");
    let length = fs::metadata(&file).map(|metadata| metadata.len());
    let mut loaded = load_once(path, keys);
    if let Err(SegmentError::Io { source, .. }) = &loaded
        && path.parent().is_some_and(|directory| use_reserve(directory, source))
    {
        loaded = load_once(path, keys);
    }
    if let (Err(SegmentError::Io { source, .. }), Ok(length)) = (&loaded, length)
        && source.kind() == io::ErrorKind::StorageFull
    {
        // sled fills the last step with zeros when it opens. Half of that helps nobody, and takes the room that
        // releasing what is delivered needs.
        let _ = fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(length));
    }
    loaded
}

fn load_once(path: &Path, keys: &Keys) -> Result<Contents, SegmentError> {
    let damaged = |reason: String| SegmentError::Damaged { path: path.to_owned(), reason };
    let io = |source| SegmentError::Io { path: path.to_owned(), source };
    if !path.join("db").try_exists().map_err(io)? {
        return Err(damaged("its file `db` is missing".to_owned()));
    }
    let mut attempts = 0;
    let outcome = loop {
        let (done, loaded) = mpsc::sync_channel(1);
        let begun = Arc::new(AtomicBool::new(false));
        LOADING.fetch_add(1, Ordering::SeqCst);
        let job = Job { path: path.to_owned(), keys: keys.clone(), begun: Arc::clone(&begun), done };
        let outcome = start_loading(job).map(|()| loaded.recv_timeout(LOAD_TIMEOUT));
        LOADING.fetch_sub(1, Ordering::SeqCst);
        let outcome = outcome.map_err(io)?;
        if outcome.is_err() {
            // The thread hangs in sled: it is left to itself, and the next load gets another.
            *LOADER.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        attempts += 1;
        if outcome.is_ok() || begun.load(Ordering::SeqCst) {
            break outcome;
        }
        // It waited behind another one that hangs, which says nothing about it.
        if attempts == LOAD_ATTEMPTS {
            return Err(io(io::ErrorKind::TimedOut.into()));
        }
    };
    match outcome {
        Ok(Ok(contents)) => contents,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(damaged(text.unwrap_or("the database panicked").to_owned()))
        }
        Err(_) => Err(damaged(format!("it did not open within {LOAD_TIMEOUT:?}"))),
    }
}

/// A segment to read, and who waits for it.
struct Job {
    path: PathBuf,
    keys: Keys,
    begun: Arc<AtomicBool>,
    done: mpsc::SyncSender<std::thread::Result<Result<Contents, SegmentError>>>,
}

/// The thread that loads. It is not the caller's, because where a damaged database makes one of sled's threads panic, the
/// caller of sled waits for ever; and it is one, because memory that was freed on many threads is kept many times.
static LOADER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

fn start_loading(job: Job) -> io::Result<()> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    let job = match loader.as_ref() {
        Some(jobs) => match jobs.send(job) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(job)) => job,
        },
        None => job,
    };
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::Builder::new().name("outbox-load".to_owned()).spawn(move || {
        for Job { path, keys, begun, done } in queue {
            begun.store(true, Ordering::SeqCst);
            let _ = done.send(catch_unwind(AssertUnwindSafe(|| read_all(&path, &keys))));
        }
    })?;
    // The thread has just begun to listen.
    let _ = jobs.send(job);
    *loader = Some(jobs);
    Ok(())
}

/// Whether a closed segment is being read: a panic of sled's threads then is damage of that segment, not of the gateway.
pub(crate) fn is_loading() -> bool {
    LOADING.load(Ordering::SeqCst) > 0
}

/// Removes what sled's last opening noted about the log. It writes that note beside it, and takes one that it had only
/// begun when the process was killed or the power was cut for a damaged database. The log says all of it again: a
/// segment's first opening never finds a note.
fn remove_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("snap.")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Reads the file once, so that sled finds it in memory. Where a read fails, sled takes what lies before it for all that
/// there is and overwrites the rest: an error that passes would become a loss. One that stays is damage.
fn read_through(file: &Path) {
    for attempt in 1..=READ_ATTEMPTS {
        match File::open(file).and_then(|mut file| io::copy(&mut file, &mut io::sink())) {
            Ok(_) => return,
            Err(error) => warn!(attempt, "{} cannot be read: {error}", file.display()),
        }
        std::thread::sleep(READ_PAUSE);
    }
}

fn read_all(path: &Path, keys: &Keys) -> Result<Contents, SegmentError> {
    let error = |error| classify(path, error);
    read_through(&path.join("db"));
    remove_snapshots(path).map_err(|source| SegmentError::Io { path: path.to_owned(), source })?;
    let database = config(path).open().map_err(error)?;
    let contents = gather(path, &database, keys);
    // sled syncs once more when it closes, and panics where that fails. What was read was read all the same.
    if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
        warn!("segment {} could not be synced after it was read", path.display());
    }
    contents
}

fn gather(path: &Path, database: &sled::Db, keys: &Keys) -> Result<Contents, SegmentError> {
    let error = |error| classify(path, error);
    let mut contents = Contents::default();
    let header = database.open_tree(HEADER_TREE).map_err(error)?;
    let text = |key: &[u8]| header.get(key).ok().flatten().map(|text| String::from_utf8_lossy(&text).into_owned());
    contents.run = text(RUN_KEY).filter(|run| !run.contains(char::REPLACEMENT_CHARACTER));
    let mut opener = None;
    match text(FORMAT_KEY) {
        Some(format) if format.as_bytes() == FORMAT_SEALED => {
            let (Some(id), Ok(Some(salt))) = (text(KEY_KEY), header.get(SALT_KEY)) else {
                let reason = "its header does not say which key it is encrypted with".to_owned();
                return Err(SegmentError::Damaged { path: path.to_owned(), reason });
            };
            let run = contents.run.as_deref().unwrap_or_default();
            opener = keys.opener(&id, &salt, run.as_bytes());
            if opener.is_none() {
                return Err(SegmentError::Key { path: path.to_owned(), id });
            }
            contents.key = Some(id);
        }
        Some(found) if found.as_bytes() != FORMAT => {
            return Err(SegmentError::Format { path: path.to_owned(), found });
        }
        _ => {}
    }
    for name in database.tree_names() {
        if name == HEADER_TREE.as_bytes() || name == b"__sled__default" {
            continue;
        }
        let tree = match database.open_tree(&name) {
            Ok(tree) => tree,
            Err(error) => {
                contents.damage = Some(error.to_string());
                continue;
            }
        };
        for entry in tree.iter() {
            match entry {
                Ok((bytes, value)) => match (Key::parse(&bytes), &opener) {
                    (Some(key), None) => contents.values.push((key, value.to_vec())),
                    (Some(key), Some(opener)) => match opener.open(&bytes, &value) {
                        Some(value) => contents.values.push((key, value)),
                        None => contents.damage = Some(CHANGED.to_owned()),
                    },
                    (None, _) => contents.damage = Some(format!("a key of {} bytes that is none of ours", bytes.len())),
                },
                Err(error) => {
                    contents.damage = Some(error.to_string());
                    break;
                }
            }
        }
    }
    contents.values.sort_by_key(|(key, _)| *key);
    Ok(contents)
}
