//! What the file system does besides its work: counting operations, failing one of them, cutting the power at one, and
//! saying "synced" where nothing is.

use fuser::Errno;

use crate::disk::{Disk, Loss};

/// What a program asks of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Opens a file or a directory.
    Open,
    /// Reads from a file.
    Read,
    /// Makes a file or a directory.
    Create,
    /// Writes to a file.
    Write,
    /// Cuts a file off or extends it.
    Length,
    /// Takes a name away.
    Remove,
    /// Renames.
    Rename,
    /// fsync or fdatasync of a file.
    Sync,
    /// fsync of a directory.
    SyncDirectory,
}

impl Operation {
    fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::Read)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// EIO, of whatever operation.
    Io,
    /// ENOSPC, of whatever takes space.
    NoSpace,
    /// A write that writes a part only.
    Short,
    /// An fsync that fails; what it should have made durable is gone.
    Sync,
}

impl Kind {
    /// The kinds that happen at some operation.
    pub(crate) const ALL: [Kind; 4] = [Self::Io, Self::NoSpace, Self::Short, Self::Sync];

    /// Whether that operation can end so.
    pub(crate) fn concerns(self, operation: Operation) -> bool {
        match self {
            Self::Io => true,
            Self::NoSpace => matches!(operation, Operation::Create | Operation::Write),
            Self::Short => operation == Operation::Write,
            Self::Sync => matches!(operation, Operation::Sync | Operation::SyncDirectory),
        }
    }

    pub(crate) fn errno(self) -> Errno {
        match self {
            Self::Io | Self::Sync | Self::Short => Errno::EIO,
            Self::NoSpace => Errno::ENOSPC,
        }
    }
}

/// Fails the `at`-th operation (from 1 on) that it concerns, or all from that one on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) at: u64,
    pub(crate) for_ever: bool,
}

/// Cuts the power at the `at`-th operation that changes something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) at: u64,
    pub(crate) loss: Loss,
    pub(crate) seed: u64,
}

/// Which syncs do nothing and say that all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deaf {
    /// None.
    Not,
    /// Those of files of this name.
    File(&'static str),
    /// Those of databases that were rewritten.
    Rewritten,
    /// Those of directories.
    Directories,
}

/// What is to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) cut: Option<Cut>,
    pub(crate) fault: Option<Fault>,
    pub(crate) deaf: Deaf,
}

impl Plan {
    /// Nothing but what a good disk does.
    pub(crate) const NONE: Self = Self { cut: None, fault: None, deaf: Deaf::Not };

    pub(crate) fn fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::NONE }
    }
}

/// The plan, and how far it is.
#[derive(Debug)]
pub(crate) struct Course {
    plan: Plan,
    changes: u64,
    /// By [`Kind::ALL`]: operations that such a fault concerns.
    pub(crate) concerned: [u64; 4],
    fault_seen: u64,
    /// The operation that failed first.
    pub(crate) struck: Option<String>,
    /// The disk as the cut left it.
    pub(crate) image: Option<Disk>,
    /// The operation at which it came, and what it had to decide about.
    pub(crate) cut_at: Vec<String>,
}

impl Course {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, changes: 0, concerned: [0; 4], fault_seen: 0, struck: None, image: None, cut_at: Vec::new() }
    }

    /// Says whether an operation goes on, or how it fails.
    pub(crate) fn step(&mut self, disk: &Disk, operation: Operation, name: &str) -> Result<(), Kind> {
        for (count, kind) in self.concerned.iter_mut().zip(Kind::ALL) {
            *count += u64::from(kind.concerns(operation));
        }
        self.changes += u64::from(operation.changes());
        if let Some(cut) = self.plan.cut
            && operation.changes()
            && self.changes >= cut.at
            && self.image.is_none()
        {
            self.cut_at = disk.undecided();
            self.cut_at.push(format!("before {operation:?} {name}, {:?}", cut.loss));
            self.image = Some(disk.cut(cut.loss, &mut fastrand::Rng::with_seed(cut.seed)));
        }
        if self.image.is_some() {
            return Err(Kind::Io);
        }
        if let Some(fault) = self.plan.fault
            && fault.kind.concerns(operation)
        {
            self.fault_seen += 1;
            if self.fault_seen == fault.at || (fault.for_ever && self.fault_seen > fault.at) {
                self.struck.get_or_insert_with(|| format!("{operation:?} {name}"));
                return Err(fault.kind);
            }
        }
        Ok(())
    }

    pub(crate) fn is_deaf(&self, disk: &Disk, operation: Operation, number: u64) -> bool {
        let name = disk.name(number);
        match self.plan.deaf {
            Deaf::Not => false,
            // The directory's name says of which generation it is.
            Deaf::Rewritten => {
                operation == Operation::Sync && name == "db" && disk.directory_name(number).contains('.')
            }
            Deaf::File(deaf) => operation == Operation::Sync && name == deaf,
            Deaf::Directories => operation == Operation::SyncDirectory,
        }
    }
}
