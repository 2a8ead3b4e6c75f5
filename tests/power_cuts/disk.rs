//! A disk in memory that knows what a power cut leaves of it.
//!
//! Of a file there is what a reader sees now, what was there at its last fsync, and each change since then. Of the names
//! there is the same: a name that was made, replaced or removed is durable once a directory that it concerns was synced;
//! a rename is one change. That is what POSIX promises and not more: ext4 keeps the order of the changes of names too.
//!
//! [`Disk::cut`] gives the disk as it may be after a cut. Everything on that one is durable.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The root directory's number, as FUSE wants it.
pub(crate) const ROOT: u64 = 1;
/// A disk writes blocks of this size whole or not at all.
const BLOCK: usize = 4096;

/// What is lost of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All of it.
    Strict,
    /// Of each file all, nothing, or each block on its own; of the names each change on its own.
    Torn,
    /// All but what was written to files of this name.
    AllBut(&'static str),
    /// Nothing but what was written to files of this name.
    Only(&'static str),
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                if file.len() < at + bytes.len() {
                    file.resize(at + bytes.len(), 0);
                }
                file[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::Length(length) => file.resize(*length, 0),
        }
    }
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    /// What a reader sees.
    pub(crate) now: Vec<u8>,
    synced: Vec<u8>,
    since: Vec<Change>,
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.since.push(change);
    }

    /// Each block as it was after one of the writes to it, and the length after one of the changes.
    fn torn(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        match random.u8(0..3) {
            0 => return self.synced.clone(),
            1 => return self.now.clone(),
            _ => {}
        }
        let mut image = self.now.clone();
        image.resize(self.now.len().max(self.synced.len()), 0);
        let mut versions = vec![self.synced.clone()];
        for change in &self.since {
            let mut next = versions.last().cloned().unwrap_or_default();
            change.apply(&mut next);
            versions.push(next);
            // A bound on memory: of many versions only the first and the last ones.
            if versions.len() > 24 {
                versions.remove(12);
            }
        }
        for (at, block) in image.chunks_mut(BLOCK).enumerate() {
            let version = &versions[random.usize(0..versions.len())];
            for (offset, byte) in block.iter_mut().enumerate() {
                *byte = version.get(at * BLOCK + offset).copied().unwrap_or(0);
            }
        }
        image.truncate(versions[random.usize(0..versions.len())].len());
        image
    }
}

/// Names that change together: directory, name, and what it means then.
type NameChange = Vec<(u64, String, Option<u64>)>;

/// A directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    /// What a reader sees.
    pub(crate) now: BTreeMap<String, u64>,
    synced: BTreeMap<String, u64>,
}

/// File or directory.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A file.
    File(File),
    /// A directory.
    Directory(Directory),
}

/// Why something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such thing.
    Missing,
    /// There is one already.
    Exists,
    /// It is not a directory, or is one.
    Kind,
    /// It is not empty.
    NotEmpty,
}

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    nodes: HashMap<u64, Node>,
    /// The name under which a node was last put somewhere.
    names: HashMap<u64, String>,
    unsynced: Vec<NameChange>,
    next: u64,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let nodes = HashMap::from([(ROOT, Node::Directory(Directory::default()))]);
        Self { nodes, names: HashMap::new(), unsynced: Vec::new(), next: ROOT + 1 }
    }

    pub(crate) fn node(&self, number: u64) -> Result<&Node, Refusal> {
        self.nodes.get(&number).ok_or(Refusal::Missing)
    }

    /// The last name of a node.
    pub(crate) fn name(&self, number: u64) -> &str {
        self.names.get(&number).map_or("", String::as_str)
    }

    /// The name of the directory that has it.
    pub(crate) fn directory_name(&self, number: u64) -> &str {
        let has = |node: &Node| matches!(node, Node::Directory(of) if of.now.values().any(|own| *own == number));
        self.nodes.iter().find(|(_, node)| has(node)).map_or("", |(directory, _)| self.name(*directory))
    }

    pub(crate) fn file(&self, number: u64) -> Result<&File, Refusal> {
        if let Node::File(file) = self.node(number)? { Ok(file) } else { Err(Refusal::Kind) }
    }

    pub(crate) fn directory(&self, number: u64) -> Result<&Directory, Refusal> {
        if let Node::Directory(directory) = self.node(number)? { Ok(directory) } else { Err(Refusal::Kind) }
    }

    fn file_mut(&mut self, number: u64) -> Result<&mut File, Refusal> {
        if let Some(Node::File(file)) = self.nodes.get_mut(&number) { Ok(file) } else { Err(Refusal::Kind) }
    }

    fn directory_mut(&mut self, number: u64) -> Result<&mut Directory, Refusal> {
        if let Some(Node::Directory(found)) = self.nodes.get_mut(&number) { Ok(found) } else { Err(Refusal::Kind) }
    }

    /// What a name means.
    pub(crate) fn lookup(&self, parent: u64, name: &str) -> Result<u64, Refusal> {
        self.directory(parent)?.now.get(name).copied().ok_or(Refusal::Missing)
    }

    fn rename_all(&mut self, change: NameChange) -> Result<(), Refusal> {
        for (directory, name, number) in &change {
            let names = &mut self.directory_mut(*directory)?.now;
            match number {
                Some(number) => {
                    names.insert(name.clone(), *number);
                    self.names.insert(*number, name.clone());
                }
                None => drop(names.remove(name)),
            }
        }
        self.unsynced.push(change);
        Ok(())
    }

    /// Makes an empty file or directory.
    pub(crate) fn create(&mut self, parent: u64, name: &str, node: Node) -> Result<u64, Refusal> {
        if self.lookup(parent, name).is_ok() {
            return Err(Refusal::Exists);
        }
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, node);
        self.rename_all(vec![(parent, name.to_owned(), Some(number))])?;
        Ok(number)
    }

    /// Takes a name away.
    pub(crate) fn remove(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        let number = self.lookup(parent, name)?;
        if let Ok(directory) = self.directory(number)
            && !directory.now.is_empty()
        {
            return Err(Refusal::NotEmpty);
        }
        self.rename_all(vec![(parent, name.to_owned(), None)])
    }

    /// Gives something another name, in place of what had it.
    pub(crate) fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Result<(), Refusal> {
        let number = self.lookup(from.0, from.1)?;
        if let Ok(other) = self.lookup(to.0, to.1)
            && self.directory(other).is_ok_and(|directory| !directory.now.is_empty())
        {
            return Err(Refusal::NotEmpty);
        }
        self.rename_all(vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(number))])
    }

    /// Writes.
    pub(crate) fn write(&mut self, number: u64, at: usize, bytes: &[u8]) -> Result<(), Refusal> {
        self.file_mut(number)?.change(Change::Write(at, bytes.to_vec()));
        Ok(())
    }

    /// Cuts off or extends with zeros.
    pub(crate) fn set_length(&mut self, number: u64, length: usize) -> Result<(), Refusal> {
        self.file_mut(number)?.change(Change::Length(length));
        Ok(())
    }

    /// Makes a file's content durable, not its name.
    pub(crate) fn sync_file(&mut self, number: u64) -> Result<(), Refusal> {
        let file = self.file_mut(number)?;
        for change in std::mem::take(&mut file.since) {
            change.apply(&mut file.synced);
        }
        Ok(())
    }

    /// What a failed fsync leaves on Linux, at worst: the content is that of the last one.
    pub(crate) fn forget_file(&mut self, number: u64) -> Result<(), Refusal> {
        let file = self.file_mut(number)?;
        file.since.clear();
        file.now.clone_from(&file.synced);
        Ok(())
    }

    /// Makes all changes of names durable that concern a directory, and those that they follow upon.
    pub(crate) fn sync_directory(&mut self, number: u64) -> Result<(), Refusal> {
        self.directory(number)?;
        let wanted = |change: &NameChange| change.iter().any(|(directory, ..)| *directory == number);
        self.sync_names(wanted)
    }

    fn sync_names(&mut self, mut wanted: impl FnMut(&NameChange) -> bool) -> Result<(), Refusal> {
        let mut keys: HashSet<(u64, String)> = HashSet::new();
        let mut synced = Vec::new();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.unsynced).into_iter().rev() {
            let follows = change.iter().any(|(directory, name, _)| keys.contains(&(*directory, name.clone())));
            if wanted(&change) || follows {
                keys.extend(change.iter().map(|(directory, name, _)| (*directory, name.clone())));
                synced.push(change);
            } else {
                left.push(change);
            }
        }
        left.reverse();
        self.unsynced = left;
        for (directory, name, number) in synced.into_iter().rev().flatten() {
            let names = &mut self.directory_mut(directory)?.synced;
            match number {
                Some(number) => drop(names.insert(name, number)),
                None => drop(names.remove(&name)),
            }
        }
        Ok(())
    }

    /// The disk as it may be after a power cut now.
    pub(crate) fn cut(&self, loss: Loss, random: &mut fastrand::Rng) -> Self {
        let mut after = self.clone();
        let names_kept = |random: &mut fastrand::Rng| match loss {
            Loss::Strict | Loss::AllBut(_) => false,
            Loss::Only(_) => true,
            Loss::Torn => random.bool(),
        };
        // All directories are there: names that changed are the only question.
        let _ = after.sync_names(|_| names_kept(random));
        after.unsynced.clear();
        let names = after.names.clone();
        for (number, node) in &mut after.nodes {
            match node {
                Node::Directory(directory) => directory.now.clone_from(&directory.synced),
                Node::File(file) => {
                    let is = |name: &str| names.get(number).is_some_and(|own| own == name);
                    file.now = match loss {
                        Loss::Strict => file.synced.clone(),
                        Loss::Torn => file.torn(random),
                        Loss::AllBut(name) if is(name) => file.now.clone(),
                        Loss::AllBut(_) => file.synced.clone(),
                        Loss::Only(name) if is(name) => file.synced.clone(),
                        Loss::Only(_) => file.now.clone(),
                    };
                    file.synced.clone_from(&file.now);
                    file.since.clear();
                }
            }
        }
        after.forget_unreachable();
        after
    }

    fn forget_unreachable(&mut self) {
        let mut reached = HashSet::from([ROOT]);
        let mut waiting = vec![ROOT];
        while let Some(number) = waiting.pop() {
            if let Ok(directory) = self.directory(number) {
                waiting.extend(directory.now.values().filter(|inner| reached.insert(**inner)));
            }
        }
        self.nodes.retain(|number, _| reached.contains(number));
        self.names.retain(|number, _| reached.contains(number));
    }

    /// What a cut now would have to decide about: files and names with changes that are not synced.
    pub(crate) fn undecided(&self) -> Vec<String> {
        let mut all: Vec<String> = self.unsynced.iter().map(|change| format!("{change:?}")).collect();
        for (number, node) in &self.nodes {
            if let Node::File(file) = node
                && !file.since.is_empty()
            {
                let changes = file.since.iter().map(|change| match change {
                    Change::Write(at, bytes) => format!("write {at}+{}", bytes.len()),
                    Change::Length(length) => format!("length {length}"),
                });
                let changes: Vec<String> = changes.collect();
                let (name, synced) = (self.name(*number), file.synced.len());
                all.push(format!("{name} ({number}, {synced} synced): {}", changes.join(", ")));
            }
        }
        all
    }

    /// Writes all files below a directory of a real file system, for a look at them.
    pub(crate) fn save(&self, path: &std::path::Path) -> std::io::Result<()> {
        self.save_directory(ROOT, path)
    }

    fn save_directory(&self, number: u64, path: &std::path::Path) -> std::io::Result<()> {
        std::fs::create_dir_all(path)?;
        let names = self.directory(number).map(|directory| directory.now.clone()).unwrap_or_default();
        for (name, inner) in names {
            match self.node(inner) {
                Ok(Node::Directory(_)) => self.save_directory(inner, &path.join(name))?,
                Ok(Node::File(file)) => std::fs::write(path.join(name), &file.now)?,
                Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(disk: &Disk) -> Disk {
        disk.cut(Loss::Strict, &mut fastrand::Rng::with_seed(1))
    }

    #[test]
    fn a_file_needs_its_own_sync_and_that_of_its_directory() {
        let mut disk = Disk::new();
        let file = disk.create(ROOT, "a", Node::File(File::default())).unwrap();
        disk.write(file, 0, b"one").unwrap();
        disk.sync_file(file).unwrap();
        assert_eq!(cut(&disk).lookup(ROOT, "a"), Err(Refusal::Missing));
        disk.sync_directory(ROOT).unwrap();
        disk.write(file, 1, b"two").unwrap();
        let after = cut(&disk);
        assert_eq!(after.file(after.lookup(ROOT, "a").unwrap()).unwrap().now, b"one");
    }

    #[test]
    fn a_rename_is_old_or_new_and_never_both_or_none() {
        let mut disk = Disk::new();
        for name in ["old", "new"] {
            let file = disk.create(ROOT, name, Node::File(File::default())).unwrap();
            disk.write(file, 0, name.as_bytes()).unwrap();
            disk.sync_file(file).unwrap();
        }
        disk.sync_directory(ROOT).unwrap();
        disk.rename((ROOT, "new"), (ROOT, "old")).unwrap();
        let content = |disk: &Disk| disk.file(disk.lookup(ROOT, "old").unwrap()).unwrap().now.clone();
        assert_eq!((content(&cut(&disk)), content(&disk)), (b"old".to_vec(), b"new".to_vec()));
        let mut seen = HashSet::new();
        for seed in 0..50 {
            let after = disk.cut(Loss::Torn, &mut fastrand::Rng::with_seed(seed));
            seen.insert(content(&after));
            assert_eq!(after.lookup(ROOT, "new").is_ok(), content(&after) == b"old");
        }
        assert_eq!(seen.len(), 2);
        disk.sync_directory(ROOT).unwrap();
        assert_eq!(content(&cut(&disk)), b"new");
    }

    #[test]
    fn a_directory_sync_brings_along_what_its_changes_follow_upon() {
        let mut disk = Disk::new();
        let inner = disk.create(ROOT, "inner", Node::Directory(Directory::default())).unwrap();
        disk.create(ROOT, "a", Node::File(File::default())).unwrap();
        disk.rename((ROOT, "a"), (inner, "a")).unwrap();
        disk.sync_directory(inner).unwrap();
        disk.sync_directory(ROOT).unwrap();
        let after = cut(&disk);
        assert_eq!(after.lookup(ROOT, "a"), Err(Refusal::Missing));
        assert!(after.lookup(inner, "a").is_ok());
    }
}
